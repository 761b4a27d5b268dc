"""Augment training batches: SpecAugment masks and mixup."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from tuning.datasets.loaders.in_memory import Batch, TrialData
from tuning.datasets.loaders.spec_augment import Masks
from tuning.datasets.loaders.wrapper import DataWrapper
from tuning.datasets.settings import AugmentSettings, FeatureSettings, stored_features
from tuning.datasets.store.reader import FeatureStatistics

MIXUP_STREAM = 3  # random stream of mixup, apart from those of order, versions and masks


def augment_data(data: TrialData, features: FeatureSettings, settings: AugmentSettings) -> TrialData:
    """A trial's data with all its augmentation: wave effects from the bank, then masks and mixup.

    `data` has the columns of `stored_features(features, settings)`. Raises ValueError if its bank lacks an effect.
    """
    data = data.augmented(settings)
    masks = settings.mask_prob > 0 and settings.time_masks + settings.freq_masks > 0
    if masks or settings.mixup_prob > 0 or stored_features(features, settings) != features:
        return AugmentedData(data, features, settings)
    return data


@dataclass(frozen=True)
class AugmentedData(DataWrapper):
    """Data whose training batches are masked and mixed; all batches are cut to the columns of `features`.

    Masks depend on the seed, the epoch and the batch's number: they are the same after resuming, and for any number of
    workers, apart from an epoch's last batches, whose size may depend on it (`batch_bounds`). A mixed batch also has
    `mix`, the share of each clip, and `partner_targets` float32 [batch, targets] of the clips mixed in: its loss is
    mix * loss(targets) + (1 - mix) * loss(partner_targets). Its num_frames are those of the longer clip of each pair.
    """

    features: FeatureSettings  # of the batches
    settings: AugmentSettings

    def __post_init__(self) -> None:
        stored, found = stored_features(self.features, self.settings), self.inner.num_features
        if stored.name != "encoder":
            assert found == stored.num_features, f"{found} features are stored, expected {stored.num_features}"

    @property
    def statistics(self) -> FeatureStatistics:
        """Statistics of the features in the batches."""
        inner, columns = self.inner.statistics, self._columns()
        return FeatureStatistics(inner.mean[columns], inner.std[columns])

    @property
    def num_features(self) -> int:
        """Features per frame of a batch."""
        # An encoder's own settings say its size, but it may not be on the machine of the trial.
        return self.inner.num_features if self.features.name == "encoder" else self.features.num_features

    def augmented(self, settings: AugmentSettings) -> "AugmentedData":
        """The same data with the augmentation of `settings`."""
        return replace(self, inner=self.inner.augmented(settings), settings=settings)

    def train_batches(
        self, epoch: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Training batches of one epoch: masked, cut to the features, then mixed."""
        masks = Masks.of(self.inner.statistics, self.features, self.settings)
        for number, batch in enumerate(self.inner.train_batches(epoch, batch_size, seed, rank, world_size)):
            key = [seed, epoch, number]
            if masks is not None:
                masks.apply(batch, key, rank, world_size)
            yield mixed(self._cut(batch), self.settings, key, rank)

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        """Validation batches in fixed order, cut to the features."""
        return (self._cut(batch) for batch in self.inner.val_batches(batch_size))

    def _cut(self, batch: Batch) -> Batch:
        if self.inner.num_features == self.num_features:
            return batch
        block = self.inner.num_features // (1 + self.features.deltas)
        blocks = batch["features"].unflatten(2, (1 + self.features.deltas, block))
        return batch | {"features": blocks[..., self._skipped() :].flatten(2)}

    def _skipped(self) -> int:
        """Leading columns of each block of deltas that are stored only for the masks."""
        return (self.inner.num_features - self.num_features) // (1 + self.features.deltas)

    def _columns(self) -> np.ndarray:
        blocks = np.arange(self.inner.num_features).reshape(1 + self.features.deltas, -1)
        return blocks[:, self._skipped() :].reshape(-1)


def mixed(batch: Batch, settings: AugmentSettings, key: list[int], rank: int) -> Batch:
    """Mix the clips of batch `key` (seed, epoch, number) in pairs with probability `mixup_prob` (Zhang et al. 2018).

    All pairs have one share. It is the same on all workers, each of which pairs its own clips.
    """
    if settings.mixup_prob == 0:
        return batch
    rng = np.random.default_rng([*key, MIXUP_STREAM])
    happens, mix = rng.random() < settings.mixup_prob, float(rng.beta(settings.mixup_alpha, settings.mixup_alpha))
    if not happens:
        return batch
    partners = torch.from_numpy(np.random.default_rng([*key, MIXUP_STREAM, rank]).permutation(len(batch["targets"])))
    return batch | {
        "features": mix * batch["features"] + (1 - mix) * batch["features"][partners],
        "num_frames": torch.maximum(batch["num_frames"], batch["num_frames"][partners]),
        "partner_targets": batch["targets"][partners],
        "mix": mix,
    }
