"""Who may write a trial's checkpoints: the process that began last. Imports nothing heavy.

A driver that is killed leaves trials behind for a moment, on another machine for longer. They must not write over the
checkpoints of those that go on in their place.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path


class SupersededError(RuntimeError):
    """Another process goes on with this trial."""


class Claim:
    """The right to write in a folder of checkpoints, until another process takes it.

    No lock that is held: a trial that waits in its process may go on in another one.

    Args:
        folder: of the checkpoints; what earlier processes left half written there is deleted.
    """

    def __init__(self, folder: Path) -> None:
        self.file, self.token = folder / ".claim", uuid.uuid4().hex
        folder.mkdir(parents=True, exist_ok=True)
        self.file.write_text(self.token, encoding="utf-8")
        for partial in folder.glob("*.partial"):
            partial.unlink(missing_ok=True)

    @property
    def is_held(self) -> bool:
        """Whether no other process took it."""
        try:
            return self.file.read_text(encoding="utf-8") == self.token
        except OSError:
            return False

    def check(self) -> None:
        """Raise SupersededError where another process took it."""
        if not self.is_held:
            raise SupersededError(f"{self.file.parent}: another process goes on with this trial")

    def release(self) -> None:
        """Give it back, unless another process took it."""
        if self.is_held:
            with suppress(OSError):
                self.file.unlink()
