"""Waiting for other processes, threads and machines: as long as a busy machine may need, and no longer than it does."""

import subprocess
import time
from collections.abc import Callable

# Seconds after which whatever was waited for will not come.
PATIENCE = 900.0


def wait_until(
    condition: Callable[[], bool], process: subprocess.Popen | None = None, told: Callable[[], str] = str
) -> None:
    """Wait for a condition, while a process runs if one is given.

    Args:
        condition: looked at ten times a second.
        process: has to live until the condition holds.
        told: what the one waited for had to say, for the error's message.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process is None or process.poll() is None, f"ended before: {told()}{process.communicate()}"
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {told()}"
        time.sleep(0.1)  # between two looks
