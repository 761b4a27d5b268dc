"""Base of the data that add something to the batches of other data."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from tuning.datasets.loaders.in_memory import Batch, TrialData
from tuning.datasets.settings import AugmentSettings, Normalise, Padding, Segment
from tuning.datasets.store.reader import FeatureStatistics


@dataclass(frozen=True)
class DataWrapper:
    """A `TrialData` that answers as its `inner` data, apart from what a subclass overrides."""

    inner: TrialData

    @property
    def statistics(self) -> FeatureStatistics:
        """Statistics of the features in the batches."""
        return self.inner.statistics

    @property
    def frames(self) -> int:
        """Frames of a batch."""
        return self.inner.frames

    @property
    def train_ids(self) -> np.ndarray:
        """Clip ids [num_train]."""
        return self.inner.train_ids

    @property
    def val_ids(self) -> np.ndarray:
        """Clip ids [num_val]."""
        return self.inner.val_ids

    @property
    def train_targets(self) -> np.ndarray:
        """Labels [num_train, targets]."""
        return self.inner.train_targets

    @property
    def val_targets(self) -> np.ndarray:
        """Labels [num_val, targets]."""
        return self.inner.val_targets

    @property
    def num_train(self) -> int:
        """Number of training clips."""
        return self.inner.num_train

    @property
    def num_val(self) -> int:
        """Number of validation clips."""
        return self.inner.num_val

    @property
    def num_features(self) -> int:
        """Features per frame of a batch."""
        return self.inner.num_features

    def num_batches(self, batch_size: int, world_size: int = 1) -> int:
        """Training batches of one epoch."""
        return self.inner.num_batches(batch_size, world_size)

    def train_batches(
        self, epoch: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Training batches of one epoch."""
        return self.inner.train_batches(epoch, batch_size, seed, rank, world_size)

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        """Validation batches in fixed order."""
        return self.inner.val_batches(batch_size)

    def crop(self, num_frames: int, padding: Padding, segment: Segment) -> Self:
        """The same data with a segment of `num_frames` of each clip."""
        return replace(self, inner=self.inner.crop(num_frames, padding, segment))

    def normalised(self, by: Normalise) -> Self:
        """The same data, normalised by the training clips, by groups or not at all."""
        return replace(self, inner=self.inner.normalised(by))

    def augmented(self, settings: AugmentSettings) -> Self:
        """The same data with the wave effects of `settings`."""
        return replace(self, inner=self.inner.augmented(settings))
