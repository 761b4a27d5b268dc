"""Generated clips among the real ones that a model is trained on; never among those that it is judged by."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from tuning.datasets import storage
from tuning.datasets.features.audio import Segment
from tuning.datasets.loaders.in_memory import Batch, Padding, batch_bounds, collate
from tuning.datasets.loaders.wrapped import Wrapped
from tuning.datasets.storage import read_bytes
from tuning.datasets.store.shard_index import Record, counts, read_shard, tensor, write_shard

CELL = "synthetic"
STREAM = 5  # of the random numbers that draw generated clips, apart from those of the order and the augmentations


@dataclass(frozen=True)
class Synthetic:
    """Generated clips in memory, unnormalised as recordings' features are.

    Args:
        features: float32 [clips, frames, features].
        targets: what they were asked to be, float32 [clips, targets].
        num_frames: valid frames of each, int32 [clips]; silence follows.
    """

    features: "np.ndarray"
    targets: "np.ndarray"
    num_frames: "np.ndarray"

    @classmethod
    def read(cls, folder: str) -> "Synthetic":
        """What `write` wrote."""
        known = json.loads(read_bytes(folder, f"{CELL}.targets.json"))
        table = read_shard(folder, f"{CELL}.parquet", ["num_frames", "features"])
        return cls(np.array(tensor(table)), np.array(known, dtype=np.float32), counts(table))

    def write(self, folder: str) -> None:
        """Write the clips as one shard, the targets first: a shard with a record is whole."""
        storage.write_bytes(folder, f"{CELL}.targets.json", json.dumps(self.targets.tolist()).encode())
        names = [(f"{CELL}/{number:05d}", f"{number:05d}") for number in range(len(self.features))]
        write_shard(folder, Record(CELL, CELL, names, {}, len(names)), self.num_frames, self.features)

    @property
    def num_bytes(self) -> int:
        """Size in memory."""
        return self.features.nbytes


def real_clips(batch_size: int, share: float, world_size: int = 1) -> int:
    """Real clips of a global batch that has `share` generated ones for each, one at least for each worker."""
    return max(world_size, round(batch_size / (1 + share))) if share else batch_size


def steps_of_epoch(num_real: int, batch_size: int, share: float, world_size: int = 1) -> int:
    """Training batches of an epoch over so many real clips, with `share` generated ones for each."""
    return len(batch_bounds(num_real, real_clips(batch_size, share, world_size), world_size))


@dataclass(frozen=True)
class WithSynthetic(Wrapped):
    """Any `TrialData` whose training batches have `share` generated clips for each real one.

    They are drawn from the seed and the epoch's number, each once before any comes again; `indices` are -1 for them.
    In a global batch they come after its real clips.
    Statistics, labels and everything of validation are the real clips'.
    """

    synthetic: Synthetic
    share: float = 0.0
    padding: Padding = "masked"
    segment: Segment = "middle"

    def crop(self, num_frames: int, padding: Padding, segment: Segment) -> Self:
        """The same data with a segment of `num_frames` of each clip, generated ones too."""
        cropped = replace(self, inner=self.inner.crop(num_frames, padding, segment))
        return replace(cropped, padding=padding, segment=segment)

    def num_batches(self, batch_size: int, world_size: int = 1) -> int:
        """Training batches of one epoch."""
        return self.inner.num_batches(real_clips(batch_size, self.share, world_size), world_size)

    def train_batches(
        self, epoch: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """One epoch: every real clip once, each batch with its share of generated ones."""
        import torch

        if self.share == 0:
            yield from self.inner.train_batches(epoch, batch_size, seed, rank, world_size)
            return
        drawn = self._drawn(epoch, seed)
        real = done = 0
        for batch in self.inner.train_batches(
            epoch, real_clips(batch_size, self.share, world_size), seed, rank, world_size
        ):
            real += batch["num_clips"]
            until = round(real * self.share)
            rows = drawn[done:until]
            # Those of the global batch's places rank, rank + world_size, ... that come after its real clips.
            added = self._generated(rows[(rank - batch["num_clips"]) % world_size :: world_size])
            joined = {name: torch.cat([batch[name], added[name]]) for name in added}
            yield batch | joined | {"num_clips": batch["num_clips"] + len(rows)}
            done = until

    def _drawn(self, epoch: int, seed: int) -> "np.ndarray":
        """Which generated clips an epoch has, in order."""
        rng, count = np.random.default_rng([seed, epoch, STREAM]), len(self.synthetic.features)
        rounds = math.ceil(round(self.num_train * self.share) / count)
        return np.concatenate([rng.permutation(count) for _ in range(max(1, rounds))])

    def _generated(self, rows: "np.ndarray") -> Batch:
        import torch

        made = self.synthetic
        clips = [(int(row), int(made.num_frames[row]), made.features[row]) for row in rows]
        batch = collate(clips, made.targets, self.statistics, self.frames, self.padding, self.segment)
        return batch | {"indices": torch.full((len(rows),), -1, dtype=torch.int64)}
