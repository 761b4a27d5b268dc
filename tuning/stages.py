"""What is computed once and shared by all trials, each under a lock, and found again by its fingerprint.

So far one stage: the features of every recording, in as many variants as the space has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from datasets import storage
from datasets.corpus import Corpus
from datasets.digests import digest_files, digest_of
from datasets.quarantine import QuarantineError
from datasets.settings import FeatureSettings
from datasets.shards import Prepared, prepare
from datasets.splits import Split, cells, check_duplicates, without
from datasets.stream import open_data
from tuning.checks import UserError
from tuning.config import Config
from tuning.space import Space
from tuning.tasks import task_of


def corpus_fingerprint(corpus: Corpus, config: Config) -> dict[str, Any]:
    """What a search was begun with: recordings by content, with their labels, groups and folds.

    Raises:
        UserError: the folder for prepared features can't be used.
    """
    try:
        digests, _ = digest_files(corpus.root, [clip.id for clip in corpus.clips], config.data.prepared)
    except OSError as error:
        raise UserError(
            f"data.prepared: expected a folder to write in, got '{config.data.prepared}' ({error})"
        ) from None
    lines = (
        json.dumps([clip.id, digests.get(clip.id), *clip.targets, clip.group, clip.fold, clip.split])
        for clip in sorted(corpus.clips, key=lambda clip: clip.id)
    )
    return {"corpus": digest_of(*lines), "num_clips": len(corpus.clips)}


def variant_key(features: FeatureSettings) -> str:
    """Names the shards a configuration reads: its features but for the number of frames, which is a crop."""
    return json.dumps(features.model_dump(exclude={"num_frames"}), sort_keys=True)


def feature_variants(space: Space) -> dict[str, FeatureSettings]:
    """Every feature setting that the trials may ask for, each at the longest searched length."""
    searched = Space(space.settings, {p: d for p, d in space.distributions.items() if p.startswith("features.")})
    variants: dict[str, FeatureSettings] = {}
    for point in searched.grid():
        settings = space.config({p: d.at(0.0) for p, d in space.distributions.items()} | point).features
        known = variants.get(variant_key(settings))
        if known is None or settings.num_frames > known.num_frames:
            variants[variant_key(settings)] = settings
    return variants


def prepare_features(
    space: Space,
    config: Config,
    corpus: Corpus,
    split: Split,
    on_progress: Callable[[int, int], None],
) -> dict[str, Prepared]:
    """Make sure that every feature variant lies in shards; by `variant_key`.

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
    return found


def usable_split(split: Split, prepared: dict[str, Prepared]) -> Split:
    """The split without quarantined clips.

    Raises:
        UserError: one recording stands in two splits, or a split is left empty.
    """
    try:
        for variant in prepared.values():
            check_duplicates(split, variant.digests)
            split = without(split, [clip for clip, _ in variant.quarantine])
    except ValueError as error:
        raise UserError(str(error)) from error
    return split


def share_data(prepared: dict[str, Prepared], split: Split, config: Config) -> tuple[dict[str, Any], dict[str, float]]:
    """Each variant's training and validation data in Ray's object store, and the constant predictor's figures.

    Raises:
        SealedError: a shard that would be opened holds a test clip.
    """
    import ray

    store_bytes = int(ray.cluster_resources().get("object_store_memory", 0) / len(prepared))
    opened = {key: open_data(variant, split, config.data.loading, store_bytes) for key, variant in prepared.items()}
    some = next(iter(opened.values()))
    baseline = task_of(config).constant_baseline(some.train_targets, some.val_targets)
    return {key: ray.put(data) for key, data in opened.items()}, baseline


@contextmanager
def _lock(prepared: str) -> Iterator[None]:
    """One preparation at a time in a local folder; shards in a bucket are whole or absent, and named by content."""
    if storage.is_uri(prepared):
        yield
        return
    Path(prepared).mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(Path(prepared) / ".lock"):
        yield
