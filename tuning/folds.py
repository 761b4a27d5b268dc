"""Inner cross-validation: the clips of train and validation dealt into folds, and what a trial knows of its folds.

The features of all these clips lie in Ray's object store once, whatever the number of folds and trials.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from tuning.datasets.reading import FeatureStatistics, Part, Versions, read_part, read_versions
from tuning.datasets.resident import CHUNK_CLIPS, ResidentData, TrialData
from tuning.datasets.splits import Split
from tuning.datasets.stream import choose_loading, num_bytes, open_data
from tuning.datasets.text_data import Texts, WithText
from tuning.faults import whole_or_absent

if TYPE_CHECKING:
    import numpy as np

    from tuning.datasets.bank import Bank
    from tuning.datasets.shards import Prepared
    from tuning.tasks import Task


class Picked:
    """Rows of an array by number, looked up when they are asked for: the array itself stays shared.

    It stands where the first index of a numpy array is all that is used of it.
    """

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self.array, self.rows = array, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """As of a numpy array."""
        return (len(self.rows), *self.array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *others = key if isinstance(key, tuple) else (key,)
        found: np.ndarray = self.array[(self.rows[first], *others)]
        return found


@dataclass(frozen=True)
class ResidentFolds:
    """Every clip of train and validation in memory, and who of them validates in which fold.

    Args:
        clips: all of them, with the frames that are stored.
        frames: stored frames.
        held: for each fold, the rows of its validation clips as bool [clips].
        bank: versions of all of them, by wave effect.
    """

    clips: Part
    frames: int
    held: list[np.ndarray]
    bank: dict[str, Versions] = field(default_factory=dict)

    @classmethod
    def read(cls, prepared: Prepared, split: Split, bank: Bank | None = None) -> ResidentFolds:
        """Read the clips from their shards. Raises SealedError rather than open a shard with a test clip."""
        import numpy as np

        sealed = {clip.id for clip in split.test}
        clips = read_part(prepared, split.train + split.val, sealed)
        held = [np.isin(clips.ids, [clip.id for clip in val]) for _, val in split.inner_parts()]
        versions = {effect: read_versions(made, clips.ids.tolist(), sealed) for effect, made in (bank or {}).items()}
        return cls(clips, prepared.num_frames, held, versions)

    def __len__(self) -> int:
        return len(self.held)

    def fold(self, number: int) -> ResidentData:
        """Training and validation clips of a fold, from 0; normalised by its training clips, features not copied."""
        import numpy as np

        rows = np.flatnonzero(~self.held[number])
        train, val = _picked(self.clips, rows), _picked(self.clips, np.flatnonzero(self.held[number]))
        chunks = (slice(start, start + CHUNK_CLIPS) for start in range(0, len(train), CHUNK_CLIPS))
        normal = FeatureStatistics.of((train.num_frames[chunk], train.features[chunk]) for chunk in chunks)
        bank = {
            effect: Versions(cast("np.ndarray", Picked(versions.features, rows)), versions.num_frames[rows])
            for effect, versions in self.bank.items()
        }
        return ResidentData(train, val, normal, self.frames, bank)

    def targets(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels of a fold's training and validation clips."""
        held = self.held[number]
        return self.clips.targets[~held], self.clips.targets[held]


def _picked(part: Part, rows: np.ndarray) -> Part:
    features = cast("np.ndarray", Picked(part.features, rows))
    return Part(part.ids[rows], features, part.num_frames[rows], part.targets[rows])


@dataclass(frozen=True)
class StreamedFolds:
    """Folds whose features are read anew in each epoch."""

    folds: list[TrialData]

    def __len__(self) -> int:
        return len(self.folds)

    def fold(self, number: int) -> TrialData:
        """Training and validation clips of a fold, from 0."""
        return self.folds[number]

    def targets(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels of a fold's training and validation clips."""
        return self.folds[number].train_targets, self.folds[number].val_targets


@dataclass(frozen=True)
class FoldsWithText:
    """Folds whose batches have their clips' texts, too."""

    folds: ResidentFolds | StreamedFolds
    texts: Texts

    def __len__(self) -> int:
        return len(self.folds)

    def fold(self, number: int) -> TrialData:
        """Training and validation clips of a fold, from 0."""
        return WithText(self.folds.fold(number), self.texts)

    def targets(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels of a fold's training and validation clips."""
        return self.folds.targets(number)


Folds = ResidentFolds | StreamedFolds | FoldsWithText


def open_folds(
    prepared: Prepared,
    split: Split,
    loading: Literal["auto", "resident", "streamed"],
    object_store_bytes: int,
    bank: Bank | None = None,
) -> ResidentFolds | StreamedFolds:
    """The inner folds of a split, as they were dealt, in the way that fits; the bank, if any, is that of train and
    validation clips.

    Raises SealedError rather than open a test clip's shard, and ValueError as `tuning.datasets.stream.open_data` does.
    """
    assert split.inner, "inner folds are dealt among the usable clips"
    size = num_bytes(prepared, replace(split, train=split.train + split.val, val=[]), bank)
    if choose_loading(size, object_store_bytes, loading) == "resident":
        return ResidentFolds.read(prepared, split, bank)
    parts = (replace(split, train=train, val=val) for train, val in split.inner_parts())
    return StreamedFolds([open_data(prepared, part, "streamed", object_store_bytes, bank) for part in parts])


def describe_parts(split: Split, num_folds: int | None) -> str:
    """How many clips are for what, in words."""
    sealed = f"{len(split.test)} test (sealed)"
    if num_folds is None:
        return f"{len(split.train)} train, {len(split.val)} validation, {sealed}"
    return f"validation: {num_folds} inner folds of {len(split.train) + len(split.val)} clips, {sealed}"


def rounded_mean(counts: Iterable[int]) -> int:
    """The mean as a whole number, a half rounded up."""
    return math.floor(statistics.mean(counts) + 0.5)


def median_rates(curves: Sequence[Sequence[float]], num_epochs: int) -> list[float]:
    """The median learning rate of several trainings in each epoch; one that had ended counts with its last."""
    return [statistics.median(rates[min(n, len(rates) - 1)] for rates in curves) for n in range(num_epochs)]


def mean_and_std(rows: Sequence[dict[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and population standard deviation of each validation metric that is defined in every row."""
    names = [name for name in rows[0] if name.startswith("val_") and all(name in row for row in rows)]
    columns = {name: [float(row[name]) for row in rows] for name in names}
    means = {name: math.fsum(values) / len(values) for name, values in columns.items()}
    squares = {name: math.fsum((value - means[name]) ** 2 for value in columns[name]) for name in names}
    return means, {name: math.sqrt(total / len(rows)) for name, total in squares.items()}


def constant_baseline(task: Task, folds: Folds) -> dict[str, float]:
    """The constant predictor's metrics: fitted on each fold's training clips, the mean over folds.

    Raises UserError when the loss can't be used with a fold's labels.
    """
    return mean_and_std([task.constant_baseline(*folds.targets(number)) for number in range(len(folds))])[0]


@dataclass
class FoldResult:
    """What is known of one fold's training.

    Args:
        epochs: finished so far.
        seconds: that they took.
        rates: learning rate at the end of each.
        best: row of the best epoch.
        finished: why the training ended; empty while it goes on.
    """

    epochs: int = 0
    seconds: float = 0.0
    rates: list[float] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    finished: str = ""

    def add(self, row: dict[str, Any]) -> None:
        """Take an epoch's row; one that was taken before, as a training says that was cut off, changes nothing."""
        if row["epoch"] <= self.epochs:
            return
        self.epochs, self.finished = row["epoch"], row["finished"]
        self.seconds += row["seconds"]
        self.rates.append(row["learning_rate"])
        if row["best_epoch"] == row["epoch"]:
            self.best = row


class FoldResults:
    """A trial's folds in order, the last perhaps unfinished; kept in a file so that a cut off trial goes on.

    Args:
        num_folds: of the whole trial.
        metric: what ranks the trials.
        file: where they are kept; none to keep nothing.
    """

    FILE = "folds.json"  # beside the folds' checkpoints

    def __init__(self, num_folds: int, metric: str = "val_loss", file: Path | None = None) -> None:
        self.num_folds, self.metric, self.file = num_folds, metric, file
        self.folds: list[FoldResult] = []
        if file is not None and file.exists():
            self.folds = [FoldResult(**fold) for fold in json.loads(file.read_text(encoding="utf-8"))]

    @property
    def num_finished(self) -> int:
        """Folds whose training ended."""
        return sum(bool(fold.finished) for fold in self.folds)

    def add(self, row: dict[str, Any]) -> None:
        """Take an epoch of the first unfinished fold."""
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
        """What the trial reports after its latest finished fold.

        `epoch` and `fold` are the number of finished folds; each `val_*` is the mean of the folds' best epochs, with
        `_std` over them; `<metric>_best` is the mean, too: there is no running best, since folds differ in how hard
        they are. `fold_epochs` is the best epoch of the latest fold, `seconds` its time.
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
