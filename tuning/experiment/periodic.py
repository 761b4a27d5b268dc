"""Repeat a function in a thread while a search runs."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Repeated:
    """A thread that calls a function again and again until it is stopped; the function returns the pause in seconds."""

    def __init__(self, name: str, work: Callable[[], float]) -> None:
        self._work, self._ended = work, threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.start = self._thread.start

    def _run(self) -> None:
        pause = self._work()
        while not self._ended.wait(min(pause, threading.TIMEOUT_MAX)):
            pause = self._work()

    def stop(self) -> None:
        """Wait for a call in progress, and end the thread."""
        self._ended.set()
        self._thread.join()
