"""What the trials of a space read, told apart by typed keys: stored features, a bank, texts, generated clips."""

from __future__ import annotations

import json
from typing import NamedTuple

from tuning.config.errors import UserError
from tuning.config.schema import PREPARED, Config
from tuning.config.space import Space
from tuning.data.generated_clips import gan_key
from tuning.data.text import text_key
from tuning.datasets.loaders.spec_augment import stored_features
from tuning.datasets.settings import FeatureSettings
from tuning.datasets.store.augmentation_bank import bank_key


class ClipsKey(NamedTuple):
    """Names what the recordings are read as: by their stored features and the bank of augmented versions."""

    features: str
    bank: str


class GeneratedKey(NamedTuple):
    """Names a GAN's clips, which have the features of the recordings that it was trained on."""

    features: str
    gan: str


class DataKey(NamedTuple):
    """Names everything that a configuration reads; `text` is empty where its model reads none."""

    features: str
    bank: str
    text: str
    gan: str

    @property
    def clips(self) -> ClipsKey:
        """The part that recordings are read by."""
        return ClipsKey(self.features, self.bank)

    @property
    def generated(self) -> GeneratedKey:
        """The part that generated clips are read by."""
        return GeneratedKey(self.features, self.gan)


def features_key(features: FeatureSettings) -> str:
    """Names the shards a configuration reads: its features but for what is decided when a batch is made."""
    return json.dumps(features.model_dump(exclude={"num_frames", "padding"}), sort_keys=True)


def data_key(config: Config) -> DataKey:
    """Names what a configuration reads: its stored features, the bank that it draws from, its texts, a GAN's clips."""
    return DataKey(features_key(stored(config)), bank_key(config.augment), text_key(config), gan_key(config))


def stored(config: Config) -> FeatureSettings:
    """The features that shards hold for a configuration: mel bands, too, where they are masked under cepstra.

    Raises:
        UserError: frequencies can't be masked.
    """
    try:
        return stored_features(config.features, config.augment)
    except ValueError as error:
        raise UserError(str(error)) from None


def data_variants(space: Space) -> dict[DataKey, Config]:
    """A configuration for each `data_key` that the trials may ask for, each at the longest searched length."""
    variants: dict[DataKey, Config] = {}
    for config in space.variants(PREPARED):
        known = variants.get(key := data_key(config))
        if known is None or config.features.num_frames > known.features.num_frames:
            variants[key] = config
    return variants


def feature_variants(space: Space) -> dict[str, FeatureSettings]:
    """Every feature setting that is stored for the trials, by `features_key`, each at the longest searched length."""
    variants: dict[str, FeatureSettings] = {}
    for config in data_variants(space).values():
        settings = stored(config)
        known = variants.get(features_key(settings))
        if known is None or settings.num_frames > known.num_frames:
            variants[features_key(settings)] = settings
    return variants


def searched_effects(space: Space) -> list[str]:
    """The wave effects that some trial may draw, in a fixed order."""
    settings = space.fixed().augment
    names = [name for name in type(settings).model_fields if name.endswith("_prob")]
    likeliest = settings.model_copy(update={name: space.largest(f"augment.{name}") for name in names})
    return list(likeliest.effects())
