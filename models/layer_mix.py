"""A model that reads a mean of an encoder's layers, weighted as it learns."""

from typing import Any

import torch
from torch import Tensor, nn

from tuning.models.base import Model, pretrained_weights


class LayerMix(Model):
    """The weighted mean over layers of features [B, T, layers * values], and a model that reads it.

    The weights are a softmax of one number for each layer, and equal at first. Source: Peters et al. 2018, without the
    scale, since the model's first layer has one.
    """

    def __init__(self, model: nn.Module, num_layers: int) -> None:
        super().__init__()
        self.model: Any = model
        self.layer_logits = nn.Parameter(torch.zeros(num_layers))
        self.min_frames = getattr(model, "min_frames", Model.min_frames)

    def forward(self, features: Tensor, *others: Tensor) -> Tensor:
        """Compute the model's outputs [B, K]; it gets the other inputs as they are."""
        layers = features.unflatten(2, (len(self.layer_logits), -1))
        outputs: Tensor = self.model(torch.einsum("l,btlf->btf", self.layer_logits.softmax(0), layers), *others)
        return outputs

    def penalty(self) -> Tensor:
        """The model's penalty."""
        penalty: Tensor = self.model.penalty()
        return penalty

    def encoder_parameters(self) -> list[nn.Parameter]:
        """The model's pretrained weights that are trained from the first epoch."""
        return pretrained_weights(self.model)[0][1]

    def unfreezing(self) -> list[tuple[int, list[nn.Parameter]]]:
        """The model's pretrained weights that are trained later, with the epoch."""
        return pretrained_weights(self.model)[1:]
