"""One task of the preparation: decode recordings and write one shard of their features, or one per wave effect."""

import json
import math
from collections.abc import Callable
from typing import Any

from tuning.datasets import storage
from tuning.datasets.hashing import digest_of
from tuning.datasets.settings import AugmentSettings, DataSettings, FeatureSettings
from tuning.datasets.store.shard_index import Record, counts, read_shard, tensor, write_shard

PLAIN = ""  # stands in the place of an effect's name for the recording as it is
Rows = tuple[Any, Any]  # valid frames and features of a clip; of each of its versions under an effect
# From the bytes of a file, their digest, the effects that are asked for and the unit to rows by effect, or the reason
# why there are none.
Extract = Callable[[bytes, str, list[str], dict[str, Any]], dict[str, Rows] | str]


def make_shard(row: dict[str, str]) -> dict[str, str]:
    """Copy what other shards have, extract the rest in one pass, write the shards and their records.

    `row["unit"]` is the JSON of a unit (`tuning.datasets.store.build`). Gives the records as JSON by effect, or the
    name of a recording that is not what it was.
    """
    return make_shard_of(row, _extract)


def make_shard_of(row: dict[str, str], extract: Extract) -> dict[str, str]:
    """As `make_shard`, of what another function makes of a file."""
    unit = json.loads(row["unit"])
    clips = [(clip, digest) for clip, digest in unit["clips"]]
    outputs: dict[str, dict[str, Any]] = unit["outputs"]
    found = {effect: _copied(output) for effect, output in outputs.items()}
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
            raw = storage.read_bytes(unit["root"], unit["files"].get(clip, clip))
        except OSError:
            return {"changed": clip, "records": ""}
        if digest_of(raw) != digest:
            return {"changed": clip, "records": ""}
        results = extract(raw, digest, missing, unit)
        for effect in missing:
            num_extracted[effect] += 1
            if isinstance(results, str):
                outputs[effect]["reasons"][digest] = results
            else:
                found[effect][digest] = results[effect]
    records = {}
    for effect, output in outputs.items():
        record = Record(unit["shard"], unit["cell"], clips, output["reasons"], num_extracted[effect])
        _write(output["folder"], record, found[effect])
        records[effect] = vars(record)
    return {"changed": "", "records": json.dumps(records)}


def _write(folder: str, record: Record, found: dict[str, Rows]) -> None:
    import numpy as np

    kept = [found[digest] for _, digest in record.clips if digest not in record.reasons]
    num_frames = np.array([count for count, _ in kept], dtype=np.int32)
    write_shard(folder, record, num_frames, np.stack([values for _, values in kept]) if kept else num_frames)


def _copied(output: dict[str, Any]) -> dict[str, Rows]:
    """Valid frames and features by digest, of the clips that lie in other shards of the folder."""
    found = {}
    for shard in sorted(set(output["shard_of"].values())):
        table = read_shard(output["folder"], f"{shard}.parquet", ["digest", "num_frames", "features"])
        num_frames, values = counts(table), tensor(table)
        for position, digest in enumerate(table["digest"].to_pylist()):
            if output["shard_of"].get(digest) == shard:
                found[digest] = (num_frames[position], values[position])
    return found


def _extract(raw: bytes, digest: str, effects: list[str], unit: dict[str, Any]) -> dict[str, Rows] | str:
    """Valid frames and features of a recording by effect, or the reason why it has none."""
    from tuning.datasets.features.audio import AudioError, decode
    from tuning.datasets.features.spectral import extract, num_samples
    from tuning.datasets.features.waveform_effects import MOST_RATE

    features, num_frames = FeatureSettings(**unit["features"]), unit["num_frames"]
    # Where a cut starts decides where its resampled samples lie, so all effects read the same cut whatever their
    # ranges, or an effect's waveforms would depend on which others are asked for.
    reach = 1.0 if unit["augment"] is None else MOST_RATE
    keep = math.ceil(num_samples(num_frames, features) * reach)
    quality = DataSettings(**unit["data"])
    try:
        waveform = decode(raw, features.sample_rate_hz, quality, keep, features.segment, features.trim_db)
    except AudioError as error:
        return str(error)
    if unit["augment"] is None:
        values, num_valid = extract(waveform, features, num_frames)
        return {PLAIN: (num_valid, values)}
    augment = AugmentSettings(**unit["augment"])
    return {effect: versions_of(waveform, digest, effect, features, num_frames, augment) for effect in effects}


def versions_of(
    waveform: Any, digest: str, effect: str, features: FeatureSettings, num_frames: int, augment: AugmentSettings
) -> Rows:
    """Valid frames [versions] and features [versions, frames, features] of a recording under a wave effect."""
    import numpy as np

    from tuning.datasets.features.spectral import extract, num_samples
    from tuning.datasets.features.waveform_effects import apply, generator

    keep, rate = num_samples(num_frames, features), features.sample_rate_hz
    made = []
    for version in range(augment.versions):
        rng = generator(digest, effect, version)
        changed = apply(effect, waveform, rate, rng, augment, keep, features.segment)
        made.append(extract(changed, features, num_frames))
    return np.array([num_valid for _, num_valid in made]), np.stack([values for values, _ in made])
