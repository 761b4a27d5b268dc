"""Data of inner cross-validation: read once for all folds of all trials."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from tuning.datasets.loaders.in_memory import ResidentData, TrialData
from tuning.datasets.loaders.streaming import choose_loading, num_bytes, open_data
from tuning.datasets.loaders.text import TextData, Texts
from tuning.datasets.settings import Loading
from tuning.datasets.splits.split import Split
from tuning.datasets.store.augmentation_bank import Bank
from tuning.datasets.store.build import Prepared
from tuning.datasets.store.reader import (
    FeatureStatistics,
    Part,
    Versions,
    read_part,
    read_versions,
    statistics_by_clip,
)


class RowView:
    """Some rows of an array without a copy; behaves as the array where only its first axis is indexed."""

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self.array, self.rows = array, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, as of an array."""
        return (len(self.rows), *self.array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *others = key if isinstance(key, tuple) else (key,)
        found: np.ndarray = self.array[(self.rows[first], *others)]
        return found


@dataclass(frozen=True)
class ResidentFolds:
    """All training and validation clips in memory, and the validation clips of each fold.

    Args:
        clips: the clips at their stored length.
        frames: stored frames.
        validates: for each fold, which clips validate, bool [clips].
        bank: versions of all clips by combination of wave effects.
        by_clip: statistics of each clip's group, if read.
    """

    clips: Part
    frames: int
    validates: list[np.ndarray]
    bank: dict[str, Versions] = field(default_factory=dict)
    by_clip: dict[str, FeatureStatistics] = field(default_factory=dict)

    @classmethod
    def read(cls, prepared: Prepared, split: Split, bank: Bank | None = None, by_group: bool = False) -> ResidentFolds:
        """Read the clips from their shards. Raises SealedError rather than open a shard with a test clip."""
        sealed = {clip.id for clip in split.test}
        clips = read_part(prepared, split.train + split.val, sealed)
        validates = [np.isin(clips.ids, [clip.id for clip in val]) for _, val in split.inner_parts()]
        versions = {name: read_versions(made, clips.ids.tolist(), sealed) for name, made in (bank or {}).items()}
        own = statistics_by_clip(clips.chunks(), split.groups()) if by_group else {}
        return cls(clips, prepared.num_frames, validates, versions, own)

    def __len__(self) -> int:
        return len(self.validates)

    def fold(self, number: int) -> ResidentData:
        """Data of a fold, counted from 0, normalised by its training clips; features are not copied."""
        rows = np.flatnonzero(~self.validates[number])
        train, val = _select_rows(self.clips, rows), _select_rows(self.clips, np.flatnonzero(self.validates[number]))
        bank = {
            name: Versions(cast("np.ndarray", RowView(versions.features, rows)), versions.num_frames[rows])
            for name, versions in self.bank.items()
        }
        return ResidentData(train, val, train.statistics(), self.frames, bank, by_clip=self.by_clip)

    def targets(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels of a fold's training and validation clips."""
        validates = self.validates[number]
        return self.clips.targets[~validates], self.clips.targets[validates]


def _select_rows(part: Part, rows: np.ndarray) -> Part:
    features = cast("np.ndarray", RowView(part.features, rows))
    return Part(part.ids[rows], features, part.num_frames[rows], part.targets[rows])


@dataclass(frozen=True)
class StreamedFolds:
    """Folds whose features are read from disk in each epoch."""

    folds: list[TrialData]

    def __len__(self) -> int:
        return len(self.folds)

    def fold(self, number: int) -> TrialData:
        """Data of a fold, counted from 0."""
        return self.folds[number]

    def targets(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels of a fold's training and validation clips."""
        return self.folds[number].train_targets, self.folds[number].val_targets


@dataclass(frozen=True)
class TextFolds:
    """Folds whose batches also have the texts of their clips."""

    folds: ResidentFolds | StreamedFolds
    texts: Texts

    def __len__(self) -> int:
        return len(self.folds)

    def fold(self, number: int) -> TrialData:
        """Data of a fold, counted from 0."""
        return TextData(self.folds.fold(number), self.texts)

    def targets(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels of a fold's training and validation clips."""
        return self.folds.targets(number)


Folds = ResidentFolds | StreamedFolds | TextFolds


def open_folds(
    prepared: Prepared,
    split: Split,
    loading: Loading,
    node_bytes: int,
    bank: Bank | None = None,
    by_group: bool = False,
) -> ResidentFolds | StreamedFolds:
    """Open the inner folds of a split as `loading` says; a bank has versions of training and validation clips.

    Raises SealedError as `tuning.datasets.loaders.streaming.open_data` does.
    """
    assert split.inner, "the split has no inner folds"
    size = num_bytes(prepared, replace(split, train=split.train + split.val, val=[]), bank)
    if choose_loading(size, node_bytes, loading) == "resident":
        return ResidentFolds.read(prepared, split, bank, by_group)
    parts = (replace(split, train=train, val=val) for train, val in split.inner_parts())
    return StreamedFolds([open_data(prepared, part, "streamed", node_bytes, bank, by_group) for part in parts])
