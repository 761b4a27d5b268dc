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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.tune import Callback
from ray.tune.execution.placement_groups import resource_dict_to_pg_factory
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from tuning.experiment.faults import causes, storage_fault
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
        self.kind = _judged_by(self.goes_on)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, for Tune's own snapshot."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune makes its trials itself: this one's class becomes that which asks here."""
        trial.__class__ = self.kind

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


def _judged_by(goes_on: Callable[[Any, BaseException], bool]) -> type[Trial]:
    class JudgedTrial(Trial):
        def handle_error(self, exc: Any = None) -> None:
            super().handle_error(exc)
            self.goes_on = goes_on(self, exc)

        def should_recover(self) -> bool:
            return self.goes_on

    return JudgedTrial


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


@contextmanager
def losses_end_trials_alone() -> Iterator[None]:
    """Two faults of Tune's loop put right while a search runs: a lost worker is its trial's loss and nobody else's.

    Ray's memory monitor kills a worker, and Tune ends the whole search with 'Caught unexpected exception': its actor
    manager knows errors of actors and of tasks, and `ray.exceptions.OutOfMemoryError` is neither. And an actor that
    dies while it is made ready for its next trial is told twice, the second time of a trial that is being retried,
    which would end it.
    """
    task_failed, trial_failed = RayActorManager._actor_task_failed, TuneController._trial_task_failure
    told: dict[str, BaseException] = {}

    def as_actor_error(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if not isinstance(exception, (RayActorError, RayTaskError)):
            died = RayActorError(error_msg=str(exception))
            died.__cause__ = exception
            exception = died
        task_failed(self, tracked_actor_task, exception)

    def once(self: Any, trial: Any, exception: Exception) -> None:
        self._resetting_trials.discard(trial)
        if told.get(trial.trial_id) is not exception:
            told[trial.trial_id] = exception
            trial_failed(self, trial, exception)

    RayActorManager._actor_task_failed, TuneController._trial_task_failure = as_actor_error, once
    try:
        yield
    finally:
        RayActorManager._actor_task_failed, TuneController._trial_task_failure = task_failed, trial_failed
