"""Work that is done again and again beside a search."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Repeated:
    """Something done again and again in a thread until it is stopped; it returns the seconds to the next time."""

    def __init__(self, name: str, work: Callable[[], float]) -> None:
        self._work, self._ended = work, threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.start = self._thread.start

    def _run(self) -> None:
        pause = self._work()
        while not self._ended.wait(min(pause, threading.TIMEOUT_MAX)):
            pause = self._work()

    def stop(self) -> None:
        """Let it finish what it does, and no more."""
        self._ended.set()
        self._thread.join()
