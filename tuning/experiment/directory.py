"""The folder of a search on disk: its identity, its lock, and a folder for each trial.

results/<name>/
  config.yaml overrides.yaml environment.json fingerprint.json split.json study.journal run.json search.log
  quarantine.csv
  trials/0001/{params.json, progress.csv, result.json, error.txt, events.out.tfevents.*, checkpoints/}
  leaderboard.csv leaderboard.md history.png
"""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import io
import json
import os
import platform
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import filelock
from pydantic import BaseModel, Field, FiniteFloat

from tuning.config.distributions import plain
from tuning.config.errors import UserError
from tuning.config.schema import COSTS, identifying, nested, without_effect
from tuning.config.space import Space
from tuning.datasets import storage
from tuning.datasets.corpus import Corpus
from tuning.datasets.features import library_versions as versions
from tuning.datasets.hashing import digest_of
from tuning.datasets.redaction import redacted, without_redacted
from tuning.datasets.splits.split import Split, dealt_by_sklearn
from tuning.experiment.exploits import params_in
from tuning.experiment.faults import whole_lines, whole_or_absent
from tuning.experiment.machine import num_cpus
from tuning.experiment.periodic import Repeated
from tuning.experiment.reading import (
    DamagedFileError,
    read_json,
    read_metrics,
    read_recorded,
    understood,
    with_new_names,
)
from tuning.experiment.reading import read_progress as read_progress

FINAL = ("done", "stopped", "failed")
DAMAGED = "damaged"  # the status of a trial one of whose files can't be read

SPLIT, SKLEARN = "split.json", "scikit-learn"
TEST_LOOKS = "test_looks.json"
PARAMS, RESULT = "params.json", "result.json"
NAMED = 3  # clips of a changed corpus that an error names
STOPPED = "scheduler"  # in the last row of a trial that the scheduler stopped
SIGN_SECONDS = 5.0  # between two signs of life of the process that runs a search


@dataclass
class TrialRecord:
    """The record of one trial, as its folder has it.

    Args:
        number: from 1, in order of proposal.
        params: searched settings by dotted path.
        status: done, stopped (by the scheduler), failed, running (also if it was cut off before its end), or damaged,
            if its files can't be read.
        reason: why it ended; of a damaged trial the file, what is wrong with it and what can be done.
        best_epoch: from 1, or None.
        epochs: number of finished epochs.
        seconds: wall-clock seconds.
        metrics: those of the best epoch; empty if no epoch was finished.
        folds: number of inner folds, if the trial is a cross-validation. Its epochs are then folds, and its metrics are
            the means over the finished folds.
    """

    number: int
    params: dict[str, Any]
    status: str = "running"
    reason: str = ""
    best_epoch: int | None = None
    epochs: int = 0
    seconds: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    folds: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all its folds are finished; True for a trial without folds."""
        return self.folds is None or self.epochs >= self.folds

    @property
    def unit(self) -> str:
        """What a row of its progress is: an epoch or a fold."""
        return "epoch" if self.folds is None else "fold"

    @property
    def is_final(self) -> bool:
        """Whether the trial need not run again."""
        return self.status in FINAL

    def value(self, metric: str) -> float | None:
        """Its value of a ranking metric; None if it failed, is damaged or has none yet."""
        return None if self.status in ("failed", DAMAGED) else self.metrics.get(metric)

    def written(self) -> dict[str, Any]:
        """The content of `result.json`."""
        return {name: value for name, value in asdict(self).items() if name not in ("params", "folds")}


class SearchFolder:
    """The folder of one search, and a context that holds its lock.

    Raises:
        UserError: on entering, if another process runs the search.
    """

    remote: str | None = None  # URI of a search in an object store

    def __init__(self, storage: str | Path, name: str) -> None:
        self.name = name
        self.storage = Path(storage)
        self.path = self.storage / name
        self._lock = filelock.FileLock(self.storage / f".{name}.lock")

    def __enter__(self) -> SearchFolder:
        try:
            self.storage.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            if not Path(self._lock.lock_file).exists():  # nobody holds it: it can't be made
                raise UserError(f"storage: expected a folder to write in, got '{self.storage}'") from None
            known = self.holder.exists()
            who = self.holder.read_text(encoding="utf-8", errors="replace") if known else "another process"
            raise UserError(
                f"name: expected a search that no process is running, got '{self.name}', which {who} runs; "
                f"wait for it, or choose another name=..."
            ) from None
        except OSError as error:
            raise UserError(
                f"storage: expected a folder to write in, got '{self.storage}' ({error.strerror})"
            ) from None
        self.holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        self._signs = Repeated("signs of life", self._show_life)
        self._signs.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._signs.stop()
        self.holder.unlink(missing_ok=True)
        self._lock.release()

    @property
    def holder(self) -> Path:
        """A file that names the process with the lock; its time is that process's last sign of life.

        It is for machines that share nothing but the storage.
        """
        return self.storage / f".{self.name}.holder"

    def _show_life(self) -> float:
        with suppress(OSError):  # a disk that stays out of reach fails the search's own writes
            os.utime(self.holder)
        return SIGN_SECONDS

    @property
    def exists(self) -> bool:
        """Whether an earlier run wrote its configuration here."""
        return (self.path / "config.yaml").exists()

    @property
    def trials(self) -> Path:
        """Folder of the trials' folders."""
        return self.path / "trials"

    def trial(self, number: int) -> Path:
        """Folder of one trial."""
        return self.trials / f"{number:04d}"

    def flush(self) -> None:
        """Do nothing: what is written to disk is kept."""

    def remote_checkpoints(self, number: int) -> str | None:
        """URI of a trial's checkpoints, if the search is in an object store."""
        return storage.below(self.remote, "trials", f"{number:04d}", "checkpoints") if self.remote else None

    @property
    def scratch(self) -> str:
        """A folder for Ray's own files while the search runs, which all machines of a trial can read."""
        return storage.below(self.remote, ".ray") if self.remote else str((self.path / ".ray").resolve())

    def archive(self) -> Path | str:
        """Move the whole search aside and return the new location."""
        moment = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        target = self.storage / f"{self.name}-archived-{moment}"
        self.path.rename(target)
        return target

    def create(
        self, space: Space, overrides: dict[str, Any], identity: dict[str, Any], split: Split | None = None
    ) -> None:
        """Write what identifies the search. `config.yaml` comes last: with it the search exists.

        Args:
            space: that is searched.
            overrides: settings of the command line.
            identity: what `DataModule.identity` returned.
            split: that the search trains on; None if no clips are read.
        """
        from omegaconf import OmegaConf

        self.trials.mkdir(parents=True, exist_ok=True)
        if split is not None:
            write_json(self.path / SPLIT, split.record())
            identity = identity | {"split": self._split_digest()}
        write_json(self.path / "fingerprint.json", identity)
        write_json(self.path / "environment.json", environment())
        write_text(self.path / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides)))
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(nested(space.written()))))

    def begin_run(self, total: int, ended: int, resources: str) -> None:
        """Write `run.json`, by which other processes know the size of the search and when this run began.

        Args:
            total: number of trials of the whole search.
            ended: number of trials that had ended before.
            resources: what a trial takes and how many run at once, in words.
        """
        began = time.time()
        write_json(
            self.path / "run.json", {"total": total, "ended_before": ended, "resources": resources, "began": began}
        )

    def split_begun_with(self, space: Space, identity: dict[str, Any], corpus: Corpus, dealt: Split) -> Split:
        """Check the search's identity, and return the split that it was begun with.

        Args:
            space: that is searched now.
            identity: what `DataModule.identity` returned now.
            corpus: as it is now.
            dealt: the split as it is made now. It is returned for an older search without a record of its split.

        Raises:
            UserError: as `check_identity`; the record is damaged or gone; an older search whose split was made by
                another version of scikit-learn.
        """
        self.check_identity(space, identity)
        expected = self._fingerprint().get("split")
        if expected is None:
            self._check_dealt_alike(space, dealt)
            return dealt
        if self._split_digest() != expected:
            what = "got another content" if (self.path / SPLIT).exists() else "found none"
            raise UserError(
                f"{self.path / SPLIT}: expected the split that '{self.name}' was begun with, {what}; put the file back "
                "from a copy, or choose another name=... to begin anew"
            )
        with understood(self.path / SPLIT, "the record of a split"):
            return Split.recorded(read_json(self.path / SPLIT, dict), corpus.clips, dealt.notes)

    def _split_digest(self) -> str:
        file = self.path / SPLIT
        return digest_of(file.read_bytes()) if file.exists() else ""

    def _check_dealt_alike(self, space: Space, dealt: Split) -> None:
        """Raise UserError for a search without a record of its split if the split may be another one now."""
        config, now = space.fixed(), versions.installed(SKLEARN)
        settings, numbers = config.split, config.task.name == "regression"
        file = self.path / "environment.json"
        with understood(file, "versions of packages"):
            then = read_json(file, dict)["packages"].get(SKLEARN)
        if dealt_by_sklearn(dealt.method, settings) and then != now:
            raise UserError(
                f"{self.path}: expected {SKLEARN} {then}, which made the split that is not recorded there, got {now}, "
                f"which may make another one; install it (pip install {SKLEARN}=={then}), or choose another name=... "
                "to begin anew"
            )
        if settings.inner_folds is not None and settings.quadrants == "zero" and numbers:
            raise UserError(
                f"{self.path}: expected a search whose inner folds are recorded or made with split.quadrants=median, "
                "got one from before they were made with zero; choose another name=... to begin anew"
            )

    def _fingerprint(self) -> dict[str, Any]:
        return read_json(self.path / "fingerprint.json", dict)

    def check_identity(self, space: Space, identity: dict[str, Any]) -> None:
        """Compare space and data with those that the search was begun with, as far as it recorded them.

        Raises:
            UserError: another space or corpus, other encoders or libraries; the message lists every difference.
        """
        differences = setting_differences(read_recorded(self.path / "config.yaml"), space)
        with understood(self.path / "fingerprint.json", "the fingerprint of a corpus"):
            differences += _data_differences(self._fingerprint(), identity)
        refuse_differences(self.name, differences)

    def records(self) -> list[TrialRecord]:
        """The records of all trials that have started, by number. One with a damaged file has the status damaged."""
        return [_record_or_damage(path) for path in sorted(self.trials.glob("[0-9]*")) if _has_begun(path)]

    @property
    def num_ended(self) -> int:
        """Number of trials that have ended."""
        return sum(record.is_final for record in self.records())

    def is_written(self, record: TrialRecord) -> bool:
        """Whether `result.json` of a trial that has ended was written before a kill."""
        return record.is_final and (self.trial(record.number) / "result.json").exists()


def setting_differences(begun: Space, space: Space) -> list[str]:
    """Describe every setting of a space that makes it another one than the space that a search was begun with."""
    old, new = identifying(begun.written()), identifying(space.written())
    # A version that did not refuse them recorded settings that no trial reads.
    unread = without_effect(old).keys() & without_effect(new).keys()
    return [
        f"{path}: {plain(old.get(path))} -> {plain(new.get(path))}"
        for path in {**old, **new}
        if path not in unread and _comparable(old.get(path)) != _comparable(new.get(path))
    ]


def refuse_differences(name: str, differences: list[str]) -> None:
    """Raise UserError if a search of this name was begun with another space or corpus."""
    if differences:
        raise UserError(
            f"name: expected the space and corpus that '{name}' was begun with, got others:\n  "
            + "\n  ".join(differences)
            + "\nor begin another one: python -m tuning.run with name=..., or fresh=true, which archives this one"
        )


def read_looks(search: Path) -> list[dict[str, Any]]:
    """Every use of the test clips of a search, by its folder; none before the first.

    Raises:
        DamagedFileError: also if the file is gone, although best/ shows that there was a use.
    """
    file = search / TEST_LOOKS
    if not file.exists() and not (search / "best").exists():
        return []
    found = read_json(file, list)
    with understood(file, "the uses of the test clips"):
        for look in found:
            look["when"], look["trial"]
    return found


def is_metric(name: str) -> bool:
    """Whether a column of a trial's rows is part of its result: a validation metric, or something about its model."""
    return name.startswith("val_") or name in (*COSTS, "trained_parameters")


def _has_begun(folder: Path) -> bool:
    return folder.name.isdigit() and any((folder / name).exists() for name in (PARAMS, "progress.csv", RESULT))


def _record_or_damage(folder: Path) -> TrialRecord:
    try:
        return read_record(folder)
    except DamagedFileError as error:
        return TrialRecord(int(folder.name), {}, DAMAGED, str(error))


class _Result(BaseModel, extra="forbid", strict=True):
    """What `result.json` may hold."""

    number: int
    status: Literal["done", "stopped", "failed", "running"]
    reason: str = ""
    best_epoch: int | None = Field(None, ge=1)
    epochs: int = Field(0, ge=0)
    seconds: FiniteFloat | None = None
    metrics: dict[str, float] = {}


def read_record(folder: Path) -> TrialRecord:
    """Read a trial from its folder: from `result.json`, or from `progress.csv` if it was cut off.

    If a population changed the trial's settings, those of its best epoch are returned, to which its metrics belong.

    Raises:
        DamagedFileError: one of its files can't be read.
    """
    file = folder / PARAMS
    params = read_json(file, dict)
    with understood(file, "searched settings and a configuration"):
        searched, folds = with_new_names(dict(params["searched"])), params["config"].get("split", {}).get("inner_folds")
        if folds is not None and not isinstance(folds, int):
            raise TypeError(f"split.inner_folds {folds!r}")
    if (folder / RESULT).exists():
        result = read_json(folder / RESULT, dict)
        with understood(folder / RESULT, "the result of a trial"):
            _Result.model_validate(result)
            read_metrics(result.get("metrics", {}))
            if result["number"] != int(folder.name):
                raise ValueError(f"that of trial {result['number']}")
        return TrialRecord(params=params_in(folder, result.get("best_epoch")) or searched, folds=folds, **result)
    record = TrialRecord(number=int(folder.name), params=searched, folds=folds)
    rows = read_progress(folder)
    if rows:
        with understood(folder / "progress.csv", "the rows of a trial"):
            record.epochs = len(rows)
            record.seconds = sum(float(row["seconds"]) for row in rows)
            record.best_epoch = int(rows[-1]["best_epoch"])
            best = next((row for row in rows if int(row["epoch"]) == record.best_epoch), rows[-1])
            record.metrics = {name: float(value) for name, value in best.items() if is_metric(name) and value}
            record.reason = rows[-1].get("finished") or ""
        if record.reason:
            record.status = "stopped" if record.reason == STOPPED else "done"
    record.params = params_in(folder, record.best_epoch) or record.params
    return record


def put_aside_damaged(folder: SearchFolder) -> list[str]:
    """Put damaged files of trials aside, so that the search can make them again; say what was done.

    A result is made again of the trial's rows, or the trial resumes. A trial whose settings or rows are damaged begins
    anew, with the settings that the study has. The caller holds the search's lock.
    """
    told = []
    for path in [folder.trial(record.number) for record in folder.records() if not record.is_final]:
        try:
            read_record(path)
            read_progress(path)
        except DamagedFileError as error:
            aside = f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}"
            if error.file.name == RESULT:
                error.file.rename(error.file.with_name(f".{RESULT}.damaged-{aside}"))
                told.append(f"trial {int(path.name)}: its damaged {RESULT} is made again")
                with suppress(DamagedFileError):
                    read_record(path)
                    continue
            path.rename(path.with_name(f".{path.name}.damaged-{aside}"))
            told.append(f"trial {int(path.name)} begins anew, since {error.file.name} is damaged")
    return told


def repair_progress(folder: Path) -> list[str]:
    """Remove a line that a kill cut off from a trial's `progress.csv`, and return the columns of the file."""
    file = folder / "progress.csv"
    cut_to_lines(file)
    header = _whole_lines(file).decode().splitlines()[:1]
    return next(csv.reader(header), [])


def cut_to_lines(file: Path) -> None:
    """Remove an unfinished last line from a file."""
    whole = len(_whole_lines(file))
    if file.exists() and whole < file.stat().st_size:
        os.truncate(file, whole)


def _whole_lines(file: Path) -> bytes:
    return whole_lines(file.read_bytes()) if file.exists() else b""


def write_text(file: Path, text: str) -> None:
    """Write a text file, whole or not at all, without credentials within locations."""
    with whole_or_absent(file) as partial:
        partial.write_text(redacted(text), encoding="utf-8")


def write_table(file: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file, whole or not at all. None becomes an empty cell."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(file, stream.getvalue())


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all. Raises ValueError for NaN."""
    write_text(file, json.dumps(content, indent=2, allow_nan=False) + "\n")


def environment() -> dict[str, Any]:
    """Versions of packages and a description of this machine."""
    packages = (
        "ray", "torch", "torchaudio", "librosa", "optuna", "numpy", "pyarrow", "tensorboard", SKLEARN, "soundfile",
        "soxr", "transformers",
    )  # fmt: skip
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": num_cpus(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _comparable(value: Any) -> str:
    """A setting as text, without credentials, which were not recorded."""
    return str(without_redacted(redacted(plain(value))))


def _data_differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Describe every difference in what trials read, and what to do about it, as far as both fingerprints have it."""
    found = []
    if then["corpus"] != now["corpus"]:
        counts = f"{then['num_clips']} clips -> {now['num_clips']} clips"
        what = f"recordings or labels: {then['corpus']} -> {now['corpus']} ({counts})"
        names = _changed_clips(then, now, {"recording": "another recording", "labels": "other labels, group or fold"})
        found.append(f"{what}{names}; put the earlier recordings, labels, groups and folds back")
    if "lyrics" in then and "lyrics" in now and then["lyrics"] != now["lyrics"]:
        names = _changed_clips(then, now, {"lyrics": "another text"})
        found.append(f"lyrics: {then['lyrics']} -> {now['lyrics']}{names}; put the earlier texts back")
    for name, old, new in _changed(then, now, "encoders"):
        found.append(f"encoder {name}: {old} -> {new}; put its earlier files, or the hub's earlier commit, back")
    for name, old, new in _changed(then, now, "libraries"):
        package = f"the soundfile of environment.json, with its {name}" if name == "libsndfile" else f"{name}=={old}"
        found.append(f"{name} {old} -> {new}: its numbers are in what was prepared; install {package}")
    # A search that recorded no versions of our own methods used the first ones.
    methods = then.get("methods", dict.fromkeys(now.get("methods", {}), "1"))
    for name, old, new in _changed({"methods": methods}, now, "methods"):
        found.append(f"{name}: made by version {old} of our method, now by {new}; new trials would not compare")
    return found


def _changed_clips(then: dict[str, Any], now: dict[str, Any], words: dict[str, str]) -> str:
    """Name the first clips that have changed, and how; empty if an older search did not record its clips."""
    old, new = then.get("clips", {}), now.get("clips", {})
    if not old:
        return ""
    named = [f"'{clip}' is gone" for clip in old if clip not in new]
    named += [f"'{clip}' is new" for clip in new if clip not in old]
    for clip in old.keys() & new.keys():
        differs = [word for name, word in words.items() if old[clip].get(name) != new[clip].get(name)]
        named += [f"'{clip}' has {' and '.join(differs)}"] if differs else []
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return f": {', '.join(sorted(named)[:NAMED])}{more}" if named else ""


def _changed(then: dict[str, Any], now: dict[str, Any], entry: str) -> list[tuple[str, str, str]]:
    """Names in a table of both fingerprints whose values are known and differ, with both values."""
    old, new = then.get(entry, {}), now.get(entry, {})
    both = [name for name in old if old[name] and new.get(name)]
    return [(name, old[name], new[name]) for name in both if old[name] != new[name]]
