"""A model that reads a mean of an encoder's layers, weighted as it learns."""

import torch
from torch import Tensor, nn

from tuning.models.base import Around


class LayerMix(Around):
    """The weighted mean over layers of features [B, T, layers * values], and a model that reads it.

    The weights are a softmax of one number for each layer, and equal at first. Source: Peters et al. 2018, without the
    scale, since the model's first layer has one.
    """

    def __init__(self, model: nn.Module, num_layers: int) -> None:
        super().__init__(model)
        self.layer_logits = nn.Parameter(torch.zeros(num_layers))

    def forward(self, features: Tensor, *others: Tensor) -> Tensor:
        """Compute the model's outputs [B, K]; it gets the other inputs as they are."""
        layers = features.unflatten(2, (len(self.layer_logits), -1))
        outputs: Tensor = self.model(torch.einsum("l,btlf->btf", self.layer_logits.softmax(0), layers), *others)
        return outputs
