"""SER: a convolutional recurrent network with attention that classifies emotion in speech."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuning.models.attention import AttentionPool, SelfAttention
from tuning.models.base import Model
from tuning.models.layers import BatchNorm, Conv1dSame, Dense, check_features, clip_lengths, zero_padding
from tuning.models.lstm import LSTM, Bidirectional
from tuning.models.pooling import NUM_STATISTICS, Pool, max_over_frames, mean_over_frames, statistics_over_frames
from tuning.models.ser_settings import SERSettings


class NormedConv(nn.Module):
    """Convolution with optional batch norm. [B, T, in] -> [B, T, out]. Padding must be zero."""

    def __init__(self, in_channels: int, channels: int, taps: int, settings: SERSettings) -> None:
        super().__init__()
        self.conv = Conv1dSame(in_channels, channels, taps, bias=not settings.batch_norm)
        self.norm = BatchNorm(channels, settings.bn_momentum) if settings.batch_norm else None

    def forward(self, sequence: Tensor, lengths: Tensor | None) -> Tensor:
        sequence = self.conv(sequence)
        return sequence if self.norm is None else self.norm(sequence, lengths)


class Block(nn.Module):
    """Convolutions with ReLU and an optional shortcut, max pooling and dropout. [B, T, in] -> [B, T', channels].

    Padding must be zero on input and is zero on output. `lengths` [B] must be at least the pooling window. The
    shortcut is the identity, or a convolution of one frame where the number of channels changes. It is added before
    the last ReLU. Source: He et al. 2016, figure 2 and option B.
    """

    def __init__(self, in_channels: int, channels: int, pool_size: int, settings: SERSettings) -> None:
        super().__init__()
        taps, self.residual = settings.kernel_size, settings.residual
        widths = [in_channels, *[channels] * settings.num_convs()]
        self.convs = nn.ModuleList(NormedConv(a, b, taps, settings) for a, b in pairwise(widths))
        widens = settings.residual and in_channels != channels
        self.shortcut = NormedConv(in_channels, channels, 1, settings) if widens else None
        self.pool = Pool(size=pool_size)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, sequence: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        inner = self.convs[0](sequence, lengths)
        for conv in self.convs[1:]:
            inner = conv(zero_padding(inner.relu(), lengths), lengths)
        if self.residual:
            inner = inner + (sequence if self.shortcut is None else self.shortcut(sequence, lengths))
        # ReLU after the pooling gives the same and has fewer frames to process. The pooling needs no lengths, because
        # only whole windows are kept.
        pooled = self.dropout(self.pool(inner).relu())
        lengths = self.pool.lengths(lengths, sequence.shape[1])
        return zero_padding(pooled, lengths), lengths


class SER(Model):
    """Residual convolution blocks, bidirectional LSTMs, self-attention, attention pooling, and a linear output.

    The documented improvements are its defaults, and the documented baseline is `conv_channels=[128, 128]
    residual=false lstm_layers=1 bidirectional=false attention_heads=0 pooling=mean` (docs/sources.md). Chosen here,
    where the document says nothing: kernels of 5 frames; batch norm before the ReLU; pooling by 2 after each block;
    two convolutions in a residual block and one in another; attention heads that share the width of the LSTM, as in
    `nn.MultiheadAttention`; dropout after each block, on the input of all LSTMs but the first (one mask for all
    frames) and before each dense layer. Initial weights come from torch's global generator.
    """

    Settings = SERSettings

    def __init__(self, settings: SERSettings, num_features: int, num_outputs: int) -> None:
        super().__init__()
        self.num_features, self.pooling = num_features, settings.pooling
        width = num_features
        self.blocks = nn.ModuleList()
        for channels, pool_size in settings.per_block():
            self.blocks.append(Block(width, channels, pool_size, settings))
            width = channels
        self.min_frames = math.prod(pool_size for _, pool_size in settings.per_block())
        self.lstms = nn.ModuleList()
        for layer in range(settings.lstm_layers):
            lstm = Bidirectional if settings.bidirectional else LSTM
            self.lstms.append(lstm(width, settings.lstm_hidden, settings.dropout if layer else 0.0))
            width = settings.lstm_hidden * (2 if settings.bidirectional else 1)
        heads = settings.attention_heads
        self.attention = SelfAttention(width, heads, max(1, width // heads), dropout=0.0) if heads else None
        self.attention_pool = AttentionPool(width) if settings.pooling == "attention" else None
        width *= NUM_STATISTICS if settings.pooling == "statistics" else 1
        # Batch norm, because the features have other scales than the pooled vector.
        num_statistics = NUM_STATISTICS * num_features if settings.input_statistics else 0
        self.statistics_norm = BatchNorm(num_statistics, settings.bn_momentum) if num_statistics else None
        widths = [width + num_statistics, *settings.head_units]
        self.hidden = nn.ModuleList(Dense(a, b) for a, b in pairwise(widths))
        self.dropout = nn.Dropout(settings.dropout)
        self.output = Dense(widths[-1], num_outputs)

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        """Return logits [B, num_outputs] of `features` [B, T, num_features].

        `num_frames` [B] is the length of each clip without padding; it may stay on the CPU. With it padding
        influences nothing: in inference a padded clip gives the same output as alone. A clip that is too short for
        the pooling is padded with zeros to the shortest length that it takes.

        Raises:
            ValueError: wrong shapes, or too few frames for the pooling.
        """
        why = f"{len(self.blocks)} poolings (model.pool_sizes, model.conv_channels)"
        check_features(features, self.num_features, self.min_frames, why)
        valid = clip_lengths(features, num_frames)
        sequence = features = zero_padding(features, valid)
        lengths = None if valid is None else valid.clamp(min=self.min_frames)
        for block in self.blocks:
            sequence, lengths = block(sequence, lengths)
        for lstm in self.lstms:
            sequence = lstm(sequence, lengths)
        if self.attention is not None:
            sequence = self.attention(sequence, lengths)
        summary = self._pooled(sequence, lengths)
        if self.statistics_norm is not None:
            statistics = self.statistics_norm(statistics_over_frames(features, valid).unsqueeze(1)).squeeze(1)
            summary = torch.cat([summary, statistics], 1)
        for dense in self.hidden:
            summary = F.relu(dense(self.dropout(summary)))
        logits: Tensor = self.output(self.dropout(summary))
        return logits

    def _pooled(self, sequence: Tensor, lengths: Tensor | None) -> Tensor:
        if self.attention_pool is not None:
            pooled: Tensor = self.attention_pool(sequence, lengths)
            return pooled
        functions = {"mean": mean_over_frames, "max": max_over_frames, "statistics": statistics_over_frames}
        return functions[self.pooling](sequence, lengths)
