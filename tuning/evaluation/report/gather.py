"""Read all that the page shows from a search's folder; what does not exist yet stays empty."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend

from tuning.config.schema import Config
from tuning.config.space import Space
from tuning.evaluation.score_notes import search_notes
from tuning.experiment.directory import SearchFolder, TrialRecord, read_progress
from tuning.experiment.faults import whole_lines
from tuning.experiment.ranking import kept_epoch, rank
from tuning.experiment.recorded import space_of
from tuning.experiment.timeline import Stretch, read_stretches
from tuning.training.ranking import Mode, check_metric

ERROR_LINES = 25  # of a failed trial's traceback


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
    """Read a search that is finished, unfinished or running.

    Raises:
        UserError: its configuration can't be read.
    """
    space = space_of(folder)
    config = space.fixed()
    mode, path = check_metric(space, config), folder.path
    ranked = rank(folder.records(), config.search.metric, mode)
    baseline = _json(path / "baseline.json") or {}
    confusion, damaged = _confusion(path / "best" / "confusion.csv")
    folders = {record.number: folder.trial(record.number) for record in ranked}
    return Gathered(
        name=folder.name,
        path=path,
        space=space,
        config=config,
        mode=mode,
        ranked=ranked,
        baseline=baseline,
        curves={number: _curve(path, config.search.metric) for number, path in folders.items()},
        stretches=_stretches(folder, folders),
        errors={record.number: _error(folders[record.number]) for record in ranked if record.status == "failed"},
        quarantine=_quarantine(path / "quarantine.csv"),
        environment=_json(path / "environment.json") or {},
        fingerprint=_json(path / "fingerprint.json") or {},
        texts={name: _text(path / name) for name in ("overrides.yaml", "config.yaml")},
        test=_json(path / "best" / "metrics.json"),
        looks=_json(path / "test_looks.json") or [],
        notes=[*search_notes(folder, ranked, baseline, config.search.metric, mode), *damaged],
        confusion=confusion,
    )


def _curve(folder: Path, metric: str) -> list[tuple[int, float]]:
    return [(int(row["epoch"]), float(row[metric])) for row in read_progress(folder) if row.get(metric)]


def _stretches(folder: SearchFolder, folders: dict[int, Path]) -> dict[int, list[Stretch]]:
    """When each trial ran. Start and end of trials that an earlier version ran are taken from the study."""
    found = {number: read_stretches(path) for number, path in folders.items()}
    journal = folder.path / "study.journal"
    if all(found.values()) or not journal.exists():
        return found
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for frozen in optuna.load_study(study_name=None, storage=storage).get_trials(deepcopy=False):
        number, began, ended = frozen.number + 1, frozen.datetime_start, frozen.datetime_complete
        if began is not None and ended is not None and found.get(number) == []:
            found[number] = [Stretch(began.astimezone(), ended.astimezone(), ended=True)]
    return found


def _confusion(file: Path) -> tuple[list[list[str]], list[str]]:
    """The rows of a table of confusions, or none and a note that it is damaged."""
    try:
        rows = list(csv.reader(io.StringIO(_text(file))))
        widths = {len(row) for row in rows} | {len(rows)} if rows else set()
        if len(widths) > 1 or any(int(count) < 0 for row in rows[1:] for count in row[1:]):
            raise ValueError
        return rows, []
    except (ValueError, OSError):
        return [], [f"best/{file.name} is damaged, and the page has no confusions: tuning finalize writes it"]


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _error(folder: Path) -> str:
    return "\n".join(_text(folder / "error.txt").splitlines()[-ERROR_LINES:])


def _quarantine(file: Path) -> list[tuple[str, str]]:
    if not file.exists():
        return []
    rows = csv.DictReader(io.StringIO(whole_lines(file.read_bytes()).decode()))
    return [(row["clip"], row["reason"]) for row in rows]
