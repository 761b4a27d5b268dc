"""Split batches that do not fit into memory into parts whose gradients add up to the same gradient."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

Batch = dict[str, Any]
Result = TypeVar("Result")

# What the libraries that torch calls say when they get no memory.
_IN_TEXT = ("CUDA out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that a device or this machine had too little memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _IN_TEXT)


class Parts:
    """Number of clips that go through a model at once: all of a batch, until that takes more memory than there is.

    Args:
        fewest: smallest number of clips in a part; batch norm can't train on one.
        splits: whether to split when memory runs out. Otherwise that is an error: where other workers wait for each
            step of this one, or where the trial can be given more memory and train as the others do.
        clips: most clips at once; None: all of a batch.
    """

    def __init__(self, fewest: int = 1, splits: bool = True, clips: int | None = None) -> None:
        self.fewest, self.splits, self.clips = fewest, splits, clips

    def of(self, batch: Batch) -> list[Batch]:
        """Split a batch into parts of nearly equal size."""
        size = len(batch["features"])
        if self.clips is None or size <= self.clips:
            return [batch]
        number = max(1, min(-(-size // self.clips), size // self.fewest))
        pieces = {name: torch.tensor_split(value, number) for name, value in batch.items() if _is_per_clip(value, size)}
        return [{**batch, **{name: pieces[name][i] for name in pieces}} for i in range(number)]

    def run(self, batch: Batch, function: Callable[[list[Batch]], Result]) -> Result:
        """Return `function` of the batch's parts; when memory runs out, try again with parts half as large.

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
            # Outside of `except` the error is gone, and with it the stack frames that held the tensors.
            self.clips = -(-largest // 2)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _is_per_clip(value: Any, size: int) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == size


def has_batch_norm(model: nn.Module) -> bool:
    """Say whether a model's output for a clip depends, in training, on the other clips of its batch."""
    return any("BatchNorm" in type(module).__name__ for module in model.modules())
