"""A finding of the doctor."""

from __future__ import annotations

from typing import Literal, NamedTuple

from tuning.datasets.redaction import redacted

Level = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """What was checked, what was found, and what to do about it if something is wrong."""

    level: Level
    what: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        line = redacted(f"{self.level:<5} {self.what:<13} {self.found}")
        return f"{line}\n{'':<20}-> {self.advice}" if self.advice else line


def ok(what: str, found: str) -> Finding:
    """A finding that needs nothing to be done."""
    return Finding("ok", what, found)


def warn(what: str, found: str, advice: str) -> Finding:
    """A finding of something that works, but less well or less safely than it could."""
    return Finding("warn", what, found, advice)


def fail(what: str, found: str, advice: str) -> Finding:
    """A finding that keeps a search, or a cluster, from working."""
    return Finding("fail", what, found, advice)


def in_words(num_bytes: float) -> str:
    """A size in MB or GB."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
