"""The clips of inner cross-validation, read once for all folds of all trials, in memory or streamed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np

from tuning.datasets.loaders.in_memory import CHUNK_CLIPS, ResidentData, TrialData
from tuning.datasets.loaders.streaming import choose_loading, num_bytes, open_data
from tuning.datasets.loaders.text import Texts, WithText
from tuning.datasets.splits.split import Split
from tuning.datasets.store.augmentation_bank import Bank
from tuning.datasets.store.build import Prepared
from tuning.datasets.store.reader import FeatureStatistics, Part, Versions, read_part, read_versions


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
        sealed = {clip.id for clip in split.test}
        clips = read_part(prepared, split.train + split.val, sealed)
        held = [np.isin(clips.ids, [clip.id for clip in val]) for _, val in split.inner_parts()]
        versions = {effect: read_versions(made, clips.ids.tolist(), sealed) for effect, made in (bank or {}).items()}
        return cls(clips, prepared.num_frames, held, versions)

    def __len__(self) -> int:
        return len(self.held)

    def fold(self, number: int) -> ResidentData:
        """Training and validation clips of a fold, from 0; normalised by its training clips, features not copied."""
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

    Raises SealedError rather than open a test clip's shard, and ValueError as
    `tuning.datasets.loaders.streaming.open_data` does.
    """
    assert split.inner, "inner folds are dealt among the usable clips"
    size = num_bytes(prepared, replace(split, train=split.train + split.val, val=[]), bank)
    if choose_loading(size, object_store_bytes, loading) == "resident":
        return ResidentFolds.read(prepared, split, bank)
    parts = (replace(split, train=train, val=val) for train, val in split.inner_parts())
    return StreamedFolds([open_data(prepared, part, "streamed", object_store_bytes, bank) for part in parts])
