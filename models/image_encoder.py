"""Pretrained encoders of images: which kinds there are, their sizes, and the values that they were trained to see."""

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from tuning.models.pretrained import PREPROCESSOR, Signature, load_config, load_encoder, preprocessor_of, signature
from tuning.models.settings import ViTSettings

SETTING = "model.image_encoder"
# All give one state for each patch, behind those of a class token and perhaps of others.
KINDS = ("deit", "dinov2", "dinov2_with_registers", "vit", "vit_msn")
SIZES = ("image_size", "patch_size", "hidden_size", "num_hidden_layers")
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # where no preprocessor_config.json says other: ViT's own


@dataclass(frozen=True)
class ImageShape:
    """What config.json and preprocessor_config.json say of an encoder of images.

    Args:
        image_size: height and width of the images.
        patch_size: height and width of a patch.
        hidden_size: values per patch.
        num_layers: transformer layers.
        mean: subtracted from each of three channels with values in [0, 1].
        std: what they are divided by then.
    """

    image_size: int
    patch_size: int
    hidden_size: int
    num_layers: int
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2


def image_shape(settings: ViTSettings) -> ImageShape:
    """Sizes of the encoder that the settings ask for, without its weights.

    Raises:
        ValueError: no such model, no encoder of images, fewer layers than are to be unfrozen; names the setting.
    """
    name = settings.image_encoder
    if name is None:
        return ImageShape(settings.image_size, settings.patch_size, settings.hidden_size, settings.num_layers)
    shape = _shape(name, signature(name, SETTING))
    if len(settings.unfreeze_epochs) > shape.num_layers:
        raise ValueError(
            f"model.unfreeze_epochs: expected at most {shape.num_layers} epochs, one for each layer of '{name}', "
            f"got {settings.unfreeze_epochs}"
        )
    return shape


def make_image_encoder(settings: ViTSettings) -> nn.Module:
    """The encoder that the settings ask for, without a pooler; random weights are drawn from torch's generator.

    Raises:
        ValueError: as `image_shape`, and no or not all weights.
    """
    if settings.image_encoder is not None:
        return load_encoder(settings.image_encoder, SETTING, settings.pretrained)
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        intermediate_size=4 * settings.hidden_size,
    )
    return ViTModel(config, add_pooling_layer=False)


def save_layout(name: str, folder: Path) -> None:
    """Write what `image_shape` reads of an encoder: config.json and preprocessor_config.json, without weights."""
    shape = _shape(name, signature(name, SETTING))
    load_config(name, SETTING).save_pretrained(folder)
    values = {"image_mean": shape.mean, "image_std": shape.std}
    (folder / PREPROCESSOR).write_text(json.dumps(values), encoding="utf-8")


@lru_cache(maxsize=8)
def _shape(name: str, _: Signature) -> ImageShape:
    config = load_config(name, SETTING)
    if config.model_type not in KINDS:
        raise ValueError(
            f"{SETTING}: expected an encoder of images ({', '.join(KINDS)}), got '{name}', a {config.model_type}"
        )
    sizes = []
    for size in SIZES:
        value = getattr(config, size)
        value = value[0] if isinstance(value, (list, tuple)) and len(set(value)) == 1 else value
        if not isinstance(value, int):
            raise ValueError(f"{SETTING}: expected square images and patches in '{name}', got {size} {value}")
        sizes.append(value)
    if config.num_channels != 3:
        raise ValueError(f"{SETTING}: expected an encoder of three channels, got '{name}' with {config.num_channels}")
    mean, std = _normalisation(name)
    image_size, patch_size, hidden_size, num_layers = sizes
    return ImageShape(image_size, patch_size, hidden_size, num_layers, mean, std)


def _normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel."""
    found = preprocessor_of(name, SETTING)
    if found.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = found.get("image_mean", MEAN), found.get("image_std", STD)
    if not (_are_three(mean) and _are_three(std) and min(std) > 0):
        raise ValueError(
            f"{SETTING}: expected three numbers each in image_mean and image_std (above 0) of '{name}', "
            f"got {mean} and {std}"
        )
    return tuple(map(float, mean)), tuple(map(float, std))


def _are_three(values: Any) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) == 3
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    )
