"""The order of a search's trials."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from tuning.experiment.directory import TrialRecord


def kept_epoch(keep: Collection[str]) -> str:
    """Name the epoch that trials are ranked by, given the values of `training.keep` that they may have.

    >>> kept_epoch(["best"]), kept_epoch(["last"]), kept_epoch(["best", "last"])
    ('best epoch', 'last epoch', 'best or last epoch')
    """
    return f"{' or '.join(dict.fromkeys(keep))} epoch"


def rank(records: Iterable[TrialRecord], metric: str, mode: Literal["min", "max"]) -> list[TrialRecord]:
    """Sort trials by the value of their best epoch, best first; those that failed or have no value come last.

    A trial that has finished fewer inner folds than it should comes after those with all of them, whatever its mean:
    folds differ in difficulty, and it was stopped for being poor or is still running. Equal trials are in the order of
    their numbers.
    """
    sign = 1 if mode == "min" else -1

    def key(record: TrialRecord) -> tuple[bool, bool, float, int]:
        value = record.value(metric)
        if value is None:
            return (True, False, 0.0, record.number)
        return (False, not record.is_whole, sign * value, record.number)

    return sorted(records, key=key)
