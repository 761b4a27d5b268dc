"""One line of the doctor's report."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """What was looked at, what was found, and what to do about it where something is."""

    level: Level
    what: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        line = f"{self.level:<5} {self.what:<13} {self.found}"
        return f"{line}\n{'':<20}-> {self.advice}" if self.advice else line


def ok(what: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", what, found)


def warn(what: str, found: str, advice: str) -> Finding:
    """It works, but less well or less safely than it could."""
    return Finding("warn", what, found, advice)


def fail(what: str, found: str, advice: str) -> Finding:
    """A search, or a cluster, would not work."""
    return Finding("fail", what, found, advice)


def in_words(num_bytes: float) -> str:
    """A size as one reads it."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
