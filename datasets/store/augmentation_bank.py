"""The bank: versions of each training clip under each combination of wave effects, made once for all trials.

A combination is named as `stretch+noise` (`tuning.datasets.settings.effect_combinations`) and has a folder of its own,
so that a space with one more effect reuses those that are made.
"""

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tuning.datasets import storage
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.features.waveform_effects import DEPENDS_ON
from tuning.datasets.hashing import digest_files
from tuning.datasets.settings import AugmentSettings, DataSettings, FeatureSettings
from tuning.datasets.store.build import Prepared, make_missing, shards_with_clips, wanted_shards
from tuning.datasets.store.reader import SealedError
from tuning.datasets.store.shard_index import ShardIndex, bank_fingerprint, features_fingerprint
from tuning.datasets.store.worker import VERSIONS
from tuning.models.pretrained import located

CLIPS_PER_SHARD = 16  # fewer than of plain features, for parallel work: a clip costs a dozen times as much
TASK_BYTES = 1 << 28  # of features that a task holds; where all combinations are more, recordings are decoded again
SILENCE_SLACK_DB = 6.0  # a clip that was just loud enough must not fail because its longer segment is resampled
Bank = dict[str, Prepared]  # by combination


def prepare_bank(
    corpus: Corpus,
    partitions: Mapping[str, str],
    clips: Sequence[Clip],
    sealed: Collection[str],
    features: FeatureSettings,
    num_frames: int,
    data: DataSettings,
    augment: AugmentSettings,
    combinations: Sequence[str],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Bank:
    """Make the missing versions of `clips` under each combination, and return the shards by combination.

    Only the recordings of `clips` (to train on) are opened; `sealed` are the ids of test clips. The other arguments are
    those of `tuning.datasets.store.build.prepare`. A recording is decoded once for all combinations, as far as memory
    allows; one that can't be used is left out. Probabilities do not matter here.

    Raises SealedError for a test clip, and ValueError when the disk lacks the space, before anything is made, or when a
    recording changes while it is read.
    """
    if held := sorted({clip.id for clip in clips}.intersection(sealed)):
        raise SealedError(f"augment: {len(held)} clips are sealed for the test, '{held[0]}' among them")
    prepared = storage.absolute(data.prepared)
    digests, _ = digest_files(corpus.root, [clip.id for clip in clips], prepared, data.verify)
    plain = features_fingerprint(features, num_frames, data)
    fingerprints = {name: bank_fingerprint(plain, name, augment, features.segment) for name in combinations}
    indexes = {
        name: ShardIndex.read(storage.below(prepared, "augmented", f"{name.replace('+', '_')}-{fingerprint}"))
        for name, fingerprint in fingerprints.items()
    }
    wanted = wanted_shards(partitions, digests, CLIPS_PER_SHARD)
    num_missing = sum(len(wanted[shard][1]) for index in indexes.values() for shard in wanted.keys() - index.records)
    of_version = row_bytes(num_frames, features.num_features, features.stored_as)
    _check_space(prepared, num_missing * augment.versions * of_version)
    quality = data.model_copy(update={"silence_dbfs": data.silence_dbfs - SILENCE_SLACK_DB})
    settings = {
        "features": features.model_dump() | {"encoder": features.encoder and located(features.encoder)},
        "num_frames": num_frames,
        "data": quality.model_dump(),
        "augment": _bank_settings(augment),
    }
    unreadable = len(clips) - len(digests)
    extracted: dict[str, int] = {}
    at_once = max(1, TASK_BYTES // (CLIPS_PER_SHARD * augment.versions * of_version))
    for start in range(0, len(combinations), at_once):
        part = {name: indexes[name] for name in combinations[start : start + at_once]}
        extracted |= make_missing(
            corpus.root, part, wanted, settings, lambda done: on_progress(unreadable + done, len(clips)), VERSIONS
        )
    bank = {}
    for name, index in indexes.items():
        records = [index.records[shard] for shard in wanted]
        bank[name] = Prepared(
            root=index.folder,
            fingerprint=fingerprints[name],
            shards=shards_with_clips(records),
            quarantine=[(clip, r.reasons[d]) for r in records for clip, d in r.clips if d in r.reasons],
            quarantine_table="",
            digests=digests,
            num_extracted=extracted[name],
            num_reused=len(digests) - extracted[name],
            num_frames=num_frames,
            num_features=features.num_features,
            versions=augment.versions,
            stored_as=features.stored_as,
        )
    return bank


def _check_space(prepared: str, num_bytes: int) -> None:
    """Raise ValueError if a local folder has no space for so many bytes. Of a bucket nobody knows."""
    if storage.is_uri(prepared):
        return
    os.makedirs(prepared, exist_ok=True)
    if num_bytes > (free := shutil.disk_usage(prepared).free):
        raise ValueError(
            f"augment: expected a bank that fits on the disk of data.prepared ({free / 1e9:.2g} GB free in "
            f"{prepared}), got {num_bytes / 1e9:.2g} GB to be made; every further effect doubles it, and fewer "
            "augment.versions take less"
        )


def row_bytes(num_frames: int, num_features: int, stored_as: str = "float32") -> int:
    """Bytes of the features of a clip, or of one version of it."""
    return np.dtype(stored_as).itemsize * num_frames * num_features


def bank_key(augment: AugmentSettings) -> str:
    """The same text for settings that draw from the same bank, features apart."""
    return json.dumps(_bank_settings(augment), sort_keys=True)


def _bank_settings(augment: AugmentSettings) -> dict[str, Any]:
    return augment.model_dump(include={*DEPENDS_ON.values(), "versions"})


def bank_bytes(bank: Bank, num_clips: int) -> int:
    """Bytes of a bank of `num_clips` in memory."""
    return sum(
        num_clips * (p.versions or 1) * row_bytes(p.num_frames, p.num_features, p.stored_as) for p in bank.values()
    )
