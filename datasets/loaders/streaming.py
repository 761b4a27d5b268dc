"""Open the data of a split, in memory or streamed from the shards by Ray Data in each epoch."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from tuning.datasets.checksum import Checksum
from tuning.datasets.loaders.in_memory import (
    Batch,
    ResidentData,
    Row,
    TrialData,
    batch_bounds,
    check_bank,
    checked_crop,
    collate,
    draw_versions,
    normalisation,
    own_statistics,
)
from tuning.datasets.settings import AugmentSettings, Loading, Normalise, Padding, Segment
from tuning.datasets.splits.split import Split
from tuning.datasets.store.augmentation_bank import Bank, bank_bytes, row_bytes
from tuning.datasets.store.build import Prepared
from tuning.datasets.store.ray_data_logs import quiet_ray_data
from tuning.datasets.store.reader import (
    FeatureStatistics,
    check,
    check_none_missing,
    ordered_ids,
    scan,
    shards_of,
    statistics_by_clip,
)
from tuning.datasets.store.shard_index import counts, read_rows, tensor

RESIDENT_SHARE = 0.5  # of the object store that features may take; Ray needs the rest
NUM_READERS = 2  # tasks that read at a time
WINDOW_BYTES = 1 << 28  # of features that a streamed epoch shuffles at a time
TASK_BYTES = 1 << 23  # of features that a reading task returns; a task for each file would cost more than its reading


def open_data(
    prepared: Prepared,
    split: Split,
    loading: Loading,
    node_bytes: int,
    bank: Bank | None = None,
    by_group: bool = False,
) -> TrialData:
    """Open the training and validation clips of a split as `loading` says, with the training clips' bank, if any.

    `node_bytes` is the memory of the smallest node. With `by_group` they can also be normalised by groups. Raises
    SealedError if a shard holds a test clip.
    """
    if choose_loading(num_bytes(prepared, split, bank), node_bytes, loading) == "resident":
        return ResidentData.read(prepared, split, bank, by_group)
    return StreamedData.open(prepared, split, bank, by_group)


def choose_loading(num_bytes: int, node_bytes: int, setting: Loading) -> Literal["resident", "streamed"]:
    """`setting`, where auto is resident if features of `num_bytes` fit into half of a node's memory for them."""
    if setting != "auto":
        return setting
    return "resident" if num_bytes <= RESIDENT_SHARE * node_bytes else "streamed"


def smallest_node(nodes: Sequence[Mapping[str, Any]], cpus: float, gpus: float) -> int:
    """Bytes for features on the smallest node that can run a worker of a trial: of object store or of other memory.

    `nodes` are those of `ray.nodes()`, `cpus` and `gpus` what a worker takes. A head without CPUs and GPUs runs none.
    If no node can, because workers are yet to be started, all count.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    fit = [node for node in alive if node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus]
    return int(min(min(n.get("object_store_memory", 0), n.get("memory", math.inf)) for n in fit or alive))


def num_bytes(prepared: Prepared, split: Split, bank: Bank | None = None) -> int:
    """Bytes in memory of training and validation features, and of the training clips' bank."""
    plain = (len(split.train) + len(split.val)) * row_bytes(
        prepared.num_frames, prepared.num_features, prepared.stored_as
    )
    return plain + bank_bytes(bank or {}, len(split.train))


class Place(NamedTuple):
    """Where the features of a clip, or of one version of it, are: folder, Parquet file and row."""

    root: str
    path: str
    row: int
    checksum: Checksum | None


@dataclass(frozen=True)
class Places:
    """Where the rows of clips are, by the clip's number.

    Args:
        root: folder of the shards.
        paths: their files.
        shards: the shard of each clip, a number in `paths`, int32 [clips].
        rows: its row there, of a bank that of its first version, int32 [clips].
        versions: rows of each clip.
        checksums: of the files.
    """

    root: str
    paths: list[str]
    shards: np.ndarray
    rows: np.ndarray
    versions: int
    checksums: list[Checksum | None]

    @classmethod
    def of(cls, prepared: Prepared, ids: Sequence[str], sealed: set[str]) -> "Places":
        """Find clips in the records of their shards.

        Raises SealedError if a shard holds a sealed clip, and ValueError if a clip is missing.
        """
        positions = {clip: position for position, clip in enumerate(ids)}
        shards, versions = shards_of(prepared, positions, sealed), prepared.versions or 1
        found = np.full((2, len(ids)), -1, dtype=np.int32)
        for number, shard in enumerate(shards):
            for row, clip in enumerate(shard.clip_ids):
                if clip in positions:
                    found[:, positions[clip]] = number, row * versions
        check_none_missing(prepared, [ids[position] for position in np.flatnonzero(found[0] < 0).tolist()])
        paths, checksums = [shard.path for shard in shards], [shard.checksum for shard in shards]
        return cls(prepared.root, paths, found[0], found[1], versions, checksums)

    def at(self, clip: int, version: int = 0) -> Place:
        """The place of a clip, or of one of its versions."""
        shard = int(self.shards[clip])
        return Place(self.root, self.paths[shard], int(self.rows[clip]) + version, self.checksums[shard])


@dataclass(frozen=True)
class StreamedData:
    """Clips that Ray Data reads from disk in each epoch, for corpora larger than memory; only labels are in memory.

    An epoch draws the order of the shards from the seed and the epoch's number, and shuffles clips within windows of
    256 MB: the same order for the same seed, but not that of `ResidentData`; the wave effects of each clip are the same
    there. Who reads what follows from the order alone: of each global batch every worker reads its own rows, and of a
    clip with wave effects only the version that is drawn.
    """

    train: Places
    val: Places
    stored_frames: int
    train_ids: np.ndarray
    val_ids: np.ndarray
    train_targets: np.ndarray
    val_targets: np.ndarray
    statistics: FeatureStatistics
    frames: int
    bank: dict[str, Places] = field(default_factory=dict)  # versions of the training clips by combination of effects
    augment: AugmentSettings | None = None
    padding: Padding = "masked"
    segment: Segment = "middle"
    stored_as: str = "float32"
    by_clip: dict[str, FeatureStatistics] = field(default_factory=dict)
    normalise: Normalise = "train"

    @classmethod
    def open(cls, prepared: Prepared, split: Split, bank: Bank | None = None, by_group: bool = False) -> "StreamedData":
        """Find the shards of both splits and of the bank, compare their checksums, and compute statistics.

        Raises SealedError if a shard holds a test clip, and DamagedError if one is not as it was written.
        """
        sealed = {clip.id for clip in split.test}
        targets = {clip.id: clip.targets for clip in split.train + split.val}
        train, val = ({clip.id for clip in part} for part in (split.train, split.val))
        train_ids, val_ids = (ordered_ids(prepared, part, sealed) for part in (train, val))
        check(prepared, val, sealed)  # those to train on are read for their statistics
        for made in (bank or {}).values():
            check(made, train, sealed)
        return cls(
            train=Places.of(prepared, train_ids, sealed),
            val=Places.of(prepared, val_ids, sealed),
            stored_frames=prepared.num_frames,
            train_ids=np.array(train_ids),
            val_ids=np.array(val_ids),
            train_targets=np.array([targets[clip] for clip in train_ids], dtype=np.float32),
            val_targets=np.array([targets[clip] for clip in val_ids], dtype=np.float32),
            statistics=FeatureStatistics.of(rows[1:] for rows in scan(prepared, train, sealed)),
            frames=prepared.num_frames,
            stored_as=prepared.stored_as,
            bank={name: Places.of(made, train_ids, sealed) for name, made in (bank or {}).items()},
            by_clip=statistics_by_clip(scan(prepared, targets, sealed), split.groups()) if by_group else {},
        )

    @property
    def num_train(self) -> int:
        """Number of training clips."""
        return len(self.train_ids)

    @property
    def num_val(self) -> int:
        """Number of validation clips."""
        return len(self.val_ids)

    @property
    def num_features(self) -> int:
        """Features per frame."""
        return len(self.statistics.mean)

    @property
    def _row_bytes(self) -> int:
        return row_bytes(self.stored_frames, self.num_features, self.stored_as)

    def train_batches(
        self, epoch: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Batches with every training clip once; of several workers each gets its rows of every global batch."""
        bounds = batch_bounds(self.num_train, batch_size, world_size)
        mine = np.zeros(self.num_train, dtype=bool)  # by place in the epoch's order
        for start, stop in bounds:
            mine[start:stop][rank::world_size] = True
        drawn = draw_versions(self.augment, self.num_train, seed, epoch) if self.augment is not None else {}
        windows, position = [], 0
        for window in self._windows(epoch, batch_size, seed):
            clips = window[mine[position : position + len(window)]].tolist()
            windows.append([(clip, self._place(clip, drawn)) for clip in clips])
            position += len(window)
        rows = _stream(windows, self.train_ids, self._row_bytes)
        for start, stop in bounds:
            batch = [next(rows) for _ in range(int(mine[start:stop].sum()))]
            yield self._collate(batch, self.train_ids, self.train_targets) | {"num_clips": stop - start}

    def _windows(self, epoch: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
        """The order of an epoch's clips, in the windows in which they are shuffled; the same on all workers."""
        rng = np.random.default_rng([seed, epoch])
        by_shard = [np.flatnonzero(self.train.shards == shard) for shard in range(len(self.train.paths))]
        clips = np.concatenate([by_shard[shard] for shard in rng.permutation(len(by_shard))])
        size = max(4 * batch_size, WINDOW_BYTES // self._row_bytes)
        for start in range(0, len(clips), size):
            window = clips[start : start + size]
            yield window[rng.permutation(len(window))]

    def _place(self, clip: int, drawn: Mapping[int, tuple[str, int]]) -> Place:
        if clip not in drawn:
            return self.train.at(clip)
        combination, version = drawn[clip]
        return self.bank[combination].at(clip, version)

    def num_batches(self, batch_size: int, world_size: int = 1) -> int:
        """Training batches of one epoch."""
        return len(batch_bounds(self.num_train, batch_size, world_size))

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        """Batches with every validation clip once, in the order of `val_ids`."""
        places = [(clip, self.val.at(clip)) for clip in range(self.num_val)]
        size = max(batch_size, TASK_BYTES // self._row_bytes)
        windows = [places[start : start + size] for start in range(0, len(places), size)]
        rows = _stream(windows, self.val_ids, self._row_bytes)
        for start in range(0, self.num_val, batch_size):
            batch = [next(rows) for _ in range(min(batch_size, self.num_val - start))]
            yield self._collate(batch, self.val_ids, self.val_targets)

    def _collate(self, rows: list[Row], ids: np.ndarray, targets: np.ndarray) -> Batch:
        own = own_statistics(self, ids[[clip for clip, _, _ in rows]])
        return collate(rows, targets, self.statistics, self.frames, self.padding, self.segment, own)

    def crop(self, num_frames: int, padding: Padding, segment: Segment) -> "StreamedData":
        """The same data with a segment of `num_frames` of each clip."""
        return replace(self, frames=checked_crop(num_frames, self.stored_frames), padding=padding, segment=segment)

    def normalised(self, by: Normalise) -> "StreamedData":
        """The same data, normalised by the training clips, by groups or not at all."""
        return replace(self, **normalisation(self, by))

    def augmented(self, settings: AugmentSettings) -> "StreamedData":
        """The same data with the wave effects of `settings` on training clips.

        Raises ValueError when the bank lacks a combination of effects or has another number of versions.
        """
        check_bank(settings, {name: places.versions for name, places in self.bank.items()})
        return replace(self, augment=settings if settings.effects() else None)


def _stream(windows: Sequence[Sequence[tuple[int, Place]]], ids: np.ndarray, row_bytes: int) -> Iterator[Row]:
    """Yield the rows at these places, in the order of each window, with the clips' numbers; Ray Data reads ahead.

    Each row is read once, by tasks that ask for no CPU, because trials hold all. `read_parquet` would wait for ever,
    also with num_cpus=0 (Ray 2.60).
    """
    import ray.data

    tasks = [{"reads": json.dumps(reads)} for window in windows for reads in _tasks(window, row_bytes)]
    if not tasks:
        return
    with quiet_ray_data():
        items = ray.data.from_items(tasks, override_num_blocks=len(tasks))
        tables = items.map_batches(_read, batch_size=None, num_cpus=0, concurrency=min(NUM_READERS, len(tasks)))
        tables.context.execution_options.preserve_order = True
        blocks = iter(tables.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
        for window in windows:
            held: dict[int, Row] = {}
            while len(held) < len(window):
                table = next(blocks)
                names, num_frames, values = table["clip"].to_pylist(), counts(table), tensor(table)
                for row, position in enumerate(table["position"].to_pylist()):
                    clip = window[position][0]
                    assert names[row] == ids[clip], "a shard does not hold what its record says"
                    held[position] = (clip, int(num_frames[row]), values[row])
            yield from (held.pop(position) for position in range(len(window)))


# Folder, file, its checksum, rows, and their positions in the window.
Read = tuple[str, str, Checksum | None, list[int], list[int]]


def _tasks(window: Sequence[tuple[int, Place]], row_bytes: int) -> Iterator[list[Read]]:
    """Deal the rows of a window to reading tasks, those of a file to one task, and small files together."""
    of_file: dict[tuple[str, str, Checksum | None], list[tuple[int, int]]] = defaultdict(list)
    for position, (_, place) in enumerate(window):
        of_file[place.root, place.path, place.checksum].append((place.row, position))
    task: list[Read] = []
    size = 0
    for file, found in of_file.items():
        rows, positions = zip(*sorted(found), strict=True)
        task.append((*file, list(rows), list(positions)))
        size += len(rows) * row_bytes
        if size >= TASK_BYTES:
            yield task
            task, size = [], 0
    if task:
        yield task


def _read(batch: dict[str, np.ndarray]) -> pa.Table:
    """The Ray Data task: read rows of several files, with a column of their positions."""
    tables = []
    for reads in batch["reads"]:
        for root, path, checksum, rows, positions in json.loads(str(reads)):
            columns = ["clip", "num_frames", "features"]
            table = read_rows(root, path, rows, columns, checksum and Checksum(*checksum))
            tables.append(table.append_column("position", pa.array(positions, pa.int64())))
    return pa.concat_tables(tables)
