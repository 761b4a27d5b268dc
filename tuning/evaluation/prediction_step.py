"""Check the step between two windows of a recording. Imports nothing heavy, so that errors come at once."""

from __future__ import annotations

from tuning.config.errors import UserError

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
