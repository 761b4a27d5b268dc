"""Files of prepared features: Parquet shards, a record for each, and an index of the records.

    <prepared>/features/<fingerprint>/<partition>-<hash>.parquet   features of up to 64 clips, unnormalised
    <prepared>/features/<fingerprint>/<partition>-<hash>.json      its record: clips, digests, reasons for quarantine
    <prepared>/features/<fingerprint>/index.json                   a copy of all records, to open one file, not many
    <prepared>/augmented/<effects>-<fingerprint>/                  the same for versions of clips under wave effects

A shard's name has a hash of its clips and their contents. Its record is written last, so that a shard with a record is
complete; it has the shard's checksum, and its own. The index is only a cache and may lack records. Each row of a
Parquet file is a row group of its own, so that one clip, or one version of it, can be read without the others.
"""

import functools
import io
import json
import re
import zlib
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from tuning.datasets import storage
from tuning.datasets.checksum import Checksum, DamagedError, check_content, footer_bytes, read_json, write_json
from tuning.datasets.features import library_versions as versions
from tuning.datasets.features.frames import hop_samples
from tuning.datasets.features.waveform_effects import AUGMENTATION_VERSION, DEPENDS_ON, effects_of
from tuning.datasets.hashing import digest_of
from tuning.datasets.settings import AugmentSettings, DataSettings, FeatureSettings, Segment
from tuning.models.encoder_shapes import speech_shape
from tuning.models.pretrained import content_of

EXTRACTION_VERSION = 3  # raise when features/ gives other values, or quarantines others, than before
# Version 1 trimmed the segment of a recording that is kept, version 2 trims the whole recording.
TRIMMING, TRIMMING_VERSION = "trimming", 2
INDEX = "index.json"
Device = Literal["cpu", "cuda"]  # that computes features: their last digits differ
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
# Of the columns beside the features, which are tensors.
_TYPES = {"clip": pa.string(), "digest": pa.string(), "num_frames": pa.int32()}
# Ids, valid frames [rows], features [rows, frames, features]; of a bank [rows, versions], [rows, versions, ...].
Rows = tuple[list[str], np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Record:
    """The clips of one shard, and which of them are quarantined instead."""

    shard: str  # file name without suffix
    partition: str
    clips: list[tuple[str, str]]  # id and digest
    reasons: dict[str, str]  # by digest: why a clip is not in the Parquet file
    num_extracted: int  # clips that were decoded for it, not copied from another shard
    checksum: Checksum | None = None  # of the Parquet file, if there is one; files of earlier versions have none

    @property
    def kept(self) -> list[str]:
        """Ids of the clips in the Parquet file."""
        return [clip for clip, digest in self.clips if digest not in self.reasons]

    def to_dict(self) -> dict[str, Any]:
        """The record as it is written to JSON; files of earlier versions call the partition a cell."""
        content = dict(vars(self))
        return {"shard": content.pop("shard"), "cell": content.pop("partition")} | content

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Record":
        """The inverse of `to_dict`."""
        clips = [(clip, digest) for clip, digest in content["clips"]]
        checksum = Checksum(*content["checksum"]) if content.get("checksum") else None
        return cls(content["shard"], content["cell"], clips, content["reasons"], content["num_extracted"], checksum)


@dataclass
class ShardIndex:
    """All complete shards of a folder, and the shard of each recording."""

    folder: str
    records: dict[str, Record] = field(default_factory=dict)
    shard_of: dict[str, str] = field(default_factory=dict)  # digest -> shard
    reasons: dict[str, str] = field(default_factory=dict)  # digest -> why quarantined
    damaged: dict[str, DamagedError] = field(default_factory=dict)  # by shard, and by INDEX for the index

    @classmethod
    def read(cls, folder: str) -> "ShardIndex":
        """Read the index of a folder, empty if there is none.

        A shard whose record is damaged, or whose Parquet file is missing or has another size, is left out and named in
        `damaged`. What is in a file is checked when it is opened.
        """
        index = cls(folder)
        sizes = storage.list_sizes(folder)
        remembered = {}
        if INDEX in sizes:
            try:
                remembered = dict(read_json(folder, INDEX))
            except (DamagedError, TypeError, ValueError) as error:
                index.damaged[INDEX] = _as_damaged(folder, INDEX, error)
        for name in sorted(sizes.keys() - {INDEX}):
            shard, dot, suffix = name.rpartition(".")
            if dot + suffix != ".json":
                continue
            try:
                index.add(index._read_record(shard, remembered.get(shard), sizes))
            except DamagedError as error:
                index.damaged[shard] = error
        return index

    def _read_record(self, shard: str, remembered: Any, sizes: dict[str, int]) -> Record:
        """A complete shard's record, as the index remembers it or as its file has it. Raises DamagedError."""
        record = None
        if remembered is not None:
            try:
                record = _checked_record(remembered, shard)
            except (KeyError, TypeError, ValueError) as error:
                self.damaged[INDEX] = _as_damaged(self.folder, INDEX, error)
        if record is None:
            try:
                record = _checked_record(read_json(self.folder, f"{shard}.json"), shard)
            except (KeyError, TypeError, ValueError, FileNotFoundError) as error:
                raise _as_damaged(self.folder, f"{shard}.json", error) from None
        path = f"{shard}.parquet"
        if record.kept and not sizes.get(path):
            raise DamagedError(self.folder, path, "an empty file" if path in sizes else "no such file")
        if record.checksum is not None and sizes[path] != record.checksum.num_bytes:
            raise DamagedError(self.folder, path, f"{sizes[path]} of {record.checksum.num_bytes} bytes")
        return record

    def add(self, record: Record) -> None:
        """Add a complete shard."""
        self.damaged.pop(record.shard, None)
        self.records[record.shard] = record
        self.reasons |= record.reasons
        self.shard_of |= {digest: record.shard for _, digest in record.clips if digest not in record.reasons}

    def write(self) -> None:
        """Write the records to one file, for the next `read`."""
        content = {shard: record.to_dict() for shard, record in self.records.items()}
        write_json(self.folder, INDEX, content)
        self.damaged.pop(INDEX, None)


def _checked_record(content: Any, shard: str) -> Record:
    """The record of a shard from JSON. Raises an error if it is none, or not that of the shard's clips."""
    record = Record.from_dict(content)
    if shard_name(record.partition, record.clips) != shard:
        raise ValueError("a record of other clips")
    return record


def _as_damaged(folder: str, name: str, error: Exception) -> DamagedError:
    return error if isinstance(error, DamagedError) else DamagedError(folder, name, "no such record")


def features_fingerprint(
    features: FeatureSettings, num_frames: int, quality: DataSettings, device: Device = "cpu"
) -> str:
    """Hash of all that prepared features depend on, apart from the recordings."""
    if features.name == "encoder":
        matters = _encoder_inputs(features)
    elif features.name == "egemaps":
        matters = features.model_dump(include={"name", "sample_rate_hz", "trim_db"})
        matters |= {"pooled_samples": hop_samples(features)}
    else:
        unused = {"num_frames", "padding", "normalise"}
        unused |= {"encoder", "encoder_layers", "encoder_pooling", "pooled_seconds"}
        unused |= {"num_mfcc"} if "mfcc" not in features.parts else set()
        matters = features.model_dump(exclude=unused)
        # Left out at their defaults: older features, prepared before these settings existed, have the same hash.
        for name in ("db_reference", "segment"):
            if matters[name] == FeatureSettings.model_fields[name].default:
                del matters[name]
        matters["fmax_hz"] = features.fmax_hz or features.sample_rate_hz / 2
    matters |= {"num_frames": num_frames, "version": EXTRACTION_VERSION, "libraries": versions.of_features(features)}
    matters |= {} if features.trim_db is None else {"trimmed": "whole recording"}  # as TRIMMING_VERSION 2
    matters |= quality.model_dump(include={"min_clip_seconds", "silence_dbfs", "max_channels"})
    matters |= of_device(device)
    return digest_of(json.dumps(matters, sort_keys=True))[:16]


def _encoder_inputs(features: FeatureSettings) -> dict[str, Any]:
    """What hidden states depend on: the encoder's content, wherever its files are, the layers and the trimming."""
    assert features.encoder is not None
    return {
        "name": "encoder", "encoder": content_of(features.encoder), "trim_db": features.trim_db,
        "layers": speech_shape(features.encoder).layers(features.encoder_layers), "pooling": features.encoder_pooling,
        "pooled_samples": hop_samples(features) if features.is_pooled else None, "stored_as": features.stored_as,
    }  # fmt: skip


def of_device(device: Device) -> dict[str, str]:
    """What a fingerprint says of the device that computes: nothing of a CPU, as before there was a choice."""
    return {} if device == "cpu" else {"device": device}


def bank_fingerprint(plain: str, combination: str, augment: AugmentSettings, segment: Segment) -> str:
    """Hash of all that versions under a combination of effects depend on; `plain` is that of the features."""
    ranges = {effect: getattr(augment, DEPENDS_ON[effect]) for effect in effects_of(combination)}
    matters = [plain, combination, ranges, augment.versions, AUGMENTATION_VERSION, segment]
    return digest_of(json.dumps(matters))[:16]


def shard_name(partition: str, clips: list[tuple[str, str]]) -> str:
    """The name of the shard of these clips (id and digest)."""
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", partition)
    return f"{readable}-{digest_of(partition, *(text for clip in clips for text in clip))[:16]}"


def write_shard(folder: str, record: Record, num_frames: np.ndarray, features: np.ndarray) -> Record:
    """Write features [clips, frames, features] of the record's kept clips, then the record with its checksum.

    A bank has num_frames [clips, versions] and features [clips, versions, frames, features]; its file has a row for
    each version, those of a clip after one another.
    """
    if record.kept:
        digests = [digest for _, digest in record.clips if digest not in record.reasons]
        versions = num_frames.size // len(digests)
        rows = features.reshape(-1, *features.shape[num_frames.ndim :])
        table = pa.table(
            {
                "clip": pa.array(np.repeat(record.kept, versions), _TYPES["clip"]),
                "digest": pa.array(np.repeat(digests, versions), _TYPES["digest"]),
                "num_frames": pa.array(num_frames.reshape(-1), _TYPES["num_frames"]),
                "features": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(rows)),
            }
        )
        sink = io.BytesIO()
        # Compression would save a tenth of the size and cost more time than that.
        parquet.write_table(
            table,
            sink,
            row_group_size=1,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        )
        storage.write_bytes(folder, f"{record.shard}.parquet", sink.getbuffer())
        record = replace(record, checksum=Checksum.of(sink.getbuffer()))
    write_json(folder, f"{record.shard}.json", record.to_dict())
    return record


def read_shard(folder: str, path: str, columns: list[str], checksum: Checksum | None) -> pa.Table:
    """Read some of the columns clip, digest, num_frames, features of a shard's file `path` in a folder.

    Raises DamagedError if the file is not there, not what `checksum` says, or can't be read as Parquet.
    """
    try:
        content = storage.read_buffer(folder, path)
    except FileNotFoundError:
        raise DamagedError(folder, path, "no such file") from None
    if checksum is not None:
        check_content(folder, path, checksum, content)
    try:
        return _plain(folder, path, parquet.read_table(pa.BufferReader(content), columns=columns))
    except (pa.ArrowException, OSError):
        raise DamagedError(folder, path, f"{len(content)} bytes that are no Parquet file") from None


def _plain(folder: str, path: str, table: pa.Table) -> pa.Table:
    """The table, if its columns are of the types that are written.

    Ray registers a type of Arrow whose values are pickles, so that a shard by another hand would run code.

    Raises:
        DamagedError: a column of another type.
    """
    for name, kind in zip(table.column_names, table.schema.types, strict=True):
        if not (isinstance(kind, pa.FixedShapeTensorType) if name == "features" else kind == _TYPES[name]):
            raise DamagedError(folder, path, f"a column {name} of {kind}")
    return table


def read_rows(folder: str, path: str, rows: list[int], columns: list[str], checksum: Checksum | None) -> pa.Table:
    """Read some rows of a shard, and of its file no more than these, but for a footer that is read once.

    Of a file from before each row had a row group of its own, all is read. Every page has a checksum of its own. Raises
    DamagedError as `read_shard` does.
    """
    filesystem, base = storage.open_storage(folder)
    try:
        with filesystem.open_input_file(f"{base}/{path}") as source:
            # Requests to an object store are joined where they are near; a disk reads exactly what is asked for.
            file = parquet.ParquetFile(
                source,
                metadata=_footer(folder, path, checksum),
                pre_buffer=storage.is_uri(folder),
                page_checksum_verification=True,
            )
            if file.num_row_groups == file.metadata.num_rows:
                return _plain(folder, path, file.read_row_groups(rows, columns, use_threads=False))
            whole = _plain(folder, path, file.read(columns))
            return pa.concat_tables([whole.slice(row, 1) for row in rows])
    except (pa.ArrowException, OSError):
        read_shard(folder, path, columns, checksum)  # which names the file if it is damaged
        raise


@functools.lru_cache(maxsize=512)
def _footer(folder: str, path: str, checksum: Checksum | None) -> parquet.FileMetaData:
    """The footer of a shard, whose content never changes. Arrow itself would read 64 kB for it."""
    filesystem, base = storage.open_storage(folder)
    with filesystem.open_input_file(f"{base}/{path}") as source:
        size = source.size()
        length = min(footer_bytes(source.read_at(4, max(0, size - 8))), size)
        content = source.read_at(length, size - length)
    if checksum is not None and zlib.crc32(content) != checksum.footer:
        raise DamagedError(folder, path, "another footer than was written")
    return parquet.read_metadata(pa.BufferReader(content))


def tensor(table: pa.Table) -> np.ndarray:
    """The features [rows, frames, features] of a table as they are stored; no copy if it is one chunk."""
    return table["features"].combine_chunks().to_numpy_ndarray()


def counts(table: pa.Table) -> np.ndarray:
    """The numbers of valid frames int32 [rows] of a table."""
    return table["num_frames"].combine_chunks().to_numpy(zero_copy_only=False)


def by_clip(table: pa.Table, column: str, versions: int | None) -> Rows:
    """Values of the column clip or digest, valid frames and features of a table, a row for each clip.

    With `versions` they are [clips], [clips, versions] and [clips, versions, frames, features].
    """
    keys, num_frames, features = table[column].to_pylist(), counts(table), tensor(table)
    if versions is None:
        return keys, num_frames, features
    shape = (len(keys) // versions, versions)
    return keys[::versions], num_frames.reshape(shape), features.reshape(*shape, *features.shape[1:])
