"""The state of a search, read from its folder or bucket by a process that does not run it.

Takes no lock, writes nothing there and imports no Ray.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from pydantic import BaseModel, FiniteFloat

from tuning.config.errors import UserError
from tuning.config.schema import without_effect
from tuning.data.plan import planned_points
from tuning.datasets import storage
from tuning.experiment import locking
from tuning.experiment.bucket_sync import CONNECTIONS, refuse_mirror, split_location
from tuning.experiment.directory import DAMAGED, SIGN_SECONDS, SearchFolder
from tuning.experiment.reading import DamagedFileError, read_json, read_recorded, read_settings, understood
from tuning.search.callbacks.progress_table import Standing
from tuning.training.ranking import check_metric

# A driver that gave no sign of life for so long has ended: a few signs were missed, and clocks may differ a little.
SILENCE_SECONDS = 4 * SIGN_SECONDS
# Files that tell the state of a search.
READ = re.compile(r"(config\.yaml|overrides\.yaml|run\.json|trials/\d+/(params\.json|progress\.csv|result\.json))$")


@dataclass(frozen=True)
class Status:
    """The state of a search at one moment.

    Args:
        standing: its trials; None before the first.
        worker: process and machine that work on it; empty if none does.
        damaged: of each damaged file what is wrong with it and what can be done.
    """

    standing: Standing | None
    worker: str
    damaged: tuple[str, ...] = ()


class _Run(BaseModel, strict=True):
    """What `run.json` holds; an earlier version did not write it."""

    total: int | None = None
    ended_before: int = 0
    resources: str = ""
    began: FiniteFloat | None = None


class StatusReader:
    """Reads the state of one search, as often as it is asked.

    Args:
        location: the search's folder, or its URI in an object store.

    Raises:
        UserError: this machine's mirror of a search in an object store.
    """

    def __init__(self, location: str) -> None:
        if not storage.is_uri(location):
            location = location.rstrip("/") or "/"
        self.location = location
        place, self.name = split_location(storage.absolute(location))
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._known: dict[str, storage.FileStat] = {}
        self._damaged: list[str] = []
        if storage.is_uri(location):
            # Read file by file into a folder of our own: the mirror belongs to the process that runs the search.
            self._copy = tempfile.TemporaryDirectory(prefix="search-")
            self.folder = SearchFolder(self._copy.name, self.name)
            self._leases = storage.below(place, f".{self.name}.lease")
        else:
            self.folder = SearchFolder(place, self.name)
            refuse_mirror(self.folder.path)

    def read(self) -> Status:
        """The state now.

        Raises:
            UserError: no such search, or its storage can't be read.
        """
        try:
            if self._copy is not None:
                self._fetch()
                worker = self._holder_of_lease()
            else:
                worker = self._holder_of_lock()
        except (OSError, ValueError) as error:  # ValueError: pyarrow, of a kind of store that it does not know
            reason = " ".join(str(error).split())
            raise UserError(f"{self.location}: expected a search that can be read, got: {reason}") from None
        if not self.folder.exists:
            if worker:
                return Status(None, worker)
            raise UserError(f"{self.location}: expected the folder of a search (with its config.yaml)")
        self._damaged = []
        standing = self._standing(bool(worker))
        damaged = [record.reason for record in standing.trials() if record.status == DAMAGED]
        return Status(standing, worker, (*damaged, *self._damaged))

    def command(self) -> str:
        """The command that resumes the search, from the settings that it was begun with.

        Raises:
            UserError: these can't be read.
        """
        file = self.folder.path / "overrides.yaml"
        given = read_settings(file, may_be_empty=True) if file.exists() else {}
        # Older versions took settings that no trial reads.
        left_out = {
            "fresh",
            "probe",
            "allow_code",
            *without_effect(read_recorded(self.folder.path / "config.yaml").written()),
        }
        given = {name: value for name, value in given.items() if name not in left_out}
        if "search.num_trials" in given:
            given["search.num_trials"] = self._run().total or given["search.num_trials"]
        words = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in given.items()]
        return shlex.join(["python", "-m", "tuning.run", *words])

    def _run(self) -> _Run:
        """What `run.json` says; nothing if it is damaged, which `Status.damaged` tells."""
        file = self.folder.path / "run.json"
        if not file.exists():
            return _Run()
        try:
            with understood(file, "the size and the beginning of a run"):
                return _Run.model_validate(read_json(file, dict))
        except DamagedFileError as error:
            self._damaged.append(str(error))
            return _Run()

    def _standing(self, working: bool) -> Standing:
        space = read_recorded(self.folder.path / "config.yaml")
        config, run = space.fixed(), self._run()
        records = self.folder.records()
        # A search of an earlier version did not record its number of trials.
        total = run.total or config.search.num_trials or len(planned_points(space, config))
        return Standing(
            name=self.name,
            total=total,
            metric=config.search.metric,
            mode=check_metric(space, config),
            epochs=int(space.largest("training.epochs")),
            resources=run.resources,
            records={record.number: record for record in records},
            earlier=run.ended_before,
            elapsed=max(0.0, time.time() - (run.began or time.time())) if working else None,
        )

    def _holder_of_lock(self) -> str:
        """The process that works on a search in a folder: a living one of this machine, or one that gave a sign of life
        elsewhere."""
        try:
            words = self.folder.holder.read_text(encoding="utf-8", errors="replace").strip()
            age = time.time() - self.folder.holder.stat().st_mtime
        except FileNotFoundError:
            return ""
        found = re.fullmatch(r"process (\d+) on (.*)", words)
        if found and found[2] == socket.gethostname():
            return words if _lives(int(found[1])) else ""
        return words if age < SILENCE_SECONDS else ""

    def _holder_of_lease(self) -> str:
        """The process that holds the lease of a search in an object store.

        The lease was renewed lately by this machine's clock or, since that may be wrong, is renewed while we wait.
        """
        first = self._held()
        for name, stat in first.items():
            if time.time() - stat.mtime_ns / 1e9 < locking.EXPIRY_SECONDS:
                return storage.read_bytes(self._leases, name).decode()
        if first:
            time.sleep(1.5 * locking.RENEWAL_SECONDS)  # a living process renews it in that time
            for name, stat in self._held().items():
                if stat != first.get(name):
                    return storage.read_bytes(self._leases, name).decode()
        return ""

    def _held(self) -> dict[str, storage.FileStat]:
        return {n: stat for n, stat in storage.list_files(self._leases).items() if n.endswith(locking.HELD)}

    def _fetch(self) -> None:
        found = {name: stat for name, stat in storage.list_files(self.location).items() if READ.match(name)}
        changed = [name for name, stat in found.items() if self._known.get(name) != stat]

        def fetch(name: str) -> None:
            file = self.folder.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # gone since the listing
                file.write_bytes(storage.read_bytes(self.location, name))

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(fetch, changed))
        for name in self._known.keys() - found.keys():
            (self.folder.path / name).unlink(missing_ok=True)
        self._known = found


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
