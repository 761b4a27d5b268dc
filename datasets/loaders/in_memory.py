"""Batches of normalised features from memory, which all trials of a machine share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from tuning.datasets.features.audio import segment_slice
from tuning.datasets.settings import WAVE_EFFECTS, AugmentSettings, Normalise, Padding, Segment
from tuning.datasets.splits.split import Split
from tuning.datasets.store.build import Prepared
from tuning.datasets.store.reader import (
    FeatureStatistics,
    Part,
    Versions,
    read_part,
    read_versions,
    statistics_by_clip,
)

VERSIONS_STREAM = 1  # random stream that draws versions, apart from that of the order
Batch = dict[str, Any]
Row = tuple[int, int, np.ndarray]  # position among the ids, valid frames, features [frames, features]


class TrialData(Protocol):
    """Training and validation batches of a trial. A batch is a dict of CPU tensors:

    features float32 [batch, frames, features], normalised by the training split or by the clip's group, 0 beyond a
    clip's end; num_frames int64 [batch]; targets float32 [batch, targets]; indices int64 [batch] into train_ids or
    val_ids. Training batches also have num_clips, the size of the global batch over all workers.
    """

    @property
    def statistics(self) -> FeatureStatistics: ...
    @property
    def frames(self) -> int: ...
    @property
    def train_ids(self) -> np.ndarray: ...
    @property
    def val_ids(self) -> np.ndarray: ...
    @property
    def train_targets(self) -> np.ndarray: ...
    @property
    def val_targets(self) -> np.ndarray: ...
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
    def normalised(self, by: Normalise) -> "TrialData": ...
    def augmented(self, settings: AugmentSettings) -> "TrialData": ...


@dataclass(frozen=True)
class ResidentData:
    """Training and validation clips in memory; all trials of a machine read one copy in Ray's object store.

    An epoch's order, and the wave effects of each clip if `augmented`, depend on the seed and the epoch's number alone:
    they are the same after resuming, for any batch size and number of workers. Statistics are those of the clips
    without effects, over the training clips, and `by_clip`, if read, over the clips of each one's group.
    """

    train: Part
    val: Part
    statistics: FeatureStatistics
    frames: int
    bank: dict[str, Versions] = field(default_factory=dict)  # versions of the training clips by combination of effects
    augment: AugmentSettings | None = None
    padding: Padding = "masked"
    segment: Segment = "middle"
    by_clip: dict[str, FeatureStatistics] = field(default_factory=dict)
    normalise: Normalise = "train"

    @classmethod
    def read(
        cls, prepared: Prepared, split: Split, bank: Mapping[str, Prepared] | None = None, by_group: bool = False
    ) -> "ResidentData":
        """Read the training and validation clips from their shards, and the training clips' bank.

        With `by_group` they can also be normalised by groups. Raises SealedError rather than open a shard with a test
        clip.
        """
        sealed = {clip.id for clip in split.test}
        train, val = read_part(prepared, split.train, sealed), read_part(prepared, split.val, sealed)
        versions = {name: read_versions(made, train.ids.tolist(), sealed) for name, made in (bank or {}).items()}
        own = statistics_by_clip([*train.chunks(), *val.chunks()], split.groups()) if by_group else {}
        return cls(train, val, train.statistics(), prepared.num_frames, versions, by_clip=own)

    @property
    def train_ids(self) -> np.ndarray:
        """Clip ids [num_train] that the indices of training batches point to."""
        return self.train.ids

    @property
    def val_ids(self) -> np.ndarray:
        """Clip ids [num_val] that the indices of validation batches point to."""
        return self.val.ids

    @property
    def train_targets(self) -> np.ndarray:
        """Labels [num_train, targets]."""
        return self.train.targets

    @property
    def val_targets(self) -> np.ndarray:
        """Labels [num_val, targets]."""
        return self.val.targets

    @property
    def num_train(self) -> int:
        """Number of training clips."""
        return len(self.train)

    @property
    def num_val(self) -> int:
        """Number of validation clips."""
        return len(self.val)

    @property
    def num_features(self) -> int:
        """Features per frame."""
        return self.train.features.shape[2]

    def train_batches(
        self, epoch: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Batches with every training clip once; of several workers each gets its rows of every global batch."""
        order = np.random.default_rng([seed, epoch]).permutation(self.num_train)
        drawn = draw_versions(self.augment, self.num_train, seed, epoch) if self.augment is not None else {}
        for start, stop in batch_bounds(self.num_train, batch_size, world_size):
            yield self._batch(self.train, order[start:stop][rank::world_size], drawn) | {"num_clips": stop - start}

    def num_batches(self, batch_size: int, world_size: int = 1) -> int:
        """Training batches of one epoch."""
        return len(batch_bounds(self.num_train, batch_size, world_size))

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        """Batches with every validation clip once, in the order of `val_ids`."""
        for start in range(0, self.num_val, batch_size):
            yield self._batch(self.val, np.arange(start, min(start + batch_size, self.num_val)), {})

    def crop(self, num_frames: int, padding: Padding, segment: Segment) -> "ResidentData":
        """The same data with a segment of `num_frames` of each clip; the arrays are shared."""
        frames = checked_crop(num_frames, self.train.features.shape[1])
        return replace(self, frames=frames, padding=padding, segment=segment)

    def normalised(self, by: Normalise) -> "ResidentData":
        """The same data, normalised by the training clips, by groups or not at all; the arrays are shared."""
        return replace(self, **normalisation(self, by))

    def augmented(self, settings: AugmentSettings) -> "ResidentData":
        """The same data with the wave effects of `settings` on training clips; the arrays are shared.

        Raises ValueError when the bank lacks a combination of effects or has another number of versions.
        """
        check_bank(settings, {name: versions.num_frames.shape[1] for name, versions in self.bank.items()})
        return replace(self, augment=settings if settings.effects() else None)

    def _batch(self, part: Part, indices: np.ndarray, drawn: dict[int, tuple[str, int]]) -> Batch:
        rows: list[Row] = []
        for index in indices.tolist():
            if index in drawn:
                combination, version = drawn[index]
                bank = self.bank[combination]
                rows.append((index, int(bank.num_frames[index, version]), bank.features[index, version]))
            else:
                rows.append((index, int(part.num_frames[index]), part.features[index]))
        own = own_statistics(self, part.ids[indices])
        return collate(rows, part.targets, self.statistics, self.frames, self.padding, self.segment, own)


class HasStatistics(Protocol):
    """Data that know by what their clips may be normalised."""

    @property
    def normalise(self) -> Normalise: ...
    @property
    def by_clip(self) -> Mapping[str, FeatureStatistics]: ...
    @property
    def num_features(self) -> int: ...


def normalisation(data: HasStatistics, by: Normalise) -> dict[str, Any]:
    """The fields of data that are normalised by the training clips, by groups or not at all.

    Raises ValueError when they are to be normalised by groups, of which they have no statistics.
    """
    if by == "group" and not data.by_clip:
        raise ValueError("features.normalise: expected train for data that were opened without their groups, got group")
    none = {"statistics": FeatureStatistics.none(data.num_features)} if by == "none" else {}
    return {"normalise": by} | none


def own_statistics(data: HasStatistics, ids: np.ndarray) -> list[FeatureStatistics] | None:
    """By what each of these clips is normalised, where that is its group; else None."""
    return [data.by_clip[clip] for clip in ids.tolist()] if data.normalise == "group" else None


def check_bank(settings: AugmentSettings, versions: Mapping[str, int]) -> None:
    """Raise ValueError if a bank, of `versions` by combination, lacks one that may be drawn or has other versions."""
    for combination in settings.combinations():
        if combination not in versions:
            raise ValueError(
                f"augment: expected a bank of '{combination}', which may be drawn, got one of {sorted(versions)}"
            )
        if (made := versions[combination]) != settings.versions:
            raise ValueError(f"augment.versions: expected {made}, as the bank has, got {settings.versions}")


def draw_versions(settings: AugmentSettings, num_clips: int, seed: int, epoch: int) -> dict[int, tuple[str, int]]:
    """Draw a combination of effects, and its version, by clip number for an epoch; clips that get none are left out.

    Each effect is drawn on its own; its draws do not depend on the probabilities of others.
    """
    rng = np.random.default_rng([seed, epoch, VERSIONS_STREAM])
    chances = [getattr(settings, f"{effect}_prob") for effect in WAVE_EFFECTS]
    happens = rng.random((num_clips, len(chances))) < chances
    versions = rng.integers(settings.versions, size=num_clips)
    names = np.array(WAVE_EFFECTS)
    return {
        clip: ("+".join(names[happens[clip]].tolist()), int(versions[clip]))
        for clip in np.flatnonzero(happens.any(axis=1)).tolist()
    }


def batch_bounds(num_clips: int, batch_size: int, world_size: int = 1) -> list[tuple[int, int]]:
    """Start and stop of each global batch of an epoch.

    A last batch with fewer than two clips per worker joins the one before: batch normalisation can't train on one clip,
    and a worker without clips would block the others.
    """
    starts = list(range(0, num_clips, batch_size))
    if len(starts) > 1 and num_clips - starts[-1] < 2 * world_size:
        starts.pop()
    return list(zip(starts, [*starts[1:], num_clips], strict=True))


def collate(
    rows: list[Row],
    targets: np.ndarray,
    statistics: FeatureStatistics,
    frames: int,
    padding: Padding,
    segment: Segment,
    own: Sequence[FeatureStatistics] | None = None,
) -> Batch:
    """Make a batch of a segment of `frames` of each row, normalised; the rows stay as they are.

    They are normalised by `statistics`, or each by its `own`. After a shorter clip come zeros that `num_frames` does
    not count. With `padding` silence come the stored features of silence, with zero come zeros before normalisation;
    both are counted.
    """
    import torch

    features = np.empty((len(rows), frames, len(statistics.mean)), dtype=np.float32)
    num_frames = np.empty(len(rows), dtype=np.int64)
    each = own or [statistics] * len(rows)
    for out, of_row, (position, (_, num_valid, values)) in zip(features, each, enumerate(rows), strict=True):
        span = segment_slice(num_valid, frames, segment)
        kept = span.stop - span.start
        filled = frames if padding == "silence" else kept
        np.subtract(values[span.start : span.start + filled], of_row.mean, out=out[:filled])
        out[:filled] *= of_row.scale
        out[filled:] = 0 if padding == "masked" else -of_row.mean * of_row.scale
        num_frames[position] = kept if padding == "masked" else frames
    indices = np.array([index for index, _, _ in rows], dtype=np.int64)
    return {
        "features": torch.from_numpy(features),
        "num_frames": torch.from_numpy(num_frames),
        "targets": torch.from_numpy(targets[indices]),
        "indices": torch.from_numpy(indices),
    }


def checked_crop(num_frames: int, stored: int) -> int:
    """`num_frames` if as many are stored. Raises ValueError."""
    if not 1 <= num_frames <= stored:
        raise ValueError(
            f"features.num_frames: expected 1 to {stored}, the length of prepared features, got {num_frames}"
        )
    return num_frames
