"""The convolutional recurrent network that regresses emotion from a sequence of features."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import LSTM, BatchNorm, Conv1dSame, Dense, MaxPool
from models.settings import CRNNSettings


class ConvBlock(nn.Module):
    """Convolution, batch-norm, convolution, pooling, dropout. [B, T, in] -> [B, T // pool_size, filters]."""

    def __init__(self, in_channels: int, filters: int, dropout: float, settings: CRNNSettings) -> None:
        super().__init__()
        self.conv1 = Conv1dSame(in_channels, filters, settings.kernel_size)
        self.norm = BatchNorm(filters, settings.bn_momentum)
        self.conv2 = Conv1dSame(filters, filters, settings.kernel_size)
        self.pool = MaxPool(settings.pool_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, sequence: Tensor) -> Tensor:
        sequence = self.norm(F.relu(self.conv1(sequence)))
        return self.dropout(self.pool(F.relu(self.conv2(sequence))))


class CRNN(nn.Module):
    """Convolution blocks, stacked LSTMs, a dense head on the last state, linear outputs.

    The order is relu before batch-norm, one batch-norm per block; dropout stands between the head's hidden layers
    and not before the output layer. Initial weights come from torch's global generator.
    Source: guide part 8, `create_complete_crnn`.
    """

    def __init__(self, settings: CRNNSettings, num_features: int, num_outputs: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.min_frames = settings.pool_size ** len(settings.conv_filters)
        self.dense_l2 = settings.dense_l2
        width = num_features
        self.blocks = nn.ModuleList()
        for filters, rate in zip(settings.conv_filters, settings.conv_dropout, strict=True):
            self.blocks.append(ConvBlock(width, filters, rate, settings))
            width = filters
        self.lstms = nn.ModuleList()
        for units in settings.lstm_units:
            self.lstms.append(LSTM(width, units, settings.lstm_dropout, settings.recurrent_dropout))
            width = units
        self.head = nn.ModuleList()
        for units in settings.dense_units:
            self.head.append(Dense(width, units))
            width = units
        self.head_dropout = nn.Dropout(settings.dense_dropout)
        self.output = Dense(width, num_outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Predict [B, num_outputs] from `features` [B, T, num_features]; ValueError where the shape does not fit."""
        if features.ndim != 3 or features.shape[2] != self.num_features:
            raise ValueError(f"features: expected [batch, frames, {self.num_features}], got {list(features.shape)}")
        if features.shape[1] < self.min_frames:
            raise ValueError(
                f"features: expected at least {self.min_frames} frames, so that one is left after "
                f"{len(self.blocks)} poolings (model.pool_size, model.conv_filters), got {features.shape[1]}"
            )
        sequence = features
        for layer in [*self.blocks, *self.lstms]:
            sequence = layer(sequence)
        hidden = sequence[:, -1]
        for index, dense in enumerate(self.head):
            if index > 0:
                hidden = self.head_dropout(hidden)
            hidden = F.relu(dense(hidden))
        return self.output(hidden)

    def penalty(self) -> Tensor:
        """Sum of `dense_l2 * kernel**2` over the head's kernels, a scalar; biases and output layer are left out.

        A term to add to the training loss, as Keras's `l2` is; a weight decay of the optimiser is not the same
        under Adam. Source: guide part 8.
        """
        total = self.output.weight.new_zeros(())
        if self.dense_l2 == 0:
            return total
        for dense in self.head:
            assert isinstance(dense, Dense)
            total = total + dense.weight.square().sum()
        return self.dense_l2 * total
