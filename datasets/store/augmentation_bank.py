"""The bank: each training clip in several versions under each wave effect, made once and drawn from by all trials."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence

from tuning.datasets import storage
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.features.waveform_effects import DEPENDS_ON
from tuning.datasets.hashing import digest_files
from tuning.datasets.settings import AugmentSettings, DataSettings, FeatureSettings
from tuning.datasets.store.build import Prepared, ShardInfo, make_missing, wanted_shards
from tuning.datasets.store.reader import SealedError
from tuning.datasets.store.shard_index import ShardIndex, bank_fingerprint, fingerprint
from tuning.models.pretrained import located

CLIPS_PER_SHARD = 16  # fewer than of plain features: each costs a dozen times the work, and shards are made in parallel
SILENCE_SLACK_DB = 6.0  # a clip that was just loud enough must not fail because another cut of it was resampled
Bank = dict[str, Prepared]  # by effect


def prepare_bank(
    corpus: Corpus,
    cells: Mapping[str, str],
    clips: Sequence[Clip],
    sealed: Collection[str],
    features: FeatureSettings,
    num_frames: int,
    data: DataSettings,
    augment: AugmentSettings,
    effects: Sequence[str],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Bank:
    """Make sure that `augment.versions` versions of every clip under each effect lie in shards, and say where.

    `clips` are those to train on, and only their recordings are opened; `sealed` are the ids of the test clips. The
    other arguments are those of `tuning.datasets.store.build.prepare`. Only what is new is made: another effect,
    another clip, another range; a recording is decoded once for all of its effects. Probabilities change nothing.
    Recordings that can't be used are absent. `on_progress(done, total)` counts clips.

    Raises SealedError for a test clip, and ValueError when a recording changes meanwhile.
    """
    if held := sorted({clip.id for clip in clips}.intersection(sealed)):
        raise SealedError(f"augment: {len(held)} clips are sealed for the test, '{held[0]}' among them")
    prepared = storage.absolute(data.prepared)
    digests, _ = digest_files(corpus.root, [clip.id for clip in clips], prepared, data.verify)
    plain = fingerprint(features, num_frames, data)
    marks = {effect: bank_fingerprint(plain, effect, augment, features.segment) for effect in effects}
    folders = {effect: storage.below(prepared, "augmented", f"{effect}-{mark}") for effect, mark in marks.items()}
    indexes = {effect: ShardIndex.read(folder) for effect, folder in folders.items()}
    wanted = wanted_shards(cells, digests, CLIPS_PER_SHARD)
    quality = data.model_copy(update={"silence_dbfs": data.silence_dbfs - SILENCE_SLACK_DB})
    settings = {
        "features": features.model_dump() | {"encoder": features.encoder and located(features.encoder)},
        "num_frames": num_frames,
        "data": quality.model_dump(),
        "augment": augment.model_dump(include={*DEPENDS_ON.values(), "versions"}),
    }
    absent = len(clips) - len(digests)
    extracted = make_missing(
        corpus.root, indexes, wanted, settings, lambda done: on_progress(absent + done, len(clips))
    )
    bank = {}
    for effect, index in indexes.items():
        records = [index.records[shard] for shard in wanted]
        bank[effect] = Prepared(
            root=folders[effect],
            fingerprint=marks[effect],
            shards=[ShardInfo(f"{r.shard}.parquet", r.cell, r.kept) for r in records if r.kept],
            quarantine=[(clip, r.reasons[d]) for r in records for clip, d in r.clips if d in r.reasons],
            quarantine_table="",
            digests=digests,
            num_extracted=extracted[effect],
            num_reused=len(digests) - extracted[effect],
            num_frames=num_frames,
            num_features=features.num_features,
            versions=augment.versions,
        )
    return bank


def bank_key(augment: AugmentSettings) -> str:
    """Names what a bank holds, beside its features: settings with the same key draw from the same bank."""
    return json.dumps(augment.model_dump(include={*DEPENDS_ON.values(), "versions"}), sort_keys=True)


def bank_bytes(bank: Bank, num_clips: int) -> int:
    """Size of the bank of that many clips in memory."""
    return sum(4 * num_clips * (p.versions or 1) * p.num_frames * p.num_features for p in bank.values())
