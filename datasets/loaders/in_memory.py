"""Batches of normalised features from memory, which all trials of a machine share."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np

from tuning.datasets.features.audio import Segment, kept_span
from tuning.datasets.settings import AugmentSettings
from tuning.datasets.splits.split import Split
from tuning.datasets.store.build import Prepared
from tuning.datasets.store.reader import FeatureStatistics, Part, Versions, read_part, read_versions

CHUNK_CLIPS = 64  # that statistics take at a time, to need little memory in float64
VERSIONS_STREAM = 1  # of the random numbers that draw versions, apart from those of the order
Padding = Literal["masked", "silence", "zero"]  # as features.padding
Batch = dict[str, Any]
Row = tuple[int, int, "np.ndarray"]  # position among the ids, valid frames, features [frames, features]


class TrialData(Protocol):
    """Batches of one split. A batch is a dict of CPU tensors:

    features float32 [batch, frames, features], normalised by the training split, exactly 0 beyond a clip's end;
    num_frames int64 [batch]; targets float32 [batch, targets]; indices int64 [batch] into train_ids or val_ids.
    Training batches also say num_clips, the size of the global batch over all workers.
    """

    @property
    def statistics(self) -> FeatureStatistics: ...
    @property
    def frames(self) -> int: ...
    @property
    def train_ids(self) -> "np.ndarray": ...
    @property
    def val_ids(self) -> "np.ndarray": ...
    @property
    def train_targets(self) -> "np.ndarray": ...
    @property
    def val_targets(self) -> "np.ndarray": ...
    @property
    def num_train(self) -> int: ...
    @property
    def num_val(self) -> int: ...
    @property
    def num_features(self) -> int: ...
    def train_batches(
        self, epoch: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]: ...
    def num_batches(self, batch_size: int, world_size: int = 1) -> int: ...
    def val_batches(self, batch_size: int) -> Iterator[Batch]: ...
    def crop(self, num_frames: int, padding: Padding, segment: Segment) -> "TrialData": ...
    def augmented(self, settings: AugmentSettings) -> "TrialData": ...


@dataclass(frozen=True)
class ResidentData:
    """Both splits in memory; put into Ray's object store once, all trials of a machine read the same copy.

    An epoch is a full permutation, drawn from the seed and the epoch's number. So are the wave effects of an
    `augmented` one, for each clip: the same after resuming, for any batch size and any number of workers. Statistics
    are those of the clips as they are.
    """

    train: Part
    val: Part
    statistics: FeatureStatistics
    frames: int
    bank: dict[str, Versions] = field(default_factory=dict)  # of the training clips, by effect
    augment: AugmentSettings | None = None
    padding: Padding = "masked"
    segment: Segment = "middle"

    @classmethod
    def read(cls, prepared: Prepared, split: Split, bank: Mapping[str, Prepared] | None = None) -> "ResidentData":
        """Read train and val from their shards, and the training clips' bank (`augmentation_bank`).

        Raises SealedError rather than open a shard with a test clip.
        """
        sealed = {clip.id for clip in split.test}
        train, val = read_part(prepared, split.train, sealed), read_part(prepared, split.val, sealed)
        chunks = range(0, len(train), CHUNK_CLIPS)
        statistics = FeatureStatistics.of(
            (train.num_frames[start : start + CHUNK_CLIPS], train.features[start : start + CHUNK_CLIPS])
            for start in chunks
        )
        versions = {effect: read_versions(made, train.ids.tolist(), sealed) for effect, made in (bank or {}).items()}
        return cls(train, val, statistics, prepared.num_frames, versions)

    @property
    def train_ids(self) -> "np.ndarray":
        """Clip ids [num_train] that the indices of training batches point to."""
        return self.train.ids

    @property
    def val_ids(self) -> "np.ndarray":
        """Clip ids [num_val] that the indices of validation batches point to."""
        return self.val.ids

    @property
    def train_targets(self) -> "np.ndarray":
        """Labels [num_train, targets]."""
        return self.train.targets

    @property
    def val_targets(self) -> "np.ndarray":
        """Labels [num_val, targets]."""
        return self.val.targets

    @property
    def num_train(self) -> int:
        """Training clips."""
        return len(self.train)

    @property
    def num_val(self) -> int:
        """Validation clips."""
        return len(self.val)

    @property
    def num_features(self) -> int:
        """Values per frame."""
        return self.train.features.shape[2]

    def train_batches(
        self, epoch: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """One epoch: every clip once. With several workers each takes its rows of every global batch."""
        order = np.random.default_rng([seed, epoch]).permutation(self.num_train)
        drawn = draw_versions(self.augment, self.num_train, seed, epoch) if self.augment is not None else {}
        for start, stop in batch_bounds(self.num_train, batch_size, world_size):
            yield self._batch(self.train, order[start:stop][rank::world_size], drawn) | {"num_clips": stop - start}

    def num_batches(self, batch_size: int, world_size: int = 1) -> int:
        """Training batches of one epoch."""
        return len(batch_bounds(self.num_train, batch_size, world_size))

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        """Every validation clip once, in the order of `val_ids`."""
        for start in range(0, self.num_val, batch_size):
            yield self._batch(self.val, np.arange(start, min(start + batch_size, self.num_val)), {})

    def crop(self, num_frames: int, padding: Padding, segment: Segment) -> "ResidentData":
        """The same data with a segment of `num_frames` of each clip; the arrays are shared."""
        frames = checked_crop(num_frames, self.train.features.shape[1])
        return replace(self, frames=frames, padding=padding, segment=segment)

    def augmented(self, settings: AugmentSettings) -> "ResidentData":
        """The same data whose training clips get the settings' wave effects; the arrays are shared.

        Raises ValueError when the bank lacks an effect, or has another number of versions.
        """
        for effect in settings.effects():
            if effect not in self.bank:
                raise ValueError(f"augment.{effect}_prob: no bank of '{effect}' was prepared, got {sorted(self.bank)}")
            if (made := self.bank[effect].num_frames.shape[1]) != settings.versions:
                raise ValueError(f"augment.versions: expected {made}, as the bank has, got {settings.versions}")
        return replace(self, augment=settings if settings.effects() else None)

    def _batch(self, part: Part, indices: "np.ndarray", drawn: dict[int, tuple[str, int]]) -> Batch:
        rows: list[Row] = []
        for index in indices.tolist():
            if index in drawn:
                effect, version = drawn[index]
                bank = self.bank[effect]
                rows.append((index, int(bank.num_frames[index, version]), bank.features[index, version]))
            else:
                rows.append((index, int(part.num_frames[index]), part.features[index]))
        return collate(rows, part.targets, self.statistics, self.frames, self.padding, self.segment)


def draw_versions(settings: AugmentSettings, num_clips: int, seed: int, epoch: int) -> dict[int, tuple[str, int]]:
    """Effect and version of those clips (by number) that get one in an epoch.

    One uniform number per clip decides: effect e with its probability, none with the rest.
    """
    chances = settings.effects()
    rng = np.random.default_rng([seed, epoch, VERSIONS_STREAM])
    drawn = np.searchsorted(np.cumsum(list(chances.values())), rng.random(num_clips), side="right")
    versions = rng.integers(settings.versions, size=num_clips)
    names = list(chances)
    return {clip: (names[drawn[clip]], int(versions[clip])) for clip in np.flatnonzero(drawn < len(names)).tolist()}


def batch_bounds(num_clips: int, batch_size: int, world_size: int = 1) -> list[tuple[int, int]]:
    """Where each global batch of an epoch starts and stops.

    A rest with fewer than two clips for each worker joins the batch before it: batch normalisation can't train
    on one clip, a worker without a clip would leave the others waiting, and no clip is dropped.
    """
    starts = list(range(0, num_clips, batch_size))
    if len(starts) > 1 and num_clips - starts[-1] < 2 * world_size:
        starts.pop()
    return list(zip(starts, [*starts[1:], num_clips], strict=True))


def collate(
    rows: list[Row],
    targets: "np.ndarray",
    statistics: FeatureStatistics,
    frames: int,
    padding: Padding,
    segment: Segment,
) -> Batch:
    """A batch of a segment of `frames` of each row: gathered and normalised in one pass, never in place.

    What follows a shorter clip is 0 and not among its `num_frames`; with `padding` silence it is what is stored there,
    the features of silence, with zero an unnormalised 0, and either counts as sound.
    """
    import torch

    features = np.empty((len(rows), frames, len(statistics.mean)), dtype=np.float32)
    num_frames = np.empty(len(rows), dtype=np.int64)
    scale = 1 / statistics.std
    for out, (position, (_, num_valid, values)) in zip(features, enumerate(rows), strict=True):
        span = kept_span(num_valid, frames, segment)
        kept = span.stop - span.start
        filled = frames if padding == "silence" else kept
        np.subtract(values[span.start : span.start + filled], statistics.mean, out=out[:filled])
        out[:filled] *= scale
        out[filled:] = 0 if padding == "masked" else -statistics.mean * scale
        num_frames[position] = kept if padding == "masked" else frames
    indices = np.array([index for index, _, _ in rows], dtype=np.int64)
    return {
        "features": torch.from_numpy(features),
        "num_frames": torch.from_numpy(num_frames),
        "targets": torch.from_numpy(targets[indices]),
        "indices": torch.from_numpy(indices),
    }


def checked_crop(num_frames: int, stored: int) -> int:
    """A length that can be cut from what is stored. Raises ValueError."""
    if not 1 <= num_frames <= stored:
        raise ValueError(f"features.num_frames: expected 1 to {stored}, the length that is stored, got {num_frames}")
    return num_frames
