"""How often a long recording is judged. Imports nothing heavy, so that a step that is none is refused at once."""

from __future__ import annotations

from tuning.config.errors import UserError

SHORTEST_STEP = 0.01  # seconds between two windows


def checked_step(value: float | str) -> float:
    """Seconds between two windows, from a number or its text.

    Raises:
        UserError: no number, or one that is too small or infinite.
    """
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not SHORTEST_STEP <= seconds < float("inf"):
        raise UserError(f"step_seconds: expected seconds, {SHORTEST_STEP:g} at least, got '{value}'")
    return seconds
