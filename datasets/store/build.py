"""Preparation: features of every recording, extracted once in parallel by Ray Data and kept as Parquet shards."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tuning.datasets import storage
from tuning.datasets.corpus import Corpus
from tuning.datasets.hashing import digest_files
from tuning.datasets.settings import DataSettings, FeatureSettings
from tuning.datasets.store.quarantine import check_quarantine, write_quarantine
from tuning.datasets.store.shard_index import Record, ShardIndex, fingerprint, shard_name
from tuning.datasets.store.worker import PLAIN, make_shard
from tuning.models.pretrained import located

CLIPS_PER_SHARD = 64
Clips = list[tuple[str, str]]  # id and digest
Task = Callable[[dict[str, str]], dict[str, str]]  # as `make_shard`


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
    versions: int | None = None  # rows of each clip, where these are its versions under a wave effect

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
    digests, unreadable = digest_files(corpus.root, [clip.id for clip in corpus.clips], prepared, data.verify)
    folder = storage.below(prepared, "features", mark := fingerprint(features, num_frames, data))
    index = ShardIndex.read(folder)
    wanted = wanted_shards(cells, digests, CLIPS_PER_SHARD)
    unread = len(corpus.clips) - len(digests)
    extracted = make_missing(
        corpus.root,
        {PLAIN: index},
        wanted,
        {
            "features": features.model_dump() | {"encoder": features.encoder and located(features.encoder)},
            "num_frames": num_frames,
            "data": data.model_dump(),
            "augment": None,
        },
        lambda done: on_progress(unread + done, len(corpus.clips)),
    )
    shape = (num_frames, features.num_features)
    return collected(corpus, cells, data, index, mark, wanted, digests, unreadable, extracted[PLAIN], shape)


def collected(
    corpus: Corpus,
    cells: Mapping[str, str],
    data: DataSettings,
    index: ShardIndex,
    mark: str,
    wanted: Mapping[str, tuple[str, Clips]],
    digests: dict[str, str],
    unreadable: Mapping[str, str],
    num_extracted: int,
    shape: tuple[int, int],
) -> Prepared:
    """What lies in the wanted shards, which are there now; clips that can't be used are listed in a table.

    `unreadable` has the reasons of those that came into no shard; `shape` is frames and features of a clip.

    Raises QuarantineError as `prepare` does.
    """
    records = [index.records[shard] for shard in wanted]
    quarantine = dict(unreadable)
    for record in records:
        quarantine |= {clip: record.reasons[digest] for clip, digest in record.clips if digest in record.reasons}
    table = write_quarantine(storage.absolute(data.prepared), corpus, mark, quarantine)
    check_quarantine(cells, quarantine, table, data)
    return Prepared(
        root=index.folder,
        fingerprint=mark,
        shards=[ShardInfo(f"{r.shard}.parquet", r.cell, r.kept) for r in records if r.kept],
        quarantine=[(clip.id, quarantine[clip.id]) for clip in corpus.clips if clip.id in quarantine],
        quarantine_table=table,
        digests=digests,
        num_extracted=num_extracted,
        num_reused=len(digests) - num_extracted,
        num_frames=shape[0],
        num_features=shape[1],
    )


def wanted_shards(cells: Mapping[str, str], digests: Mapping[str, str], size: int) -> dict[str, tuple[str, Clips]]:
    """Cell and clips (id and digest), `size` at most, of every shard there should be, by its name."""
    by_cell: dict[str, Clips] = defaultdict(list)
    for clip in sorted(digests):
        by_cell[cells[clip]].append((clip, digests[clip]))
    wanted = {}
    for cell, clips in sorted(by_cell.items()):
        for start in range(0, len(clips), size):
            part = clips[start : start + size]
            wanted[shard_name(cell, part)] = (cell, part)
    return wanted


def make_missing(
    root: str,
    indexes: Mapping[str, ShardIndex],
    wanted: Mapping[str, tuple[str, Clips]],
    settings: dict[str, Any],
    on_progress: Callable[[int], None],
    task: Task = make_shard,
    files: Mapping[str, str] | None = None,
    num_gpus: float = 0,
) -> dict[str, int]:
    """Make the wanted shards that an index lacks; by effect how many recordings had to be extracted.

    Each index is of the shards of one effect, `PLAIN` being none; a recording is decoded once for all effects that
    lack it. `settings` are plain: features, num_frames, data, augment. `on_progress(done)` counts clips. Another `task`
    makes shards of other files than the recordings, `files` by clip.
    """
    units = []
    for shard, (cell, clips) in wanted.items():
        lacking = {effect: index for effect, index in indexes.items() if shard not in index.records}
        if lacking:
            others = {clip: files[clip] for clip, _ in clips} if files else {}
            units.append(_unit(root, lacking, shard, cell, clips) | {"files": others} | settings)
    extracted = dict.fromkeys(indexes, 0)
    done = sum(len(clips) for _, clips in wanted.values()) - sum(len(unit["clips"]) for unit in units)
    on_progress(done)
    for records in _run(units, task, num_gpus) if units else ():
        for effect, record in records.items():
            indexes[effect].add(record)
            extracted[effect] += record.num_extracted
        done += len(record.clips)
        on_progress(done)
    for index in indexes.values() if units else ():
        index.write()
    return extracted


def _unit(root: str, indexes: Mapping[str, ShardIndex], shard: str, cell: str, clips: Clips) -> dict[str, Any]:
    """What one task needs, beside the settings, to make one shard per effect; as JSON knows it."""
    outputs = {
        effect: {
            "folder": index.folder,
            "shard_of": {digest: index.shard_of[digest] for _, digest in clips if digest in index.shard_of},
            "reasons": {digest: index.reasons[digest] for _, digest in clips if digest in index.reasons},
        }
        for effect, index in indexes.items()
    }
    return {"root": root, "shard": shard, "cell": cell, "clips": clips, "outputs": outputs}


def _run(units: list[dict[str, Any]], task: Task, num_gpus: float) -> Iterator[dict[str, Record]]:
    """Make the shards on Ray Data, one task per unit, and give their records by effect as they are done."""
    import ray.data

    from tuning.datasets.store.ray_data_logs import quiet_ray_data

    with quiet_ray_data():
        rows = ray.data.from_items([{"unit": json.dumps(unit)} for unit in units], override_num_blocks=len(units))
        for row in rows.map(task, num_cpus=1, num_gpus=num_gpus).iter_rows():
            if row["changed"]:
                raise ValueError(f"data.root: '{row['changed']}' changed while it was read; run the same command again")
            yield {effect: Record.from_dict(record) for effect, record in json.loads(row["records"]).items()}
