"""When a training ends, and before when no scheduler ends it: one rule for trainings, searches and estimates.

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Collection

from tuning.config.schema import Config, TrainingSettings

# Schedulers that stop trials.
STOPPING = ("asha", "hyperband", "median")


def next_wait(wait: int, epoch: int, gained: bool, unfreezing: Collection[int]) -> int:
    """Epochs in a row without a better metric after one more, which gained or not.

    At the start of the epochs `unfreezing`, when more of the model is trained, they are counted anew.
    """
    if gained:
        return 0
    return 1 if epoch in unfreezing else wait + 1


def why_ended(settings: TrainingSettings, epoch: int, wait: int, unfreezing: Collection[int]) -> str:
    """Why a training ends with an epoch, counted from 1; empty where it goes on. Not before the last unfreezing."""
    if epoch >= settings.epochs:
        return "all epochs"
    if settings.patience is not None and wait >= settings.patience and epoch >= max(unfreezing, default=1):
        return "early stopping"
    return ""


def earliest_end(settings: TrainingSettings, unfreezing: Collection[int]) -> int:
    """Epochs of a training that never becomes better than it is after its first."""
    epoch, wait = 1, 0
    while not why_ended(settings, epoch, wait, unfreezing):
        epoch += 1
        wait = next_wait(wait, epoch, False, unfreezing)
    return epoch


def first_stop(config: Config, longest: int) -> int | None:
    """The epoch, or with inner folds the fold, with which a scheduler may first stop a trial; None where none does.

    `longest`: most epochs of a trial.
    """
    if config.search.scheduler not in STOPPING:
        return None
    return 1 if config.split.inner_folds is not None else min(config.search.grace_epochs, longest)
