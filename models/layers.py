"""Layers that behave as Keras's do where PyTorch's own differ. Sequences are [batch, frames, channels]."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def glorot_uniform_(weight: Tensor) -> Tensor:
    """Fill `weight` uniformly within ±sqrt(6 / (fan_in + fan_out)), in place.

    Shapes [out, in] and [out, in, taps], where the taps count in both fans, as Keras's `glorot_uniform` counts
    them on [in, out] and [taps, in, out]. Source: Glorot and Bengio 2010, equation 16.
    """
    return nn.init.xavier_uniform_(weight)


def orthogonal_(weight: Tensor) -> Tensor:
    """Fill `weight` [out, in] so that its shorter side is orthonormal, in place.

    The Q of a normal matrix, with the signs of R's diagonal moved into it so that it is uniform over such
    matrices. A [4u, u] recurrent weight is the transpose of Keras's [u, 4u] kernel and has the same distribution.
    Source: Saxe et al. 2014; Keras's `orthogonal` with gain 1.
    """
    return nn.init.orthogonal_(weight)


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


def _as_image(sequence: Tensor) -> Tensor:
    """View [B, T, C] as an image [B, C, 1, T] in channels-last memory."""
    return sequence.transpose(1, 2).unsqueeze(2)


def _as_sequence(image: Tensor) -> Tensor:
    """View [B, C, 1, T] as [B, T, C]."""
    return image.squeeze(2).transpose(1, 2)


class Dense(nn.Linear):
    """Linear layer that starts as Keras's `Dense`: Glorot-uniform kernel, zero bias. [..., in] -> [..., out]."""

    def reset_parameters(self) -> None:
        glorot_uniform_(self.weight)
        nn.init.zeros_(self.bias)


class Conv1dSame(nn.Module):
    """Convolution over frames with as many frames out as in. [B, T, in] -> [B, T, out].

    Stride 1; `kernel_size - 1` zeros of padding, the odd one at the end. Source: Keras's `Conv1D(padding='same')`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(glorot_uniform_(torch.empty(out_channels, in_channels, kernel_size)))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, sequence: Tensor) -> Tensor:
        taps = self.weight.shape[2]
        # As a channels-last image the sequence needs no transposed copy, and oneDNN is a quarter faster on it.
        image = _as_image(sequence)
        if taps % 2 == 0:
            image = F.pad(image, ((taps - 1) // 2, taps // 2))
        padding = (0, taps // 2 if taps % 2 else 0)
        return _as_sequence(F.conv2d(image, self.weight.unsqueeze(2), self.bias, padding=padding))


class BatchNorm(nn.Module):
    """Batch normalisation of channels over batch and frames. [B, T, C] -> [B, T, C].

    `momentum` is the share of the moving statistics that is kept, which PyTorch calls 1 - momentum. The moving
    variance follows the biased variance of the batch, where PyTorch's layer follows the unbiased one.
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

    def forward(self, sequence: Tensor) -> Tensor:
        # A copy, since autograd keeps the tensor that the kernel updates and forbids a later change of it.
        variance = self.running_var.clone()
        image = F.batch_norm(
            _as_image(sequence),
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
        return _as_sequence(image)


class MaxPool(nn.Module):
    """Maximum over windows of `size` frames that do not overlap; frames left over are dropped.

    [B, T, C] -> [B, T // size, C]. Source: Keras's `MaxPooling1D`.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, sequence: Tensor) -> Tensor:
        return _as_sequence(F.max_pool2d(_as_image(sequence), (1, self.size)))


class LSTM(nn.Module):
    """One LSTM layer with the parameters of Keras's and the speed of PyTorch's. [B, T, in] -> [B, T, units].

    The output holds every frame's state; the last one is `output[:, -1]`. One bias, where PyTorch's layer trains
    two whose sum alone counts.

    `dropout` acts on the input with one mask per sample for all frames and gates. Keras does the same without
    recurrent dropout; with it, it draws one input mask per gate.

    `recurrent_dropout` masks the columns of the recurrent weight: gate by gate, which units of the previous state
    are read. A mask is drawn once per forward pass and shared by the batch and all frames. Keras draws a mask per
    sample, shared by all frames; that needs a matrix product per gate and frame, which no fused kernel offers.
    Each sample sees masks of the same distribution in both, but here the samples of one batch see the same one.
    """

    no_bias: Tensor

    def __init__(self, in_channels: int, units: int, dropout: float = 0.0, recurrent_dropout: float = 0.0) -> None:
        super().__init__()
        self.units, self.dropout, self.recurrent_dropout = units, dropout, recurrent_dropout
        self.weight_ih = nn.Parameter(glorot_uniform_(torch.empty(4 * units, in_channels)))
        self.weight_hh = nn.Parameter(orthogonal_(torch.empty(4 * units, units)))
        self.bias = nn.Parameter(forget_gate_bias_(torch.empty(4 * units)))
        self.register_buffer("no_bias", torch.zeros(4 * units), persistent=False)

    def forward(self, sequence: Tensor) -> Tensor:
        batch, _, channels = sequence.shape
        weight_hh: Tensor = self.weight_hh
        if self.training and self.dropout > 0:
            sequence = sequence * dropout_mask(sequence, (batch, 1, channels), self.dropout)
        if self.training and self.recurrent_dropout > 0:
            mask = dropout_mask(weight_hh, (4, 1, self.units), self.recurrent_dropout)
            weight_hh = (weight_hh.view(4, self.units, self.units) * mask).view_as(weight_hh)
        state = sequence.new_zeros(1, batch, self.units)
        weights = [self.weight_ih, weight_hh, self.bias, self.no_bias]
        if sequence.is_cuda:
            weights = _one_chunk(weights)
        # The arguments after the weights: biases, layers, dropout between layers, training, bidirectional, batch first.
        return torch.lstm(sequence, (state, state), weights, True, 1, 0.0, self.training, False, True)[0]


def _one_chunk(weights: list[Tensor]) -> list[Tensor]:
    """Copy weights into one stretch of memory: elsewhere cuDNN copies them itself and warns at every call."""
    chunk = torch.cat([weight.flatten() for weight in weights])
    return [
        part.view_as(weight) for part, weight in zip(chunk.split([w.numel() for w in weights]), weights, strict=True)
    ]
