"""What a trial leaves in an object store: its checkpoints and rows, uploaded before each row is reported.

A trial may go on on another machine than it began on, so the bucket is the truth: what a machine's disk has from
before is thrown away. The rows are kept beside the checkpoints and said again first, because the last ones may not
have reached the search's own record when its driver was lost.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuning.datasets import storage
from tuning.experiment.checkpoint_claim import SupersededError

log = logging.getLogger("tuning.experiment.checkpoint_upload")

ROWS = "rows.json"

# As on disk (`tuning.experiment.checkpoint_claim`): some trials of a killed driver live on for a moment, and must not
# write over those that go on in their place.
CLAIM = ".claim"

Report = Callable[[dict[str, Any]], None]


class TrialUploads:
    """A trial's folder of checkpoints, kept in step with an object store.

    Args:
        folder: on this machine; emptied, then filled from the bucket.
        location: URI of the same folder in the bucket.
        rank: of this worker; the first alone uploads, each of the others has a folder of its own beside the first's.
    """

    def __init__(self, folder: Path, location: str, rank: int = 0) -> None:
        self.folder = folder if rank == 0 else folder.with_name(f"{folder.name}-{rank}")
        self.location, self.rank = location, rank
        self.uploaded: dict[Path, tuple[int, int]] = {}
        self.rows: list[dict[str, Any]] = []
        self.failed, self.token = False, uuid.uuid4().hex.encode()

    def begin(self, report: Report) -> Report:
        """Fetch, and report again what was reported before; a report function that uploads first and keeps the rows.

        Raises OSError when the bucket can't be read.
        """
        self._fetch()
        if self.rank == 0:
            storage.write_bytes(self.location, CLAIM, self.token)
        for row in self.rows:
            report(row)
        ended = self.rows[-1]["epoch"] if self.rows else 0

        def keep_and_report(row: dict[str, Any]) -> None:
            if row["epoch"] <= ended:  # a training that was cut off says its last epoch again
                return
            self.rows.append(row)
            self.upload()
            report(row)

        return keep_and_report

    def after(self, report: Report) -> Report:
        """A report function that uploads after the one given, for rows that are no rows of the trial."""

        def report_and_upload(row: dict[str, Any]) -> None:
            report(row)
            self.upload()

        return report_and_upload

    def upload(self) -> None:
        """Upload what changed: the best weights, the last ones, then the rows.

        A failure is logged and the next epoch tries again, then with the rows first: weights may be older than the
        rows, since a training that goes on from them repeats epochs, but newer by one epoch at most, whose row a
        checkpoint holds itself.
        """
        if self.rank != 0:
            return
        try:
            if storage.read_bytes(self.location, CLAIM) != self.token:
                raise SupersededError(f"{self.location}: another process goes on with this trial")
            if self.rows:
                (self.folder / ROWS).write_text(json.dumps(self.rows), encoding="utf-8")
            found = [file for file in self.folder.rglob("*") if file.is_file() and not file.name.startswith(".")]
            files = [file for file in found if file.suffix != ".partial"]
            for file in sorted(files, key=lambda file: ((file.suffix == ".json") != self.failed, file.name)):
                if self.uploaded.get(file) != (stamp := _stamp(file)):
                    storage.write_bytes(self.location, file.relative_to(self.folder).as_posix(), _mapped(file))
                    self.uploaded[file] = stamp
            self.failed = False
        except OSError as error:
            self.failed = True
            log.warning("%s: not uploaded, tried again after the next epoch: %s", self.location, error)

    def _fetch(self) -> None:
        """Make the folder hold what the bucket holds."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name in storage.list_files(self.location):
            if name.rpartition("/")[2] in ("best.pt", CLAIM):  # nothing reads them here
                continue
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(storage.read_bytes(self.location, name))
            self.uploaded[file] = _stamp(file)
        kept = self.folder / ROWS
        self.rows = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []


def _stamp(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


def _mapped(file: Path) -> Any:
    """The file's content without a copy in memory."""
    import pyarrow as pa

    if not file.stat().st_size:
        return b""
    with pa.memory_map(str(file)) as source:
        return source.read_buffer()
