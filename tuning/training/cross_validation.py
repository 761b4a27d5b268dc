"""Results of a trial that is a cross-validation: those of its folds, and the means over them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tuning.datasets.loaders.kfold import Folds
from tuning.datasets.splits.split import Split
from tuning.experiment.faults import whole_or_absent
from tuning.experiment.reading import read_json, understood
from tuning.training.tasks import Task


def describe_parts(split: Split, num_folds: int | None) -> str:
    """Say how many clips train, validate and test."""
    sealed = f"{len(split.test)} test (sealed)"
    if num_folds is None:
        return f"{len(split.train)} train, {len(split.val)} validation, {sealed}"
    return f"validation: {num_folds} inner folds of {len(split.train) + len(split.val)} clips, {sealed}"


def rounded_mean(counts: Iterable[int]) -> int:
    """Return the mean as a whole number; a half is rounded up."""
    return math.floor(statistics.mean(counts) + 0.5)


def median_rates(curves: Sequence[Sequence[float]], num_epochs: int) -> list[float]:
    """Return the median learning rate of several trainings in each epoch; one that has ended counts with its last."""
    return [statistics.median(rates[min(n, len(rates) - 1)] for rates in curves) for n in range(num_epochs)]


def mean_and_std(rows: Sequence[dict[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """Return mean and population standard deviation of each validation metric that every row has."""
    names = [name for name in rows[0] if name.startswith("val_") and all(name in row for row in rows)]
    columns = {name: [float(row[name]) for row in rows] for name in names}
    means = {name: math.fsum(values) / len(values) for name, values in columns.items()}
    squares = {name: math.fsum((value - means[name]) ** 2 for value in columns[name]) for name in names}
    return means, {name: math.sqrt(total / len(rows)) for name, total in squares.items()}


def constant_baseline(task: Task, folds: Folds) -> dict[str, float]:
    """Return the metrics of a constant prediction, fitted on each fold's training clips: the mean over folds.

    Raises UserError when the loss can't be used with a fold's labels.
    """
    return mean_and_std([task.constant_baseline(*folds.targets(number)) for number in range(len(folds))])[0]


@dataclass
class FoldResult:
    """Progress and result of one fold's training.

    Args:
        epochs: number of epochs done.
        seconds: time that they took.
        rates: learning rate at the end of each epoch.
        best: row of the best epoch.
        finished: why the training ended; empty before.
    """

    epochs: int = 0
    seconds: float = 0.0
    rates: list[float] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    finished: str = ""

    def add(self, row: dict[str, Any]) -> None:
        """Add an epoch's row. A resumed training reports its last row again, which changes nothing."""
        if row["epoch"] <= self.epochs:
            return
        self.epochs, self.finished = row["epoch"], row["finished"]
        self.seconds += row["seconds"]
        self.rates.append(row["learning_rate"])
        if row["best_epoch"] == row["epoch"]:
            self.best = row


class FoldResults:
    """Results of a trial's folds in order, kept in a file so that the trial can be resumed; the last may be unfinished.

    Args:
        num_folds: of the whole trial.
        metric: what ranks the trials.
        file: where they are kept; None keeps nothing.
    """

    FILE = "folds.json"  # beside the folds' checkpoints

    def __init__(self, num_folds: int, metric: str = "val_loss", file: Path | None = None) -> None:
        self.num_folds, self.metric, self.file = num_folds, metric, file
        self.folds: list[FoldResult] = []
        if file is not None and file.exists():
            with understood(file, "results of folds"):
                self.folds = [FoldResult(**fold) for fold in read_json(file, list)]

    @property
    def num_finished(self) -> int:
        """Number of folds whose training ended."""
        return sum(bool(fold.finished) for fold in self.folds)

    def add(self, row: dict[str, Any]) -> None:
        """Add an epoch of the first unfinished fold."""
        if self.num_finished == len(self.folds):
            self.folds.append(FoldResult())
        self.folds[-1].add({name: value for name, value in row.items() if name != f"{self.metric}_best"})
        if self.file is None:
            return
        with whole_or_absent(self.file) as partial:
            partial.write_text(json.dumps([asdict(fold) for fold in self.folds]), encoding="utf-8")

    @property
    def rates(self) -> list[list[float]]:
        """The learning rate at the end of each epoch of each finished fold."""
        return [fold.rates for fold in self.folds[: self.num_finished]]

    def row(self) -> dict[str, Any]:
        """Return the row that the trial reports after a fold.

        `epoch` and `fold` are the number of finished folds; each `val_*` is the mean of the folds' best epochs, with
        `_std` their deviation; `<metric>_best` is that mean, too, and not the best so far, since some folds are harder
        than others. `fold_epochs` is the best epoch of the latest fold, `seconds` its time.
        """
        done = self.folds[: self.num_finished]
        means, stds = mean_and_std([fold.best for fold in done])
        assert self.metric in means, "a training has its ranking metric in every epoch"
        return {
            "epoch": len(done),
            "fold": len(done),
            **means,
            **{f"{name}_std": value for name, value in stds.items()},
            f"{self.metric}_best": means[self.metric],
            "best_epoch": len(done),
            "fold_epochs": done[-1].best["epoch"],
            "seconds": done[-1].seconds,
            "finished": "all folds" if len(done) == self.num_folds else "",
        }
