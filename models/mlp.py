"""A multilayer perceptron, down to a linear model, for features that are pooled over a clip."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from tuning.models.base import Model
from tuning.models.layers import Dense, activation, check_features, clip_lengths
from tuning.models.mlp_settings import MLPSettings
from tuning.models.pooling import NUM_STATISTICS, mean_over_frames, statistics_over_frames


class MLP(Model):
    """The mean over a clip's frames, or more statistics, dense layers with dropout, and a linear output.

    Initial weights come from torch's global generator.
    """

    Settings = MLPSettings

    def __init__(self, settings: MLPSettings, num_features: int, num_outputs: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.activation = activation(settings.activation)
        self.input_dropout, self.dropout = nn.Dropout(settings.input_dropout), nn.Dropout(settings.dropout)
        self.input_limit = settings.input_limit
        several = settings.pooling == "statistics"
        self.pool = statistics_over_frames if several else mean_over_frames
        widths = [num_features * (NUM_STATISTICS if several else 1), *settings.hidden_units]
        self.hidden = nn.ModuleList(Dense(*pair) for pair in pairwise(widths))
        self.output = Dense(widths[-1], num_outputs)
        with torch.no_grad():
            self.output.weight *= settings.output_init_gain

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        """Compute outputs [B, K] of features [B, T, F], of which `num_frames` [B] are valid (default: all)."""
        check_features(features, self.num_features, 1, "")
        pooled = self.pool(features, clip_lengths(features, num_frames))
        if self.input_limit is not None:
            pooled = pooled.clamp(-self.input_limit, self.input_limit)
        hidden = self.input_dropout(pooled)
        for layer in self.hidden:
            hidden = self.dropout(self.activation(layer(hidden)))
        outputs: Tensor = self.output(hidden)
        return outputs
