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
from typing import Any

from omegaconf import OmegaConf

from tuning.config.errors import UserError
from tuning.config.loader import read_recorded
from tuning.config.schema import without_effect
from tuning.data.plan import planned_points
from tuning.datasets import storage
from tuning.experiment import locking
from tuning.experiment.bucket_sync import CONNECTIONS, refuse_mirror, split_location
from tuning.experiment.directory import SIGN_SECONDS, SearchFolder
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
    """

    standing: Standing | None
    worker: str


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
        return Status(self._standing(bool(worker)), worker)

    def command(self) -> str:
        """The command that resumes the search, from the settings that it was begun with."""
        file = self.folder.path / "overrides.yaml"
        found = OmegaConf.to_container(OmegaConf.load(file)) if file.exists() else {}
        given: dict[str, Any] = {str(k): v for k, v in found.items()} if isinstance(found, dict) else {}
        # Older versions took settings that no trial reads.
        left_out = {"fresh", "probe", *without_effect(read_recorded(self.folder.path / "config.yaml").written())}
        given = {name: value for name, value in given.items() if name not in left_out}
        if "search.num_trials" in given:
            given["search.num_trials"] = self._run().get("total", given["search.num_trials"])
        words = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in given.items()]
        return shlex.join(["python", "-m", "tuning.run", *words])

    def _run(self) -> dict[str, Any]:
        file = self.folder.path / "run.json"
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return found

    def _standing(self, working: bool) -> Standing:
        space = read_recorded(self.folder.path / "config.yaml")
        config, run = space.fixed(), self._run()
        records = self.folder.records()
        # A search of an earlier version did not record its number of trials.
        total = run.get("total") or config.search.num_trials or len(planned_points(space, config))
        return Standing(
            name=self.name,
            total=total,
            metric=config.search.metric,
            mode=check_metric(space, config),
            epochs=int(space.largest("training.epochs")),
            resources=run.get("resources", ""),
            records={record.number: record for record in records},
            earlier=run.get("ended_before", 0),
            elapsed=max(0.0, time.time() - run["began"]) if working and "began" in run else 0.0 if working else None,
        )

    def _holder_of_lock(self) -> str:
        """The process that works on a search in a folder: a living one of this machine, or one that gave a sign of life
        elsewhere."""
        try:
            words = self.folder.holder.read_text(encoding="utf-8").strip()
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
