"""Layers that behave as Keras's do where PyTorch's own differ. Sequences are [batch, frames, channels].

Keras's `glorot_uniform` is torch's `xavier_uniform_` on [out, in] and [out, in, taps], the taps counting in both fans
(Glorot and Bengio 2010, equation 16); its `orthogonal` of a [u, 4u] kernel is that of the transpose (Saxe et al. 2014).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuning.models.settings import Activation, DropoutKind


def forget_gate_bias_(bias: Tensor) -> Tensor:
    """Fill an LSTM's `bias` [4u], gates in the order i, f, g, o, with zeros, the forget gate's with ones, in place.

    Source: Jozefowicz et al. 2015; Keras's `unit_forget_bias`.
    """
    units = len(bias) // 4
    with torch.no_grad():
        bias.zero_()[units : 2 * units] = 1.0
    return bias


def dropout_mask(like: Tensor, shape: tuple[int, ...], rate: float) -> Tensor:
    """Draw factors of `shape`: 0 with probability `rate`, else 1 / (1 - rate), so that the expectation is 1."""
    return F.dropout(like.new_ones(shape), rate, training=True)


def activation(name: Activation, leaky_slope: float = 0.01) -> Callable[[Tensor], Tensor]:
    """The function by its name. `gelu` is exact (with erf), as Keras's is; swish is x * sigmoid(x)."""
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
    """Which of `frames` frames are no padding, [B, frames, 1], from the clips' `lengths` [B]."""
    return (torch.arange(frames, device=lengths.device) < lengths[:, None]).unsqueeze(2)


def zero_padding(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """`sequence` [B, T, C] with zeros beyond the clips' `lengths` [B], whatever stood there; as it is if None."""
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
    """Linear layer that starts as Keras's `Dense`: Glorot-uniform kernel, zero bias. [..., in] -> [..., out]."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)


class Conv1dSame(nn.Module):
    """Convolution over frames with as many frames out as in. [B, T, in] -> [B, T, out].

    Stride 1; `kernel_size - 1` zeros of padding, the odd one at the end. Where batch-norm follows at once, a bias
    would be without effect. Source: Keras's `Conv1D(padding='same')`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(out_channels, in_channels, kernel_size)))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, sequence: Tensor) -> Tensor:
        taps = self.weight.shape[2]
        # As a channels-last image the sequence needs no transposed copy, and oneDNN is a quarter faster on it.
        image = as_image(sequence)
        if taps % 2 == 0:
            image = F.pad(image, ((taps - 1) // 2, taps // 2))
        padding = (0, taps // 2 if taps % 2 else 0)
        return as_sequence(F.conv2d(image, self.weight.unsqueeze(2), self.bias, padding=padding))


class BatchNorm(nn.Module):
    """Batch normalisation of channels over batch and frames. [B, T, C] -> [B, T, C].

    `momentum` is the share of the moving statistics that is kept, which PyTorch calls 1 - momentum. The moving
    variance follows the biased variance of the batch, where PyTorch's layer follows the unbiased one. With
    `lengths` [B], padding counts in neither; what comes out in its place is of no meaning.
    Source: Keras's `BatchNormalization`, whose epsilon of 1e-3 is kept too.
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
        # The clips' frames in a row: the fused kernel reads them alone, in a third of the time that masks would take.
        frames = sequence.flatten(0, 1)
        index = valid_frames(lengths, sequence.shape[1]).flatten().nonzero().squeeze(1)
        normalised = self._normalised(frames.index_select(0, index).unsqueeze(0)).squeeze(0)
        return torch.zeros_like(frames, dtype=normalised.dtype).index_copy(0, index, normalised).view_as(sequence)

    def _normalised(self, sequence: Tensor) -> Tensor:
        # A copy, since autograd keeps the tensor that the kernel updates and forbids a later change of it.
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
    """Dropout of a sequence [B, T, C]: of single elements, of a clip's channels or of its time steps.

    `channel` draws a mask [B, 1, C] and drops channels through the whole clip, `time_step` one of [B, T, 1] and
    drops all channels of a frame. Source: Keras's `Dropout`, `SpatialDropout1D` and `Dropout(noise_shape=)`.
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
    """`num_frames` [B] for the masks of `features` [B, T, ...], on their device; None where no clip has padding.

    Where `num_frames` is on the CPU, this does not wait for the GPU. A length below 1 counts as 1.

    Raises:
        ValueError: not one number of frames per clip.
    """
    if num_frames is None:
        return None
    if num_frames.shape != features.shape[:1]:
        raise ValueError(f"{name}: expected [{len(features)}], one per clip, got {list(num_frames.shape)}")
    if not torch.compiler.is_exporting() and bool((num_frames >= features.shape[1]).all()):
        return None
    return num_frames.to(features.device).clamp(1, features.shape[1])


def check_features(features: Tensor, num_features: int, min_frames: int, why: str) -> None:
    """Raises ValueError unless `features` is [batch, frames, num_features] with at least `min_frames` frames."""
    if features.ndim != 3 or features.shape[2] != num_features:
        raise ValueError(f"features: expected [batch, frames, {num_features}], got {list(features.shape)}")
    if features.shape[1] < min_frames:
        raise ValueError(
            f"features: expected at least {min_frames} frames, so that one is left after {why}, got {features.shape[1]}"
        )
