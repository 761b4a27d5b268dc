"""Search, finalize and predict in a script or a notebook; the commands call the same functions.

    from tuning import api

    found = api.search("crnn", {"search.num_trials": 8, "data.corpus": "demo"})
    found.leaderboard, found.best, found.curves, found.figures()
    api.finalize(found, top=3, seeds=3)
    api.load(found.path / "best").predict(["song.mp3"])
    api.load_trial(found, 3).predict(["song.mp3"])

Input that a command refuses raises `UserError` with the same message. Lines that the commands print are printed here,
too. Torch, Ray, pandas and plotly are imported by the functions that need them, so that help and refusals do not wait.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tuning.config.distributions import counted
from tuning.config.errors import UserError
from tuning.config.space import Space
from tuning.data.balance import Balance, read_balance
from tuning.data.plan import (
    Plan,
    make_plan,
    print_augmentation,
    print_corpus_defaults,
    print_licences,
    print_unread_settings,
    read_corpus,
    training_clips,
    with_augmentation,
    with_corpus,
)
from tuning.datasets import is_demo
from tuning.datasets.dotted_path import allowing
from tuning.datasets.redaction import redacted
from tuning.datasets.storage import is_uri
from tuning.evaluation import leaderboard
from tuning.evaluation.report import write_or_note, write_report
from tuning.evaluation.reproduce import chosen, compare, recorded_rows, say_what_changed
from tuning.evaluation.reproduce import reproduce as train_again
from tuning.evaluation.score_notes import log_scores, search_notes, write_cautions
from tuning.experiment.bucket_sync import open_folder, open_location
from tuning.experiment.directory import TEST_LOOKS, SearchFolder, TrialRecord, read_progress, write_json
from tuning.experiment.faults import QuietFile
from tuning.experiment.reading import DamagedFileError
from tuning.experiment.recorded import folder_of, loading_of, space_of
from tuning.search.backend import choose_backend
from tuning.search.checks import check
from tuning.search.resources import cluster_resources, plan_resources, start_ray
from tuning.search.shared_places import check_places
from tuning.search.status import Status, StatusReader
from tuning.training.ranking import Mode, check_metric

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuning.data.data_module import DataModule
    from tuning.evaluation.inference import Predictor
    from tuning.search.estimate import Estimate

__all__ = [
    "Search",
    "UserError",
    "balance",
    "corpus",
    "estimate",
    "export",
    "finalize",
    "history",
    "load",
    "load_trial",
    "open_search",
    "report",
    "reproduce",
    "search",
    "split",
    "status",
]

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class Search:
    """A search, finished or not, read from its folder.

    Args:
        path: its folder.
        plan: the checked command line; None for a search that was only opened.
        stopped: why it stopped before all trials ended; empty if they did.
        remote: its URI, if it is in an object store; `path` is then this machine's mirror of it.
    """

    path: Path
    plan: Plan | None = None
    stopped: str = ""
    remote: str | None = None

    @property
    def folder(self) -> SearchFolder:
        """The reader of its files."""
        return folder_of(self.path)

    @property
    def is_tested(self) -> bool:
        """Whether `finalize` has looked at the test clips."""
        return (self.folder.path / TEST_LOOKS).exists()

    @property
    def metric(self) -> str:
        """Name of the metric that ranks the trials."""
        return self._space().fixed().search.metric

    @property
    def leaderboard(self) -> pd.DataFrame:
        """The trials, best first: rank, number, status, metrics of the best epoch, searched settings."""
        import pandas as pd

        return pd.DataFrame(leaderboard.as_rows(self.folder.records(), self.metric, self._mode()))

    @property
    def best(self) -> TrialRecord | None:
        """The best trial with its `number`, `params`, `metrics`, `best_epoch`; None if no trial has a result."""
        return next(iter(leaderboard.with_results(self.folder, self._space())), None)

    @property
    def curves(self) -> pd.DataFrame:
        """Every report of every trial, a row for each epoch (or inner fold), in the order of trials and epochs."""
        import pandas as pd

        folder = self.folder
        rows = []
        for record in folder.records():
            try:
                rows += [{"trial": record.number, **row} for row in read_progress(folder.trial(record.number))]
            except DamagedFileError as error:
                print(f"note      trial {record.number} is left out: {error}")
        table = pd.DataFrame(rows)
        numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in table if name != "finished"}
        return table.assign(**numbers)

    def figures(self) -> dict[str, go.Figure]:
        """Plotly figures of the report: `history` (each trial's value) and `curves` (each trial's epochs)."""
        from tuning.evaluation.report.figures import draw_curves, draw_history
        from tuning.evaluation.report.gather import gather

        gathered = gather(self.folder)
        return {"history": draw_history(gathered), "curves": draw_curves(gathered)}

    def extend(self, num_trials: int) -> Search:
        """Run more trials; the same search, with them.

        Raises:
            UserError: a grid, whose size is fixed, or a search that was only opened.
        """
        if self.plan is None:
            raise UserError(f"{self.path}: expected a search that search() returned, got one that was only opened")
        if self.plan.config.search.algorithm == "grid":
            raise UserError("search.num_trials: expected another algorithm than grid, whose size is fixed")
        total = {"search.num_trials": self.plan.total + num_trials}
        return search(self.plan.run.space, {**self.plan.overrides, **total, "fresh": False})

    def _space(self) -> Space:
        return space_of(self.folder)

    def _mode(self) -> Mode:
        space = self._space()
        return check_metric(space, space.fixed())


def search(space: str = "crnn", overrides: Mapping[str, Any] | None = None) -> Search:
    """Search a space, or resume the search of that name, to its end or to an interrupt.

    Args:
        space: name of a space, or the path of a space file.
        overrides: settings by path, each a value or a distribution (`{"choice": [3, 5]}`), and `name`, `storage`, ...
            as on the command line.

    Raises:
        UserError: what the command line refuses.
    """
    plan = make_plan(arguments_of(space, overrides or {}))
    return run(plan)


def arguments_of(space: str, overrides: Mapping[str, Any]) -> list[str]:
    """The command line's arguments for a space and settings by path."""
    words = {path: json.dumps(value, default=_as_plain) for path, value in overrides.items()}
    return [f"space={space}", *(f"{path}={word}" for path, word in words.items() if path != "space")]


def _as_plain(value: Any) -> Any:
    """A path as text, a number of numpy as Python's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):
        return value.item()
    raise UserError(f"expected values that JSON has, got {type(value).__name__} {value!r}")


def run(plan: Plan) -> Search:
    """Run a checked search: read the corpus, prepare what the trials read, run them, rank them."""
    checked = check(plan)
    plan, corpus, split = checked.plan, checked.corpus, checked.split
    print_licences(plan)
    print_corpus_defaults(plan)
    print_unread_settings(plan)
    if is_demo(plan.config.data.corpus):  # which is made now
        corpus, split = read_corpus(plan.config)
    from tuning.data.data_module import DataModule

    with allowing(plan.run.allow_code), open_folder(plan.run.storage, plan.name) as folder:
        print_augmentation(plan)
        stopped = _run(plan, folder, DataModule(plan.space, corpus, split))
        _rank_and_report(plan, folder, finished_before=stopped is None)
        return Search(folder.path, plan, stopped or "", folder.remote)


def _run(plan: Plan, folder: SearchFolder, data: DataModule) -> str | None:
    """Prepare and search; None if all trials had ended before, empty if they ended now, else why it stopped."""
    if folder.exists and plan.run.fresh:
        print(f"archived  the earlier search is now {folder.archive()}")
    identity = data.identity()
    if folder.exists:
        data.split = folder.split_begun_with(plan.space, identity, data.corpus, data.split)
        if sum(folder.is_written(record) for record in folder.records()) >= plan.total:
            write_cautions(folder, plan.space, data.split)  # more may be known than when it ended
            return None
    with _log_to(folder):
        return _run_trials(plan, folder, data, identity)


def _run_trials(plan: Plan, folder: SearchFolder, data: DataModule, identity: dict[str, Any]) -> str:
    from tuning.search.callbacks.generated_clips import show_generated
    from tuning.search.preparation import prepare, prepare_generated

    prepare(folder, data)
    from tuning.search.estimate import shortest_trial
    from tuning.search.tuner import run_search

    start_ray(plan.config)
    fits = plan_resources(plan.config, *cluster_resources())
    generated = prepare_generated(data)
    shared, baseline = data.share(loading_of(folder))
    resources, why = choose_backend(plan.config, fits, lambda: shortest_trial(plan, data.split, shared, fits))
    logging.getLogger("tuning.search").info("backend %s: %s", resources.backend, why)
    # Only now: a command that is refused must not leave a folder, whose identity a corrected command would not match.
    if not folder.exists:
        folder.create(plan.space, plan.overrides, identity, data.split)
    write_json(folder.path / "baseline.json", baseline)
    write_cautions(folder, plan.space, data.split)
    show_generated(folder.path, generated)
    done = folder.num_ended
    resumed = f", {done} of them done before" if done else ""
    trials = f"{counted(plan.total, 'trial')} ({plan.config.search.algorithm})"
    print(f"search    {plan.name}: {trials}{resumed}; clips {data.loading}; ", end="")
    print(f"{resources} per trial, {resources.concurrent} at once; ranked by {plan.config.search.metric}", flush=True)
    try:
        return run_search(folder, replace(plan, space=data.as_shared(plan.space)), shared, resources)
    finally:
        metric = plan.config.search.metric
        ranked = leaderboard.write_leaderboard(folder, metric, plan.mode, baseline)
        log_scores(folder, ranked, metric, plan.mode, baseline)


def _rank_and_report(plan: Plan, folder: SearchFolder, finished_before: bool) -> None:
    """Write and print the ranking, write the report, and say where everything is."""
    metric = plan.config.search.metric
    baseline = leaderboard.read_baseline(folder)
    ranked = leaderboard.write_leaderboard(folder, metric, plan.mode, baseline)
    if finished_before:
        which = f"all {plan.total} trials were" if plan.total > 1 else "the one trial was"
        print(f"search    {plan.name}: {which} done before; this is the ranking")
    notes = search_notes(folder, ranked, baseline, metric, plan.mode)
    leaderboard.print_leaderboard(ranked, metric, baseline, notes)
    if second := leaderboard.second_metric(ranked):
        front = sorted(leaderboard.pareto_front(ranked, metric, plan.mode, second))
        print(f"pareto    best for their {second}: trials {', '.join(map(str, front))}")
    print(f"ranking   {folder.path / 'leaderboard.md'}, {folder.path / 'leaderboard.csv'}")
    page = write_or_note(folder)
    if page is not None:
        print(f"report    {page}")
    if picture := _draw_best(folder, metric, plan.mode):
        print(f"history   {picture}")
    print(f"trials    {folder.trials}")
    if folder.remote:
        print(f"storage   {redacted(folder.remote)}; mirrored in {folder.path}, but for checkpoints")
    print(f"curves    tensorboard --logdir {folder.path}")


def _draw_best(folder: SearchFolder, metric: str, mode: Mode) -> Path | None:
    """Draw the best trials, or print one line if that fails: it must not fail the search."""
    from tuning.evaluation.history import FILE, write_best

    try:
        return write_best(folder, metric, mode)
    except (OSError, DamagedFileError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        print(f"note: no {folder.path / FILE} could be written ({reason})")
        return None


def open_search(path: str | Path, *, allow_code: bool = False) -> Search:
    """The search in a folder, to look at or to finalize.

    With `allow_code`, here and below, code that only the records name is run, too (`package.module:name`): somebody
    else's code, if the search is somebody else's.

    Raises:
        UserError: there is none.
    """
    found = Search(folder_of(path).path)
    if allow_code:
        with allowing(True):
            space_of(found.folder)
    return found


def finalize(
    search: Search | str | Path,
    *,
    top: int = 1,
    seeds: int | None = None,
    ensemble: int = 1,
    select: Literal["best", "greedy"] | None = None,
    again: bool = False,
    allow_code: bool = False,
) -> dict[str, float]:
    """Retrain the winner, test it once and write `best/`; the test's metrics. The same as the command `finalize`.

    Args:
        search: a search, or the folder or URI of one.
        top: number of the best configurations that are repeated before one is chosen.
        seeds: number of other seeds of each of them, 3 unless given.
        ensemble: number of configurations that are retrained and predict together.
        select: which they are: the best trials ("best", unless given), or "greedy": at most so many that predict well
            together on validation clips.
        again: look at the test clips once more; every look is recorded.
        allow_code: run the code that the records name.

    Raises:
        UserError: no finished trial, a test that was looked at before, numbers that do not go together.
    """
    counts = {"top": top, "ensemble": ensemble} | ({} if seeds is None else {"seeds": seeds})
    for name, number in counts.items():
        if number < 1:
            raise UserError(f"{name}: expected a number from 1, got {number}")
    if seeds is not None and top < 2:
        raise UserError("seeds: expected top=K with at least 2 trials to repeat, got none")
    if select is not None and ensemble < 2:
        raise UserError(f"select: expected ensemble=K with at least 2 trials, got {select} without")
    if select == "greedy" and top > 1:
        raise UserError(f"top: expected none with select=greedy, which chooses by what trials say together, got {top}")
    with allowing(allow_code), open_location(_location(search)) as folder:
        from tuning.evaluation.final_test import finalize as finalize_folder

        metrics = finalize_folder(folder, again=again, greedy=select == "greedy", **counts)
        if folder.remote:
            print(f"storage   {redacted(folder.remote)}")
    return metrics


def _location(search: Search | str | Path) -> str:
    return str(search.remote or search.path) if isinstance(search, Search) else str(search)


def reproduce(search: Search | str | Path, trial: int | str | None = None, *, allow_code: bool = False) -> bool:
    """Train a trial again from its record; whether every loss and metric of every epoch is equal to the last bit.

    Args:
        search: a search, or its folder.
        trial: number of the trial, the best one unless given.

    Raises:
        UserError: no such trial, no finished epoch, another corpus than the search's.
    """
    folder = folder_of(_location(search))
    with allowing(allow_code):
        record = chosen(folder, None if trial is None else str(trial))
        recorded = recorded_rows(folder, record)
        say_what_changed(folder)
        return compare(folder, record, recorded, train_again(folder, record, len(recorded)))


def report(search: Search | str | Path, *, allow_code: bool = False) -> Path:
    """Write a search, finished or not, as one HTML page; its path.

    Raises:
        UserError: no such search, or its folder can't be written to.
    """
    location = _location(search)
    with allowing(allow_code):
        if is_uri(location):
            with open_location(location) as folder:
                page = write_report(folder)
                print(f"report    {page}, and in {redacted(folder.remote or '')}")
                return page
        try:
            page = write_report(folder_of(location))
        except OSError as error:
            raise UserError(f"{location}: expected a folder to write in ({error.strerror or error})") from None
    print(f"report    {page}")
    return page


def history(search: Search | str | Path, trial: int | str | None = None, *, allow_code: bool = False) -> Path:
    """Draw the learning curves of a trial, finished or not, as `history.png` in its folder; its path.

    Args:
        search: a search, or the folder or URI of one.
        trial: number of the trial, the best one unless given.

    Raises:
        UserError: no such trial, or one without a finished epoch.
    """
    from tuning.evaluation.history import write_history

    def write(folder: SearchFolder) -> Path:
        record = chosen(folder, None if trial is None else str(trial))
        return write_history(folder, record, space_of(folder).fixed().search.metric)

    location = _location(search)
    with allowing(allow_code):
        if is_uri(location):
            with open_location(location) as folder:
                picture = write(folder)
        else:
            picture = write(folder_of(location))
    print(f"history   {picture}")
    return picture


def status(search: Search | str | Path, *, allow_code: bool = False) -> Status:
    """The state of a search that runs elsewhere, or that ended: its trials so far, and who works on it.

    Raises:
        UserError: no such search, or its storage can't be read.
    """
    with allowing(allow_code):
        return StatusReader(_location(search)).read()


def saved(best: str | Path) -> Path:
    """The folder `best/` that `finalize` wrote.

    Raises:
        UserError: there is none.
    """
    best = Path(best)
    # The folder of a search has a config.yaml, too.
    has_model = (best / "model.safetensors").exists() or (best / "labels.json").exists()
    if not has_model or not (best / "config.yaml").exists():
        raise UserError(f"{best}: expected a folder best/ that tuning finalize wrote, with its model and config.yaml")
    return best


def load(best: str | Path, *, allow_code: bool = False) -> Predictor:
    """The model, or ensemble, in a folder `best/` that `finalize` wrote; its `predict(files)` gives a table.

    A trial's checkpoint `best.pt` is loaded as well.

    Raises:
        UserError: a file is missing, can't be read, or does not fit the others.
    """
    with allowing(allow_code):
        if is_checkpoint(best):
            return _predictor([(str(Path(best).parent), Path(best).name)])
        return _predictor(saved(best))


def is_checkpoint(place: str | Path) -> bool:
    """Whether a path is that of a trial's checkpoint, and not a folder `best/`."""
    return Path(place).suffix == ".pt"


def load_trial(search: Search | str | Path, trial: int | str | None = None, *, allow_code: bool = False) -> Predictor:
    """The model of a trial as it was in its best epoch, of a search that is finished or still runs.

    The models of a trial with inner folds, as far as these are finished, predict together.

    Args:
        search: a search, or the folder or URI of one.
        trial: number of the trial, the best one unless given.

    Raises:
        UserError: no such trial, or its checkpoint is missing or damaged.
    """
    with allowing(allow_code):
        return _load_trial(_location(search), None if trial is None else str(trial))


def _load_trial(location: str, trial: str | None) -> Predictor:
    if is_uri(location):
        reader = StatusReader(location)
        reader.read()
        folder = reader.folder  # a copy, which is there as long as the reader
    else:
        folder = folder_of(location)
    record = chosen(folder, trial)
    from tuning.evaluation.saved_model import trial_checkpoints

    return _predictor(trial_checkpoints(location, record))


def _predictor(place: Path | list[tuple[str, str]]) -> Predictor:
    """The models of a folder `best/`, or of checkpoints by folder and name; what is wrong with one is a `UserError`."""
    from tuning.evaluation.inference import Predictor
    from tuning.evaluation.saved_model import load_checkpoint, load_members

    try:
        return Predictor(load_members(place) if isinstance(place, Path) else [load_checkpoint(*each) for each in place])
    except ValueError as error:
        raise UserError(str(error)) from None


def export(best: str | Path, *, waveform: bool = False, allow_code: bool = False) -> list[Path]:
    """Write the model, or each member of an ensemble, as ONNX, and compare it with PyTorch; the files.

    With `waveform` the graph takes waveforms and has the features in it, too.

    Raises:
        UserError: no saved model, a package is missing, outputs that differ.
    """
    best = saved(best)
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"expected the packages of the extra 'onnx', got none of {', '.join(missing)}; "
            "install them: pip install 'audio-emotion-tuning[onnx]'"
        )
    from tuning.evaluation.onnx_export import export as export_folder
    from tuning.evaluation.saved_model import member_folders

    files = []
    for folder in member_folders(best):
        with allowing(allow_code):
            file, difference, clips, lengths = export_folder(folder, waveform)
        files.append(file)
        print(f"exported  {file}: {lengths}")
        print(f"compared  with PyTorch on {clips}: largest difference {difference:.1e}")
    return files


def corpus(space: str = "crnn", overrides: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """A table of the clips that a search would read: `clip`, `part` (train, val or test), `group`, and labels.

    Raises:
        UserError: no such corpus, a wrong manifest, groups that cross splits.
    """
    import pandas as pd

    plan = make_plan(arguments_of(space, overrides or {}))
    read, dealt = read_corpus(plan.config)
    part_of = {clip.id: name for name, clips in dealt.parts().items() for clip in clips}
    targets = plan.config.task.targets
    rows = [
        {"clip": clip.id, "part": part_of.get(clip.id, "unused"), "group": clip.group}
        | ({"label": clip.label} if read.classes else dict(zip(targets, clip.targets, strict=True)))
        for clip in read.clips
    ]
    return pd.DataFrame(rows)


def balance(space: str = "crnn", overrides: Mapping[str, Any] | None = None) -> Balance:
    """Counts of clips and groups by class, or quadrant, in each part of a split; its `hints` name problems.

    Raises:
        UserError: as `corpus`.
    """
    return read_balance(make_plan(arguments_of(space, overrides or {})))


def split(space: str = "crnn", overrides: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Count the clips and groups of each part, and of each class in it where there are classes."""
    table = corpus(space, overrides)
    by = ["part", "label"] if "label" in table else ["part"]
    counted = table.groupby(by, sort=False).agg(clips=("clip", "size"), groups=("group", "nunique"))
    return counted.reset_index()


def estimate(space: str = "crnn", overrides: Mapping[str, Any] | None = None) -> Estimate:
    """Time and price of a search, from a few steps of some of its trials. As the command `run --dry-run probe=true`.

    Raises:
        UserError: a search that can't be run, or whose probed trials all fail.
    """
    return measure(make_plan(arguments_of(space, overrides or {})))


def measure(plan: Plan) -> Estimate:
    """The estimate of a checked search."""
    check_places(plan.config, plan.run.storage)
    corpus, split = read_corpus(plan.config)
    plan = with_augmentation(with_corpus(plan, corpus), len(training_clips(split, plan.config)))
    from tuning.search.estimate import estimate as estimate_search

    return estimate_search(plan, corpus, split)


@contextmanager
def _log_to(folder: SearchFolder) -> Iterator[None]:
    """Write the project's log lines into the search's `search.log`, within the context."""
    folder.path.mkdir(parents=True, exist_ok=True)
    stream = QuietFile((folder.path / "search.log").open("a", encoding="utf-8"))
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("tuning")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        stream.close()
