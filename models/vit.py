"""A vision transformer on spectrograms: the picture, the encoder that sees it, and a head."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuning.models.base import Model
from tuning.models.image_encoder import image_shape, make_image_encoder
from tuning.models.layers import check_features, clip_lengths, zero_padding
from tuning.models.pretrained import layers_of
from tuning.models.settings import ViTSettings

# Standardised values from -LIMIT to LIMIT become 0 to 1; what lies beyond is clipped.
LIMIT = 3.0


class ViT(Model):
    """Emotion of clips from the picture of their spectrogram, by a ViT that may have been trained on photographs.

    Of a pretrained encoder only the last layers are trained, one more from each of `settings.unfreeze_epochs` on: the
    model says by `unfreezing()` which, and who trains it when. An encoder none of whose weights requires a gradient
    infers always, without dropout. Random weights come from torch's global generator. Source: the ViT guide, section 4;
    Dosovitskiy et al. 2021.

    Raises:
        ValueError: an image encoder that can't be had, or has not so many layers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: ViTSettings, num_features: int, num_outputs: int) -> None:
        super().__init__()
        shape = image_shape(settings)
        self.num_features, self.image_size, self.num_patches = num_features, shape.image_size, shape.num_patches
        self.pooling = settings.pooling
        self.register_buffer("mean", torch.tensor(shape.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(shape.std).view(3, 1, 1), persistent=False)
        self.encoder = make_image_encoder(settings)
        self.encoder.requires_grad_(not settings.pretrained)
        if getattr(self.encoder.embeddings, "mask_token", None) is not None:
            self.encoder.embeddings.mask_token.requires_grad_(False)  # type: ignore[union-attr]
        layers = layers_of(self.encoder)
        self.stages = [(epoch, layer) for epoch, layer in zip(settings.unfreeze_epochs, reversed(layers), strict=False)]
        for _, layer in self.stages:
            layer.requires_grad_(True)
        widths = [shape.hidden_size, *settings.head_units]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = nn.Dropout(settings.head_dropout)
        self.output = nn.Linear(widths[-1], num_outputs)
        self.train()

    def train(self, mode: bool = True) -> "ViT":
        super().train(mode)
        self.encoder.train(mode and any(parameter.requires_grad for parameter in self.encoder.parameters()))
        return self

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        """Outputs [B, num_outputs] of standardised `features` [B, T, num_features].

        `num_frames` [B] says how many frames are no padding, and may stay on the CPU.

        Raises:
            ValueError: features of another shape.
        """
        states = self.encoder(pixel_values=self.image(features, num_frames))[0]
        # In front of the patches stand the class token's state and others.
        summary = states[:, 0] if self.pooling == "cls" else states[:, -self.num_patches :].mean(1)
        for dense in self.hidden:
            summary = dense(self.dropout(summary)).relu()
        return self.output(self.dropout(summary))

    def image(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        """The picture [B, 3, image_size, image_size] of `features` [B, T, num_features], as the encoder knows pictures.

        Time runs to the right and features downwards: the lowest mel is the top row. Standardised values z become
        (z + 3) / 6, clipped to [0, 1]; padding is 0 before, the mean of the training data, and so a middle grey. The
        size is changed bilinearly with antialiasing; then each of three equal channels is normalised as the
        pretrained model's images were.
        """
        check_features(features, self.num_features, 1, "nothing")
        features = zero_padding(features, clip_lengths(features, num_frames))
        grey = ((features + LIMIT) / (2 * LIMIT)).clamp(0, 1).transpose(1, 2).unsqueeze(1)
        size = (self.image_size, self.image_size)
        picture = F.interpolate(grey, size, mode="bilinear", antialias=True, align_corners=False)
        return (picture - self.mean) / self.std

    def unfreezing(self) -> list[tuple[int, list[nn.Parameter]]]:
        """Weights that are trained only from an epoch on, counted from 1: the epoch and the weights, one layer each."""
        return [(epoch, list(layer.parameters())) for epoch, layer in self.stages]
