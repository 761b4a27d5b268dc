"""What of a search's folder goes into an object store, and in which order."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tuning.experiment.faults import whole_lines

# Appended to line by line: a line that is being written is left for the next upload.
LINES = (".csv", ".journal", ".log")

# In the order of upload. A search exists with its configuration and never has trials that its study does not know, nor
# a result without the rows that led to it. Files are looked at and read in the opposite order, so that what goes up
# later is never newer than what it needs.
ORDER = ("", "config.yaml", "study.journal", "params.json", "progress.csv", "result.json")


def scan(path: Path) -> list[tuple[str, list[int]]]:
    """Every file to upload with what tells whether it changed, those that go up last first."""
    trials = sorted(trial for trial in (path / "trials").glob("[0-9]*") if trial.is_dir())
    found: list[tuple[str, list[int]]] = []
    for folder in [*trials, path]:  # the search's own files are listed once the trials' were
        names = sorted(_walk(path, folder), key=rank, reverse=True)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                stat = (path / name).lstat()
                found.append((name, [stat.st_mtime_ns, stat.st_size]))
    return found


def _walk(root: Path, folder: Path) -> Iterator[str]:
    """Files below a folder by their path within the root, but for hidden, half-written and lock files and links."""
    for place, folders, files in os.walk(folder):
        within = os.path.relpath(place, root)
        skipped = {"checkpoints"} if folder != root else {"trials"} if within == "." else set()
        folders[:] = [name for name in folders if name not in skipped and not name.startswith(".")]
        for name in files:
            hidden = name.startswith(".") or name.endswith((".partial", ".lock"))
            if not hidden and not os.path.islink(os.path.join(place, name)):
                yield name if within == "." else f"{within}/{name}"


def kept_by_trial(name: str) -> bool:
    """Whether a trial keeps the file in step itself."""
    return re.match(r"trials/\d+/checkpoints", name) is not None


def rank(name: str) -> int:
    """When a file goes up: its place in ORDER, one that is not named there before the configuration or the result."""
    last = name.rpartition("/")[2]
    if last in ORDER:
        return ORDER.index(last)
    return ORDER.index("progress.csv") if name.startswith("trials/") or "tfevents" in name else 0


def read(file: Path) -> bytes | None:
    """A file's content, of one that grows by lines its whole lines; None for a file that went away."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    return whole_lines(content) if file.suffix in LINES else content
