"""Add texts to batches, from memory that all trials of a machine share."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tuning.datasets.loaders.in_memory import Batch
from tuning.datasets.loaders.wrapper import DataWrapper
from tuning.datasets.store.build import Prepared
from tuning.datasets.store.reader import scan, shards_of


@dataclass(frozen=True)
class Texts:
    """Texts of clips in memory, as tokens or as hidden states of an encoder.

    Args:
        ids: clip ids, sorted, text [clips].
        values: token ids int32 [clips, tokens], or hidden states float32 [clips, tokens, size].
        num_tokens: valid tokens int32 [clips]; padding follows.
    """

    ids: np.ndarray
    values: np.ndarray
    num_tokens: np.ndarray

    @classmethod
    def read(cls, prepared: Prepared, wanted: Collection[str], sealed: Collection[str]) -> "Texts":
        """Read the texts of the wanted clips (ids), padded to the longest, without those in quarantine.

        Raises SealedError if a shard holds a sealed clip.
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
    def of(cls, ids: np.ndarray, rows: Sequence[tuple[int, np.ndarray]]) -> "Texts":
        """Stack rows of valid tokens and their ids [tokens, 1] or states [tokens, size]."""
        values = np.stack([values for _, values in rows])
        return cls(ids, _flat(values), np.array([count for count, _ in rows], dtype=np.int32))

    @property
    def num_bytes(self) -> int:
        """Bytes in memory."""
        return self.values.nbytes

    def batch(self, clips: np.ndarray) -> Batch:
        """Texts of clip ids [B]: `text` int64 [B, tokens] or float32 [B, tokens, size], `num_tokens` int64 [B]."""
        import torch

        rows = np.searchsorted(self.ids, clips)
        assert (self.ids[rows] == clips).all(), "a clip without text"
        num_tokens = self.num_tokens[rows].astype(np.int64)
        values = self.values[rows, : int(np.max(num_tokens))]
        if np.issubdtype(values.dtype, np.integer):
            values = values.astype(np.int64)
        return {"text": torch.from_numpy(values), "num_tokens": torch.from_numpy(num_tokens)}


def _flat(values: np.ndarray) -> np.ndarray:
    """Drop the last axis of token ids [clips, tokens, 1]; states stay."""
    return values[:, :, 0] if np.issubdtype(values.dtype, np.integer) else values


@dataclass(frozen=True)
class TextData(DataWrapper):
    """Data whose batches also have the texts of their clips."""

    texts: Texts

    def train_batches(
        self, epoch: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Training batches of one epoch, with texts."""
        ids = self.train_ids
        for batch in self.inner.train_batches(epoch, batch_size, seed, rank, world_size):
            yield batch | self.texts.batch(ids[batch["indices"].numpy()])

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        """Validation batches in fixed order, with texts."""
        ids = self.val_ids
        for batch in self.inner.val_batches(batch_size):
            yield batch | self.texts.batch(ids[batch["indices"].numpy()])
