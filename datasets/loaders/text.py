"""Texts beside features: what belongs to each clip of a batch, from memory that all trials of a machine share."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tuning.datasets.loaders.in_memory import Batch
from tuning.datasets.loaders.wrapped import Wrapped
from tuning.datasets.store.build import Prepared
from tuning.datasets.store.reader import scan, shards_of


@dataclass(frozen=True)
class Texts:
    """Texts of clips in memory: tokens or what an encoder made of them, as plain arrays.

    Args:
        ids: of the clips, text [clips], sorted.
        values: token numbers int32 [clips, tokens], or hidden states float32 [clips, tokens, size].
        num_tokens: int32 [clips]; what follows them is no text.
    """

    ids: "np.ndarray"
    values: "np.ndarray"
    num_tokens: "np.ndarray"

    @classmethod
    def read(cls, prepared: Prepared, wanted: Collection[str], sealed: Collection[str]) -> "Texts":
        """Texts of the wanted clips (ids) from their shards, as long as the longest; those in quarantine are absent.

        Raises SealedError rather than open a shard with a sealed clip.
        """
        wanted = set(wanted)
        ids = sorted(c for shard in shards_of(prepared, wanted, sealed) for c in shard.clip_ids if c in wanted)
        positions = {clip: position for position, clip in enumerate(ids)}
        num_tokens = np.zeros(len(ids), dtype=np.int32)
        parts = []
        for found, counts, values in scan(prepared, wanted, sealed):
            rows = np.array([positions[clip] for clip in found], dtype=np.int64)
            num_tokens[rows] = counts
            parts.append((rows, values[:, : int(counts.max(initial=1))].copy()))
        longest = max((values.shape[1] for _, values in parts), default=1)
        size, kind = (parts[0][1].shape[2], parts[0][1].dtype) if parts else (1, np.dtype(np.int32))
        whole = np.zeros((len(ids), longest, size), dtype=kind)
        for rows, values in parts:
            whole[rows, : values.shape[1]] = values
        return cls(np.array(ids), _flat(whole), num_tokens)

    @classmethod
    def of(cls, ids: "np.ndarray", rows: "Sequence[tuple[int, np.ndarray]]") -> "Texts":
        """Texts of clips whose rows are how many tokens, and their numbers [tokens, 1] or states [tokens, size]."""
        values = np.stack([values for _, values in rows])
        return cls(ids, _flat(values), np.array([count for count, _ in rows], dtype=np.int32))

    @property
    def num_bytes(self) -> int:
        """Size in memory."""
        return self.values.nbytes

    def batch(self, clips: "np.ndarray") -> Batch:
        """`text` int64 [B, tokens] or float32 [B, tokens, size], as long as its longest, and `num_tokens` int64 [B]."""
        import torch

        rows = np.searchsorted(self.ids, clips)
        assert (self.ids[rows] == clips).all(), "a clip without text"
        num_tokens = self.num_tokens[rows].astype(np.int64)
        values = self.values[rows, : int(num_tokens.max())]
        if np.issubdtype(values.dtype, np.integer):
            values = values.astype(np.int64)
        return {"text": torch.from_numpy(values), "num_tokens": torch.from_numpy(num_tokens)}


def _flat(values: "np.ndarray") -> "np.ndarray":
    """Token numbers [clips, tokens, 1] as [clips, tokens]; states as they are."""
    return values[:, :, 0] if np.issubdtype(values.dtype, np.integer) else values


@dataclass(frozen=True)
class WithText(Wrapped):
    """Any `TrialData` whose batches have their clips' texts, too."""

    texts: Texts

    def train_batches(
        self, epoch: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """One epoch of the inner data, each batch with its texts."""
        ids = self.train_ids
        for batch in self.inner.train_batches(epoch, batch_size, seed, rank, world_size):
            yield batch | self.texts.batch(ids[batch["indices"].numpy()])

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        """The inner data's, with their texts."""
        ids = self.val_ids
        for batch in self.inner.val_batches(batch_size):
            yield batch | self.texts.batch(ids[batch["indices"].numpy()])
