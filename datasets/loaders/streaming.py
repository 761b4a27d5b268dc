"""Open the data of a split, in memory or streamed from the shards by Ray Data in each epoch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa

from tuning.datasets.loaders.in_memory import (
    Batch,
    ResidentData,
    Row,
    TrialData,
    batch_bounds,
    checked_crop,
    collate,
)
from tuning.datasets.settings import AugmentSettings, Loading, Padding, Segment
from tuning.datasets.splits.split import Split
from tuning.datasets.store.augmentation_bank import Bank, bank_bytes
from tuning.datasets.store.build import Prepared
from tuning.datasets.store.ray_data_logs import quiet_ray_data
from tuning.datasets.store.reader import FeatureStatistics, ordered_ids, scan, shards_of
from tuning.datasets.store.shard_index import read_shard, tensor

RESIDENT_SHARE = 0.5  # of the object store that features may take; Ray needs the rest
NUM_READERS = 2  # shards read at a time
WINDOW_BYTES = 1 << 28  # of features that a streamed epoch shuffles at a time


def open_data(
    prepared: Prepared,
    split: Split,
    loading: Loading,
    object_store_bytes: int,
    bank: Bank | None = None,
) -> TrialData:
    """Open the training and validation clips of a split as `loading` says, with the training clips' bank, if any.

    Raises SealedError if a shard holds a test clip, and ValueError for a bank that does not fit into memory.
    """
    size = num_bytes(prepared, split, bank)
    if choose_loading(size, object_store_bytes, loading) == "resident":
        return ResidentData.read(prepared, split, bank)
    if bank:
        why = f"features and bank take {size / 1e9:.2g} GB, the object store has {object_store_bytes / 1e9:.2g} GB"
        raise ValueError(_needs_resident(bank, f"'{loading}' ({why}; fewer augment.versions take less)"))
    return StreamedData.open(prepared, split)


def choose_loading(num_bytes: int, object_store_bytes: int, setting: Loading) -> Literal["resident", "streamed"]:
    """`setting`, where auto is resident if features of `num_bytes` fit into half of the object store."""
    if setting != "auto":
        return setting
    return "resident" if num_bytes <= RESIDENT_SHARE * object_store_bytes else "streamed"


def num_bytes(prepared: Prepared, split: Split, bank: Bank | None = None) -> int:
    """Bytes in memory of training and validation features, and of the training clips' bank."""
    plain = 4 * (len(split.train) + len(split.val)) * prepared.num_frames * prepared.num_features
    return plain + bank_bytes(bank or {}, len(split.train))


def _needs_resident(effects: Iterable[str], got: str) -> str:
    return f"augment: {', '.join(f'{effect}_prob' for effect in effects)} needs data.loading=resident, got {got}"


@dataclass(frozen=True)
class StreamedData:
    """Clips that Ray Data reads from disk in each epoch, for corpora larger than memory; only labels are in memory.

    An epoch draws the order of the shards from the seed and the epoch's number, and shuffles clips within windows of
    256 MB: the same order for the same seed, but not that of `ResidentData`. Each worker reads all shards and keeps its
    rows.
    """

    root: str
    stored_frames: int
    train_shards: list[str]
    val_shards: list[str]
    train_ids: np.ndarray
    val_ids: np.ndarray
    train_targets: np.ndarray
    val_targets: np.ndarray
    statistics: FeatureStatistics
    frames: int
    padding: Padding = "masked"
    segment: Segment = "middle"

    @classmethod
    def open(cls, prepared: Prepared, split: Split) -> "StreamedData":
        """Find the shards of both splits and compute statistics. Raises SealedError if one holds a test clip."""
        sealed = {clip.id for clip in split.test}
        targets = {clip.id: clip.targets for clip in split.train + split.val}
        train, val = ({clip.id for clip in part} for part in (split.train, split.val))
        train_ids, val_ids = (ordered_ids(prepared, part, sealed) for part in (train, val))
        return cls(
            root=prepared.root,
            stored_frames=prepared.num_frames,
            train_shards=[shard.path for shard in shards_of(prepared, train, sealed)],
            val_shards=[shard.path for shard in shards_of(prepared, val, sealed)],
            train_ids=np.array(train_ids),
            val_ids=np.array(val_ids),
            train_targets=np.array([targets[clip] for clip in train_ids], dtype=np.float32),
            val_targets=np.array([targets[clip] for clip in val_ids], dtype=np.float32),
            statistics=FeatureStatistics.of(rows[1:] for rows in scan(prepared, train, sealed)),
            frames=prepared.num_frames,
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

    def train_batches(
        self, epoch: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Batches with every training clip once; of several workers each gets its rows of every global batch."""
        rng = np.random.default_rng([seed, epoch])
        shards = [self.train_shards[index] for index in rng.permutation(len(self.train_shards))]
        row_bytes = 4 * self.stored_frames * self.num_features
        window = max(4 * batch_size, WINDOW_BYTES // row_bytes)
        rows = _shuffled(_stream(self.root, shards, self.train_ids), window, rng)
        for start, stop in batch_bounds(self.num_train, batch_size, world_size):
            batch = [next(rows) for _ in range(stop - start)]
            mine = self._collate(batch[rank::world_size], self.train_targets)
            yield mine | {"num_clips": stop - start}

    def num_batches(self, batch_size: int, world_size: int = 1) -> int:
        """Training batches of one epoch."""
        return len(batch_bounds(self.num_train, batch_size, world_size))

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        """Batches with every validation clip once, in the order of `val_ids`."""
        rows = _stream(self.root, self.val_shards, self.val_ids)
        for start in range(0, self.num_val, batch_size):
            batch = [next(rows) for _ in range(min(batch_size, self.num_val - start))]
            yield self._collate(batch, self.val_targets)

    def _collate(self, rows: list[Row], targets: np.ndarray) -> Batch:
        return collate(rows, targets, self.statistics, self.frames, self.padding, self.segment)

    def crop(self, num_frames: int, padding: Padding, segment: Segment) -> "StreamedData":
        """The same data with a segment of `num_frames` of each clip."""
        return replace(self, frames=checked_crop(num_frames, self.stored_frames), padding=padding, segment=segment)

    def augmented(self, settings: AugmentSettings) -> "StreamedData":
        """The same data. Raises ValueError if the settings have wave effects, which need a bank in memory."""
        if effects := settings.effects():
            raise ValueError(_needs_resident(effects, "'streamed'"))
        return self


def _shuffled(rows: Iterable[Row], window: int, rng: np.random.Generator) -> Iterator[Row]:
    """Yield rows in random order within each window."""
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == window:
            yield from (held[index] for index in rng.permutation(window))
            held = []
    yield from (held[index] for index in rng.permutation(len(held)))


def _stream(root: str, shards: list[str], ids: np.ndarray) -> Iterator[Row]:
    """Yield the rows of the shards in order, without those of other ids; Ray Data reads ahead.

    Reading tasks ask for no CPU, because trials hold all. `read_parquet` would wait for ever, also with num_cpus=0
    (Ray 2.60).
    """
    import ray.data

    positions = {clip: position for position, clip in enumerate(ids.tolist())}
    with quiet_ray_data():
        paths = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
        tables = paths.map_batches(
            _read_table, fn_args=(root,), batch_size=None, num_cpus=0, concurrency=min(NUM_READERS, len(shards))
        )
        tables.context.execution_options.preserve_order = True
        for table in tables.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            values, num_frames = tensor(table), table["num_frames"].to_pylist()
            for row, clip in enumerate(table["clip"].to_pylist()):
                if clip in positions:
                    yield positions[clip], num_frames[row], values[row]


def _read_table(batch: dict[str, np.ndarray], root: str) -> pa.Table:
    columns = ["clip", "num_frames", "features"]
    return pa.concat_tables([read_shard(root, str(shard), columns) for shard in batch["shard"]])
