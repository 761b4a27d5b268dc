"""What a search leaves on disk: its identity, its lock and one folder per trial. Knows no Ray.

results/<name>/
  config.yaml overrides.yaml environment.json fingerprint.json split.json study.journal run.json search.log
  quarantine.csv
  trials/0001/{params.json, progress.csv, result.json, error.txt, events.out.tfevents.*, checkpoints/}
  leaderboard.csv leaderboard.md
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
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock

from tuning.config.distributions import plain
from tuning.config.errors import UserError
from tuning.config.schema import COSTS, identifying, nested, without_effect
from tuning.config.space import Space, read_recorded
from tuning.datasets import storage
from tuning.datasets.corpus import Corpus
from tuning.datasets.features import library_versions as versions
from tuning.datasets.hashing import digest_of
from tuning.datasets.splits.split import Split, dealt_by_sklearn
from tuning.experiment.exploits import params_in
from tuning.experiment.faults import whole_lines, whole_or_absent
from tuning.experiment.machine import num_cpus
from tuning.experiment.periodic import Repeated

FINAL = ("done", "stopped", "failed")

SPLIT, SKLEARN = "split.json", "scikit-learn"
NAMED = 3  # clips of a changed corpus that a refusal names

# What the last row of a trial says that its scheduler stopped.
STOPPED = "scheduler"

# Between two signs of life of who works on a search.
SIGN_SECONDS = 5.0


@dataclass
class TrialRecord:
    """One trial as its folder tells it.

    Args:
        number: from 1, in order of proposal.
        status: done, stopped (by the scheduler), failed, or running (cut off before its end).
        reason: why it ended so.
        metrics: the row of the best epoch; empty where no epoch was finished.
        best_epoch: from 1, or None.
        epochs: number of finished epochs.
        seconds: wall-clock seconds.
        params: searched settings by dotted path.
        folds: number of inner folds of a trial that is a cross-validation. Its epochs are then folds, and its metrics
            always those of its last row, the means over finished folds.
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
        """Whether its metrics are those of all its folds, where it has folds."""
        return self.folds is None or self.epochs >= self.folds

    @property
    def unit(self) -> str:
        """What its rows are."""
        return "epoch" if self.folds is None else "fold"

    @property
    def is_final(self) -> bool:
        """Whether the trial need not run again."""
        return self.status in FINAL

    def written(self) -> dict[str, Any]:
        """The content of `result.json`."""
        return {name: value for name, value in asdict(self).items() if name not in ("params", "folds")}


class SearchFolder:
    """The folder of one search; `with` holds its lock.

    Raises:
        UserError: on entering, when another process works on the same search.
    """

    # URI of a search that lies in an object store.
    remote: str | None = None

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
            who = self.holder.read_text(encoding="utf-8") if self.holder.exists() else "another process"
            raise UserError(
                f"name: expected a search that nobody works on, got '{self.name}', which {who} runs; "
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
        """Who holds the lock, as text; its time is the last sign of life, for those who see but the storage."""
        return self.storage / f".{self.name}.holder"

    def _show_life(self) -> float:
        with suppress(OSError):  # a disk out of reach for a moment; what has to be written says so itself
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
        """Nothing: on disk, what is written is kept."""

    def remote_checkpoints(self, number: int) -> str | None:
        """URI of a trial's checkpoints, where the search lies in an object store."""
        return storage.below(self.remote, "trials", f"{number:04d}", "checkpoints") if self.remote else None

    @property
    def scratch(self) -> str:
        """Where Ray keeps what all machines of a trial have to see, while the search runs."""
        return storage.below(self.remote, ".ray") if self.remote else str((self.path / ".ray").resolve())

    def archive(self) -> Path | str:
        """Move the whole search aside; the new place."""
        moment = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        target = self.storage / f"{self.name}-archived-{moment}"
        self.path.rename(target)
        return target

    def create(
        self, space: Space, overrides: dict[str, Any], identity: dict[str, Any], split: Split | None = None
    ) -> None:
        """Write what identifies the search, `config.yaml` last: with it the search exists.

        `identity` is `DataModule.identity()`; `split` the one that it trains on, none where no clips
        are read.
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
        """Say how large the search is now and since when it runs, for who looks on from another process.

        `ended`: trials that came to their end before. `resources` in words.
        """
        began = time.time()
        write_json(
            self.path / "run.json", {"total": total, "ended_before": ended, "resources": resources, "began": began}
        )

    def split_begun_with(self, space: Space, identity: dict[str, Any], corpus: Corpus, dealt: Split) -> Split:
        """The split that the search was begun with, from its record, once its identity is found to be the same.

        `dealt` is the split that is dealt now: of a search from before there were records, where it is the same.

        Raises:
            UserError: as `check_identity`; the record is damaged or gone; an older search whose split another version
                of scikit-learn dealt.
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
        return Split.recorded(json.loads((self.path / SPLIT).read_bytes()), corpus.clips, dealt.notes)

    def _split_digest(self) -> str:
        file = self.path / SPLIT
        return digest_of(file.read_bytes()) if file.exists() else ""

    def _check_dealt_alike(self, space: Space, dealt: Split) -> None:
        """Refuse an older search without a record of its split where what is dealt now may be another one."""
        config, now = space.fixed(), versions.installed(SKLEARN)
        settings, numbers = config.split, config.task.name == "regression"
        then = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))["packages"].get(SKLEARN)
        if dealt_by_sklearn(dealt.method, settings) and then != now:
            raise UserError(
                f"{self.path}: expected {SKLEARN} {then}, which dealt the split that is not recorded there, got {now}, "
                f"which may deal another one; install it (pip install {SKLEARN}=={then}), or choose another name=... "
                "to begin anew"
            )
        if settings.inner_folds is not None and settings.quadrants == "zero" and numbers:
            raise UserError(
                f"{self.path}: expected a search whose inner folds are recorded or dealt with split.quadrants=median, "
                "got one from before they were dealt with zero; choose another name=... to begin anew"
            )

    def _fingerprint(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "fingerprint.json").read_text(encoding="utf-8"))
        return found

    def check_identity(self, space: Space, identity: dict[str, Any]) -> None:
        """Compare with what the search was begun with; what an older one did not record yet is not compared.

        Raises:
            UserError: another space or corpus under the same name, other encoders or libraries, with every difference.
        """
        old = identifying(read_recorded(self.path / "config.yaml").written())
        new = identifying(space.written())
        # A version that did not refuse them recorded settings that no trial reads.
        unread = without_effect(old).keys() & without_effect(new).keys()
        differences = [
            f"  {path}: {plain(old.get(path))} -> {plain(new.get(path))}"
            for path in {**old, **new}
            if path not in unread and plain(old.get(path)) != plain(new.get(path))
        ]
        differences += [f"  {difference}" for difference in _read_otherwise(self._fingerprint(), identity)]
        if differences:
            raise UserError(
                f"name: expected the space and corpus that '{self.name}' was begun with, got others:\n"
                + "\n".join(differences)
                + "\nor begin another one: python -m tuning.run with name=..., or fresh=true, which archives this one"
            )

    def records(self) -> list[TrialRecord]:
        """Every trial that was begun, by number."""
        folders = sorted(path for path in self.trials.glob("[0-9]*") if (path / "params.json").exists())
        return [read_record(path) for path in folders]

    def is_written(self, record: TrialRecord) -> bool:
        """Whether a trial's end is in its `result.json`; a kill may have come before."""
        return record.is_final and (self.trial(record.number) / "result.json").exists()


def is_metric(name: str) -> bool:
    """Whether a column of a trial's rows is kept as its result: what validation gave, and what its model costs."""
    return name.startswith("val_") or name in COSTS


def read_record(folder: Path) -> TrialRecord:
    """One trial from its folder: `result.json`, or `progress.csv` where it was cut off, perhaps after its last row.

    Settings that a population changed on the way are those of the best epoch, as the metrics are.
    """
    params = json.loads((folder / "params.json").read_text(encoding="utf-8"))
    folds = params["config"].get("split", {}).get("inner_folds")
    if (folder / "result.json").exists():
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        searched = params_in(folder, result["best_epoch"]) or params["searched"]
        return TrialRecord(params=searched, folds=folds, **result)
    record = TrialRecord(number=int(folder.name), params=params["searched"], folds=folds)
    rows = read_progress(folder)
    if rows:
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


def read_progress(folder: Path) -> list[dict[str, str]]:
    """The rows of a trial's `progress.csv`, a line cut off by a kill left out."""
    return list(csv.DictReader(io.StringIO(_whole_lines(folder / "progress.csv").decode())))


def repair_progress(folder: Path) -> list[str]:
    """Cut off what a kill left of a line, so that the next row is a line of its own; the columns, if any are there."""
    file = folder / "progress.csv"
    cut_to_lines(file)
    header = _whole_lines(file).decode().splitlines()[:1]
    return next(csv.reader(header), [])


def cut_to_lines(file: Path) -> None:
    """Take away the end of a file that is appended to line by line, where a kill came within a line."""
    whole = len(_whole_lines(file))
    if file.exists() and whole < file.stat().st_size:
        os.truncate(file, whole)


def _whole_lines(file: Path) -> bytes:
    return whole_lines(file.read_bytes()) if file.exists() else b""


def write_text(file: Path, text: str) -> None:
    """Write whole or not at all."""
    with whole_or_absent(file) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(file: Path, content: Any) -> None:
    """Write whole or not at all, NaN refused."""
    write_text(file, json.dumps(content, indent=2, allow_nan=False) + "\n")


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    packages = (
        "ray", "torch", "librosa", "optuna", "numpy", "pyarrow", "tensorboard", SKLEARN, "soundfile", "soxr",
        "transformers",
    )  # fmt: skip
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": num_cpus(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _read_otherwise(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What trials would read that is not what it was, in words, each with what to do; as far as both know it."""
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
    # A search of before there were versions of our own methods has the first ones.
    methods = then.get("methods", dict.fromkeys(now.get("methods", {}), "1"))
    for name, old, new in _changed({"methods": methods}, now, "methods"):
        found.append(f"{name}: made by version {old} of our method, now by {new}; new trials would not compare")
    return found


def _changed_clips(then: dict[str, Any], now: dict[str, Any], words: dict[str, str]) -> str:
    """The first clips that are not what they were, and in what; empty where an older search did not record them."""
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
    """Names in a table of both whose values are known and differ, with both values."""
    old, new = then.get(entry, {}), now.get(entry, {})
    both = [name for name in old if old[name] and new.get(name)]
    return [(name, old[name], new[name]) for name in both if old[name] != new[name]]
