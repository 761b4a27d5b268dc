"""Let only the process that started last write a trial's checkpoints.

The trials of a killed driver live on for a moment, on another machine for longer. They must not overwrite the
checkpoints of the processes that have resumed these trials.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path


class SupersededError(RuntimeError):
    """Another process has resumed this trial."""


class Claim:
    """The right to write to a folder of checkpoints, until another process claims it.

    It is not a lock, because a trial that is paused in one process may be resumed in another.

    Args:
        folder: of the checkpoints; partial files of earlier processes are deleted.
    """

    def __init__(self, folder: Path) -> None:
        self.file, self.token = folder / ".claim", uuid.uuid4().hex
        folder.mkdir(parents=True, exist_ok=True)
        self.file.write_text(self.token, encoding="utf-8")
        for partial in folder.glob("*.partial"):
            partial.unlink(missing_ok=True)

    @property
    def is_held(self) -> bool:
        """Whether no other process has claimed the folder since."""
        try:
            return self.file.read_text(encoding="utf-8") == self.token
        except OSError:
            return False

    def check(self) -> None:
        """Raise SupersededError if another process has claimed the folder since."""
        if not self.is_held:
            raise SupersededError(f"{self.file.parent}: another process has resumed this trial")

    def release(self) -> None:
        """Give the claim up, unless another process has claimed the folder since."""
        if self.is_held:
            with suppress(OSError):
                self.file.unlink()
