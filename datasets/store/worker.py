"""The Ray Data tasks of preparation: read and decode files, compute rows of features, and write shards of them.

On CPUs one task does it all, clip after clip; with GPUs the three are tasks of their own (`build.in_stages`). Of
augmented clips there is one shard for each combination of wave effects, named as `stretch+noise`.
"""

import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tuning.datasets import storage
from tuning.datasets.checksum import Checksum, DamagedError
from tuning.datasets.features.audio import AudioError, decode
from tuning.datasets.features.frames import num_samples
from tuning.datasets.features.waveform_effects import MAX_RATE, Made, apply, version_rng
from tuning.datasets.hashing import digest_of
from tuning.datasets.settings import AugmentSettings, DataSettings, FeatureSettings
from tuning.datasets.store.shard_index import Record, by_clip, read_shard, write_shard

PLAIN = ""  # in place of a combination: the recording without augmentation
Rows = tuple[Any, Any]  # valid frames and features of a clip, or of each of its versions under a combination
Job = dict[str, Any]  # of `tuning.datasets.store.build`: plain values


class Input(NamedTuple):
    """What was read of a file: a waveform or a text, to be computed for some combinations."""

    digest: str
    combinations: list[str]
    value: Any


@dataclass(frozen=True)
class Task:
    """How files become rows; two functions that can be imported by their names.

    Args:
        read: the content of a file and a job to the `value` of an input.
        compute: inputs, their job and the device to the rows of each input by combination, or why it can't be used.
        unusable: what `read` raises if a file can't be used.
    """

    read: Callable[[bytes, Job], Any]
    compute: Callable[[Sequence[Input], Job, str], list[dict[str, Rows] | str]]
    unusable: type[Exception]


@dataclass
class Shard:
    """A shard that is being made: of each combination the rows that are there, and inputs that were read."""

    job: Job
    found: dict[str, dict[str, Rows]] = field(default_factory=dict)
    num_extracted: dict[str, int] = field(default_factory=dict)
    inputs: list[Input] = field(default_factory=list)
    damaged: list[tuple[str, str, str]] = field(default_factory=list)
    error: str = ""

    @classmethod
    def begin(cls, job: Job) -> "Shard":
        """Copy the rows that other shards hold."""
        shard, versions = cls(job), job["augment"]["versions"] if job.get("augment") else None
        for combination, output in job["outputs"].items():
            shard.found[combination] = _copy_rows(output, versions, shard.damaged)
            shard.num_extracted[combination] = 0
        return shard

    def read(self, task: Task) -> Iterator[Input]:
        """Read the files of which rows are missing. `error` says why one is no longer what its digest says."""
        job = self.job
        for clip, digest in job["clips"]:
            missing = [
                combination
                for combination, output in job["outputs"].items()
                if digest not in self.found[combination] and digest not in output["reasons"]
            ]
            if not missing:
                continue
            try:
                raw = storage.read_bytes(job["root"], job["files"].get(clip, clip))
            except OSError as error:
                why = os.strerror(error.errno) if error.errno else error
                self.error = (
                    f"data.root: expected a folder that every machine reads, got one where '{clip}' was there a moment "
                    f"ago and can't be read on {platform.node()} ({why})"
                )
                return
            if digest_of(raw) != digest:
                self.error = f"data.root: '{clip}' changed while it was read; run the same command again"
                return
            try:
                yield Input(digest, missing, task.read(raw, job))
            except task.unusable as error:
                self._take(digest, missing, str(error))

    def compute(self, inputs: Sequence[Input], task: Task, device: str) -> None:
        """Compute the rows of inputs."""
        for read, rows in zip(inputs, task.compute(inputs, self.job, device), strict=True):
            self._take(read.digest, read.combinations, rows)

    def _take(self, digest: str, combinations: Sequence[str], rows: dict[str, Rows] | str) -> None:
        for combination in combinations:
            self.num_extracted[combination] += 1
            if isinstance(rows, str):
                self.job["outputs"][combination]["reasons"][digest] = rows
            else:
                self.found[combination][digest] = rows[combination]

    def write(self) -> dict[str, str]:
        """Write one file and its record per combination.

        Returns `records` by combination as JSON; the `error`, if any; and in `damaged`, as JSON, the shards that could
        not be copied from.
        """
        job, records = self.job, {}
        for combination, output in job["outputs"].items() if not self.error else ():
            record = Record(
                job["shard"], job["partition"], [(clip, digest) for clip, digest in job["clips"]], output["reasons"],
                self.num_extracted[combination],
            )  # fmt: skip
            records[combination] = _write(output["folder"], record, self.found.pop(combination)).to_dict()
        return {"error": self.error, "records": json.dumps(records), "damaged": json.dumps(self.damaged)}


def make_shard(row: dict[str, str], task: Task) -> dict[str, str]:
    """Make the shard of a job, given as JSON in `row["job"]`; returns what `Shard.write` does.

    One clip after the other, since waveforms take several times the memory of features.
    """
    shard = Shard.begin(json.loads(row["job"]))
    for read in shard.read(task):
        shard.compute([read], task, "cpu")
    return shard.write()


def read_files(row: dict[str, str], task: Task) -> dict[str, Shard]:
    """Begin the shard of a job, given as JSON in `row["job"]`: read and decode its files."""
    shard = Shard.begin(json.loads(row["job"]))
    shard.inputs.extend(shard.read(task))
    return {"shard": shard}


class Computer:
    """An actor of Ray Data that computes rows on the GPU that Ray has given it, or on another device of PyTorch."""

    def __init__(self, task: Task, device: str) -> None:
        import torch

        self.task, self.device = task, device
        self.missing = device == "cuda" and not torch.cuda.is_available()
        # Convolutions round to 10 bits otherwise.
        torch.backends.cudnn.allow_tf32 = False

    def __call__(self, row: dict[str, Shard]) -> dict[str, Shard]:
        """Compute the rows of what was read."""
        shard = row["shard"]
        if self.missing:
            shard.error = (
                f"resources.gpu_features: expected a GPU that PyTorch can use on {platform.node()}, where Ray counts "
                "one, got none; false computes features on CPUs"
            )
        if not shard.error:
            shard.compute(shard.inputs, self.task, self.device)
        shard.inputs = []
        return row


def write_shard_of(row: dict[str, Shard]) -> dict[str, str]:
    """Write a shard whose rows are computed; returns what `Shard.write` does."""
    return row["shard"].write()


def _write(folder: str, record: Record, found: dict[str, Rows]) -> Record:
    kept = [found[digest] for _, digest in record.clips if digest not in record.reasons]
    num_frames = np.array([count for count, _ in kept], dtype=np.int32)
    return write_shard(folder, record, num_frames, np.stack([values for _, values in kept]) if kept else num_frames)


def _copy_rows(output: dict[str, Any], versions: int | None, damaged: list[tuple[str, str, str]]) -> dict[str, Rows]:
    """Rows by digest of the clips that other shards of the folder already hold; damaged ones are left out and added."""
    found = {}
    for shard in sorted(set(output["shard_of"].values())):
        checksum = output["checksums"].get(shard)
        try:
            columns = ["digest", "num_frames", "features"]
            table = read_shard(output["folder"], f"{shard}.parquet", columns, checksum and Checksum(*checksum))
        except DamagedError as error:
            damaged.append((error.folder, error.name, error.what))
            continue
        digests, num_frames, values = by_clip(table, "digest", versions)
        for position, digest in enumerate(digests):
            if output["shard_of"].get(digest) == shard:
                found[digest] = (num_frames[position], values[position])
    return found


def read_recording(raw: bytes, job: Job) -> np.ndarray:
    """Decode a recording to the waveform that its features are computed of. Raises AudioError."""
    features, num_frames = FeatureSettings(**job["features"]), job["num_frames"]
    # All combinations read the same segment, long enough for the fastest tempo, so that it is decoded once for all and
    # no waveform depends on which other combinations are made.
    reach = 1.0 if job["augment"] is None else MAX_RATE
    keep = math.ceil(num_samples(num_frames, features) * reach)
    quality = DataSettings(**job["data"])
    return decode(raw, features.sample_rate_hz, quality, keep, features.segment, features.trim_db)


def compute_features(inputs: Sequence[Input], job: Job, device: str) -> list[dict[str, Rows] | str]:
    """Compute the features of waveforms."""
    # It imports torch, which a command that is refused does without.
    from tuning.datasets.features.spectral import checked, extract_all

    features, found = FeatureSettings(**job["features"]), list[dict[str, Rows] | str]()
    for row in extract_all([read.value for read in inputs], features, job["num_frames"], device):
        try:
            values, num_valid = checked(row)
            found.append({PLAIN: (num_valid, values)})
        except AudioError as error:
            found.append(str(error))
    return found


def compute_versions(inputs: Sequence[Input], job: Job, _: str) -> list[dict[str, Rows] | str]:
    """Compute the features of versions of waveforms under each combination, on the CPU."""
    features, augment = FeatureSettings(**job["features"]), AugmentSettings(**job["augment"])
    found: list[dict[str, Rows] | str] = []
    for read in inputs:
        try:
            found.append(
                make_versions(read.value, read.digest, read.combinations, features, job["num_frames"], augment)
            )
        except AudioError as error:
            found.append(str(error))
    return found


RECORDINGS = Task(read_recording, compute_features, AudioError)
VERSIONS = Task(read_recording, compute_versions, AudioError)


def make_versions(
    waveform: np.ndarray,
    digest: str,
    combinations: Sequence[str],
    features: FeatureSettings,
    num_frames: int,
    augment: AugmentSettings,
) -> dict[str, Rows]:
    """Valid frames [versions] and features [versions, frames, features] of a recording, by combination of effects.

    A version draws each effect's strength from the effect, the version and the recording alone: the waveform of
    `stretch` is on the way to that of `stretch+noise`, and is made once for both.
    """
    from tuning.datasets.features.spectral import extract

    keep, rate = num_samples(num_frames, features), features.sample_rate_hz
    found: dict[str, list[tuple[np.ndarray, int]]] = {combination: [] for combination in combinations}
    for version in range(augment.versions):
        rng_of, made = partial(version_rng, digest, version=version), Made()
        for combination, rows in found.items():
            changed = apply(combination, waveform, rate, rng_of, augment, keep, features.segment, made)
            rows.append(extract(changed, features, num_frames))
    return {
        combination: (np.array([num_valid for _, num_valid in rows]), np.stack([values for values, _ in rows]))
        for combination, rows in found.items()
    }
