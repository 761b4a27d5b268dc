"""Choose how trials train: in the process of their Ray Tune trial, or in worker groups of Ray Train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tuning.config.distributions import counted
from tuning.config.schema import Config
from tuning.search.resources import Resources

# How much later a worker group has its first row than a trial in the process of Ray Tune: `benchmarks/backends.py`.
GROUP_SECONDS = 9.0

# The most that a group's start may take of the shortest time that a trial trains.
MOST_OF_A_TRIAL = 0.1
LEAST_SECONDS = GROUP_SECONDS / MOST_OF_A_TRIAL


def choose_backend(
    config: Config, resources: Resources, trial_seconds: Callable[[], float | None]
) -> tuple[Resources, str]:
    """Decide `resources.backend`, and say why.

    Args:
        config: settings that all trials share.
        resources: what a trial takes.
        trial_seconds: measures how long the first trial trains at least; None if that can't be known. It is called
            only where the answer depends on it: for one worker with a GPU.

    Returns:
        The resources with their backend, and the reason.
    """
    wanted = config.resources.backend
    if wanted != "auto":
        return replace(resources, backend=wanted), "as set"
    if resources.workers > 1:
        return replace(resources, backend="train"), f"{resources.workers} workers per trial"
    direct = replace(resources, backend="direct")
    if not depends_on_time(config, resources):
        reason = "one worker without a GPU" if not resources.gpus_per_worker else "a population"
        return direct, reason
    seconds = trial_seconds()
    if seconds is None:
        return direct, "how long a trial trains is not known"
    time = f"a trial trains for {counted(round(seconds), 'second')}"
    if seconds < LEAST_SECONDS:
        return direct, f"{time}, less than {LEAST_SECONDS:.0f}"
    return replace(resources, backend="train"), f"{time}, at least {LEAST_SECONDS:.0f}"


def depends_on_time(config: Config, resources: Resources) -> bool:
    """Whether the choice depends on how long a trial trains: for one worker with a GPU, unless it is set."""
    alone = resources.workers == 1 and bool(resources.gpus_per_worker)
    return config.resources.backend == "auto" and alone and config.search.scheduler != "pbt"
