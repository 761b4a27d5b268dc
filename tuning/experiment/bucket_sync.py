"""Keep a search in an object store (`storage=s3://bucket/prefix`) by a mirror, a folder on this machine.

All code that works on a search's folder works on the mirror, and a thread uploads what changed. The trials, which may
run on any machine, upload their checkpoints themselves (`tuning.experiment.checkpoint_upload`). Whenever the driver or
its machine is lost, the same command resumes the search from the bucket, on this machine or another.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import logging
import math
import os
import re
import shutil
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tuning.config.errors import UserError
from tuning.datasets import storage
from tuning.datasets.redaction import redacted, without_redacted
from tuning.experiment import locking
from tuning.experiment.bucket_changes import is_uploaded_by_trial, read, scan, upload_step
from tuning.experiment.directory import SearchFolder, write_json, write_text
from tuning.experiment.locking import Lease
from tuning.experiment.machine import can_write, existing
from tuning.experiment.periodic import Repeated
from tuning.experiment.reading import DamagedFileError, read_json
from tuning.experiment.recorded import is_search, not_a_search

log = logging.getLogger("tuning.search")

INTERVAL_SECONDS = 1.0  # between two uploads; after a slow one the pause is several times its own length
CONNECTIONS = 16

STATE, SESSION = ".mirror.json", ".session"


def open_folder(location: str, name: str) -> SearchFolder:
    """Open a search's folder on disk, or the mirror of one in an object store."""
    return Mirror(location, name) if storage.is_uri(location) else SearchFolder(location, name)


def split_location(location: str) -> tuple[str, str]:
    """Split the path or URI of a search into storage and name."""
    base, question, options = location.partition("?") if storage.is_uri(location) else (location, "", "")
    parent, _, name = base.rstrip("/").rpartition("/")
    return (parent or ".") + question + options, name


def open_location(path: str) -> SearchFolder:
    """Open the search at a path or a URI, as `open_folder` does.

    Raises:
        UserError: there is none, or it is this machine's mirror of a search in an object store.
    """
    location = path if storage.is_uri(path) else str(Path(path))
    try:
        found = is_search(storage.list_folder(location))  # before a lock is left beside something else
    except (OSError, ValueError) as error:
        raise not_a_search(location, " ".join(str(error).split())) from None
    if not found:
        raise not_a_search(location)
    if not storage.is_uri(location):
        refuse_mirror(Path(location))
    return open_folder(*split_location(location))


class Mirror(SearchFolder):
    """The folder of a search in an object store, and a context that downloads it and uploads every change.

    The context holds the lock of the mirror and the lease of the search in the store.

    Raises:
        UserError: on entering, if another driver runs the search or the store can't be used; on leaving, if another
            driver took the search over or it could not be uploaded.
    """

    def __init__(self, location: str, name: str) -> None:
        super().__init__(mirror_root(location), name)
        self.location = location
        self.remote = self._uri = storage.below(location, name)
        self._uploaded: dict[str, list[int]] = {}
        self._session, self._lost = "", False
        self._pushing = threading.RLock()
        self._uploads = Repeated("uploads", self._push_or_log)
        # In a thread of its own, since an upload may take longer than a lease lasts.
        self._renewals = Repeated("lease", self._renew_or_end)

    def __enter__(self) -> Mirror:
        with contextlib.ExitStack() as undo:
            super().__enter__()
            undo.callback(super().__exit__)
            leases = storage.below(self.location, f".{self.name}.lease")
            self._lease = Lease(leases, _owner(self.storage), self.name)
            try:
                self._lease.acquire(lambda words: print(words, flush=True))
                undo.callback(self._lease.release)
                self._pull()
            except OSError as error:
                reason = " ".join(str(error).split())
                raise UserError(f"storage: expected a bucket to write in, got '{self.location}' ({reason})") from None
            undo.pop_all()
        self._uploads.start()
        self._renewals.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._uploads.stop()
        try:
            if not self.exists and "config.yaml" not in self._uploaded and not self._lost:
                self._leave_nothing()  # of a search that never began
            self.flush()
        finally:
            self._renewals.stop()
            if not self._lost:
                with contextlib.suppress(OSError):
                    storage.delete_folder(self.scratch)
                    self._lease.release()
            super().__exit__(*raised)
        if self._lost:
            raise UserError(
                f"storage: expected to be the only process that runs '{self.name}', got another one that took it over "
                f"while this one gave no sign of life; it continues, and what was not uploaded is left in {self.path}"
            )

    def archive(self) -> str:
        """Move the whole search aside in the object store, delete its mirror, and return the new location."""
        with self._pushing:
            return self._archive()

    def _archive(self) -> str:
        self.flush()
        moment = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        target = storage.below(self.location, f"{self.name}-archived-{moment}")
        files = [file for file in storage.list_files(self._uri) if file != SESSION]
        storage.copy_within(self._uri, target, files)
        # These first: without them there is no search, whatever else a kill leaves behind.
        (self.path / STATE).unlink()
        storage.delete(self._uri, "config.yaml")
        self._leave_nothing()
        self._begin_session()
        return target

    def flush(self) -> None:
        """Upload what changed now. Raises UserError if the store can't be reached."""
        for attempt in range(3):
            try:
                self._push()
                return
            except OSError as error:
                reason = " ".join(str(error).split())
                time.sleep(attempt)  # the store may be out of reach for a moment
        raise UserError(
            f"storage: expected to upload to '{self._uri}', got: {reason}; everything is in {self.path}, and the "
            "same command on this machine uploads it"
        )

    def _pull(self) -> None:
        """Bring the mirror up to date from the bucket, unless no other process has written there since."""
        remote = [name for name in storage.list_files(self._uri) if not name.startswith(".ray/")]
        state = _state_of(self.path)
        theirs = storage.read_bytes(self._uri, SESSION).decode() if SESSION in remote else ""
        if remote and not theirs and "config.yaml" not in remote:
            raise UserError(f"name: expected an earlier search or nothing at '{self._uri}', got other files")
        if theirs and state.get("session") == theirs and self.exists:
            self._uploaded = state["uploaded"]
            # Trials wrote these, perhaps on other machines.
            self._fetch([name for name in remote if is_uploaded_by_trial(name) and not name.endswith(".pt")])
        elif theirs and "config.yaml" not in remote:
            self._leave_nothing()  # it was killed while it began or was archived
        elif remote:
            shutil.rmtree(self.path, ignore_errors=True)
            self._fetch([name for name in remote if not name.endswith(".pt") and name != SESSION])
            self._uploaded = {name: stamp for name, stamp in scan(self.path) if name in remote}
        elif self.path.exists():
            shutil.rmtree(self.path)  # the bucket no longer has this search
        self._begin_session()

    def _leave_nothing(self) -> None:
        storage.delete_folder(self._uri)
        shutil.rmtree(self.path, ignore_errors=True)
        self._uploaded = {}

    def _begin_session(self) -> None:
        # In the bucket first: after a kill between the two, the bucket's state is taken, which is nearly the newest.
        self._session = uuid.uuid4().hex
        storage.write_bytes(self._uri, SESSION, self._session.encode())
        self._write_state()

    def _write_state(self) -> None:
        write_json(self.path / STATE, {"of": self._uri, "session": self._session, "uploaded": self._uploaded})

    def _fetch(self, names: list[str]) -> None:
        def fetch(name: str) -> None:
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(storage.read_bytes(self._uri, name))

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(fetch, names))

    def _push_or_log(self) -> float:
        began = time.monotonic()
        try:
            self._push()
        except OSError as error:
            log.warning("not uploaded, tried again: %s", error)
        return max(INTERVAL_SECONDS, 4 * (time.monotonic() - began))

    def _renew_or_end(self) -> float:
        with contextlib.suppress(OSError):  # if the store is out of reach, no other driver can take over, either
            self._lost = self._lost or not self._lease.keep()
        if self._lost:
            log.error("another process took the search over: this one ends")
            os.kill(os.getpid(), signal.SIGINT)
            return math.inf
        return locking.RENEWAL_SECONDS / 3

    def _push(self) -> None:
        with self._pushing:
            self._lost = self._lost or not self._lease.keep()
            if self._lost:
                return
            found = dict(scan(self.path))
            changed = [name for name, stamp in found.items() if self._uploaded.get(name) != stamp]
            contents = {name: content for name in changed if (content := read(self.path / name)) is not None}
            # If the mirror itself was deleted, the bucket keeps everything.
            gone = [name for name in self._uploaded if name not in found] if "config.yaml" in found else []
            for name in gone:
                storage.delete(self._uri, name)
                del self._uploaded[name]
            for step in sorted({upload_step(name) for name in contents}):
                names = [name for name in contents if upload_step(name) == step]
                with ThreadPoolExecutor(CONNECTIONS) as pool:
                    list(pool.map(lambda name: storage.write_bytes(self._uri, name, contents[name]), names))
                self._uploaded |= {name: found[name] for name in names}
            if contents or gone:
                self._write_state()


def mirror_root(location: str) -> Path:
    """The folder in which this machine keeps the mirrors of a storage's searches.

    Raises:
        UserError: it can't be written to.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    location = without_redacted(redacted(location))  # other credentials lead to the same bucket
    if not can_write(existing(cache)):
        raise UserError(
            f"XDG_CACHE_HOME: expected a folder to write in, for what this machine keeps of {location}, got {cache}"
        )
    # A bucket of the same name at another endpoint is another bucket.
    digest = hashlib.sha256(f"{location} {os.environ.get('AWS_ENDPOINT_URL', '')}".encode()).hexdigest()[:8]
    words = re.sub(r"[^A-Za-z0-9]+", "-", location.partition("?")[0]).strip("-")
    return cache / "audio-emotion-tuning" / f"{words}-{digest}"


def _state_of(mirror: Path) -> dict[str, Any]:
    """What a mirror has uploaded, and of which search; empty for a folder that is none.

    Raises:
        DamagedFileError: the file can't be read.
    """
    file = mirror / STATE
    if not file.exists():
        return {}
    found = read_json(file, dict)
    for name, kind in (("of", str), ("session", str), ("uploaded", dict)):
        if not isinstance(found.get(name), kind):
            raise DamagedFileError.of(file, "the state of a mirror", f"{name}: {found.get(name)!r}")
    return found


def refuse_mirror(path: Path) -> None:
    """Raise UserError for a folder that is only the mirror of a search in a bucket."""
    if state := _state_of(path):
        uri = state.get("of")
        raise UserError(f"{path}: expected the search itself, got this machine's mirror of it; it is {uri}")


def _owner(root: Path) -> str:
    """This machine's name in leases; the lock of the mirror excludes a second process on this machine."""
    file = root / ".owner"
    if not file.exists():
        write_text(file, uuid.uuid4().hex)
    return file.read_text(encoding="utf-8")
