"""Losses by name: one value per clip, so that the loss of a whole split is the exact mean over its clips.

A loss averages over the outputs and does not sum them, as Keras's built-in losses do, so that its scale does not depend
on their number. The documented formulas sum over two outputs and are twice as large, beside which their learning rates
and L2 penalties have to be read.

A new loss is one function and one line in `LOSSES`; its keyword-only parameters are settings of the section `loss`.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error: [B, K], [B, K] -> [B]."""
    _check_shapes(outputs, targets)
    return (outputs - targets).square().mean(dim=1)


def weighted_mse(outputs: Tensor, targets: Tensor, *, weights: Sequence[float] = (1.0, 1.2)) -> Tensor:
    """Squared errors, each target's times its weight, then the mean over outputs: [B, K], [B, K] -> [B].

    The weights are not normalised: all 1 gives `mse`. The documented form (docs/sources.md) sums over its two outputs,
    and so is twice as large.
    """
    _check_shapes(outputs, targets)
    assert len(weights) == outputs.shape[1], f"{len(weights)} weights, outputs {outputs.shape}"
    errors = (outputs - targets).square()
    # Column by column: a tensor of weights would be copied to the GPU at every step.
    return torch.stack([weight * errors[:, k] for k, weight in enumerate(weights)], dim=1).mean(dim=1)


def huber(outputs: Tensor, targets: Tensor, *, delta: float = 1.0) -> Tensor:
    """Huber loss: [B, K], [B, K] -> [B].

    e²/2 for errors |e| up to `delta` (in units of the target), delta * |e| - delta²/2 beyond; the mean over outputs,
    half of the documented variant for two outputs, which sums. Source: Huber 1964, 'Robust estimation of a location
    parameter'.
    """
    _check_shapes(outputs, targets)
    return F.huber_loss(outputs, targets, reduction="none", delta=delta).mean(dim=1)


def emotion_aware(
    outputs: Tensor,
    targets: Tensor,
    *,
    quadrant_penalty: float = 0.1,
    quadrant: Literal["smooth", "sign"] = "smooth",
    quadrant_sharpness: float = 5.0,
) -> Tensor:
    """`mse` + quadrant_penalty * q, where q grows as outputs lie in another quadrant than targets: [B, K] -> [B].

    The labels must be centred on 0, else all lie in one quadrant. q is a mean over outputs of (side(o) - side(t))²,
    between 0 and 4, with

    - smooth: side(x) = tanh(quadrant_sharpness * x). It is 0 where output equals target, so that the minimum stays
      there, and nears the sign as the sharpness grows. The gradient is strongest within about 1 / sharpness of an
      axis. On the axis side(0) is 0, which is no side: there is no step that would need one.
    - sign: side(x) = 1 for x >= 0, else -1, as documented. Its gradient is zero, so it counts in the loss
      but trains nothing.

    Half of the documented value, which sums over its two outputs in both terms; there sign(0) = 0 is a third side.
    """
    if quadrant == "sign":
        sides = [torch.where(values >= 0, 1.0, -1.0).to(outputs.dtype) for values in (outputs, targets)]
    else:
        sides = [torch.tanh(quadrant_sharpness * values) for values in (outputs, targets)]
    return mse(outputs, targets) + quadrant_penalty * mse(*sides)


def cross_entropy(
    outputs: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """-sum_k w_k q_k log softmax(outputs)_k: logits [B, K], class indices [B, 1] -> [B].

    q is 1 - label_smoothing at the class plus label_smoothing / K everywhere; w are weights [K], 1 if none. The mean
    over clips divides by their number and never by the sum of their weights: PyTorch does the one for soft targets
    and the other for class indices, so that mixing clips would change the scale. It is linear in q, so that a clip
    mixed of two has the mixed loss of both.
    """
    assert targets.shape == (len(outputs), 1), f"outputs {outputs.shape}, targets {targets.shape}"
    log_probabilities = outputs.log_softmax(dim=1)
    wanted = F.one_hot(targets[:, 0].long(), outputs.shape[1]).to(outputs.dtype)
    wanted = wanted * (1 - label_smoothing) + label_smoothing / outputs.shape[1]
    if class_weights is not None:
        wanted = wanted * class_weights
    return -(wanted * log_probabilities).sum(dim=1)


def _check_shapes(outputs: Tensor, targets: Tensor) -> None:
    # [B, 1] against [B] would broadcast to [B, B] and train on nonsense.
    assert outputs.shape == targets.shape, f"outputs {outputs.shape}, targets {targets.shape}"
    assert outputs.ndim == 2, f"expected [batch, outputs], got {outputs.shape}"


# Of numbers. Of classes there is `cross_entropy`, whose class weights the task takes from the training clips.
LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": mse,
    "weighted_mse": weighted_mse,
    "huber": huber,
    "emotion_aware": emotion_aware,
}
