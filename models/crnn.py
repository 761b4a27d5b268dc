"""The convolutional recurrent network that regresses emotion from a sequence of features."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from tuning.models.attention import SelfAttention
from tuning.models.base import Model
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
from tuning.models.settings import CRNNSettings


class ConvBlock(nn.Module):
    """Convolution, batch-norm, convolution if there are two, pooling, dropout. [B, T, in] -> [B, T', filters]."""

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
    """Two convolutions and a shortcut around them, pooling, dropout. [B, T, in] -> [B, T', filters].

    Where the number of channels changes, a convolution leads to the new one before the shortcut branches off, and
    the shortcut is a convolution of one frame; elsewhere it is the input itself. The second convolution is linear,
    the activation follows the sum. No batch-norm. Source: guide part 9, variation 1.
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
    """Hidden dense layers with dropout, a shortcut around them if wanted, the output layer. [B, in] -> [B, outputs].

    With `skip` a linear projection of the input is added to the last hidden layer. Source: guide parts 7 and 8.
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
        """The kernels that penalties act on: the hidden layers' and the shortcut's."""
        return [layer.weight for layer in [*self.hidden, self.skip] if isinstance(layer, Dense)]


class CRNN(Model):
    """Convolution blocks, self-attention if wanted, stacked LSTMs, a dense head on a summary of the sequence.

    As it stands by default (guide part 8, `create_complete_crnn`): relu before batch-norm, one batch-norm per
    block; the last LSTM's last state; dropout between the head's hidden layers and not before the output layer.
    The settings hold the guide's other variants. Initial weights come from torch's global generator.
    """

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

        `num_frames` [B] says how many frames of each clip are no padding; it may stay on the CPU, and then whether
        any clip is short is known without waiting for the GPU. Without it, or where all are full, nothing is
        masked. With it, padding has no part in convolutions, batch statistics, pooling, attention, LSTMs and
        summary: in inference a padded clip gives what it gives alone, unless pooling is adaptive, or `same` with
        windows whose place depends on the length (stride above 1 and windows above 2 frames).

        `summary=last` is the guide's model, whose last state comes after the padding: it masks nothing, or with
        attention or `input_statistics` all that comes before the LSTMs.

        Raises:
            ValueError: shapes that do not fit, or too few frames for the pooling.
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
        """Sum of `dense_l1 * |kernel| + dense_l2 * kernel**2` over the head's kernels, a scalar.

        Biases and output layer are left out. A term to add to the training loss, as Keras's regularisers are; a
        weight decay of the optimiser is not the same under Adam. Source: guide parts 7 and 8.
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
    """Each block's pooling; adaptive ones end at `adaptive_frames` and keep the ratios of `pool_sizes` before."""
    pools: list[Pool] = []
    frames = settings.adaptive_frames
    for _, size, _ in reversed(settings.per_block()):
        pools.insert(0, Pool(settings.pooling, size, settings.pool_stride, settings.pool_padding, frames))
        frames *= size
    return pools
