"""Preparation: features of every recording, extracted once in parallel by Ray Data and kept as Parquet shards."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from datasets import storage
from datasets.corpus import Corpus
from datasets.digests import digest_files, digest_of
from datasets.quarantine import check_quarantine, write_quarantine
from datasets.settings import DataSettings, FeatureSettings
from datasets.shard_index import Record, ShardIndex, fingerprint, read_shard, shard_name, tensor, write_shard

CLIPS_PER_SHARD = 64
Clips = list[tuple[str, str]]  # id and digest


@dataclass(frozen=True)
class ShardInfo:
    """One Parquet file: its name in `Prepared.root`, its cell, and the clips in it."""

    path: str
    cell: str
    clip_ids: list[str]


@dataclass(frozen=True)
class Prepared:
    """Where the features of a corpus lie; plain values, so that it can be written as JSON."""

    root: str
    fingerprint: str
    shards: list[ShardInfo]
    quarantine: list[tuple[str, str]]  # clip id and reason
    quarantine_table: str  # folder or URI and name of the CSV
    digests: dict[str, str]  # of the recordings that could be read, by clip id
    num_extracted: int
    num_reused: int
    num_frames: int
    num_features: int

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Prepared":
        """What `to_dict` gave, also after a passage through JSON."""
        shards = [ShardInfo(**shard) for shard in content["shards"]]
        quarantine = [(clip, reason) for clip, reason in content["quarantine"]]
        return cls(**(content | {"shards": shards, "quarantine": quarantine}))


def prepare(
    corpus: Corpus,
    cells: Mapping[str, str],
    features: FeatureSettings,
    num_frames: int,
    data: DataSettings,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:
    """Make sure that the features of every clip lie in shards, and say where.

    `cells` parts the clips (by id) so that clips of two cells never share a shard; `num_frames` is the longest
    length that will be asked for. Only what is new is extracted: a recording whose features lie in any shard
    of the same settings is copied from there. With nothing to do Ray is not even imported; otherwise it runs
    on the cluster that the caller has connected to by `ray.init`. `on_progress(done, total)` counts clips.

    Raises QuarantineError when more than `data.max_quarantined_share` of the recordings, or all of a cell,
    can't be used, and ValueError when a recording changes meanwhile.
    """
    prepared = storage.absolute(data.prepared)
    digests, unreadable = digest_files(corpus.root, [clip.id for clip in corpus.clips], prepared)
    folder = storage.below(prepared, "features", mark := fingerprint(features, num_frames, data))
    index = ShardIndex.read(folder)
    wanted = _wanted_shards(cells, digests)
    units = [
        _unit(corpus.root, index, shard, cell, clips, features, num_frames, data)
        for shard, (cell, clips) in wanted.items()
        if shard not in index.records
    ]
    num_extracted, done = 0, len(corpus.clips) - sum(len(unit["clips"]) for unit in units)
    on_progress(done, len(corpus.clips))
    for record in _run(units) if units else ():
        index.add(record)
        num_extracted += record.num_extracted
        done += len(record.clips)
        on_progress(done, len(corpus.clips))
    if units:
        index.write()

    records = [index.records[shard] for shard in wanted]
    quarantine = dict(unreadable)
    for record in records:
        quarantine |= {clip: record.reasons[digest] for clip, digest in record.clips if digest in record.reasons}
    table = write_quarantine(prepared, corpus, mark, quarantine)
    check_quarantine(cells, quarantine, table, data)
    return Prepared(
        root=folder,
        fingerprint=mark,
        shards=[ShardInfo(f"{r.shard}.parquet", r.cell, r.kept) for r in records if r.kept],
        quarantine=[(clip.id, quarantine[clip.id]) for clip in corpus.clips if clip.id in quarantine],
        quarantine_table=table,
        digests=digests,
        num_extracted=num_extracted,
        num_reused=len(digests) - num_extracted,
        num_frames=num_frames,
        num_features=features.num_features,
    )


def _wanted_shards(cells: Mapping[str, str], digests: Mapping[str, str]) -> dict[str, tuple[str, Clips]]:
    """Cell and clips (id and digest) of every shard there should be, by its name."""
    by_cell: dict[str, Clips] = defaultdict(list)
    for clip in sorted(digests):
        by_cell[cells[clip]].append((clip, digests[clip]))
    wanted = {}
    for cell, clips in sorted(by_cell.items()):
        for start in range(0, len(clips), CLIPS_PER_SHARD):
            part = clips[start : start + CLIPS_PER_SHARD]
            wanted[shard_name(cell, part)] = (cell, part)
    return wanted


def _unit(
    root: str,
    index: ShardIndex,
    shard: str,
    cell: str,
    clips: Clips,
    features: FeatureSettings,
    num_frames: int,
    data: DataSettings,
) -> dict[str, Any]:
    """Everything that one task needs to make one shard, as JSON knows it."""
    return {
        "root": root,
        "folder": index.folder,
        "shard": shard,
        "cell": cell,
        "clips": clips,
        "shard_of": {digest: index.shard_of[digest] for _, digest in clips if digest in index.shard_of},
        "reasons": {digest: index.reasons[digest] for _, digest in clips if digest in index.reasons},
        "features": features.model_dump(),
        "num_frames": num_frames,
        "data": data.model_dump(),
    }


def _run(units: list[dict[str, Any]]) -> Iterator[Record]:
    """Make the shards on Ray Data, one task each, and give their records as they are done."""
    import ray.data

    from datasets.quiet import quiet_ray_data

    with quiet_ray_data():
        rows = ray.data.from_items([{"unit": json.dumps(unit)} for unit in units], override_num_blocks=len(units))
        for row in rows.map(_make_shard, num_cpus=1).iter_rows():
            if row["changed"]:
                raise ValueError(f"data.root: '{row['changed']}' changed while it was read; run the same command again")
            yield Record.from_dict(json.loads(row["record"]))


def _make_shard(row: dict[str, str]) -> dict[str, str]:
    """One task: copy what other shards have, extract the rest, write the shard and its record."""
    import numpy as np

    unit = json.loads(row["unit"])
    clips = [(clip, digest) for clip, digest in unit["clips"]]
    reasons: dict[str, str] = unit["reasons"]
    found = _copied(unit)
    num_extracted = 0
    for clip, digest in clips:
        if digest in found or digest in reasons:
            continue
        try:
            raw = storage.read_bytes(unit["root"], clip)
        except OSError:
            return {"changed": clip, "record": ""}
        if digest_of(raw) != digest:
            return {"changed": clip, "record": ""}
        num_extracted += 1
        result = _extract(raw, unit)
        if isinstance(result, str):
            reasons[digest] = result
        else:
            found[digest] = result
    record = Record(unit["shard"], unit["cell"], clips, reasons, num_extracted)
    kept = [found[digest] for _, digest in clips if digest not in reasons]
    shape = (len(kept), unit["num_frames"], FeatureSettings(**unit["features"]).num_features)
    values = np.empty(shape, dtype=np.float32)
    for position, (_, clip_features) in enumerate(kept):
        values[position] = clip_features
    write_shard(unit["folder"], record, np.array([num for num, _ in kept], dtype=np.int32), values)
    return {"changed": "", "record": json.dumps(vars(record))}


def _copied(unit: dict[str, Any]) -> dict[str, tuple[int, Any]]:
    """Valid frames and features by digest, of the clips that lie in other shards."""
    found = {}
    for shard in sorted(set(unit["shard_of"].values())):
        table = read_shard(unit["folder"], f"{shard}.parquet", ["digest", "num_frames", "features"])
        values = tensor(table)
        for position, digest in enumerate(table["digest"].to_pylist()):
            if unit["shard_of"].get(digest) == shard:
                found[digest] = (table["num_frames"][position].as_py(), values[position])
    return found


def _extract(raw: bytes, unit: dict[str, Any]) -> tuple[int, Any] | str:
    """Valid frames and features of a recording, or the reason why it has none."""
    from datasets.audio import AudioError, decode
    from datasets.features import extract, num_samples

    settings, num_frames = FeatureSettings(**unit["features"]), unit["num_frames"]
    try:
        keep = max(1, num_samples(num_frames, settings))
        waveform = decode(raw, settings.sample_rate_hz, DataSettings(**unit["data"]), keep)
    except AudioError as error:
        return str(error)
    features, num_valid = extract(waveform, settings, num_frames)
    return num_valid, features
