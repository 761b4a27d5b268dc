"""Decide whether a failed trial is retried from its last checkpoint.

| failure | what happens |
|---|---|
| its worker or node died, or Ray killed it for lack of memory | retried, at most `max_restarts` times |
| it ran out of memory on a share of a GPU | retried with twice the share, up to the whole GPU |
| a disk is full or read-only | the search stops, the trial remains unfinished |
| anything else, including NaN | the trial has failed |
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError, WorkerCrashedError
from ray.tune import Callback
from ray.tune.execution.placement_groups import resource_dict_to_pg_factory

from tuning.experiment.faults import causes, storage_fault
from tuning.search.ray_internals import retrying_trial, set_trial_class
from tuning.search.resources import Resources
from tuning.training.gradient_accumulation import is_out_of_memory

log = logging.getLogger("tuning.search")

# Errors of Ray Train that are about its workers' machines, not about the code that ran there.
_LOST_GROUP = ("PreemptionError", "WorkerHealthCheckTimeoutError", "WorkerGroupStartupTimeoutError")


class Failures(Callback):
    """A callback of Tune that decides for every failed trial of a search whether it is retried.

    Tune alone retries a trial after any failure or after none.

    Args:
        resources: what a trial takes.
        max_restarts: how often a trial is retried after its worker or node died.
        stop: ends the search, given the reason.
        say: shows a line to the user.
    """

    def __init__(
        self, resources: Resources, max_restarts: int, stop: Callable[[str], None], say: Callable[[str], None]
    ) -> None:
        self.resources, self.max_restarts, self.stop, self.say = resources, max_restarts, stop, say
        self.restarts: dict[int, int] = {}
        self.trial_class = retrying_trial(self.retries)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, for Tune's own snapshot."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Make the trial ask this object when it fails."""
        set_trial_class(trial, self.trial_class)

    def retries(self, trial: Any, error: BaseException) -> bool:
        """Decide whether a failed trial is retried, and give it the resources that it then needs."""
        fault = storage_fault(error)
        if fault:
            self.stop(fault)
            return True  # not failed; the search ends before it is retried
        if any(is_out_of_memory(found) for found in causes(error)):
            return self._gets_more_memory(trial, error)
        lost = next((found for found in causes(error) if _is_system(found)), None)
        return lost is not None and self._may_restart(trial, lost)

    def _may_restart(self, trial: Any, lost: BaseException) -> bool:
        number = trial.config["number"]
        why = describe_loss(lost)
        count = self.restarts.get(number, 0)
        preempted = getattr(lost, "preempted", False)
        if count >= self.max_restarts and not preempted:
            times = f" after {count} restart{'s' if count > 1 else ''}" if count else ""
            trial.why_failed = f"{why}{times}"
            return False
        self.restarts[number] = count if preempted else count + 1
        self._note(f"trial {number} resumes from its last checkpoint: {why}")
        return True

    def _gets_more_memory(self, trial: Any, error: BaseException) -> bool:
        spec = trial.config
        share = spec["gpus_per_worker"]
        if not 0 < share < 1:
            # The last one: Ray's wrapper comes first, and its text is a traceback.
            *_, found = (found for found in causes(error) if is_out_of_memory(found))
            trial.why_failed = f"out of memory: {' '.join(str(found).split())[:200]}"
            return False
        larger = min(1.0, 2 * share)
        spec["gpus_per_worker"] = larger
        spec["note"] = f"out of memory on {share:g} of a GPU, resumed with {larger:g}"
        if self.resources.backend == "direct":  # the driver of a worker group asks for no GPU itself
            trial.placement_group_factory = resource_dict_to_pg_factory(
                {"CPU": float(self.resources.cpus), "GPU": larger}
            )
        self._note(f"trial {spec['number']} ran out of memory on {share:g} of a GPU and resumes with {larger:g}")
        return True

    def _note(self, text: str) -> None:
        log.warning(text)
        self.say(text)


def _is_system(error: BaseException) -> bool:
    if isinstance(error, RayActorError) and error.actor_init_failed:  # an error of the trial's own code
        return False
    is_own = isinstance(error, RayTaskError)
    return (isinstance(error, RayError) and not is_own) or type(error).__name__ in _LOST_GROUP


def describe_loss(lost: BaseException) -> str:
    """Say why a worker was lost: its node, its memory, or the process alone."""
    text = str(lost)
    if isinstance(lost, OutOfMemoryError) or "low on memory" in text:
        return "out of memory: Ray killed the worker because its machine was low on memory"
    if "node" in text and "died" in text and "process has died" not in text:
        return "its node died"
    if isinstance(lost, (RayActorError, WorkerCrashedError)):
        return "its worker died (killed, perhaps for lack of memory)"
    return f"{type(lost).__name__}: {' '.join(text.split())[:200]}"
