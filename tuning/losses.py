"""Losses by name: one value per sample, so that the loss of a whole split is the exact mean over its samples.

A loss averages over the outputs (it does not sum them), as Keras's built-in losses do, so that its scale does not
depend on their number. A new loss is one function and one line in `LOSSES`.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error: [B, K], [B, K] -> [B]. Source: guide part 8, loss 1."""
    _check_shapes(outputs, targets)
    return (outputs - targets).square().mean(dim=1)


def huber(outputs: Tensor, targets: Tensor, delta: float = 1.0) -> Tensor:
    """Huber loss: [B, K], [B, K] -> [B].

    e²/2 for errors |e| up to `delta` (in units of the target), delta * |e| - delta²/2 beyond; the mean over outputs.
    Source: guide part 8, loss 2; Huber 1964.
    """
    _check_shapes(outputs, targets)
    return F.huber_loss(outputs, targets, reduction="none", delta=delta).mean(dim=1)


def _check_shapes(outputs: Tensor, targets: Tensor) -> None:
    # [B, 1] against [B] would broadcast to [B, B] and train on nonsense.
    assert outputs.shape == targets.shape, f"outputs {outputs.shape}, targets {targets.shape}"
    assert outputs.ndim == 2, f"expected [batch, outputs], got {outputs.shape}"


LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": mse,
    "huber": huber,
}
