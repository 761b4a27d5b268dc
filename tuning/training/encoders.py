"""The pretrained encoder that a model's settings name: located, checked, and kept with a saved model."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tuning.config.errors import UserError
from tuning.config.schema import Config
from tuning.config.space import Space
from tuning.datasets import storage
from tuning.models import pretrained
from tuning.models.encoder_shapes import SPEECH

LAYOUT = "encoder"  # folder in a saved model, with the configuration of the encoder whose layers it trained
DEMO, DEMO_CORPUS = "demo", "demo_bimodal"  # the text encoder that this corpus makes
# Settings that decide which image encoder is loaded, and what is asked of it.
IMAGES = ("model.image_encoder", "model.pretrained", "model.unfreeze_epochs")


def reads_text(config: Config) -> bool:
    """Return whether the configuration's model has an input for text."""
    return config.model.text_input is not None


def needs_text(config: Config) -> bool:
    """Return whether predictions depend on text."""
    return config.model.needs_text


def encoder_of(config: Config) -> str:
    """Return the encoder as any process here finds it: a folder's absolute path, or a hub name; empty if none."""
    if config.model.encoder_training is not None:
        return pretrained.located(str(config.features.encoder))
    if config.model.encoder_setting is None:
        return ""
    if _is_demo(config):
        from tuning.datasets.demo.songs import encoder_folder

        return _local_copy(encoder_folder(config.data))
    return pretrained.located(_named(config))


def located(config: Config, encoder: str | None = None) -> Config:
    """Return the configuration with `encoder` as its encoder, by default as this process finds it.

    Trials run in other folders, where relative paths would not be found.
    """
    if config.model.encoder_training is not None:
        features = config.features.model_copy(update={"encoder": encoder or encoder_of(config)})
        return config.model_copy(update={"features": features})
    setting = config.model.encoder_setting
    if setting is None:
        return config
    return _with_model(config, config.model.model_copy(update={setting: encoder or encoder_of(config)}))


def save_encoder(config: Config, folder: Path) -> None:
    """Write those parts of the encoder into a saved model's folder that building the model needs."""
    if config.model.encoder_training is not None:
        pretrained.save_parts(encoder_of(config), SPEECH, folder / LAYOUT, ("config",))
    setting = config.model.encoder_setting
    if setting is not None and config.model.encoder_parts:
        pretrained.save_parts(encoder_of(config), f"model.{setting}", folder / setting, config.model.encoder_parts)


def saved_layout(config: Config, folder: Path) -> str | None:
    """Return the folder with the configuration of the encoder whose layers are part of a saved model, if any are."""
    return str(folder / LAYOUT) if config.model.encoder_training is not None else None


def with_saved_encoder(config: Config, folder: Path) -> Config:
    """Return the configuration of a saved model with the encoder that was saved with it, if any."""
    setting = config.model.encoder_setting
    if setting is None or not config.model.encoder_parts or not (folder / setting).is_dir():
        return config
    return _with_model(config, config.model.with_saved_encoder(str((folder / setting).absolute())))


def without_pretrained_weights(config: Config) -> Config:
    """Return the configuration of a model whose own weights, which include its encoder's, are loaded afterwards."""
    setting = config.model.encoder_setting
    if setting is None or getattr(config.model, setting) is None:
        return config
    return _with_model(config, config.model.with_saved_encoder(getattr(config.model, setting)))


def image_variants(space: Space) -> list[Config]:
    """Return a configuration for each image encoder, and each way of training it, that trials may ask for."""
    return list(space.variants(IMAGES))


def snapshots(configs: Iterable[Config]) -> dict[str, str]:
    """Return what the encoders of configurations stand for now (`snapshot_of`), by setting and value."""
    return {
        f"model.{config.model.encoder_setting}={_named(config)}": pretrained.snapshot_of(encoder_of(config))
        for config in configs
        if config.model.encoder_setting is not None
    }


def check_encoders(configs: Iterable[Config]) -> None:
    """Check that the encoders of configurations are there and fit their other settings.

    Raises:
        UserError: names what is missing and how to get it.
    """
    for config in configs:
        if _is_demo(config):
            if config.data.corpus != DEMO_CORPUS:
                raise UserError(
                    f"model.text_encoder: expected a hub name or a folder with data.corpus={config.data.corpus}, got "
                    f"'{DEMO}', which data.corpus={DEMO_CORPUS} brings along"
                )
            continue  # made with the corpus
        try:
            config.model.check_encoder()
        except ValueError as error:
            raise UserError(str(error)) from None


def _named(config: Config) -> str:
    """Return the value of the setting that names the encoder."""
    return str(getattr(config.model, str(config.model.encoder_setting)))


def _is_demo(config: Config) -> bool:
    return reads_text(config) and _named(config) == DEMO


def _with_model(config: Config, model: object) -> Config:
    return config.model_copy(update={"model": model})


@functools.lru_cache(maxsize=4)
def _local_copy(folder: str) -> str:
    """Return a folder on this machine with the files of a folder or bucket."""
    if not storage.is_uri(folder):
        return folder
    local = tempfile.mkdtemp(prefix="text-encoder-")
    for name in storage.list_names(folder):
        storage.write_bytes(local, name, storage.read_bytes(folder, name))
    return local
