"""The pretrained encoder that a model's settings name: found from any folder, checked, kept beside a saved model."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tuning.config.errors import UserError
from tuning.config.schema import Config
from tuning.config.space import Space
from tuning.datasets import storage
from tuning.models.encoder_snapshot import snapshot_of

DEMO = "demo"  # the text encoder that the demo corpus makes
IMAGE = "image_encoder"
# What an image encoder is checked by.
IMAGES = ("model.image_encoder", "model.pretrained", "model.unfreeze_epochs")


def reads_text(config: Config) -> bool:
    """Whether the configuration's model has an input for text."""
    return hasattr(config.model, "text_input")


def needs_text(config: Config) -> bool:
    """Whether predictions depend on text."""
    return reads_text(config) and getattr(config.model, "modalities", "both") != "audio"


def sees_images(config: Config) -> bool:
    """Whether the configuration's model has an encoder of images that was pretrained, or is laid out like one."""
    return getattr(config.model, IMAGE, None) is not None


def encoder_of(config: Config) -> str:
    """The encoder as any process here finds it: a folder by its absolute path, or a hub name; empty where none is."""
    if not (setting := _setting(config)):
        return ""
    name: str = getattr(config.model, setting)
    if name == DEMO and setting != IMAGE:
        from tuning.datasets.demo.songs import encoder_folder

        return _at_hand(encoder_folder(config.data))
    folder = Path(name).expanduser()
    return str(folder.absolute()) if folder.is_dir() else name


def located(config: Config, encoder: str | None = None) -> Config:
    """The configuration with its encoder where `encoder` says, by default as this process finds it.

    Trials run in other folders, to which paths are not relative.
    """
    setting = _setting(config)
    return _with_model(config, {setting: encoder or encoder_of(config)}) if setting else config


def save_encoder(config: Config, folder: Path) -> None:
    """Keep beside a model what it takes to build it: layouts, the tokenizer, and a frozen text encoder's weights."""
    encoder, place = encoder_of(config), folder / _setting(config)
    if not (needs_text(config) or sees_images(config)):
        return
    from tuning.models.pretrained import load_config, load_encoder, load_tokenizer, quiet

    settings: Any = config.model
    if sees_images(config):
        from tuning.models.image_encoder import save_layout

        save_layout(encoder, place)
        return
    setting = f"model.{place.name}"
    # Of an encoder that is trained the weights are among the model's.
    load: Any = load_config if settings.text_input == "tokens" else load_encoder
    tokenizer, encoder_or_settings = load_tokenizer(encoder, setting), load(encoder, setting)
    with quiet():
        tokenizer.save_pretrained(place)
        encoder_or_settings.save_pretrained(place)


def with_saved_encoder(config: Config, folder: Path) -> Config:
    """The configuration of a saved model with the encoder that lies beside it, if any."""
    setting = _setting(config)
    place = folder / setting
    if not (needs_text(config) or sees_images(config)) or not place.is_dir():
        return config
    settings: Any = config.model
    # Weights that are the model's own are filled in afterwards.
    own: dict[str, Any] = {}
    if setting == IMAGE:
        own = {"pretrained": False, "unfreeze_epochs": []}
    elif settings.text_input == "tokens":
        own = {"text_pretrained": False}
    return _with_model(config, {setting: str(place.absolute()), **own})


def image_variants(space: Space) -> list[Config]:
    """A configuration for each image encoder, and each way of training it, that the trials may ask for."""
    return list(space.variants(IMAGES))


def snapshots(configs: Iterable[Config]) -> dict[str, str]:
    """What the encoders of models stand for now (`snapshot_of`), by setting and value."""
    settings = ((config, setting) for config in configs if (setting := _setting(config)))
    return {f"model.{setting}={getattr(c.model, setting)}": snapshot_of(encoder_of(c)) for c, setting in settings}


def check_images(configs: Iterable[Config]) -> None:
    """Whether the image encoders of configurations are there and have what is asked of them.

    Raises:
        UserError: with what is missing and how to get it.
    """
    for config in configs:
        if not sees_images(config):
            continue
        from tuning.models.image_encoder import SETTING, image_shape
        from tuning.models.pretrained import check_weights

        settings: Any = located(config).model
        try:
            if settings.pretrained:
                check_weights(settings.image_encoder, SETTING)
            image_shape(settings)
        except ValueError as error:
            raise UserError(str(error)) from None


def _setting(config: Config) -> str:
    """The setting of the model that names its encoder; empty where there is none."""
    if reads_text(config):
        return "text_encoder"
    return IMAGE if sees_images(config) else ""


def _with_model(config: Config, changed: dict[str, Any]) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update=changed)})


@functools.lru_cache(maxsize=4)
def _at_hand(folder: str) -> str:
    """A folder on this machine with what lies in a folder or bucket."""
    if not storage.is_uri(folder):
        return folder
    local = tempfile.mkdtemp(prefix="text-encoder-")
    for name in storage.list_names(folder):
        storage.write_bytes(local, name, storage.read_bytes(folder, name))
    return local
