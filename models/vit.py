"""ViT: a vision transformer on the image of a spectrogram."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuning.models.base import Model
from tuning.models.encoder_shapes import IMAGE
from tuning.models.hugging_face import transformers
from tuning.models.layers import check_features, clip_lengths, zero_padding
from tuning.models.pretrained import layers_of, load_encoder
from tuning.models.vit_settings import ViTSettings

# Standardised values from -LIMIT to LIMIT become 0 to 1. Others are clipped.
LIMIT = 3.0


class ViT(Model):
    """Emotion of clips from the image of their spectrogram, by a ViT that may be pretrained on photographs.

    Of a pretrained encoder only the last layers are trained, one more from each epoch of `settings.unfreeze_epochs` on.
    While no weight of the encoder requires a gradient, it stays in evaluation mode, without dropout. Random weights
    come from torch's global generator. Source: Dosovitskiy et al. 2021; the stages are the documented ones
    (docs/sources.md).

    Raises:
        ValueError: no such image encoder, or too few layers in it.
    """

    Settings = ViTSettings
    mean: Tensor
    std: Tensor

    def __init__(self, settings: ViTSettings, num_features: int, num_outputs: int) -> None:
        super().__init__()
        shape = settings.encoder_shape()
        self.num_features, self.image_size, self.num_patches = num_features, shape.image_size, shape.num_patches
        self.pooling = settings.pooling
        self.register_buffer("mean", torch.tensor(shape.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(shape.std).view(3, 1, 1), persistent=False)
        self.encoder = _make_encoder(settings)
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
        """Return outputs [B, num_outputs] of standardised `features` [B, T, num_features].

        `num_frames` [B] is the length of each clip without padding; it may stay on the CPU.

        Raises:
            ValueError: wrong shapes.
        """
        states = self.encoder(pixel_values=self.image(features, num_frames))[0]
        # The states of the class token and of other tokens come before those of the patches.
        summary = states[:, 0] if self.pooling == "cls" else states[:, -self.num_patches :].mean(1)
        for dense in self.hidden:
            summary = dense(self.dropout(summary)).relu()
        return self.output(self.dropout(summary))

    def image(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        """Return the image [B, 3, image_size, image_size] of `features` [B, T, num_features].

        Time runs to the right, and the lowest mel is the top row. Standardised values z become (z + 3) / 6, clipped to
        [0, 1]. Padding is set to 0 first, the mean of the training data, and so becomes a middle grey. The image is
        resized bilinearly with antialiasing. Each of three equal channels is normalised as the encoder expects.
        """
        check_features(features, self.num_features, 1, "nothing")
        features = zero_padding(features, clip_lengths(features, num_frames))
        grey = ((features + LIMIT) / (2 * LIMIT)).clamp(0, 1).transpose(1, 2).unsqueeze(1)
        size = (self.image_size, self.image_size)
        picture = F.interpolate(grey, size, mode="bilinear", antialias=True, align_corners=False)
        return (picture - self.mean) / self.std

    def unfreezing(self) -> list[tuple[int, list[nn.Parameter]]]:
        return [(epoch, list(layer.parameters())) for epoch, layer in self.stages]


def _make_encoder(settings: ViTSettings) -> nn.Module:
    if settings.image_encoder is not None:
        return load_encoder(settings.image_encoder, IMAGE, settings.pretrained)
    config = transformers.ViTConfig(
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        intermediate_size=4 * settings.hidden_size,
    )
    return transformers.ViTModel(config, add_pooling_layer=False)
