"""Say when a training ends, and when a scheduler may end it at the earliest. Trials and estimates ask the same rule.

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Collection

from tuning.config.own_functions import takes
from tuning.config.schema import Config, TrainingSettings

# Schedulers that stop no trial.
STOPS_NONE = ("none", "pbt")


def next_wait(wait: int, epoch: int, gained: bool, unfreezing: Collection[int]) -> int:
    """Count the epochs in a row without a better metric, after one more epoch.

    Args:
        wait: the count before it.
        epoch: its number, from 1.
        gained: whether its metric is better.
        unfreezing: epochs from which on more of the model is trained; counting starts anew there.
    """
    if gained:
        return 0
    return 1 if epoch in unfreezing else wait + 1


def why_ended(settings: TrainingSettings, epoch: int, wait: int, unfreezing: Collection[int]) -> str:
    """Say why a training ends with an epoch, counted from 1; empty if it does not, as before the last unfreezing."""
    if epoch >= settings.epochs:
        return "all epochs"
    if settings.patience is not None and wait >= settings.patience and epoch >= max(unfreezing, default=1):
        return "early stopping"
    return ""


def earliest_end(settings: TrainingSettings, unfreezing: Collection[int]) -> int:
    """Return the number of epochs of a training whose first epoch is its best."""
    epoch, wait = 1, 0
    while not why_ended(settings, epoch, wait, unfreezing):
        epoch += 1
        wait = next_wait(wait, epoch, False, unfreezing)
    return epoch


def first_stop(config: Config, longest: int) -> int | None:
    """Return the epoch (with inner folds: the fold) after which a scheduler may first stop a trial; None: never.

    `longest`: most epochs of a trial.
    """
    if config.search.scheduler in STOPS_NONE:
        return None
    waits = takes("search.scheduler", config.search.scheduler, "grace_epochs")
    return min(config.search.grace_epochs, longest) if waits and config.split.inner_folds is None else 1
