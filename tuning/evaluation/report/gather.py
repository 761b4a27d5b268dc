"""Read all that the page shows from a search's folder; what does not exist yet stays empty."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.storages.journal import JournalFileBackend

from tuning.config.schema import Config
from tuning.config.space import Space
from tuning.evaluation.score_notes import search_notes
from tuning.experiment.directory import DAMAGED, SearchFolder, TrialRecord, read_looks, read_progress
from tuning.experiment.ranking import kept_epoch, rank
from tuning.experiment.reading import DamagedFileError, read_json, read_metrics, read_rows, read_text, understood
from tuning.experiment.recorded import space_of
from tuning.experiment.timeline import FILE, Stretch, read_stretches
from tuning.training.ranking import Mode, check_metric

ERROR_LINES = 25  # of a failed trial's traceback

Found = TypeVar("Found")


@dataclass(frozen=True)
class Gathered:
    """A search as plain data.

    Args:
        name: of the search.
        path: its folder.
        space: that was searched.
        config: plain settings of the search; searched ones have their first or lowest value.
        mode: direction of the ranking metric.
        ranked: all trials that have started, best first.
        baseline: metrics of the constant predictor.
        curves: of each trial, pairs of epoch or fold and value of the ranking metric.
        stretches: of each trial, when and where it ran.
        errors: of each failed trial, the end of its traceback.
        quarantine: pairs of a recording and the reason why it can't be used.
        environment: versions and machine.
        fingerprint: of the corpus.
        texts: files that are shown unchanged, by name.
        test: `best/metrics.json`, if the winner was tested.
        looks: every use of the test clips.
        notes: what has to be known with the scores.
        confusion: rows of `best/confusion.csv`, the header first; empty without classes or before the test.
        damaged: of each damaged file what is wrong with it and what can be done.
    """

    name: str
    path: Path
    space: Space
    config: Config
    mode: Mode
    ranked: list[TrialRecord]
    baseline: dict[str, float]
    curves: dict[int, list[tuple[int, float]]]
    stretches: dict[int, list[Stretch]]
    errors: dict[int, str]
    quarantine: list[tuple[str, str]]
    environment: dict[str, Any]
    fingerprint: dict[str, Any]
    texts: dict[str, str]
    test: dict[str, Any] | None
    looks: list[dict[str, Any]]
    notes: list[str]
    confusion: list[list[str]]
    damaged: list[str]

    @property
    def metric(self) -> str:
        """The ranking metric."""
        return self.config.search.metric

    @property
    def unit(self) -> str:
        """What the rows of a trial are: "epochs" or "folds"."""
        return "folds" if self.config.split.inner_folds else "epochs"

    @property
    def kept(self) -> str:
        """The epoch that a trial is ranked by, in words."""
        return kept_epoch(self.space.values("training.keep"))

    def value(self, record: TrialRecord) -> float | None:
        """A trial's value of the ranking metric; None if it failed or has none yet."""
        return record.value(self.metric)

    @property
    def scored(self) -> list[TrialRecord]:
        """Trials with a value, best first."""
        return [record for record in self.ranked if self.value(record) is not None]

    @property
    def comparable(self) -> list[TrialRecord]:
        """Trials with a value of all their folds, best first; without folds, all trials with a value."""
        return [record for record in self.scored if record.is_whole]


def gather(folder: SearchFolder) -> Gathered:
    """Read a search that is finished, unfinished or running. What is damaged stays empty, and is told.

    Raises:
        UserError: its configuration can't be read.
    """
    space = space_of(folder)
    config = space.fixed()
    mode, path, metric = check_metric(space, config), folder.path, config.search.metric
    ranked = rank(folder.records(), metric, mode)
    folders = {record.number: folder.trial(record.number) for record in ranked}
    damaged = [record.reason for record in ranked if record.status == DAMAGED]

    def read(file: Path, how: Callable[[Path], Found], nothing: Found, is_due: bool = False) -> Found:
        try:
            return how(file) if is_due or file.exists() else nothing
        except DamagedFileError as error:
            if str(error) not in damaged:
                damaged.append(str(error))
            return nothing

    # A folder best/ is there whole or not at all.
    best, has_classes = path / "best", config.task.name == "classification"
    failed = [record.number for record in ranked if record.status == "failed"]
    baseline: dict[str, float] = read(path / "baseline.json", _metrics, {})
    return Gathered(
        name=folder.name,
        path=path,
        space=space,
        config=config,
        mode=mode,
        ranked=ranked,
        baseline=baseline,
        curves={number: read(place, partial(_curve, metric=metric), []) for number, place in folders.items()},
        stretches=_stretches(
            folder,
            {
                number: read(place / FILE, lambda file: read_stretches(file.parent), [])
                for number, place in folders.items()
            },
        ),
        errors={number: read(folders[number] / "error.txt", _last_lines, "") for number in failed},
        quarantine=read(path / "quarantine.csv", _quarantine, []),
        environment=read(path / "environment.json", _environment, {}),
        fingerprint=read(path / "fingerprint.json", lambda file: read_json(file, dict), {}),
        texts={name: read(path / name, read_text, "") for name in ("overrides.yaml", "config.yaml")},
        test=read(best / "metrics.json", _test, None, is_due=best.exists()),
        looks=read(path, read_looks, []),
        notes=search_notes(folder, ranked, baseline, metric, mode),
        confusion=read(best / "confusion.csv", _confusion, [], is_due=has_classes and best.exists()),
        damaged=damaged,
    )


def _curve(folder: Path, metric: str) -> list[tuple[int, float]]:
    return [(int(row["epoch"]), float(row[metric])) for row in read_progress(folder) if row.get(metric)]


def _stretches(folder: SearchFolder, found: dict[int, list[Stretch]]) -> dict[int, list[Stretch]]:
    """When each trial ran. Start and end of trials that an earlier version ran are taken from the study."""
    journal = folder.path / "study.journal"
    if all(found.values()) or not journal.exists():
        return found
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
        trials = optuna.load_study(study_name=None, storage=storage).get_trials(deepcopy=False)
    except Exception:  # a damaged journal raises whatever Optuna stumbles over; it only tells when old trials ran
        return found
    for frozen in trials:
        number, began, ended = frozen.number + 1, frozen.datetime_start, frozen.datetime_complete
        if began is not None and ended is not None and found.get(number) == []:
            found[number] = [Stretch(began.astimezone(), ended.astimezone(), ended=True)]
    return found


def _confusion(file: Path) -> list[list[str]]:
    """The rows of a table of confusions."""
    rows = list(csv.reader(io.StringIO(read_text(file))))
    with understood(file, "a square table of counts"):
        if {len(row) for row in rows} != {len(rows)} or any(int(count) < 0 for row in rows[1:] for count in row[1:]):
            raise ValueError("another table")
    return rows


def _metrics(file: Path) -> dict[str, float]:
    with understood(file, "metrics by name"):
        return read_metrics(read_json(file, dict))


def _environment(file: Path) -> dict[str, Any]:
    found = read_json(file, dict)
    with understood(file, "versions of packages"):
        return found | {"packages": dict(found.get("packages", {}))}


def _test(file: Path) -> dict[str, Any]:
    found = read_json(file, dict)
    with understood(file, "the result of a test"):
        # An earlier version wrote no intervals.
        found |= {"bootstrap": {"intervals": {}, "basis": ""} | found.get("bootstrap", {})}
        for metrics in (found["test"], found.get("constant", {}), found.get("validation", {})):
            read_metrics(metrics)
        for low, high in found["bootstrap"]["intervals"].values():
            read_metrics({"low": low, "high": high})
        wanted = ((found["trial"], int), (found["epochs"], int), (found["bootstrap"]["basis"], str))
        for value, kind in (*wanted, (found.get("ensemble", []), list)):
            if not isinstance(value, kind):
                raise TypeError(f"{value!r}")
        return found


def _last_lines(file: Path) -> str:
    return "\n".join(read_text(file).splitlines()[-ERROR_LINES:])


def _quarantine(file: Path) -> list[tuple[str, str]]:
    return [(row["clip"], row["reason"]) for row in read_rows(file, ("clip", "reason"))]
