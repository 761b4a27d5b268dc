"""Decide which files of a search's folder are uploaded to an object store, and in which order."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tuning.experiment.faults import whole_lines

# Suffixes of files that grow line by line; an unfinished line waits for the next upload.
LINES = (".csv", ".journal", ".log")

# The order of upload ("" stands for all other files): so a search in the bucket has a configuration, no trial that its
# study does not know, and no result without its rows. Files are listed and read in the opposite order, so that a file
# is never newer than those it refers to.
ORDER = ("", "config.yaml", "study.journal", "params.json", "progress.csv", "result.json")


def scan(path: Path) -> list[tuple[str, list[int]]]:
    """List every file to upload with its time and size, by which a change is seen; the last ones to upload first."""
    trials = sorted(trial for trial in (path / "trials").glob("[0-9]*") if trial.is_dir())
    found: list[tuple[str, list[int]]] = []
    for folder in [*trials, path]:  # the search's own files after those of the trials
        names = sorted(_walk(path, folder), key=upload_step, reverse=True)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                stat = (path / name).lstat()
                found.append((name, [stat.st_mtime_ns, stat.st_size]))
    return found


def _walk(root: Path, folder: Path) -> Iterator[str]:
    """Paths within the root of all files below a folder, without hidden, partial and lock files and links."""
    for directory, folders, files in os.walk(folder):
        within = os.path.relpath(directory, root)
        skipped = {"checkpoints"} if folder != root else {"trials"} if within == "." else set()
        folders[:] = [name for name in folders if name not in skipped and not name.startswith(".")]
        for name in files:
            hidden = name.startswith(".") or name.endswith((".partial", ".lock"))
            if not hidden and not os.path.islink(os.path.join(directory, name)):
                yield name if within == "." else f"{within}/{name}"


def is_uploaded_by_trial(name: str) -> bool:
    """Whether the trial itself uploads the file."""
    return re.match(r"trials/\d+/checkpoints", name) is not None


def upload_step(name: str) -> int:
    """The step in which a file is uploaded: its index in ORDER.

    A file that is not named there comes before the configuration, one of a trial before the trial's result.
    """
    last = name.rpartition("/")[2]
    if last in ORDER:
        return ORDER.index(last)
    return ORDER.index("progress.csv") if name.startswith("trials/") or "tfevents" in name else 0


def read(file: Path) -> bytes | None:
    """A file's content, without an unfinished last line if it grows line by line; None if it was deleted."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    return whole_lines(content) if file.suffix in LINES else content
