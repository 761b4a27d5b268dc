"""Upload a trial's checkpoints and rows to an object store before each row is reported.

A trial may resume on another machine, so the bucket's state counts, and what is left on a machine's disk is deleted.
The rows are stored with the checkpoints and reported again when the trial resumes, because the last ones may not have
reached the search's own record when its driver was lost.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from tuning.datasets import storage
from tuning.experiment.checkpoint_claim import SupersededError
from tuning.experiment.reading import read_json

log = logging.getLogger("tuning.experiment.checkpoint_upload")

ROWS = "rows.json"

# Holds a token of the process that may write, as on disk (`tuning.experiment.checkpoint_claim`).
CLAIM = ".claim"

Report = Callable[[dict[str, Any]], None]


class TrialUploads:
    """A trial's folder of checkpoints and its copy in an object store.

    Args:
        folder: on this machine; it is emptied, then filled from the bucket.
        location: URI of the same folder in the bucket.
        rank: of this worker. Only worker 0 uploads; each of the others uses a local folder of its own.
    """

    def __init__(self, folder: Path, location: str, rank: int = 0) -> None:
        self.folder = folder if rank == 0 else folder.with_name(f"{folder.name}-{rank}")
        self.location, self.rank = location, rank
        self.uploaded: dict[Path, tuple[int, int]] = {}
        self.rows: list[dict[str, Any]] = []
        self.failed, self.token = False, uuid.uuid4().hex.encode()

    def begin(self, report: Report) -> Report:
        """Download, report the earlier rows again, and return a report function that uploads before it reports.

        Raises OSError if the bucket can't be read.
        """
        self._fetch()
        if self.rank == 0:
            storage.write_bytes(self.location, CLAIM, self.token)
        for row in self.rows:
            report(row)
        ended = self.rows[-1]["epoch"] if self.rows else 0

        def keep_and_report(row: dict[str, Any]) -> None:
            if row["epoch"] <= ended:  # a training that was cut off reports its last epoch again
                return
            self.rows.append(row)
            self.upload()
            report(row)

        return keep_and_report

    def after(self, report: Report) -> Report:
        """Return a report function that calls `report`, then uploads; for the rows within an inner fold."""

        def report_and_upload(row: dict[str, Any]) -> None:
            report(row)
            self.upload()

        return report_and_upload

    def upload(self) -> None:
        """Upload what changed: the best weights, the last weights, then the rows.

        A failure is logged, and the next epoch tries again with the rows first. Weights in the bucket may be older than
        the rows, since a training that resumes from them repeats epochs. They may be newer by one epoch only, whose row
        is also in the checkpoint.
        """
        if self.rank != 0:
            return
        try:
            if storage.read_bytes(self.location, CLAIM) != self.token:
                raise SupersededError(f"{self.location}: another process has resumed this trial")
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
        """Make the local folder equal to that of the bucket."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name in storage.list_files(self.location):
            if name.rpartition("/")[2] in ("best.pt", CLAIM):  # not needed here
                continue
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(storage.read_bytes(self.location, name))
            self.uploaded[file] = _stamp(file)
        kept = self.folder / ROWS
        self.rows = read_json(kept, list) if kept.exists() else []


def _stamp(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


def _mapped(file: Path) -> Any:
    """Map the file's content instead of reading it into memory."""
    if not file.stat().st_size:
        return b""
    with pa.memory_map(str(file)) as source:
        return source.read_buffer()
