"""Waiting for other processes, threads and machines: as long as a busy machine may need, and no longer than it does."""

import subprocess
import time
from collections.abc import Callable

# Seconds after which whatever was waited for will not come.
PATIENCE = 900.0


def wait_until(
    condition: Callable[[], bool],
    process: subprocess.Popen | None = None,
    told: Callable[[], str] = str,
    pause: float = 0.1,
) -> None:
    """Wait for a condition, while a process runs if one is given.

    Args:
        condition: what has to hold.
        process: has to live until the condition holds.
        told: what the one waited for had to say, for the error's message.
        pause: seconds between two looks.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process is None or process.poll() is None, f"ended before: {told()}{process.communicate()}"
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {told()}"
        time.sleep(pause)
