"""Search, finalize and predict from a script or a notebook; the commands call the same functions.

    from tuning import api

    found = api.search("crnn", {"search.num_trials": 8, "data.corpus": "demo"})
    found.leaderboard, found.best, found.curves, found.figures()
    api.finalize(found, top=3, seeds=3)
    api.load(found.path / "best").predict(["song.mp3"])

What the command line refuses raises `UserError` with the command line's words. Lines that the commands print are
printed here, too.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning.config.errors import UserError
from tuning.data.plan import Plan, make_plan, print_corpus_defaults, read_corpus, with_classes
from tuning.experiment.faults import QuietFile
from tuning.training.tasks import Mode, check_metric

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuning.data.data_module import DataModule
    from tuning.evaluation.inference import Predictor
    from tuning.experiment.directory import SearchFolder, TrialRecord

__all__ = ["Search", "UserError", "corpus", "finalize", "load", "open_search", "search", "split"]


@dataclass(frozen=True)
class Search:
    """A search, finished or not, as its folder has it.

    Args:
        path: its folder.
        plan: what was asked for; None for a search that was only opened.
        stopped: why it stopped before all trials ended; empty where they did.
        remote: its URI, where it lies in an object store; `path` is then this machine's mirror of it.
    """

    path: Path
    plan: Plan | None = None
    stopped: str = ""
    remote: str | None = None

    @property
    def folder(self) -> SearchFolder:
        """The folder's reader."""
        from tuning.experiment.recorded import folder_of

        return folder_of(self.path)

    @property
    def metric(self) -> str:
        """What the trials are ranked by."""
        return self._space().fixed().search.metric

    @property
    def leaderboard(self) -> pd.DataFrame:
        """The trials, best first: rank, number, status, metrics of the best epoch, searched settings."""
        import pandas as pd

        from tuning.evaluation.leaderboard import as_rows

        return pd.DataFrame(as_rows(self.folder.records(), self.metric, self._mode()))

    @property
    def best(self) -> TrialRecord | None:
        """The best trial; its `number`, `params`, `metrics`, `best_epoch`. None where none came to a result."""
        from tuning.evaluation.leaderboard import with_results

        return next(iter(with_results(self.folder, self._space())), None)

    @property
    def curves(self) -> pd.DataFrame:
        """What every trial reported, a row for each epoch (or inner fold), in the order of trials and epochs."""
        import pandas as pd

        from tuning.experiment.directory import read_progress

        folder = self.folder
        rows = [
            {"trial": record.number, **row}
            for record in folder.records()
            for row in read_progress(folder.trial(record.number))
        ]
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
        """Run so many trials more; the same search, with them.

        Raises:
            UserError: a grid, whose size is fixed, or a search that was only opened.
        """
        if self.plan is None:
            raise UserError(f"{self.path}: expected a search that search() returned, got one that was only opened")
        if self.plan.config.search.algorithm == "grid":
            raise UserError("search.num_trials: expected another algorithm than grid, whose size is fixed")
        total = {"search.num_trials": self.plan.total + num_trials}
        return search(self.plan.run.space, {**self.plan.overrides, **total, "fresh": False})

    def _space(self) -> Any:
        from tuning.experiment.recorded import space_of

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
    """A path or a number of numpy as JSON has it."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):
        return value.item()
    raise UserError(f"expected values that JSON has, got {type(value).__name__} {value!r}")


def run(plan: Plan) -> Search:
    """Run a checked search: read the corpus, prepare what the trials read, run them, rank them."""
    print_corpus_defaults(plan)
    corpus, split = read_corpus(plan.config)
    plan = with_classes(plan, corpus)
    # Only now, so that a corpus is refused at once.
    from tuning.data.data_module import DataModule
    from tuning.experiment.bucket_sync import open_folder

    with open_folder(plan.run.storage, plan.name) as folder:
        stopped = _run(plan, folder, DataModule(plan.space, corpus, split))
        _rank_and_report(plan, folder, finished_before=stopped is None)
        return Search(folder.path, plan, stopped or "", folder.remote)


def _run(plan: Plan, folder: SearchFolder, data: DataModule) -> str | None:
    """Prepare and search; None where all trials had ended before, empty where they ended now, else why it stopped."""
    from tuning.search.resources import check_resources

    if plan.run.fresh or not folder.exists:
        check_resources(plan.config)  # before an earlier search is put aside, and before anything is prepared
    if folder.exists and plan.run.fresh:
        print(f"archived  the earlier search is now {folder.archive()}")
    identity = data.identity()
    if folder.exists:
        data.split = folder.split_begun_with(plan.space, identity, data.corpus, data.split)
        if sum(folder.is_written(record) for record in folder.records()) >= plan.total:
            return None
    with _log_to(folder):
        return _run_trials(plan, folder, data, identity)


def _run_trials(plan: Plan, folder: SearchFolder, data: DataModule, identity: dict[str, Any]) -> str:
    from tuning.evaluation.leaderboard import write_leaderboard
    from tuning.experiment.directory import write_json
    from tuning.search.callbacks.generated_clips import show_generated
    from tuning.search.preparation import prepare, prepare_generated

    prepare(folder, data)

    from tuning.search.resources import cluster_resources, plan_resources, start_ray
    from tuning.search.tuner import run_search

    start_ray(plan.config)
    resources = plan_resources(plan.config, *cluster_resources())
    generated = prepare_generated(data)
    shared, baseline = data.share()
    # Only now, so that a command that was refused leaves no search that a better one would differ from.
    if not folder.exists:
        folder.create(plan.space, plan.overrides, identity, data.split)
    write_json(folder.path / "baseline.json", baseline)
    show_generated(folder.path, generated)
    done = sum(record.is_final for record in folder.records())
    resumed = f", {done} of them done before" if done else ""
    print(f"search    {plan.name}: {plan.total} trials ({plan.config.search.algorithm}){resumed}; ", end="")
    print(f"{resources} per trial, {resources.concurrent} at once; ranked by {plan.config.search.metric}", flush=True)
    try:
        return run_search(folder, plan, shared, resources)
    finally:
        write_leaderboard(folder, plan.config.search.metric, plan.mode, baseline)


def _rank_and_report(plan: Plan, folder: SearchFolder, finished_before: bool) -> None:
    """Write and print the ranking, write the report, and say where everything is."""
    from tuning.evaluation.leaderboard import pareto_front, print_leaderboard, second_metric, write_leaderboard
    from tuning.evaluation.report import write_or_note

    metric = plan.config.search.metric
    baseline = json.loads((folder.path / "baseline.json").read_text(encoding="utf-8"))
    ranked = write_leaderboard(folder, metric, plan.mode, baseline)
    if finished_before:
        print(f"search    {plan.name}: all {plan.total} trials were done before; this is their ranking")
    print_leaderboard(ranked, metric, baseline)
    if second := second_metric(ranked):
        front = sorted(pareto_front(ranked, metric, plan.mode, second))
        print(f"pareto    best for their {second}: trials {', '.join(map(str, front))}")
    print(f"ranking   {folder.path / 'leaderboard.md'}, {folder.path / 'leaderboard.csv'}")
    report = write_or_note(folder)
    if report is not None:
        print(f"report    {report}")
    print(f"trials    {folder.trials}")
    if folder.remote:
        print(f"storage   {folder.remote}; mirrored in {folder.path}, but for checkpoints")
    print(f"curves    tensorboard --logdir {folder.path}")


def open_search(path: str | Path) -> Search:
    """The search in a folder, to look at or to finalize.

    Raises:
        UserError: there is none.
    """
    from tuning.experiment.recorded import folder_of

    return Search(folder_of(path).path)


def finalize(
    search: Search | str | Path, *, top: int = 1, seeds: int | None = None, ensemble: int = 1, again: bool = False
) -> dict[str, float]:
    """Retrain the winner, test it once, write `best/`; the test's metrics. As the command `finalize`.

    Args:
        search: a search, or the folder or URI of one.
        top: how many of the best configurations are repeated before one is chosen.
        seeds: other seeds of each of them, 3 unless given.
        ensemble: how many are retrained and predict together.
        again: look at the test clips once more; every look is recorded.
    """
    counts = {"top": top, "ensemble": ensemble} | ({} if seeds is None else {"seeds": seeds})
    for name, number in counts.items():
        if number < 1:
            raise UserError(f"{name}: expected a number from 1, got {number}")
    if seeds is not None and top < 2:
        raise UserError("seeds: expected top=K with at least 2 trials to repeat, got none")
    from tuning.experiment.bucket_sync import open_location

    location = (search.remote or search.path) if isinstance(search, Search) else search
    with open_location(str(location)) as folder:
        from tuning.evaluation.final_test import finalize as finalize_folder

        metrics = finalize_folder(folder, again=again, **counts)
        if folder.remote:
            print(f"storage   {folder.remote}")
    return metrics


def load(best: str | Path) -> Predictor:
    """The model, or ensemble, that `finalize` left in a folder `best/`; `predict(files)` gives a table.

    Raises:
        UserError: a file is missing, can't be read, or does not fit the others.
    """
    from tuning.evaluation.inference import Predictor

    try:
        return Predictor(Path(best))
    except ValueError as error:
        raise UserError(str(error)) from None


def corpus(space: str = "crnn", overrides: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """The clips that a search would read: `clip`, `part` (train, val or test), `group`, and labels.

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


def split(space: str = "crnn", overrides: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Clips and groups of each part of a search's split, and of each class in it where there are classes."""
    table = corpus(space, overrides)
    by = ["part", "label"] if "label" in table else ["part"]
    counted = table.groupby(by, sort=False).agg(clips=("clip", "size"), groups=("group", "nunique"))
    return counted.reset_index()


@contextmanager
def _log_to(folder: SearchFolder) -> Iterator[None]:
    """Within, the project's log lines go into the search's `search.log`."""
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
