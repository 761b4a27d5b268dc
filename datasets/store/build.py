"""Preparation: extract the features of every recording once, in parallel by Ray Data, into Parquet shards."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tuning.datasets import storage
from tuning.datasets.checksum import Checksum, say_damaged
from tuning.datasets.corpus import Corpus
from tuning.datasets.hashing import digest_files
from tuning.datasets.settings import DataSettings, FeatureSettings
from tuning.datasets.store.quarantine import check_quarantine, write_quarantine
from tuning.datasets.store.ray_data_logs import quiet_ray_data
from tuning.datasets.store.shard_index import (
    DEVICES,
    INDEX,
    Device,
    Record,
    ShardIndex,
    features_fingerprint,
    shard_name,
)
from tuning.datasets.store.worker import (
    PLAIN,
    RECORDINGS,
    Computer,
    Job,
    Task,
    make_shard,
    read_files,
    write_shard_of,
)
from tuning.models.pretrained import located

CLIPS_PER_SHARD = 64
Clips = list[tuple[str, str]]  # id and digest
Wanted = Mapping[str, tuple[str, Clips]]  # partition and clips by the shard's name


@dataclass(frozen=True)
class ShardInfo:
    """One Parquet file: its name in `Prepared.root`, its partition, and the clips in it."""

    path: str
    partition: str
    clip_ids: list[str]
    checksum: Checksum | None = None


@dataclass(frozen=True)
class Prepared:
    """The prepared features of a corpus: which shards hold which clips, and what could not be used."""

    root: str
    fingerprint: str
    shards: list[ShardInfo]
    quarantine: list[tuple[str, str]]  # clip id and reason
    quarantine_table: str  # location of the CSV file
    digests: dict[str, str]  # of the recordings that could be read, by clip id
    num_extracted: int
    num_reused: int
    num_frames: int
    num_features: int
    versions: int | None = None  # of each clip, in a bank
    stored_as: str = "float32"  # type of the features


def prepare(
    corpus: Corpus,
    partitions: Mapping[str, str],
    features: FeatureSettings,
    num_frames: int,
    data: DataSettings,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    gpus: bool = True,
) -> Prepared:
    """Extract the features that no shard holds yet, and return the shards of all clips.

    `partitions` names the partition of each clip id; clips of two partitions never share a shard. `num_frames` is the
    longest length that will be read. Features that another shard holds are copied. With nothing to do Ray is not
    imported; otherwise the caller has connected to it by `ray.init`, or `on_progress(done, total)` does, which counts
    clips. `gpus` allows GPUs to compute, if Ray has any.

    Raises QuarantineError when more than `data.max_quarantined_share` of the recordings, or a whole partition, can't be
    used, and ValueError when a recording changes while it is read.
    """
    place = storage.absolute(data.prepared)
    digests, unreadable = digest_files(corpus.root, [clip.id for clip in corpus.clips], place, data.verify)
    fingerprints: dict[Device, str] = {d: features_fingerprint(features, num_frames, data, d) for d in DEVICES}
    wanted = wanted_shards(partitions, digests, CLIPS_PER_SHARD)

    def on_done(done: int) -> None:
        on_progress(len(unreadable) + done, len(corpus.clips))

    device, index = chosen_store(
        storage.below(place, "features"), fingerprints, wanted, on_done, gpus and features.name != "egemaps"
    )
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
        on_done,
        device=device,
    )
    shape = (num_frames, features.num_features)
    prepared = collected(
        corpus, partitions, data, index, fingerprints[device], wanted, digests, unreadable, extracted[PLAIN], shape
    )
    return replace(prepared, stored_as=features.stored_as)


def collected(
    corpus: Corpus,
    partitions: Mapping[str, str],
    data: DataSettings,
    index: ShardIndex,
    fingerprint: str,
    wanted: Wanted,
    digests: dict[str, str],
    unreadable: Mapping[str, str],
    num_extracted: int,
    shape: tuple[int, int],
) -> Prepared:
    """Describe the wanted shards, which are all complete, and write the table of quarantined clips.

    `unreadable` has the reasons of clips that are in no shard; `shape` is frames and features of a clip. Raises
    QuarantineError as `prepare` does.
    """
    records = [index.records[shard] for shard in wanted]
    quarantine = dict(unreadable)
    for record in records:
        quarantine |= {clip: record.reasons[digest] for clip, digest in record.clips if digest in record.reasons}
    table = write_quarantine(storage.absolute(data.prepared), corpus, fingerprint, quarantine)
    check_quarantine(partitions, quarantine, table, data)
    return Prepared(
        root=index.folder,
        fingerprint=fingerprint,
        shards=shards_with_clips(records),
        quarantine=[(clip.id, quarantine[clip.id]) for clip in corpus.clips if clip.id in quarantine],
        quarantine_table=table,
        digests=digests,
        num_extracted=num_extracted,
        num_reused=len(digests) - num_extracted,
        num_frames=shape[0],
        num_features=shape[1],
    )


def shards_with_clips(records: Iterable[Record]) -> list[ShardInfo]:
    """The Parquet files of records, without those whose clips are all quarantined."""
    return [
        ShardInfo(f"{record.shard}.parquet", record.partition, record.kept, record.checksum)
        for record in records
        if record.kept
    ]


def wanted_shards(partitions: Mapping[str, str], digests: Mapping[str, str], size: int) -> dict[str, tuple[str, Clips]]:
    """Deal clips into shards of at most `size`: partition and clips (id and digest) by the shard's name."""
    by_partition: dict[str, Clips] = defaultdict(list)
    for clip in sorted(digests):
        by_partition[partitions[clip]].append((clip, digests[clip]))
    wanted = {}
    for partition, clips in sorted(by_partition.items()):
        for start in range(0, len(clips), size):
            part = clips[start : start + size]
            wanted[shard_name(partition, part)] = (partition, part)
    return wanted


def chosen_store(
    folder: str,
    fingerprints: Mapping[Device, str],
    wanted: Wanted,
    on_progress: Callable[[int], None],
    gpus: bool,
) -> tuple[Device, ShardIndex]:
    """The device that `choose_device` chooses, and the index of its shards in a folder of the prepared store."""
    indexes = {device: ShardIndex.read(storage.below(folder, name)) for device, name in fingerprints.items()}
    device = choose_device(indexes, wanted, on_progress, gpus)
    return device, indexes[device]


def choose_device(
    indexes: Mapping[Device, ShardIndex], wanted: Wanted, on_progress: Callable[[int], None], gpus: bool
) -> Device:
    """Choose whose shards to use: those that are complete, or else to be completed; a GPU's if none has been begun.

    If none is complete, `on_progress(done)` is called, after which Ray runs, and says whether it has GPUs.
    """
    held = {
        device: sum(digest in index.shard_of for _, clips in wanted.values() for _, digest in clips)
        for device, index in indexes.items()
    }
    for device in sorted(DEVICES, key=held.__getitem__, reverse=True):
        if wanted.keys() <= indexes[device].records.keys():
            return device
    fullest = max(DEVICES, key=held.__getitem__)
    on_progress(sum(len(wanted[shard][1]) for shard in wanted.keys() & indexes[fullest].records.keys()))
    if not gpus or not num_gpus():
        return "cpu"
    return "cpu" if held["cpu"] > held["cuda"] else "cuda"


def num_gpus() -> int:
    """GPUs that Ray has, 0 if it does not run."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0)) if ray.is_initialized() else 0


def make_missing(
    root: str,
    indexes: Mapping[str, ShardIndex],
    wanted: Wanted,
    settings: dict[str, Any],
    on_progress: Callable[[int], None],
    task: Task = RECORDINGS,
    files: Mapping[str, str] | None = None,
    device: Device = "cpu",
) -> dict[str, int]:
    """Make the wanted shards that are not in an index, and return by combination how many recordings were extracted.

    `indexes` has one index per combination of wave effects (`PLAIN` for none), for all of which a recording is decoded
    once. `settings` are plain values: features, num_frames, data, augment. `on_progress(done)` counts clips. Another
    `task` may read other files than the recordings: `files` by clip. What is damaged is named.
    """
    jobs = []
    damaged = {id(index): index.damaged.keys() & {*wanted, INDEX} for index in indexes.values()}
    for index in indexes.values():
        for name in sorted(damaged[id(index)]):
            say_damaged(*index.damaged[name].args)
    for shard, (partition, clips) in wanted.items():
        lacking = {combination: index for combination, index in indexes.items() if shard not in index.records}
        if lacking:
            others = {clip: files[clip] for clip, _ in clips} if files else {}
            jobs.append(_shard_job(root, lacking, shard, partition, clips) | {"files": others} | settings)
    extracted = dict.fromkeys(indexes, 0)
    done = sum(len(clips) for _, clips in wanted.values()) - sum(len(job["clips"]) for job in jobs)
    on_progress(done)
    for records in _run(jobs, task, device) if jobs else ():
        for combination, record in records.items():
            indexes[combination].add(record)
            extracted[combination] += record.num_extracted
        done += len(record.clips)
        on_progress(done)
    for index in indexes.values():
        if jobs or damaged[id(index)]:
            index.write()
    return extracted


def _shard_job(root: str, indexes: Mapping[str, ShardIndex], shard: str, partition: str, clips: Clips) -> Job:
    """Plain values that tell a task, together with the settings, to make one shard per combination."""
    outputs = {
        combination: {
            "folder": index.folder,
            "shard_of": {digest: index.shard_of[digest] for _, digest in clips if digest in index.shard_of},
            "reasons": {digest: index.reasons[digest] for _, digest in clips if digest in index.reasons},
            "checksums": {
                shard: index.records[shard].checksum
                for shard in {index.shard_of[digest] for _, digest in clips if digest in index.shard_of}
            },
        }
        for combination, index in indexes.items()
    }
    return {"root": root, "shard": shard, "partition": partition, "clips": clips, "outputs": outputs}


def _run(jobs: list[Job], task: Task, device: Device) -> Iterator[dict[str, Record]]:
    """Do each job, and yield the records of its shards by combination."""
    for row in _results(jobs, task, device):
        for folder, name, what in json.loads(row["damaged"]):
            say_damaged(folder, name, what)
        if row["error"]:
            raise ValueError(row["error"])
        yield {name: Record.from_dict(record) for name, record in json.loads(row["records"]).items()}


def _results(jobs: list[Job], task: Task, device: Device) -> Iterator[dict[str, str]]:
    """What `Shard.write` returns of each job, done by Ray Data."""
    import ray.data

    with quiet_ray_data():
        rows = ray.data.from_items([{"job": json.dumps(job)} for job in jobs], override_num_blocks=len(jobs))
        if device == "cpu":
            made = rows.map(make_shard, fn_args=(task,), num_cpus=1)
        else:
            made = in_stages(rows, task, device, min(num_gpus(), len(jobs)))
        yield from made.iter_rows()


def in_stages(rows: Any, task: Task, device: str, actors: int, gpus_each: float = 1) -> Any:
    """The shards of jobs (a Ray dataset) by a pipeline: CPUs read and write, actors with GPUs compute meanwhile.

    What is read waits in Ray's object store, which stops the readers when they are too far ahead.
    """
    read = rows.map(read_files, fn_args=(task,), num_cpus=1)
    computed = read.map(
        Computer, fn_constructor_args=(task, device), num_cpus=0, num_gpus=gpus_each, concurrency=(1, actors)
    )
    return computed.map(write_shard_of, num_cpus=1)
