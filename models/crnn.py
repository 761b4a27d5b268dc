"""CRNN: a convolutional recurrent network that predicts emotion from a sequence of features."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from tuning.models.attention import SelfAttention
from tuning.models.base import Model
from tuning.models.crnn_settings import CRNNSettings
from tuning.models.layers import (
    BatchNorm,
    Conv1dSame,
    Dense,
    Dropout,
    activation,
    check_features,
    clip_lengths,
    zero_padding,
)
from tuning.models.lstm import LSTM, Bidirectional, last_state
from tuning.models.pooling import (
    NUM_STATISTICS,
    NUM_TRENDS,
    Pool,
    max_over_frames,
    mean_over_frames,
    statistics_and_trends,
    statistics_over_frames,
)


class ConvBlock(nn.Module):
    """One convolution with batch norm, or two, then pooling and dropout. [B, T, in] -> [B, T', filters]."""

    def __init__(self, in_channels: int, filters: int, pool: Pool, rate: float, settings: CRNNSettings) -> None:
        super().__init__()
        self.activation = activation(settings.conv_activation, settings.leaky_slope)
        self.conv1 = Conv1dSame(in_channels, filters, settings.kernel_size)
        self.norm = BatchNorm(filters, settings.bn_momentum) if settings.batch_norm else None
        two = settings.conv_block == "standard"
        self.conv2 = Conv1dSame(filters, filters, settings.kernel_size) if two else None
        self.pool = pool
        self.dropout = Dropout(rate, settings.dropout_kind)

    def forward(self, sequence: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        frames = sequence.shape[1]
        sequence = self.activation(self.conv1(zero_padding(sequence, lengths)))
        if self.norm is not None:
            sequence = self.norm(sequence, lengths)
        if self.conv2 is not None:
            sequence = self.activation(self.conv2(zero_padding(sequence, lengths)))
        return self.dropout(self.pool(sequence, lengths)), self.pool.lengths(lengths, frames)


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut, then pooling and dropout. [B, T, in] -> [B, T', filters].

    Where the number of channels changes, a further convolution changes it first, and the shortcut, a convolution of
    one frame, branches off after it. Elsewhere the shortcut is the identity. The activation follows the sum of both
    branches. There is no batch norm. The layout is the documented one (docs/sources.md); the idea is He et al. 2016.
    """

    def __init__(self, in_channels: int, filters: int, pool: Pool, rate: float, settings: CRNNSettings) -> None:
        super().__init__()
        self.activation = activation(settings.conv_activation, settings.leaky_slope)
        widens, taps = in_channels != filters, settings.kernel_size
        self.entry = Conv1dSame(in_channels, filters, taps) if widens else None
        self.shortcut = Conv1dSame(filters, filters, 1) if widens else None
        self.conv1 = Conv1dSame(filters, filters, taps)
        self.conv2 = Conv1dSame(filters, filters, taps)
        self.pool = pool
        self.dropout = Dropout(rate, settings.dropout_kind)

    def forward(self, sequence: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        frames = sequence.shape[1]
        sequence = zero_padding(sequence, lengths)
        if self.entry is not None:
            sequence = zero_padding(self.activation(self.entry(sequence)), lengths)
        shortcut = sequence if self.shortcut is None else self.shortcut(sequence)
        inner = zero_padding(self.activation(self.conv1(sequence)), lengths)
        sequence = self.activation(self.conv2(inner) + shortcut)
        return self.dropout(self.pool(sequence, lengths)), self.pool.lengths(lengths, frames)


class Head(nn.Module):
    """Hidden dense layers with dropout, and the output layer. [B, in] -> [B, outputs].

    With `head=skip` a linear projection of the input is added to the last hidden layer.
    """

    def __init__(self, width: int, num_outputs: int, settings: CRNNSettings) -> None:
        super().__init__()
        self.activation = activation(settings.dense_activation, settings.leaky_slope)
        widths = [width, *settings.dense_units]
        self.hidden = nn.ModuleList(Dense(a, b) for a, b in pairwise(widths))
        self.dropouts = nn.ModuleList(nn.Dropout(rate) for rate in settings.head_dropouts())
        self.skip = Dense(width, widths[-1]) if settings.head == "skip" else None
        self.output = Dense(widths[-1], num_outputs)
        with torch.no_grad():
            for layer in [*self.hidden, self.skip, self.output]:
                if isinstance(layer, Dense):
                    layer.weight *= settings.dense_init_gain
        self.bounded = settings.output_activation == "tanh"

    def forward(self, summary: Tensor) -> Tensor:
        hidden = summary
        for dense, dropout in zip(self.hidden, self.dropouts, strict=True):
            hidden = dropout(self.activation(dense(hidden)))
        if self.skip is not None:
            hidden = hidden + self.skip(summary)
        outputs: Tensor = self.output(hidden)
        return outputs.tanh() if self.bounded else outputs

    def kernels(self) -> list[Tensor]:
        """Return the kernels that are penalised: those of the hidden layers and of the projection."""
        return [layer.weight for layer in [*self.hidden, self.skip] if isinstance(layer, Dense)]


class CRNN(Model):
    """Convolution blocks, optional self-attention, stacked LSTMs, and a dense head on a summary of the sequence.

    By default it is the documented complete network (docs/sources.md): ReLU before batch norm, one batch norm per
    block, the last state of the last LSTM, and dropout between the head's hidden layers but not before its output.
    Initial weights come from torch's global generator.
    """

    Settings = CRNNSettings

    def __init__(self, settings: CRNNSettings, num_features: int, num_outputs: int) -> None:
        super().__init__()
        self.num_features, self.summary = num_features, settings.summary
        self.bidirectional = settings.bidirectional
        self.dense_l1, self.dense_l2 = settings.dense_l1, settings.dense_l2
        width = num_features
        self.stem: ConvBlock | None = None
        block: type[ConvBlock | ResidualBlock] = ConvBlock
        if settings.conv_block == "residual":
            self.stem = ConvBlock(width, settings.conv_filters[0], Pool(size=1), 0.0, settings)
            width, block = settings.conv_filters[0], ResidualBlock
        self.blocks = nn.ModuleList()
        for (filters, _, rate), pool in zip(settings.per_block(), _pools(settings), strict=True):
            self.blocks.append(block(width, filters, pool, rate, settings))
            width = filters
        self.min_frames = 1
        for pool in reversed(_pools(settings)):
            self.min_frames = pool.min_frames(self.min_frames)
        self.attention: SelfAttention | None = None
        if settings.attention:
            heads, key_dim = settings.attention_heads, settings.attention_key_dim
            self.attention = SelfAttention(width, heads, key_dim, settings.attention_dropout)
        self.lstms = nn.ModuleList()
        for units in settings.lstm_units:
            lstm = Bidirectional if settings.bidirectional else LSTM
            rates = settings.lstm_dropout, settings.recurrent_dropout
            self.lstms.append(lstm(width, units, *rates, settings.lstm_activation))
            width = 2 * units if settings.bidirectional else units
        width *= {"statistics": NUM_STATISTICS, "trends": NUM_STATISTICS + NUM_TRENDS}.get(settings.summary, 1)
        self.input_statistics = settings.input_statistics
        width += NUM_STATISTICS * num_features if settings.input_statistics else 0
        self.summary_norm = BatchNorm(width, settings.bn_momentum) if settings.summary_norm else None
        self.summary_dropout = nn.Dropout(settings.summary_dropout)
        self.head = Head(width, num_outputs, settings)

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        """Predict [B, num_outputs] from `features` [B, T, num_features].

        `num_frames` [B] is the length of each clip without padding. On the CPU it tells without waiting for the GPU
        whether any clip is short. Where it is missing, or all clips are full, nothing is masked. Otherwise padding
        does not influence convolutions, batch statistics, pooling, attention, LSTMs or the summary: in inference a
        padded clip gives the same output as alone. Exceptions are adaptive pooling, and `same` pooling with strides
        above 1 and windows above 2 frames, whose windows depend on the length of the batch.

        `summary=last`, the documented network, reads the last state after the padding. It masks nothing, or, with
        attention or `input_statistics`, only the layers before the LSTMs.

        Raises:
            ValueError: wrong shapes, or too few frames for the pooling.
        """
        why = f"{len(self.blocks)} poolings (model.pool_sizes, model.conv_filters)"
        check_features(features, self.num_features, self.min_frames, why)
        valid = lengths = self._lengths(features, num_frames)
        sequence = features
        if self.stem is not None:
            sequence, lengths = self.stem(sequence, lengths)
        for block in self.blocks:
            sequence, lengths = block(sequence, lengths)
        if self.attention is not None:
            sequence = self.attention(sequence, lengths)
        if self.summary == "last":
            lengths = None
        for lstm in self.lstms:
            sequence = lstm(sequence, lengths)
        summary = self._summarise(sequence, lengths)
        if self.input_statistics:
            summary = torch.cat([summary, statistics_over_frames(features, valid)], dim=1)
        if self.summary_norm is not None:
            summary = self.summary_norm(summary[:, None], None)[:, 0]
        output: Tensor = self.head(self.summary_dropout(summary))
        return output

    def penalty(self) -> Tensor:
        """Return the sum of `dense_l1 * |w| + dense_l2 * w**2` over the weights w of the head's kernels, a scalar.

        Biases and the output layer are left out. It is a term of the training loss, as Keras's regularisers are:
        under Adam a weight decay of the optimiser would not be the same.
        """
        absolute = squared = self.head.output.weight.new_zeros(())
        for kernel in self.head.kernels():
            if self.dense_l1 > 0:
                absolute = absolute + kernel.abs().sum()
            if self.dense_l2 > 0:
                squared = squared + kernel.square().sum()
        return self.dense_l1 * absolute + self.dense_l2 * squared

    def _lengths(self, features: Tensor, num_frames: Tensor | None) -> Tensor | None:
        lengths = clip_lengths(features, num_frames)
        masks = self.attention is not None or self.summary != "last" or self.input_statistics
        return lengths if masks else None

    def _summarise(self, sequence: Tensor, lengths: Tensor | None) -> Tensor:
        functions = {
            "mean": mean_over_frames,
            "max": max_over_frames,
            "statistics": statistics_over_frames,
            "trends": statistics_and_trends,
        }
        if self.summary in functions:
            return functions[self.summary](sequence, lengths)
        return last_state(sequence, lengths, self.bidirectional)


def _pools(settings: CRNNSettings) -> list[Pool]:
    """Return the pooling of each block. Adaptive ones keep the ratios of `pool_sizes` and end at `adaptive_frames`."""
    pools: list[Pool] = []
    frames = settings.adaptive_frames
    for _, size, _ in reversed(settings.per_block()):
        pools.insert(0, Pool(settings.pooling, size, settings.pool_stride, settings.pool_padding, frames))
        frames *= size
    return pools
