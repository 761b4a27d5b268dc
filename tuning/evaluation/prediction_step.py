"""Check what is asked of a prediction. Imports neither torch nor Ray, so that errors come at once."""

from __future__ import annotations

from pathlib import Path

from tuning.config.errors import UserError
from tuning.datasets import storage

SHORTEST_STEP = 0.01  # seconds between two windows


def checked_step(value: float | str) -> float:
    """Convert a number or its text to the seconds between two windows.

    Raises:
        UserError: it is no number, too small or infinite.
    """
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not SHORTEST_STEP <= seconds < float("inf"):
        raise UserError(f"step_seconds: expected seconds, {SHORTEST_STEP:g} at least, got '{value}'")
    return seconds


def why_no_recording(file: Path) -> str:
    """Why a path is no file to read, without opening it; empty if it is one."""
    why = storage.why_no_file(str(file))
    return why and f"expected a recording, got {why.replace('missing', 'no such file').removeprefix('not a file: ')}"
