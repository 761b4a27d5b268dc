"""After the search: retrain the winner and test it once. `python -m tuning.finalize results/NAME`."""

from __future__ import annotations

import datetime
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning.checks import UserError, nearest
from tuning.command import run_command
from tuning.config import Config

if TYPE_CHECKING:
    from datasets.corpus import Corpus
    from datasets.resident import TrialData
    from datasets.splits import Split
    from tuning.search.folder import SearchFolder, TrialRecord
    from tuning.space import Space

USAGE = """\
python -m tuning.finalize results/NAME [top=K seeds=N] [ensemble=K] [again=true]

With top=K the K best trials are first repeated with N other seeds (3 unless given) on the search's own split, and the
winner is the one with the best mean; who can't be told apart from it is said. Without, it is the best trial.

Retrains the winner on the search's training and validation clips, for as many epochs as its best one took (after inner
folds: as the folds' best ones took in the mean), tests it once on the sealed test clips, and writes
results/NAME/best/. With ensemble=K the K best trials are retrained and predict together. Intervals of the test figures
are by bootstrap over speakers or artists. A second look at the test is refused unless again=true; every look is
recorded. A search in an object store is named s3://bucket/prefix/NAME.

best/ holds the model with its settings and names, metrics.json, test_predictions.csv and history.png; of classes also
confusion.csv, confusion.png and errors.csv (the most confident first), of numbers scatter.png.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input, 1 anything else."""
    return run_command(USAGE, _main, arguments)


def _main(arguments: list[str]) -> None:
    options, paths = _read(arguments)
    if len(paths) != 1:
        raise UserError(f"expected one folder of a search, got {paths or 'none'}\n{USAGE}")
    from datasets.storage import exists, is_uri
    from tuning.recorded import not_a_search
    from tuning.search.mirror import open_folder, refuse_mirror, split_location

    location = paths[0] if is_uri(paths[0]) else str(Path(paths[0]))
    try:
        found = exists(location, "config.yaml")
    except (OSError, ValueError) as error:
        raise not_a_search(location, " ".join(str(error).split())) from None
    if not found:
        raise not_a_search(location)
    if not is_uri(location):
        refuse_mirror(Path(location))
    with open_folder(*split_location(location)) as folder:
        finalize(folder, **options)
        if folder.remote:
            print(f"storage   {folder.remote}")


def _read(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    options: dict[str, Any] = {}
    paths = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument == "again=true":
            options["again"] = True
        elif name in ("ensemble", "top", "seeds"):
            if not value.isdigit() or int(value) < 1:
                what = "seeds" if name == "seeds" else "trials"
                raise UserError(f"{name}: expected a number of {what} from 1, got '{value}'")
            options[name] = int(value)
        elif equals and name.isidentifier():
            known = ("top", "seeds", "ensemble", "again")
            raise UserError(f"{name}: expected one of {', '.join(known)}{nearest(name, known)}")
        else:
            paths.append(argument)
    if "seeds" in options and options.get("top", 1) < 2:
        raise UserError("seeds: expected top=K with at least 2 trials to repeat, got none")
    return options, paths


def finalize(
    folder: SearchFolder, again: bool = False, ensemble: int = 1, top: int = 1, seeds: int = 3
) -> dict[str, float]:
    """Retrain the winner, or the best `ensemble` trials, test, write `best/`; the test's metrics.

    The winner is the best trial, or of the `top` best ones, each repeated with `seeds` other seeds, that with the best
    mean. Several trials are one predictor: the mean of their outputs, of classes of their probabilities.

    Raises:
        UserError: an unfinished search, fewer trials than asked for, another corpus than the search's, no test clips,
            or a second look at them.
    """
    import numpy as np

    from tuning.best import Tested, draw, print_scores, write_model, write_test
    from tuning.card import write_card
    from tuning.intervals import group_intervals
    from tuning.plan import read_corpus
    from tuning.recorded import space_of
    from tuning.report import write_or_note
    from tuning.search.folder import write_json
    from tuning.search.starting import when_needed
    from tuning.stages import corpus_fingerprint, prepare_features, usable_split
    from tuning.training import VALIDATION_BATCH

    looks_file = folder.path / "test_looks.json"
    looks = json.loads(looks_file.read_text(encoding="utf-8")) if looks_file.exists() else []
    if looks and not again:
        raise UserError(
            f"{folder.path}: expected a search whose test clips nobody has looked at, got one tested on "
            f"{looks[-1]['when']} (trial {looks[-1]['trial']}); again=true looks once more and records it"
        )
    space = space_of(folder)
    chosen = _top(folder, space, "top" if top > ensemble else "ensemble", max(ensemble, top))
    corpus, split = read_corpus(chosen[0][1])
    folder.check_identity(space, corpus_fingerprint(corpus, chosen[0][1]))
    prepared = prepare_features(space, space.fixed(), corpus, split, when_needed(space.fixed()))
    split = usable_split(split, prepared)
    if not split.test:
        raise UserError(f"{folder.path}: expected clips that are sealed for the test, got none (split.method)")

    repeated = _repeat(folder, space, chosen[:top], seeds, corpus, split, prepared) if top > 1 else None
    if repeated is not None:
        chosen.insert(0, chosen.pop(next(i for i, (r, _) in enumerate(chosen) if r.number == repeated["winner"])))
    chosen = chosen[:ensemble]
    winner, config = chosen[0]
    best, members = folder.path / "best", []
    for record, settings in chosen:
        known = _data(space, prepared, corpus, split, settings)
        training = _retrain(folder, settings, known, record)
        data = training.data
        batches = data.val_batches(VALIDATION_BATCH)
        members.append(np.concatenate([training.predict(batch).cpu().numpy() for batch in batches]))
        place = best if record is winner else best / "members" / f"{record.number:04d}"
        write_model(place, settings, training.model, data.statistics, known.frames)
        if record is winner:
            task, epochs, ids, targets = training.task, training.epoch, data.val_ids.tolist(), data.val_targets
            constant = task.constant_baseline(data.train_targets, targets)
            num_parameters = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
    outputs = task.mean_outputs(members)
    metrics = {f"test_{name}": value for name, value in task.metrics(targets, outputs).items()}
    alone = {f"test_{name}": value for name, value in task.metrics(targets, members[0]).items()}
    numbers = [record.number for record, _ in chosen]
    looks.append({"when": _now(), "trial": winner.number, "ensemble": numbers, "metrics": metrics})
    # Recorded before anything is shown: a look counts even if what follows fails.
    write_json(looks_file, looks)
    folder.flush()
    constant = {f"test_{name.removeprefix('val_')}": value for name, value in constant.items()}
    group_of = {clip.id: clip.group for clip in split.test}
    groups = [group_of[clip] for clip in ids]
    intervals, num_groups = group_intervals(targets, outputs, groups, task.metrics, config.seed)
    intervals = {f"test_{name}": interval for name, interval in intervals.items()}
    tested = Tested(ids, groups, targets, outputs, metrics, constant, numbers, alone, intervals, num_groups)
    write_test(best, config, winner, epochs, tested, repeated)
    print(f"test      {len(ids)} sealed clips, looked at once and recorded in {looks_file}")
    print_scores(config, winner, tested)
    draw(best, config, winner, folder.trial(winner.number), tested)
    write_card(folder, config, winner, corpus, split, tested, repeated, num_parameters)
    write_or_note(folder)
    print(f"model     {best}")
    return metrics


def _repeat(
    folder: SearchFolder,
    space: Space,
    chosen: list[tuple[TrialRecord, Config]],
    seeds: int,
    corpus: Corpus,
    split: Split,
    prepared: dict[str, Any],
) -> dict[str, Any]:
    """The trials repeated, and who won, for the record."""
    from tuning.config import RunSettings
    from tuning.plan import Plan
    from tuning.replicates import choose, replicate, written
    from tuning.tasks import check_metric

    config, records = space.fixed(), [record for record, _ in chosen]
    mode = check_metric(space, config)
    plan = Plan(RunSettings(name=folder.name), space, config, mode, {}, 0)
    scores = replicate(folder, plan, records, seeds, corpus, split, prepared)
    return written(records, scores, choose(records, scores, config.search.metric, mode), config)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _top(folder: SearchFolder, space: Space, option: str, count: int) -> list[tuple[TrialRecord, Config]]:
    """The best trials with their configurations, the winner first."""
    from tuning.recorded import config_of, with_results

    ranked = with_results(folder, space)
    running = [record.number for record in folder.records() if not record.is_final]
    if running or not ranked:
        raise UserError(
            f"{folder.path}: expected a finished search with a winner, got "
            f"{f'trials that have not ended ({running})' if running else 'no trial with a result'}"
        )
    if len(ranked) < count:
        raise UserError(f"{option}: expected at most the {len(ranked)} trials with a result, got {count}")
    return [(record, config_of(folder, record.number)) for record in ranked[:count]]


def _data(space: Space, prepared: dict[str, Any], corpus: Corpus, split: Split, config: Config) -> TrialData:
    """Training and validation clips to train on, with their bank; test clips in validation's place."""
    from datasets.reading import FeatureStatistics, read_part, read_versions
    from datasets.resident import ResidentData
    from datasets.synthetic import Synthetic
    from datasets.text_data import Texts
    from tuning.gan_stage import prepare_synthetic
    from tuning.search.starting import when_needed
    from tuning.stages import data_key, joined, prepare_banks, stored, variant_key
    from tuning.text_stage import text_key

    variant = prepared[variant_key(stored(config))]
    known = replace(split, train=split.train + split.val, val=[])
    bank = prepare_banks(space, config, corpus, known, when_needed(config)).get(data_key(config), {})
    sealed = {clip.id for clip in split.test}
    train = read_part(variant, known.train, sealed)
    test = read_part(variant, split.test, sealed=())
    statistics = FeatureStatistics.of([(train.num_frames, train.features)])
    versions = {effect: read_versions(made, train.ids.tolist(), sealed) for effect, made in bank.items()}
    data = ResidentData(train, test, statistics, variant.num_frames, versions)
    others: list[Any] = []
    if key := text_key(config):
        others.append(Texts.read(prepared[key], {clip.id for clip in known.train + split.test}, sealed=()))
    if config.augment.synthetic_share > 0:  # those that the search drew from: their GAN saw its training clips alone
        when_needed(config)(0, 1)
        others.append(Synthetic.read(prepare_synthetic(variant, config, split)))
    whole: TrialData = joined(data, *others)
    return whole


def _retrain(folder: SearchFolder, config: Config, data: TrialData, winner: TrialRecord) -> Any:
    """The winner trained for the epochs that its best took; no clip decides when to stop.

    A rate that was lowered by looking at validation clips is replayed from the trial's record.
    """
    import torch

    from tuning.trial import make_training

    epochs, rates = _epochs_and_rates(folder, winner)
    torch.set_num_threads(config.resources.cpus_per_worker)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = make_training(config, data, checkpoints=None, device=device)
    print(f"retrain   trial {winner.number} for {epochs} epochs on {data.num_train} clips", flush=True)
    for epoch in range(1, epochs + 1):
        training.epoch = epoch
        if config.optim.schedule == "plateau":
            training.base_rate = rates[epoch - 1]
        training.train_epoch()
    return training


def _epochs_and_rates(folder: SearchFolder, winner: TrialRecord) -> tuple[int, list[float]]:
    """How long to train and the learning rate of each epoch, as the winner's record has them.

    After inner folds: the mean of the folds' best epochs, a half rounded up, and the median of the folds' rates, a
    fold whose training had ended counting with its last.
    """
    from tuning.folds import FoldResults, rounded_mean
    from tuning.search.folder import read_progress

    path = folder.trial(winner.number)
    rows = read_progress(path)
    if winner.folds is None:
        assert winner.best_epoch is not None
        return winner.best_epoch, [float(row["learning_rate"]) for row in rows]
    epochs = rounded_mean(int(row["fold_epochs"]) for row in rows)
    return epochs, FoldResults(winner.folds, file=path / "checkpoints" / FoldResults.FILE).median_rates(epochs)


if __name__ == "__main__":
    sys.exit(main())
