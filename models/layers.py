"""Layers that behave as Keras's where PyTorch's own differ. Sequences are [batch, frames, channels].

Keras's `glorot_uniform` is torch's `xavier_uniform_` on [out, in] and [out, in, taps], where both fans include the taps
(Glorot and Bengio 2010, equation 16). Its `orthogonal` of a [u, 4u] kernel is torch's of the transpose (Saxe et al.
2014).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuning.models.settings import Activation, DropoutKind


def forget_gate_bias_(bias: Tensor) -> Tensor:
    """Fill an LSTM's `bias` [4u] in place with zeros, and the forget gate's part with ones. Gates are i, f, g, o.

    Source: Jozefowicz et al. 2015; Keras's `unit_forget_bias`.
    """
    units = len(bias) // 4
    with torch.no_grad():
        bias.zero_()[units : 2 * units] = 1.0
    return bias


def dropout_mask(like: Tensor, shape: tuple[int, ...], rate: float) -> Tensor:
    """Draw factors of `shape`: 0 with probability `rate`, otherwise 1 / (1 - rate), so that their mean is 1."""
    return F.dropout(like.new_ones(shape), rate, training=True)


def activation(name: Activation, leaky_slope: float = 0.01) -> Callable[[Tensor], Tensor]:
    """Return an activation by its name. `gelu` is exact (with erf), as in Keras; `swish` is x * sigmoid(x)."""
    if name == "leaky_relu":
        return nn.LeakyReLU(leaky_slope)
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "relu": F.relu,
        "swish": F.silu,
        "gelu": F.gelu,
        "elu": F.elu,
    }
    return functions[name]


def valid_frames(lengths: Tensor, frames: int) -> Tensor:
    """Return which of `frames` frames are no padding, [B, frames, 1], given the clips' `lengths` [B]."""
    return (torch.arange(frames, device=lengths.device) < lengths[:, None]).unsqueeze(2)


def zero_padding(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Return `sequence` [B, T, C] with zeros beyond the clips' `lengths` [B]; unchanged where they are None."""
    if lengths is None:
        return sequence
    return sequence.masked_fill(~valid_frames(lengths, sequence.shape[1]), 0)


def as_image(sequence: Tensor) -> Tensor:
    """View [B, T, C] as an image [B, C, 1, T] in channels-last memory."""
    return sequence.transpose(1, 2).unsqueeze(2)


def as_sequence(image: Tensor) -> Tensor:
    """View [B, C, 1, T] as [B, T, C]."""
    return image.squeeze(2).transpose(1, 2)


class Dense(nn.Linear):
    """Linear layer with the initial weights of Keras's `Dense`: Glorot-uniform kernel, zero bias."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)


class Conv1dSame(nn.Module):
    """Convolution over frames that keeps their number. [B, T, in] -> [B, T, out].

    The stride is 1, and `kernel_size - 1` zeros are padded, the odd one at the end. A bias has no effect where batch
    norm follows directly. Source: Keras's `Conv1D(padding='same')`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(out_channels, in_channels, kernel_size)))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, sequence: Tensor) -> Tensor:
        taps = self.weight.shape[2]
        # A channels-last image needs no transposed copy, and oneDNN is a quarter faster with it.
        image = as_image(sequence)
        if taps % 2 == 0:
            image = F.pad(image, ((taps - 1) // 2, taps // 2))
        padding = (0, taps // 2 if taps % 2 else 0)
        return as_sequence(F.conv2d(image, self.weight.unsqueeze(2), self.bias, padding=padding))


class BatchNorm(nn.Module):
    """Batch norm of channels over batch and frames. [B, T, C] -> [B, T, C].

    `momentum` is the share of the moving statistics that is kept: 1 minus PyTorch's momentum. The moving variance
    averages the biased variance of the batches, where PyTorch's layer averages the unbiased one. With `lengths` [B] the
    statistics leave out padding, and the output of padding frames is undefined.
    Source: Keras's `BatchNormalization`, with its epsilon of 1e-3.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, momentum: float, epsilon: float = 1e-3) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is None or not self.training:
            return self._normalised(sequence)
        # The fused kernel on the valid frames alone takes a third of the time of a masked computation.
        frames = sequence.flatten(0, 1)
        index = valid_frames(lengths, sequence.shape[1]).flatten().nonzero().squeeze(1)
        normalised = self._normalised(frames.index_select(0, index).unsqueeze(0)).squeeze(0)
        return torch.zeros_like(frames, dtype=normalised.dtype).index_copy(0, index, normalised).view_as(sequence)

    def _normalised(self, sequence: Tensor) -> Tensor:
        # A copy, because autograd keeps the tensor that the kernel updates, and it must not change afterwards.
        variance = self.running_var.clone()
        image = F.batch_norm(
            as_image(sequence),
            self.running_mean,
            variance,
            self.weight,
            self.bias,
            training=self.training,
            momentum=1 - self.momentum,
            eps=self.epsilon,
        )
        if self.training:
            count = sequence.shape[0] * sequence.shape[1]
            kept = self.running_var * self.momentum
            self.running_var.copy_(kept + (variance - kept) * ((count - 1) / count))
        return as_sequence(image)


class Dropout(nn.Module):
    """Dropout of a sequence [B, T, C]: of single elements, of a clip's channels or of its frames.

    `channel` drops channels for the whole clip (mask [B, 1, C]), `time_step` drops all channels of a frame (mask
    [B, T, 1]). Source: Keras's `Dropout`, `SpatialDropout1D` and `Dropout(noise_shape=)`.
    """

    def __init__(self, rate: float, kind: DropoutKind = "element") -> None:
        super().__init__()
        self.rate, self.kind = rate, kind

    def forward(self, sequence: Tensor) -> Tensor:
        if not self.training or self.rate == 0 or self.kind == "element":
            return F.dropout(sequence, self.rate, self.training)
        batch, frames, channels = sequence.shape
        shape = (batch, 1, channels) if self.kind == "channel" else (batch, frames, 1)
        return sequence * dropout_mask(sequence, shape, self.rate)


def clip_lengths(features: Tensor, num_frames: Tensor | None, name: str = "num_frames") -> Tensor | None:
    """Return `num_frames` [B] on the device of `features` [B, T, ...]; None where no clip has padding.

    With `num_frames` on the CPU this does not wait for the GPU. A length below 1 becomes 1.

    Raises:
        ValueError: not one number per clip; calls it `name`.
    """
    if num_frames is None:
        return None
    if num_frames.shape != features.shape[:1]:
        raise ValueError(f"{name}: expected [{len(features)}], one per clip, got {list(num_frames.shape)}")
    if not torch.compiler.is_exporting() and bool((num_frames >= features.shape[1]).all()):
        return None
    return num_frames.to(features.device).clamp(1, features.shape[1])


def check_features(features: Tensor, num_features: int, min_frames: int, why: str) -> None:
    """Check that `features` is [batch, frames, num_features] with at least `min_frames` frames.

    Raises:
        ValueError: it is not; `why` says what needs so many frames.
    """
    if features.ndim != 3 or features.shape[2] != num_features:
        raise ValueError(f"features: expected [batch, frames, {num_features}], got {list(features.shape)}")
    if features.shape[1] < min_frames:
        raise ValueError(
            f"features: expected at least {min_frames} frames, so that one is left after {why}, got {features.shape[1]}"
        )
