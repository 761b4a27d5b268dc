"""Add generated clips to the training batches; validation has real clips only."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from tuning.datasets.checksum import read_json, write_json
from tuning.datasets.loaders.in_memory import Batch, batch_bounds, collate
from tuning.datasets.loaders.wrapper import DataWrapper
from tuning.datasets.settings import Padding, Segment
from tuning.datasets.store.shard_index import Record, counts, read_shard, tensor, write_shard

SHARD = "synthetic"  # name of the shard with generated clips
PROVENANCE, CURVES, QUALITY = "provenance.json", "curves.json", "quality.json"  # files in the shard's folder
FILES = "files"  # in the provenance: size and checksum of the files that are read, by name
STREAM = 5  # random stream that draws generated clips, apart from those of order and augmentation


@dataclass(frozen=True)
class GeneratedClips:
    """Generated clips in memory, unnormalised.

    Args:
        features: float32 [clips, frames, features].
        targets: labels that the clips were generated for, float32 [clips, targets].
        num_frames: valid frames, int32 [clips]; silence follows.
    """

    features: np.ndarray
    targets: np.ndarray
    num_frames: np.ndarray

    @classmethod
    def read(cls, folder: str) -> "GeneratedClips":
        """Read what `write` wrote. Raises DamagedError and FileNotFoundError."""
        known = read_json(folder, f"{SHARD}.targets.json")
        targets = known["targets"] if isinstance(known, dict) else known  # a list in earlier versions
        checksum = Record.from_dict(read_json(folder, f"{SHARD}.json")).checksum
        table = read_shard(folder, f"{SHARD}.parquet", ["num_frames", "features"], checksum)
        return cls(np.array(tensor(table)), np.array(targets, dtype=np.float32), counts(table))

    def write(self, folder: str) -> None:
        """Write the clips as one shard; the targets first, because a shard with a record counts as complete."""
        write_json(folder, f"{SHARD}.targets.json", {"targets": self.targets.tolist()})
        names = [(f"{SHARD}/{number:05d}", f"{number:05d}") for number in range(len(self.features))]
        write_shard(folder, Record(SHARD, SHARD, names, {}, len(names)), self.num_frames, self.features)

    @property
    def num_bytes(self) -> int:
        """Bytes in memory."""
        return self.features.nbytes


def num_real_clips(batch_size: int, share: float, world_size: int = 1) -> int:
    """Real clips in a global batch with `share` generated clips per real one; at least one per worker."""
    return max(world_size, round(batch_size / (1 + share))) if share else batch_size


def steps_per_epoch(num_real: int, batch_size: int, share: float, world_size: int = 1) -> int:
    """Training batches of an epoch with `num_real` real clips and `share` generated ones per real one."""
    return len(batch_bounds(num_real, num_real_clips(batch_size, share, world_size), world_size))


@dataclass(frozen=True)
class ExtendedData(DataWrapper):
    """Data whose training batches have `share` generated clips per real one, after the real ones.

    Generated clips are drawn by seed and epoch, each once before any is repeated; their `indices` are -1. Statistics,
    labels and validation are those of the real clips.
    """

    generated: GeneratedClips
    share: float = 0.0
    padding: Padding = "masked"
    segment: Segment = "middle"

    def crop(self, num_frames: int, padding: Padding, segment: Segment) -> Self:
        """The same data with a segment of `num_frames` of each clip, also of generated ones."""
        cropped = replace(self, inner=self.inner.crop(num_frames, padding, segment))
        return replace(cropped, padding=padding, segment=segment)

    def num_batches(self, batch_size: int, world_size: int = 1) -> int:
        """Training batches of one epoch."""
        return self.inner.num_batches(num_real_clips(batch_size, self.share, world_size), world_size)

    def train_batches(
        self, epoch: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Batches with every real clip once, and generated clips."""
        import torch

        if self.share == 0:
            yield from self.inner.train_batches(epoch, batch_size, seed, rank, world_size)
            return
        drawn = self._draw(epoch, seed)
        real = done = 0
        for batch in self.inner.train_batches(
            epoch, num_real_clips(batch_size, self.share, world_size), seed, rank, world_size
        ):
            real += batch["num_clips"]
            until = round(real * self.share)
            rows = drawn[done:until]
            # This worker's rows of the global batch, rank, rank + world_size, ..., as far as they are generated ones.
            added = self._collate(rows[(rank - batch["num_clips"]) % world_size :: world_size])
            joined = {name: torch.cat([batch[name], added[name]]) for name in added}
            yield batch | joined | {"num_clips": batch["num_clips"] + len(rows)}
            done = until

    def _draw(self, epoch: int, seed: int) -> np.ndarray:
        """Numbers of the generated clips of an epoch, in order."""
        rng, count = np.random.default_rng([seed, epoch, STREAM]), len(self.generated.features)
        rounds = math.ceil(round(self.num_train * self.share) / count)
        return np.concatenate([rng.permutation(count) for _ in range(max(1, rounds))])

    def _collate(self, rows: np.ndarray) -> Batch:
        import torch

        made = self.generated
        clips = [(int(row), int(made.num_frames[row]), made.features[row]) for row in rows]
        batch = collate(clips, made.targets, self.statistics, self.frames, self.padding, self.segment)
        return batch | {"indices": torch.full((len(rows),), -1, dtype=torch.int64)}
