"""Keys that tell apart what the trials of a space read: stored features, banks, texts, generated clips."""

from __future__ import annotations

import json
from typing import NamedTuple

from tuning.config.errors import UserError
from tuning.config.schema import PREPARED, Config
from tuning.config.space import Space
from tuning.data.text import text_key
from tuning.datasets.settings import WAVE_EFFECTS, FeatureSettings, effect_combinations, stored_features
from tuning.datasets.store.augmentation_bank import bank_key, row_bytes


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
    """Identifies the shards of some features; length, padding and scale are decided when a batch is made."""
    unread = {"num_frames", "padding", "normalise"} | (set() if features.is_pooled else {"pooled_seconds"})
    return json.dumps(features.model_dump(exclude=unread), sort_keys=True)


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
    """The wave effects that some trial may use, in the order in which they are applied."""
    return [effect for effect in WAVE_EFFECTS if space.largest(f"augment.{effect}_prob") > 0]


def searched_combinations(space: Space) -> list[str]:
    """The combinations of wave effects that some trial may draw: with every effect that no trial does without."""
    effects = searched_effects(space)
    return effect_combinations(effects, [e for e in effects if min(space.values(f"augment.{e}_prob")) == 1])


class BankCost(NamedTuple):
    """What the banks of a space hold of each training clip."""

    versions: int
    num_bytes: int


def bank_cost(space: Space) -> BankCost:
    """Versions of each training clip in all banks of a space, and their bytes, on disk as in memory."""
    longest = {key: settings.num_frames for key, settings in feature_variants(space).items()}
    count, versions, size = len(searched_combinations(space)), 0, 0
    for key, config in {key.clips: config for key, config in data_variants(space).items()}.items():
        made = count * config.augment.versions
        versions += made
        stored = stored_features_of(config)
        size += made * row_bytes(longest[key.features], stored.num_features, stored.stored_as)
    return BankCost(versions, size)


def describe_bank(space: Space, num_clips: int | None) -> str:
    """Say how many versions of the training clips the banks of a space hold, and their size; empty for none.

    Where the number of clips is not known, the size is that of one.
    """
    effects, cost = searched_effects(space), bank_cost(space)
    if not effects:
        return ""
    count = len(searched_combinations(space))
    combined = f" in {count} combinations" if len(effects) > 1 else ""
    size = f"{cost.num_bytes / 1e6:.3g} MB of each"
    if num_clips is not None:
        total = num_clips * cost.num_bytes
        size = f"{total / 1e9:.3g} GB" if total >= 1e9 else f"{total / 1e6:.3g} MB"
    clips = "each training clip" if num_clips is None else f"each of {num_clips:,} training clips"
    return f"a bank of {cost.versions} versions of {clips}, {size}: {', '.join(effects)}{combined}"
