"""How prepared features lie on disk: Parquet shards, a record beside each, and an index over the records.

    <prepared>/features/<fingerprint>/<cell>-<hash>.parquet   features of up to 64 clips, unnormalised
    <prepared>/features/<fingerprint>/<cell>-<hash>.json      its record: clips, digests, who is quarantined and why
    <prepared>/features/<fingerprint>/index.json              all records read so far, to open one file in place of many
    <prepared>/augmented/<effect>-<fingerprint>/              the same, with versions of each clip under a wave effect

A shard's name is a hash of its clips and their contents; its record is written after it, so that a shard with
a record is whole. The index is only a memory of the records and may lag behind them.
"""

import io
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tuning.datasets import storage
from tuning.datasets.features import library_versions as versions
from tuning.datasets.features.audio import Segment
from tuning.datasets.hashing import digest_of
from tuning.datasets.settings import AugmentSettings, DataSettings, FeatureSettings
from tuning.models.encoder_shapes import speech_shape
from tuning.models.pretrained import content_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

EXTRACTION_VERSION = 1  # raised by hand when features/audio.py or spectral.py give other values than before
# What `features.trim_db` cuts: in version 1 it was the part of a recording that is kept, now the whole recording.
TRIMMING, TRIMMING_VERSION = "trimming", 2
INDEX = "index.json"


@dataclass(frozen=True)
class Record:
    """What one shard holds, and which of its clips are quarantined instead."""

    shard: str  # name without ending
    cell: str
    clips: list[tuple[str, str]]  # id and digest
    reasons: dict[str, str]  # by digest, of the clips that are not in the Parquet file
    num_extracted: int  # clips that were decoded for it, not copied from another shard

    @property
    def kept(self) -> list[str]:
        """Ids of the clips in the Parquet file."""
        return [clip for clip, digest in self.clips if digest not in self.reasons]

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Record":
        """The record that `vars` gave."""
        return cls(**(content | {"clips": [(clip, digest) for clip, digest in content["clips"]]}))


@dataclass
class ShardIndex:
    """Every whole shard of a fingerprint's folder, and where each recording's features are."""

    folder: str
    records: dict[str, Record] = field(default_factory=dict)
    shard_of: dict[str, str] = field(default_factory=dict)  # digest -> shard
    reasons: dict[str, str] = field(default_factory=dict)  # digest -> why quarantined

    @classmethod
    def read(cls, folder: str) -> "ShardIndex":
        """The index of a folder, empty where there is none. A shard whose file is gone is left out."""
        index = cls(folder)
        names = storage.list_names(folder)
        remembered = json.loads(storage.read_bytes(folder, INDEX)) if INDEX in names else {}
        for name in sorted(names - {INDEX}):
            if not name.endswith(".json"):
                continue
            shard = name.removesuffix(".json")
            content = remembered.get(shard) or json.loads(storage.read_bytes(folder, name))
            record = Record.from_dict(content)
            if not record.kept or f"{shard}.parquet" in names:
                index.add(record)
        return index

    def add(self, record: Record) -> None:
        """Take in a whole shard."""
        self.records[record.shard] = record
        self.reasons |= record.reasons
        self.shard_of |= {digest: record.shard for _, digest in record.clips if digest not in record.reasons}

    def write(self) -> None:
        """Remember the records, for the next `read`."""
        content = {shard: vars(record) for shard, record in self.records.items()}
        storage.write_bytes(self.folder, INDEX, json.dumps(content).encode())


def fingerprint(features: FeatureSettings, num_frames: int, quality: DataSettings) -> str:
    """Hash of everything but the recordings that the stored values depend on."""
    if features.name == "encoder":
        matters = _matters_to_encoder(features)
    else:
        idle = {"num_frames", "padding", "encoder", "encoder_layer"} | (
            {"num_mfcc"} if "mfcc" not in features.parts else set()
        )
        matters = features.model_dump(exclude=idle)
        # Left out at their defaults, with which features were prepared before there were others.
        for name in ("db_reference", "segment"):
            if matters[name] == FeatureSettings.model_fields[name].default:
                del matters[name]
        matters["fmax_hz"] = features.fmax_hz or features.sample_rate_hz / 2
    matters |= {"num_frames": num_frames, "version": EXTRACTION_VERSION, "libraries": versions.of_features(features)}
    matters |= {} if features.trim_db is None else {"trimmed": "whole recording"}  # once it was the part that is kept
    matters |= quality.model_dump(include={"min_clip_seconds", "silence_dbfs", "max_channels"})
    return digest_of(json.dumps(matters, sort_keys=True))[:16]


def _matters_to_encoder(features: FeatureSettings) -> dict[str, Any]:
    """What an encoder's hidden states depend on: its content wherever it lies, the layer, what it hears."""
    assert features.encoder is not None
    last = speech_shape(features.encoder).num_layers  # first, because it brings a hub's commit into the cache
    layer = last if features.encoder_layer == -1 else features.encoder_layer
    return {"name": "encoder", "encoder": content_of(features.encoder), "layer": layer, "trim_db": features.trim_db}


def bank_fingerprint(plain: str, effect: str, augment: AugmentSettings, segment: Segment) -> str:
    """Hash of what the versions of a recording under an effect depend on; probabilities are none of it.

    `plain` is the fingerprint of the features themselves, `segment` what they keep of a longer recording.
    """
    from tuning.datasets.features.waveform_effects import AUGMENTATION_VERSION, DEPENDS_ON

    matters = [plain, effect, getattr(augment, DEPENDS_ON[effect]), augment.versions, AUGMENTATION_VERSION]
    matters += [] if segment == "middle" else [segment]  # once the middle was changed whatever the segment
    return digest_of(json.dumps(matters))[:16]


def shard_name(cell: str, clips: list[tuple[str, str]]) -> str:
    """The name of the shard that holds these clips (id and digest) of a cell."""
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", cell)
    return f"{readable}-{digest_of(cell, *(text for clip in clips for text in clip))[:16]}"


def write_shard(folder: str, record: Record, num_frames: "np.ndarray", features: "np.ndarray") -> None:
    """Write features float32 [clips, frames, features] of the record's kept clips, then the record.

    With versions of each clip, num_frames is [clips, versions] and features [clips, versions, frames, features].
    """
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    if record.kept:
        table = pa.table(
            {
                "clip": pa.array(record.kept, pa.string()),
                "digest": pa.array([digest for _, digest in record.clips if digest not in record.reasons], pa.string()),
                "num_frames": pa.array(num_frames, pa.int32())
                if num_frames.ndim == 1
                else pa.FixedShapeTensorArray.from_numpy_ndarray(num_frames),
                "features": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(features)),
            }
        )
        sink = io.BytesIO()
        # Spectra hardly repeat: compression would cost more time than the tenth of the size that it saves.
        parquet.write_table(table, sink, compression="none", use_dictionary=["clip"], write_statistics=False)
        storage.write_bytes(folder, f"{record.shard}.parquet", sink.getbuffer())
    storage.write_bytes(folder, f"{record.shard}.json", json.dumps(vars(record)).encode())


def read_shard(folder: str, path: str, columns: list[str]) -> "pa.Table":
    """Columns (of clip, digest, num_frames, features) of the shard's file `path` in a folder."""
    from pyarrow import parquet

    filesystem, base = storage.open_storage(folder)
    return parquet.read_table(f"{base}/{path}", columns=columns, filesystem=filesystem)


def tensor(table: "pa.Table") -> "np.ndarray":
    """The features float32 [rows, (versions,) frames, features] of a table, without a copy where it is one chunk."""
    return table["features"].combine_chunks().to_numpy_ndarray()


def counts(table: "pa.Table") -> "np.ndarray":
    """The valid frames int32 [rows] of a table, or [rows, versions]."""
    column = table["num_frames"].combine_chunks()
    return column.to_numpy_ndarray() if hasattr(column, "to_numpy_ndarray") else column.to_numpy(zero_copy_only=False)
