"""Generated clips among the real ones that a model is trained on; never among those that it is judged by."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from datasets.audio import Segment
from datasets.resident import Batch, Padding, collate
from datasets.shard_index import Record, read_shard, tensor, write_shard
from datasets.storage import read_bytes
from datasets.wrapped import Wrapped

if TYPE_CHECKING:
    import numpy as np

CELL = "synthetic"
STREAM = 5  # of the random numbers that draw generated clips, apart from those of the order and the augmentations


@dataclass(frozen=True)
class Synthetic:
    """Generated clips in memory, unnormalised as recordings' features are.

    Args:
        features: float32 [clips, frames, features].
        targets: what they were asked to be, float32 [clips, targets].
    """

    features: "np.ndarray"
    targets: "np.ndarray"

    @classmethod
    def read(cls, folder: str) -> "Synthetic":
        """What `write` wrote."""
        import numpy as np

        known = json.loads(read_bytes(folder, f"{CELL}.targets.json"))
        features = tensor(read_shard(folder, f"{CELL}.parquet", ["features"]))
        return cls(np.array(features), np.array(known, dtype=np.float32))

    def write(self, folder: str) -> None:
        """Write the clips as one shard, the targets first: a shard with a record is whole."""
        import numpy as np

        from datasets import storage

        storage.write_bytes(folder, f"{CELL}.targets.json", json.dumps(self.targets.tolist()).encode())
        names = [(f"{CELL}/{number:05d}", f"{number:05d}") for number in range(len(self.features))]
        counts = np.full(len(names), self.features.shape[1], dtype=np.int32)
        write_shard(folder, Record(CELL, CELL, names, {}, len(names)), counts, self.features)

    @property
    def num_bytes(self) -> int:
        """Size in memory."""
        return self.features.nbytes


@dataclass(frozen=True)
class WithSynthetic(Wrapped):
    """Any `TrialData` whose training batches have `share` generated clips for each real one.

    They are drawn from the seed and the epoch's number, each once before any comes again; `indices` are -1 for them.
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
        return self.inner.num_batches(self._real(batch_size), world_size)

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
        for batch in self.inner.train_batches(epoch, self._real(batch_size), seed, rank, world_size):
            real += batch["num_clips"]
            until = round(real * self.share)
            rows = drawn[done:until]
            added = self._generated(rows[rank::world_size])
            joined = {name: torch.cat([batch[name], added[name]]) for name in added}
            yield batch | joined | {"num_clips": batch["num_clips"] + len(rows)}
            done = until

    def _real(self, batch_size: int) -> int:
        """Real clips of a batch."""
        return max(1, round(batch_size / (1 + self.share)))

    def _drawn(self, epoch: int, seed: int) -> "np.ndarray":
        """Which generated clips an epoch has, in order."""
        import numpy as np

        rng, count = np.random.default_rng([seed, epoch, STREAM]), len(self.synthetic.features)
        rounds = math.ceil(round(self.num_train * self.share) / count)
        return np.concatenate([rng.permutation(count) for _ in range(max(1, rounds))])

    def _generated(self, rows: "np.ndarray") -> Batch:
        import torch

        frames = self.synthetic.features.shape[1]
        clips = [(int(row), frames, self.synthetic.features[row]) for row in rows]
        batch = collate(clips, self.synthetic.targets, self.statistics, self.frames, self.padding, self.segment)
        return batch | {"indices": torch.full((len(rows),), -1, dtype=torch.int64)}
