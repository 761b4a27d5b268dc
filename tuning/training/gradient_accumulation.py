"""Batches in parts, for a model that ran out of memory: fewer clips at once, the same gradient."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

Batch = dict[str, Any]
Result = TypeVar("Result")

# What libraries below torch say when they get no memory.
_IN_TEXT = ("CUDA out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or this machine had too little memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _IN_TEXT)


class Parts:
    """How many clips go through a model at once: all of a batch, and fewer once that took more memory than there is.

    Args:
        fewest: clips that a part must have at least; batch-norm can't train on one.
        splits: whether running out of memory leads to parts. Else it is an error, as where others wait for each step
            of this worker, or where a trial can get more memory and so train as the others do.
        clips: most clips at once, or None.
    """

    def __init__(self, fewest: int = 1, splits: bool = True, clips: int | None = None) -> None:
        self.fewest, self.splits, self.clips = fewest, splits, clips

    def of(self, batch: Batch) -> list[Batch]:
        """The batch in parts as even as can be."""
        size = len(batch["features"])
        if self.clips is None or size <= self.clips:
            return [batch]
        number = max(1, min(-(-size // self.clips), size // self.fewest))
        pieces = {name: torch.tensor_split(value, number) for name, value in batch.items() if _is_per_clip(value, size)}
        return [{**batch, **{name: pieces[name][i] for name in pieces}} for i in range(number)]

    def run(self, batch: Batch, function: Callable[[list[Batch]], Result]) -> Result:
        """`function` of the batch's parts; again with parts half as large where it ran out of memory.

        Raises:
            RuntimeError: no memory for the smallest parts either.
        """
        while True:
            parts = self.of(batch)
            try:
                return function(parts)
            except (RuntimeError, MemoryError) as error:
                largest = max(len(part["features"]) for part in parts)
                if not self.splits or largest < 2 * self.fewest or not is_out_of_memory(error):
                    raise
            # Out here the error is gone, and with it the frames that held what was computed.
            self.clips = -(-largest // 2)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _is_per_clip(value: Any, size: int) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == size


def has_batch_norm(model: nn.Module) -> bool:
    """Whether what a model makes of a clip depends, in training, on the other clips of its batch."""
    return any("BatchNorm" in type(module).__name__ for module in model.modules())
