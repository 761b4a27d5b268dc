"""Read shards into memory, refuse those with test clips, and compute feature statistics."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tuning.datasets.checksum import DamagedError, check_file
from tuning.datasets.corpus import Clip
from tuning.datasets.store.build import Prepared, ShardInfo
from tuning.datasets.store.shard_index import Rows, by_clip, read_shard

STD_FLOOR = 1e-3  # keeps normalisation from blowing up a feature that hardly varies
NUM_THREADS = 8  # that compare checksums: reading and zlib release Python's global lock
CHUNK_CLIPS = 64  # clips whose statistics are computed at a time, which limits the memory of their float64 copy


class SealedError(RuntimeError):
    """An attempt to open a shard that holds a test clip."""


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and standard deviation float32 [features] over the valid frames of training clips."""

    mean: np.ndarray
    std: np.ndarray

    @cached_property
    def scale(self) -> np.ndarray:
        """What centred features are multiplied by."""
        return 1 / self.std

    @classmethod
    def none(cls, num_features: int) -> "FeatureStatistics":
        """Those by which normalised features stay as they are."""
        return cls(np.zeros(num_features, np.float32), np.ones(num_features, np.float32))

    @classmethod
    def of(cls, rows: Iterable[tuple[np.ndarray, np.ndarray]]) -> "FeatureStatistics":
        """Compute them from chunks of valid frames [rows] and features [rows, frames, features]."""
        found = Moments()
        for num_frames, features in rows:
            found.add(num_frames, features)
        return found.statistics()


class Moments:
    """Mean and squared deviations of frames that come in chunks.

    In float64; chunks are merged as in Chan, Golub and LeVeque (1979).
    """

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, np.zeros(1), np.zeros(1)

    def add(self, num_frames: np.ndarray, features: np.ndarray) -> None:
        """Add a chunk: its valid frames [rows] and features [rows, frames, features]."""
        frames = features[valid_frames(num_frames, features.shape[1])].astype(np.float64)
        mean, total = frames.mean(axis=0), self._count + len(frames)
        self._squares = self._squares + ((frames - mean) ** 2).sum(axis=0)
        self._squares = self._squares + (mean - self._mean) ** 2 * (self._count * len(frames) / total)
        self._mean = self._mean + (mean - self._mean) * (len(frames) / total)
        self._count = total

    def statistics(self) -> FeatureStatistics:
        """The mean and the standard deviation of all frames so far."""
        assert self._count, "statistics of no frames"
        std = np.maximum(np.sqrt(self._squares / self._count), STD_FLOOR)
        return FeatureStatistics(self._mean.astype(np.float32), std.astype(np.float32))


def statistics_by_clip(chunks: Iterable[Rows], groups: Mapping[str, str]) -> dict[str, FeatureStatistics]:
    """Statistics over all clips of each one's group, by clip id; clips of a group share one object.

    Args:
        chunks: ids, valid frames and features of clips.
        groups: the group of each clip.
    """
    found: dict[str, Moments] = defaultdict(Moments)
    members: dict[str, list[str]] = defaultdict(list)
    for ids, num_frames, features in chunks:
        of_group: dict[str, list[int]] = defaultdict(list)
        for row, clip in enumerate(ids):
            of_group[groups[clip]].append(row)
        for group, rows in of_group.items():
            found[group].add(num_frames[rows], features[rows])
            members[group] += [ids[row] for row in rows]
    by_group = {group: moments.statistics() for group, moments in found.items()}
    return {clip: by_group[group] for group, clips in members.items() for clip in clips}


def valid_frames(num_frames: np.ndarray, frames: int) -> np.ndarray:
    """A mask bool [rows, frames] that is True up to each row's number of valid frames [rows]."""
    return np.arange(frames) < np.asarray(num_frames)[:, None]


@dataclass(frozen=True)
class Part:
    """Clips in memory, unnormalised, as arrays that processes on one machine share without a copy."""

    ids: np.ndarray  # text [clips]
    features: np.ndarray  # [clips, frames, features], as they are stored
    num_frames: np.ndarray  # int32 [clips]
    targets: np.ndarray  # float32 [clips, targets]

    def __len__(self) -> int:
        return len(self.ids)

    def statistics(self) -> FeatureStatistics:
        """Mean and standard deviation over all valid frames."""
        return FeatureStatistics.of(rows[1:] for rows in self.chunks())

    def chunks(self) -> Iterator[Rows]:
        """Ids, valid frames and features of some clips at a time."""
        for start in range(0, len(self), CHUNK_CLIPS):
            rows = slice(start, start + CHUNK_CLIPS)
            yield self.ids[rows].tolist(), self.num_frames[rows], self.features[rows]


@dataclass(frozen=True)
class Versions:
    """Versions of clips under one combination of wave effects, in memory, unnormalised."""

    features: np.ndarray  # [clips, versions, frames, features], as they are stored
    num_frames: np.ndarray  # int32 [clips, versions]


def shards_of(prepared: Prepared, wanted: Collection[str], sealed: Collection[str]) -> list[ShardInfo]:
    """The shards with wanted clips (ids). Raises SealedError when one of them holds a sealed clip."""
    shards = [shard for shard in prepared.shards if not set(wanted).isdisjoint(shard.clip_ids)]
    for shard in shards:
        if held := sorted(set(sealed).intersection(shard.clip_ids)):
            raise SealedError(
                f"{shard.path} holds {len(held)} clips that are sealed for the test, '{held[0]}' among them"
            )
    return shards


def ordered_ids(prepared: Prepared, wanted: Collection[str], sealed: Collection[str]) -> list[str]:
    """Ids of the wanted clips in the order of the shards, without those in quarantine."""
    wanted = set(wanted)
    return [clip for shard in shards_of(prepared, wanted, sealed) for clip in shard.clip_ids if clip in wanted]


def check(prepared: Prepared, wanted: Collection[str], sealed: Collection[str]) -> None:
    """Read the shards with wanted clips, and compare their checksums; keep nothing. Raises DamagedError."""

    def check_shard(shard: ShardInfo) -> None:
        if shard.checksum is None:
            list(scan(prepared, shard.clip_ids, sealed))
        else:
            check_file(prepared.root, shard.path, *shard.checksum[:2])

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(check_shard, shards_of(prepared, wanted, sealed)))


def scan(prepared: Prepared, wanted: Collection[str], sealed: Collection[str]) -> Iterator[Rows]:
    """Read the wanted clips shard by shard, in the order of `ordered_ids`."""
    wanted = set(wanted)
    for shard in shards_of(prepared, wanted, sealed):
        table = read_shard(prepared.root, shard.path, ["clip", "num_frames", "features"], shard.checksum)
        ids, num_frames, features = by_clip(table, "clip", prepared.versions)
        if ids != shard.clip_ids:
            raise DamagedError(prepared.root, shard.path, "other clips than its record says")
        if shard.checksum is None and not np.isfinite(features).all():  # of an earlier version, which let them pass
            raise DamagedError(prepared.root, shard.path, "values that are not finite")
        rows = [row for row, clip in enumerate(ids) if clip in wanted]
        if len(rows) < len(ids):
            num_frames, features = num_frames[rows], features[rows]
        yield [ids[row] for row in rows], num_frames, features


def read_part(prepared: Prepared, clips: list[Clip], sealed: Collection[str]) -> Part:
    """Read features and targets of clips into memory, without clips in quarantine.

    By pyarrow, which reads 38 MB in 0.4 s; Ray Data takes 4.5 s the first time and 0.8 s later.
    """
    targets = {clip.id: clip.targets for clip in clips}
    ids = ordered_ids(prepared, targets, sealed)
    features = np.empty((len(ids), prepared.num_frames, prepared.num_features), dtype=prepared.stored_as)
    num_frames = np.empty(len(ids), dtype=np.int32)
    start = 0
    for found, valid, values in scan(prepared, targets, sealed):
        features[start : start + len(found)] = values
        num_frames[start : start + len(found)] = valid
        start += len(found)
    assert start == len(ids), "shards hold fewer clips than their records say"
    return Part(np.array(ids), features, num_frames, np.array([targets[clip] for clip in ids], dtype=np.float32))


def read_versions(prepared: Prepared, ids: Sequence[str], sealed: Collection[str]) -> Versions:
    """Read versions under one combination, clips in the order of `ids`. Raises ValueError if one is missing."""
    assert prepared.versions is not None, "not a bank"
    shape = (len(ids), prepared.versions)
    features = np.empty((*shape, prepared.num_frames, prepared.num_features), dtype=prepared.stored_as)
    num_frames = np.empty(shape, dtype=np.int32)
    positions = {clip: position for position, clip in enumerate(ids)}
    missing = set(positions)
    for found, valid, values in scan(prepared, positions, sealed):
        rows = [positions[clip] for clip in found]
        features[rows], num_frames[rows] = values, valid
        missing.difference_update(found)
    check_none_missing(prepared, missing)
    return Versions(features, num_frames)


def check_none_missing(prepared: Prepared, missing: Collection[str]) -> None:
    """Raise ValueError if a bank lacks clips."""
    if missing:
        some = f"{len(missing)} clips, '{min(missing)}' among them"
        raise ValueError(f"augment: the bank in {prepared.root} lacks {some}")
