"""The Ray Data task of preparation: decode recordings and write a shard of their features.

Of augmented clips it writes one shard for each combination of wave effects, named as `stretch+noise`.
"""

import json
import math
import os
import platform
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tuning.datasets import storage
from tuning.datasets.checksum import Checksum, DamagedError
from tuning.datasets.features.audio import AudioError, decode
from tuning.datasets.features.frames import num_samples
from tuning.datasets.features.waveform_effects import MAX_RATE, Made, apply, version_rng
from tuning.datasets.hashing import digest_of
from tuning.datasets.settings import AugmentSettings, DataSettings, FeatureSettings
from tuning.datasets.store.shard_index import Record, by_clip, read_shard, write_shard

PLAIN = ""  # in place of a combination: the recording without augmentation
Rows = tuple[Any, Any]  # valid frames and features of a clip, or of each of its versions under a combination
# (bytes of a file, their digest, combinations, job) -> rows by combination, or why the file is quarantined.
Extract = Callable[[bytes, str, list[str], dict[str, Any]], dict[str, Rows] | str]


def make_shard(row: dict[str, str]) -> dict[str, str]:
    """Write one shard per combination and its record: copy the rows that other shards hold, extract the rest.

    `row["job"]` is a job of `tuning.datasets.store.build` as JSON. Returns `records` by combination as JSON; in `error`
    why a recording is no longer what its digest says; and in `damaged`, as JSON, the shards that can't be copied from.
    """
    return make_shard_of(row, _extract)


def make_shard_of(row: dict[str, str], extract_rows: Extract) -> dict[str, str]:
    """As `make_shard`, with another function that turns a file into rows."""
    job = json.loads(row["job"])
    clips = [(clip, digest) for clip, digest in job["clips"]]
    outputs: dict[str, dict[str, Any]] = job["outputs"]
    versions = job["augment"]["versions"] if job.get("augment") else None
    damaged: list[tuple[str, str, str]] = []
    found = {combination: _copy_rows(output, versions, damaged) for combination, output in outputs.items()}
    num_extracted = dict.fromkeys(outputs, 0)
    for clip, digest in clips:
        missing = [
            combination
            for combination, output in outputs.items()
            if digest not in found[combination] and digest not in output["reasons"]
        ]
        if not missing:
            continue
        try:
            raw = storage.read_bytes(job["root"], job["files"].get(clip, clip))
        except OSError as error:
            return _failed(
                f"data.root: expected a folder that every machine reads, got one where '{clip}' was there a moment ago "
                f"and can't be read on {platform.node()} ({os.strerror(error.errno) if error.errno else error})"
            )
        if digest_of(raw) != digest:
            return _failed(f"data.root: '{clip}' changed while it was read; run the same command again")
        results = extract_rows(raw, digest, missing, job)
        for combination in missing:
            num_extracted[combination] += 1
            if isinstance(results, str):
                outputs[combination]["reasons"][digest] = results
            else:
                found[combination][digest] = results[combination]
    records = {}
    for combination, output in outputs.items():
        record = Record(job["shard"], job["partition"], clips, output["reasons"], num_extracted[combination])
        records[combination] = _write(output["folder"], record, found.pop(combination)).to_dict()
    return {"error": "", "records": json.dumps(records), "damaged": json.dumps(damaged)}


def _failed(why: str) -> dict[str, str]:
    return {"error": why, "records": "", "damaged": "[]"}


def _write(folder: str, record: Record, found: dict[str, Rows]) -> Record:
    kept = [found[digest] for _, digest in record.clips if digest not in record.reasons]
    num_frames = np.array([count for count, _ in kept], dtype=np.int32)
    return write_shard(folder, record, num_frames, np.stack([values for _, values in kept]) if kept else num_frames)


def _copy_rows(output: dict[str, Any], versions: int | None, damaged: list[tuple[str, str, str]]) -> dict[str, Rows]:
    """Rows by digest of the clips that other shards of the folder already hold; damaged ones are left out and added."""
    found = {}
    for shard in sorted(set(output["shard_of"].values())):
        checksum = output["checksums"].get(shard)
        try:
            columns = ["digest", "num_frames", "features"]
            table = read_shard(output["folder"], f"{shard}.parquet", columns, checksum and Checksum(*checksum))
        except DamagedError as error:
            damaged.append((error.folder, error.name, error.what))
            continue
        digests, num_frames, values = by_clip(table, "digest", versions)
        for position, digest in enumerate(digests):
            if output["shard_of"].get(digest) == shard:
                found[digest] = (num_frames[position], values[position])
    return found


def _extract(raw: bytes, digest: str, combinations: list[str], job: dict[str, Any]) -> dict[str, Rows] | str:
    # It imports torch, which a command that is refused does without.
    from tuning.datasets.features.spectral import extract

    features, num_frames = FeatureSettings(**job["features"]), job["num_frames"]
    # The start of a segment shifts the grid of its resampled samples. All combinations therefore read the same segment,
    # long enough for the fastest tempo; otherwise waveforms would depend on which other combinations are made.
    reach = 1.0 if job["augment"] is None else MAX_RATE
    keep = math.ceil(num_samples(num_frames, features) * reach)
    quality = DataSettings(**job["data"])
    try:
        waveform = decode(raw, features.sample_rate_hz, quality, keep, features.segment, features.trim_db)
        if job["augment"] is None:
            values, num_valid = extract(waveform, features, num_frames)
            return {PLAIN: (num_valid, values)}
        return make_versions(waveform, digest, combinations, features, num_frames, AugmentSettings(**job["augment"]))
    except AudioError as error:
        return str(error)


def make_versions(
    waveform: np.ndarray,
    digest: str,
    combinations: Sequence[str],
    features: FeatureSettings,
    num_frames: int,
    augment: AugmentSettings,
) -> dict[str, Rows]:
    """Valid frames [versions] and features [versions, frames, features] of a recording, by combination of effects.

    A version draws each effect's strength from the effect, the version and the recording alone: the waveform of
    `stretch` is on the way to that of `stretch+noise`, and is made once for both.
    """
    from tuning.datasets.features.spectral import extract

    keep, rate = num_samples(num_frames, features), features.sample_rate_hz
    found: dict[str, list[tuple[np.ndarray, int]]] = {combination: [] for combination in combinations}
    for version in range(augment.versions):
        rng_of, made = partial(version_rng, digest, version=version), Made()
        for combination, rows in found.items():
            changed = apply(combination, waveform, rate, rng_of, augment, keep, features.segment, made)
            rows.append(extract(changed, features, num_frames))
    return {
        combination: (np.array([num_valid for _, num_valid in rows]), np.stack([values for values, _ in rows]))
        for combination, rows in found.items()
    }
