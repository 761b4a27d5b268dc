"""What is computed once and shared by all trials, each under a lock, and found again by its fingerprint.

Four stages: the features of every recording, in as many variants as the space has, the texts that belong to them
(`text_stage`), the bank of augmented training clips, and those that a GAN makes (`gan_stage`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import filelock

from tuning.config.errors import UserError
from tuning.config.schema import PREPARED, Config
from tuning.config.space import Space
from tuning.data.generated_clips import SHARE, gan_key, prepare_synthetic
from tuning.data.text import prepare_texts, text_key, text_of, text_variants
from tuning.datasets import storage, versions
from tuning.datasets.bank import Bank, bank_key, prepare_bank
from tuning.datasets.corpus import Corpus
from tuning.datasets.digests import digest_files, digest_of
from tuning.datasets.fold_data import FoldsWithText, open_folds
from tuning.datasets.masks import stored_features
from tuning.datasets.quarantine import QuarantineError
from tuning.datasets.settings import FeatureSettings, SplitSettings
from tuning.datasets.shards import Prepared, prepare
from tuning.datasets.snapshot import snapshot_of
from tuning.datasets.splits import Split, cells, check_duplicates, inner_folds, without
from tuning.datasets.stream import RESIDENT_SHARE, open_data
from tuning.datasets.synthetic import Synthetic, WithSynthetic
from tuning.datasets.text_data import Texts, WithText
from tuning.training.cross_validation import constant_baseline
from tuning.training.encoders import image_variants, snapshots
from tuning.training.tasks import task_of


def search_identity(space: Space, corpus: Corpus) -> dict[str, Any]:
    """What the trials of a search read, apart from its settings and its split, as JSON keeps it.

    `corpus`: recordings by content, with their labels, groups and folds. `lyrics`: where models read texts, theirs by
    content. `encoders`: what each pretrained encoder holds that a trial may load. `libraries`: versions of those
    whose numbers are in features and texts.

    Raises:
        UserError: the folder for prepared features can't be used.
    """
    clips = sorted(corpus.clips, key=lambda clip: clip.id)
    features, texts = feature_variants(space).values(), text_variants(space).values()
    recordings = _digests(corpus, [clip.id for clip in clips], space.fixed())
    lines = (
        json.dumps([clip.id, recordings.get(clip.id), *clip.targets, clip.group, clip.fold, clip.split])
        for clip in clips
    )
    identity: dict[str, Any] = {"corpus": digest_of(*lines), "num_clips": len(clips)}
    if texts:
        of_file = _digests(corpus, sorted({text_of(clip) for clip in clips}), space.fixed())
        words = (json.dumps([clip.id, file := text_of(clip), of_file.get(file)]) for clip in clips)
        identity["lyrics"] = digest_of(*words)
    speech = sorted({str(f.encoder) for f in features if f.name == "encoder"})
    identity["encoders"] = {f"features.encoder={encoder}": snapshot_of(encoder) for encoder in speech}
    identity["encoders"] |= snapshots([*texts, *image_variants(space)])
    read_as = {cast(Any, config.model).text_input for config in texts}
    libraries = [*map(versions.of_features, features), *map(versions.of_texts, read_as)]
    identity["libraries"] = {name: version for found in libraries for name, version in found.items()}
    return identity


def _digests(corpus: Corpus, files: list[str], config: Config) -> dict[str, str]:
    data = config.data
    try:
        return digest_files(corpus.root, files, data.prepared, data.verify)[0]
    except OSError as error:
        raise UserError(f"data.prepared: expected a folder to write in, got '{data.prepared}' ({error})") from None


def variant_key(features: FeatureSettings) -> str:
    """Names the shards a configuration reads: its features but for what is decided when a batch is made."""
    return json.dumps(features.model_dump(exclude={"num_frames", "padding"}), sort_keys=True)


def data_key(config: Config) -> str:
    """Names what a configuration reads: its stored features, the bank that it draws from, its texts, a GAN's clips."""
    return clips_key(config) + text_key(config) + gan_key(config)


def clips_key(config: Config) -> str:
    """Of `data_key` what the recordings alone are read by."""
    return variant_key(stored(config)) + bank_key(config.augment)


def stored(config: Config) -> FeatureSettings:
    """The features that shards hold for a configuration: mel bands, too, where they are masked under cepstra.

    Raises:
        UserError: frequencies can't be masked.
    """
    try:
        return stored_features(config.features, config.augment)
    except ValueError as error:
        raise UserError(str(error)) from None


def data_variants(space: Space) -> dict[str, Config]:
    """A configuration for each `data_key` that the trials may ask for, each at the longest searched length."""
    variants: dict[str, Config] = {}
    for config in space.variants(PREPARED):
        known = variants.get(key := data_key(config))
        if known is None or config.features.num_frames > known.features.num_frames:
            variants[key] = config
    return variants


def feature_variants(space: Space) -> dict[str, FeatureSettings]:
    """Every feature setting that is stored for the trials, each at the longest searched length."""
    variants: dict[str, FeatureSettings] = {}
    for config in data_variants(space).values():
        settings = stored(config)
        known = variants.get(variant_key(settings))
        if known is None or settings.num_frames > known.num_frames:
            variants[variant_key(settings)] = settings
    return variants


def searched_effects(space: Space) -> list[str]:
    """The wave effects that some trial may draw, in a fixed order."""
    settings = space.fixed().augment
    names = [name for name in type(settings).model_fields if name.endswith("_prob")]
    likeliest = settings.model_copy(update={name: space.largest(f"augment.{name}") for name in names})
    return list(likeliest.effects())


def prepare_features(
    space: Space,
    config: Config,
    corpus: Corpus,
    split: Split,
    on_progress: Callable[[int, int], None],
) -> dict[str, Prepared]:
    """Make sure that every feature variant lies in shards, by `variant_key`, and every variant of texts, by `text_key`.

    With everything in place Ray is not needed; otherwise the caller has started it.

    Raises:
        UserError: too many recordings can't be used.
    """
    clip_cells = cells(corpus.clips, split)
    found: dict[str, Prepared] = {}
    with _lock(config.data.prepared):
        for key, settings in feature_variants(space).items():
            try:
                found[key] = prepare(corpus, clip_cells, settings, settings.num_frames, config.data, on_progress)
            except QuarantineError as error:
                raise UserError(str(error)) from error
        for key, variant in text_variants(space).items():
            try:
                found[key] = prepare_texts(corpus, clip_cells, variant, on_progress)
            except QuarantineError as error:
                raise UserError(str(error)) from error
    return found


def prepare_banks(
    space: Space,
    config: Config,
    corpus: Corpus,
    split: Split,
    on_progress: Callable[[int, int], None],
) -> dict[str, Bank]:
    """Make sure that every bank of augmented training clips that the trials draw from lies in shards; by `data_key`.

    With inner folds it holds the validation clips, too, which train in other folds; test clips never.
    """
    effects = searched_effects(space)
    if not effects:
        return {}
    clip_cells = cells(corpus.clips, split)
    clips = split.train + split.val if config.split.inner_folds is not None else split.train
    sealed = [clip.id for clip in split.test]
    longest = {key: settings.num_frames for key, settings in feature_variants(space).items()}
    found: dict[str, Bank] = {}
    with _lock(config.data.prepared):
        for key, variant in data_variants(space).items():
            features = stored(variant)
            frames = longest[variant_key(features)]
            found[key] = prepare_bank(
                corpus, clip_cells, clips, sealed, features, frames, config.data, variant.augment, effects, on_progress
            )
    return found


def usable_split(split: Split, prepared: dict[str, Prepared], settings: SplitSettings) -> Split:
    """The split without quarantined clips; with `split.inner_folds` the others are dealt, unless they were before.

    Raises:
        UserError: one recording stands in two splits, a split is left empty, the clips don't allow so many folds.
    """
    try:
        for variant in prepared.values():
            check_duplicates(split, variant.digests)
            split = without(split, [clip for clip, _ in variant.quarantine])
        if settings.inner_folds is not None and not split.inner:
            split = inner_folds(split, settings)
    except ValueError as error:
        raise UserError(str(error)) from error
    return split


def share_data(
    prepared: dict[str, Prepared], banks: dict[str, Bank], split: Split, space: Space, config: Config
) -> tuple[dict[str, Any], dict[str, float]]:
    """What trials read in Ray's object store, by `data_key` and for `fetch`, and the constant predictor's figures.

    With `split.inner_folds` the data are `tuning.training.cross_validation.Folds`, and the figures the mean over folds.

    Raises:
        SealedError: a shard that would be opened holds a test clip.
        UserError: a bank that does not fit into memory.
    """
    import ray

    variants = data_variants(space)
    parts: dict[str, Any] = {}
    baseline: dict[str, float] = {}
    store_bytes = int(ray.cluster_resources().get("object_store_memory", 0))
    texts = {key: open_texts(prepared[key], split, store_bytes) for key in text_variants(space)}
    store_bytes -= sum(text.num_bytes for text in texts.values())
    num_kinds = len({clips_key(variant) for variant in variants.values()})
    task = task_of(config)
    for key, variant in variants.items():
        if (clips := clips_key(variant)) in parts:
            continue
        try:
            data = open_clips(prepared, banks.get(key), split, variant, store_bytes // num_kinds)
            parts[clips] = ray.put(data)
            if not baseline and config.split.inner_folds is not None:
                baseline = constant_baseline(task, data)
            elif not baseline:
                baseline = task.constant_baseline(data.train_targets, data.val_targets)
        except ValueError as error:
            raise UserError(str(error)) from error
    parts |= {key: ray.put(text) for key, text in texts.items()}
    for key, folder in prepare_generated(space, config, prepared, split).items():
        parts[key] = ray.put(Synthetic.read(folder))
    return {
        key: [parts[name] for name in (clips_key(variant), text_key(variant), generated_key(variant)) if name in parts]
        for key, variant in variants.items()
    }, baseline


def generated_key(config: Config) -> str:
    """Names a GAN's clips, which have the features of the recordings that it was trained on."""
    return variant_key(stored(config)) + gan_key(config)


def prepare_generated(
    space: Space,
    config: Config,
    prepared: dict[str, Prepared],
    split: Split,
    on_begin: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Make sure that every GAN that the trials draw from is trained; the folders of their clips by `generated_key`.

    `on_begin` is called for each that is to be trained. Ray is running.
    """
    if space.largest(SHARE) == 0:
        return {}
    wanted = {generated_key(variant): variant for variant in data_variants(space).values()}

    def make(variant: Config) -> str:
        return prepare_synthetic(prepared[variant_key(stored(variant))], variant, split, on_begin)

    with _lock(config.data.prepared), ThreadPoolExecutor(len(wanted)) as pool:  # of tasks that wait for Ray
        return dict(zip(wanted, pool.map(make, wanted.values()), strict=True))


def fetch(parts: list[Any]) -> Any:
    """What `share_data` shared for one `data_key`, in a process that reads it."""
    import ray

    return joined(*ray.get(parts))


def open_variant(
    prepared: dict[str, Prepared], bank: Bank | None, split: Split, config: Config, store_bytes: int = sys.maxsize
) -> Any:
    """What trials of one `data_key` read: in memory where it fits into the bytes; folds with `split.inner_folds`."""
    data = open_clips(prepared, bank, split, config, store_bytes)
    others: list[Any] = []
    if key := text_key(config):
        others.append(open_texts(prepared[key], split))
    if config.augment.synthetic_share > 0:
        others.append(Synthetic.read(prepare_synthetic(prepared[variant_key(stored(config))], config, split)))
    return joined(data, *others)


def open_clips(prepared: dict[str, Prepared], bank: Bank | None, split: Split, config: Config, store_bytes: int) -> Any:
    """As `open_variant`, without texts."""
    features, loading = prepared[variant_key(stored(config))], config.data.loading
    if config.split.inner_folds is not None:
        return open_folds(features, split, loading, store_bytes, bank)
    return open_data(features, split, loading, store_bytes, bank)


def open_texts(prepared: Prepared, split: Split, store_bytes: int = sys.maxsize) -> Texts:
    """The texts of train and validation.

    Raises:
        SealedError: a shard that would be opened holds a test clip.
        UserError: they do not fit into the bytes.
    """
    wanted = [clip.id for clip in split.train + split.val]
    texts = Texts.read(prepared, wanted, {clip.id for clip in split.test})
    if texts.num_bytes > RESIDENT_SHARE * store_bytes:
        raise UserError(
            f"model.text_cache: expected states of texts that fit into half of the object store "
            f"({store_bytes / 1e9:.2g} GB), got {texts.num_bytes / 1e9:.2g} GB; fewer model.max_tokens take less, and "
            "with model.text_cache=false they are computed at each step"
        )
    return texts


def joined(data: Any, *others: Texts | Synthetic) -> Any:
    """Data, or folds, with the texts of their clips; with a GAN's clips among those to train on."""
    for other in others:
        if isinstance(other, Synthetic):
            data = WithSynthetic(data, other)
        else:
            data = WithText(data, other) if hasattr(data, "train_batches") else FoldsWithText(data, other)
    return data


@contextmanager
def _lock(prepared: str) -> Iterator[None]:
    """One preparation at a time in a local folder; shards in a bucket are whole or absent, and named by content."""
    if storage.is_uri(prepared):
        yield
        return
    Path(prepared).mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(Path(prepared) / ".lock"):
        yield
