"""Keys that tell apart what the trials of a space read: stored features, banks, texts, generated clips."""

from __future__ import annotations

import json
from typing import NamedTuple

from tuning.config.errors import UserError
from tuning.config.schema import PREPARED, Config
from tuning.config.space import Space
from tuning.data.text import text_key
from tuning.datasets.settings import FeatureSettings, stored_features
from tuning.datasets.store.augmentation_bank import bank_key


class ClipsKey(NamedTuple):
    """Identifies how recordings are read: their stored features and their bank."""

    features: str
    bank: str


class GeneratedKey(NamedTuple):
    """Identifies generated clips: the features that their GAN was trained on, and its settings."""

    features: str
    gan: str


class DataKey(NamedTuple):
    """Identifies all that a configuration reads; `text` is empty if its model reads none."""

    features: str
    bank: str
    text: str
    gan: str

    @property
    def clips(self) -> ClipsKey:
        """The part for recordings."""
        return ClipsKey(self.features, self.bank)

    @property
    def generated(self) -> GeneratedKey:
        """The part for generated clips."""
        return GeneratedKey(self.features, self.gan)


def features_key(features: FeatureSettings) -> str:
    """Identifies the shards of some features; length and padding are decided when a batch is made."""
    return json.dumps(features.model_dump(exclude={"num_frames", "padding"}), sort_keys=True)


def data_key(config: Config) -> DataKey:
    """The key of all that a configuration reads."""
    gan = json.dumps(config.gan.model_dump(mode="json"), sort_keys=True)
    return DataKey(features_key(stored_features_of(config)), bank_key(config.augment), text_key(config), gan)


def stored_features_of(config: Config) -> FeatureSettings:
    """The features that shards hold for a configuration: MFCC with their mel bands if these are masked.

    Raises:
        UserError: frequencies can't be masked.
    """
    try:
        return stored_features(config.features, config.augment)
    except ValueError as error:
        raise UserError(str(error)) from None


def data_variants(space: Space) -> dict[DataKey, Config]:
    """A configuration for each `data_key` that trials may have, at the longest searched length."""
    variants: dict[DataKey, Config] = {}
    for config in space.variants(PREPARED):
        known = variants.get(key := data_key(config))
        if known is None or config.features.num_frames > known.features.num_frames:
            variants[key] = config
    return variants


def feature_variants(space: Space) -> dict[str, FeatureSettings]:
    """The features to store for the trials, by `features_key`, at the longest searched length."""
    variants: dict[str, FeatureSettings] = {}
    for config in data_variants(space).values():
        settings = stored_features_of(config)
        known = variants.get(features_key(settings))
        if known is None or settings.num_frames > known.num_frames:
            variants[features_key(settings)] = settings
    return variants


def searched_effects(space: Space) -> list[str]:
    """The wave effects that some trial may use, in a fixed order."""
    settings = space.fixed().augment
    names = [name for name in type(settings).model_fields if name.endswith("_prob")]
    largest = settings.model_copy(update={name: space.largest(f"augment.{name}") for name in names})
    return list(largest.effects())
