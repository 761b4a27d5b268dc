"""What becomes of a trial that fails: some failures are not its own, and it goes on from its last checkpoint.

| failure | what happens |
|---|---|
| its worker or node died, spot loss, Ray killed it for want of memory | goes on, at most `max_restarts` times |
| it ran out of memory on a share of a GPU | goes on with twice the share, up to the whole GPU |
| a disk is full or read-only | the search stops, the trial stays unfinished |
| anything else, NaN among it | the trial has failed |
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.tune import Callback
from ray.tune.execution.placement_groups import resource_dict_to_pg_factory

from tuning.experiment.faults import causes, storage_fault
from tuning.search.ray_internals import judge, judged_trial
from tuning.search.resources import Resources
from tuning.training.gradient_accumulation import is_out_of_memory

log = logging.getLogger("tuning.search")

# Ray Train's errors that tell of its workers' machines, not of what ran there.
_OF_A_GROUP = ("PreemptionError", "WorkerHealthCheckTimeoutError", "WorkerGroupStartupTimeoutError")


class Failures(Callback):
    """Judges the failures of one search's trials.

    Tune retries a trial after any failure or after none. So each trial is told, when it starts, to ask here.

    Args:
        resources: what a trial takes.
        max_restarts: how often a trial goes on after its worker or node died.
        stop: ends the search, with the reason.
        say: shows a line beside the trials.
    """

    def __init__(
        self, resources: Resources, max_restarts: int, stop: Callable[[str], None], say: Callable[[str], None]
    ) -> None:
        self.resources, self.max_restarts, self.stop, self.say = resources, max_restarts, stop, say
        self.restarts: dict[int, int] = {}
        self.kind = judged_trial(self.goes_on)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, for Tune's own snapshot."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell the trial to ask here when it fails."""
        judge(trial, self.kind)

    def goes_on(self, trial: Any, error: BaseException) -> bool:
        """Whether a trial that failed is to go on; what it needs for that is set."""
        fault = storage_fault(error)
        if fault:
            self.stop(fault)
            return True  # the search ends before it could
        if any(is_out_of_memory(found) for found in causes(error)):
            return self._has_more_memory(trial, error)
        lost = next((found for found in causes(error) if _is_system(found)), None)
        return lost is not None and self._restarts(trial, lost)

    def _restarts(self, trial: Any, lost: BaseException) -> bool:
        number = trial.config["number"]
        why = _describe(lost)
        done = self.restarts.get(number, 0)
        preempted = getattr(lost, "preempted", False)
        if done >= self.max_restarts and not preempted:
            times = f" after {done} restart{'s' if done > 1 else ''}" if done else ""
            trial.why_failed = f"{why}{times}"
            return False
        self.restarts[number] = done if preempted else done + 1
        self._note(f"trial {number} goes on from its last checkpoint: {why}")
        return True

    def _has_more_memory(self, trial: Any, error: BaseException) -> bool:
        spec = trial.config
        share = spec["gpus_per_worker"]
        if not 0 < share < 1:
            # Ray's own error, which comes first and is one of both kinds, has a traceback for its text.
            *_, found = (found for found in causes(error) if is_out_of_memory(found))
            trial.why_failed = f"out of memory: {' '.join(str(found).split())[:200]}"
            return False
        larger = min(1.0, 2 * share)
        spec["gpus_per_worker"] = larger
        spec["note"] = f"out of memory on {share:g} of a GPU, went on with {larger:g}"
        if self.resources.workers == 1:  # the driver of a group asks for no GPU itself
            trial.placement_group_factory = resource_dict_to_pg_factory(
                {"CPU": float(self.resources.cpus), "GPU": larger}
            )
        self._note(f"trial {spec['number']} ran out of memory on {share:g} of a GPU, goes on with {larger:g}")
        return True

    def _note(self, text: str) -> None:
        log.warning(text)
        self.say(text)


def _is_system(error: BaseException) -> bool:
    if isinstance(error, RayActorError) and error.actor_init_failed:  # of the trial's own code
        return False
    own = isinstance(error, RayTaskError)
    return (isinstance(error, RayError) and not own) or type(error).__name__ in _OF_A_GROUP


def _describe(lost: BaseException) -> str:
    text = str(lost)
    if isinstance(lost, OutOfMemoryError) or "low on memory" in text:
        return "out of memory: Ray killed the worker because its machine was low on memory"
    if "node" in text and "died" in text and "process has died" not in text:
        return "its node died"
    if isinstance(lost, RayActorError):
        return "its worker died (killed, perhaps for want of memory)"
    return f"{type(lost).__name__}: {' '.join(text.split())[:200]}"
