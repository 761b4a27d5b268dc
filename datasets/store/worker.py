"""The Ray Data task of preparation: decode recordings and write a shard of their features, or one per wave effect."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tuning.datasets import storage
from tuning.datasets.features.audio import AudioError, decode
from tuning.datasets.features.spectral import extract, num_samples
from tuning.datasets.features.waveform_effects import MAX_RATE, apply, version_rng
from tuning.datasets.hashing import digest_of
from tuning.datasets.settings import AugmentSettings, DataSettings, FeatureSettings
from tuning.datasets.store.shard_index import Record, counts, read_shard, tensor, write_shard

PLAIN = ""  # in place of an effect's name: the recording without augmentation
Rows = tuple[Any, Any]  # valid frames and features of a clip, or of each of its versions under an effect
# (bytes of a file, their digest, effects, job) -> rows by effect, or why the file is quarantined.
Extract = Callable[[bytes, str, list[str], dict[str, Any]], dict[str, Rows] | str]


def make_shard(row: dict[str, str]) -> dict[str, str]:
    """Write one shard per effect and its record: copy the rows that other shards hold, extract the rest.

    `row["job"]` is a job of `tuning.datasets.store.build` as JSON. Returns `records` by effect as JSON, or in `changed`
    the id of a recording whose content is no longer that of its digest.
    """
    return make_shard_of(row, _extract)


def make_shard_of(row: dict[str, str], extract_rows: Extract) -> dict[str, str]:
    """As `make_shard`, with another function that turns a file into rows."""
    job = json.loads(row["job"])
    clips = [(clip, digest) for clip, digest in job["clips"]]
    outputs: dict[str, dict[str, Any]] = job["outputs"]
    found = {effect: _copy_rows(output) for effect, output in outputs.items()}
    num_extracted = dict.fromkeys(outputs, 0)
    for clip, digest in clips:
        missing = [
            effect
            for effect, output in outputs.items()
            if digest not in found[effect] and digest not in output["reasons"]
        ]
        if not missing:
            continue
        try:
            raw = storage.read_bytes(job["root"], job["files"].get(clip, clip))
        except OSError:
            return {"changed": clip, "records": ""}
        if digest_of(raw) != digest:
            return {"changed": clip, "records": ""}
        results = extract_rows(raw, digest, missing, job)
        for effect in missing:
            num_extracted[effect] += 1
            if isinstance(results, str):
                outputs[effect]["reasons"][digest] = results
            else:
                found[effect][digest] = results[effect]
    records = {}
    for effect, output in outputs.items():
        record = Record(job["shard"], job["partition"], clips, output["reasons"], num_extracted[effect])
        _write(output["folder"], record, found[effect])
        records[effect] = record.to_dict()
    return {"changed": "", "records": json.dumps(records)}


def _write(folder: str, record: Record, found: dict[str, Rows]) -> None:
    kept = [found[digest] for _, digest in record.clips if digest not in record.reasons]
    num_frames = np.array([count for count, _ in kept], dtype=np.int32)
    write_shard(folder, record, num_frames, np.stack([values for _, values in kept]) if kept else num_frames)


def _copy_rows(output: dict[str, Any]) -> dict[str, Rows]:
    """Rows by digest of the clips that other shards of the folder already hold."""
    found = {}
    for shard in sorted(set(output["shard_of"].values())):
        table = read_shard(output["folder"], f"{shard}.parquet", ["digest", "num_frames", "features"])
        num_frames, values = counts(table), tensor(table)
        for position, digest in enumerate(table["digest"].to_pylist()):
            if output["shard_of"].get(digest) == shard:
                found[digest] = (num_frames[position], values[position])
    return found


def _extract(raw: bytes, digest: str, effects: list[str], job: dict[str, Any]) -> dict[str, Rows] | str:
    features, num_frames = FeatureSettings(**job["features"]), job["num_frames"]
    # The start of a segment shifts the grid of its resampled samples. All effects therefore read the same segment, long
    # enough for the fastest tempo; otherwise an effect's waveforms would depend on which other effects are made.
    reach = 1.0 if job["augment"] is None else MAX_RATE
    keep = math.ceil(num_samples(num_frames, features) * reach)
    quality = DataSettings(**job["data"])
    try:
        waveform = decode(raw, features.sample_rate_hz, quality, keep, features.segment, features.trim_db)
    except AudioError as error:
        return str(error)
    if job["augment"] is None:
        values, num_valid = extract(waveform, features, num_frames)
        return {PLAIN: (num_valid, values)}
    augment = AugmentSettings(**job["augment"])
    return {effect: make_versions(waveform, digest, effect, features, num_frames, augment) for effect in effects}


def make_versions(
    waveform: np.ndarray, digest: str, effect: str, features: FeatureSettings, num_frames: int, augment: AugmentSettings
) -> Rows:
    """Valid frames [versions] and features [versions, frames, features] of a recording under a wave effect."""
    keep, rate = num_samples(num_frames, features), features.sample_rate_hz
    made = []
    for version in range(augment.versions):
        rng = version_rng(digest, effect, version)
        changed = apply(effect, waveform, rate, rng, augment, keep, features.segment)
        made.append(extract(changed, features, num_frames))
    return np.array([num_valid for _, num_valid in made]), np.stack([values for values, _ in made])
