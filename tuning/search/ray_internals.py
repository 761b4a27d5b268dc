"""All that is used of Ray beyond its documented interface, each with what would make it unnecessary. For Ray 2.60."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# An internal package of Ray Tune's loop: its errors of actors are put right below.
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial


def largest_cluster() -> dict[str, float]:
    """CPUs, GPUs, ... that the cluster says it may grow to; empty where it says nothing.

    Ray has no public call for it; `ray.autoscaler.sdk` only asks for resources.
    """
    import ray

    reported = ray._private.state.state.get_max_resources_from_cluster_config()
    return {name: float(value) for name, value in (reported or {}).items()}


def complete_cluster_file(content: dict[str, Any]) -> dict[str, Any]:
    """A cluster file as `ray up` completes it, checked as `ray up` does before it starts anything.

    Raises what Ray raises. There is no `ray up --dry-run`.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(content)
    validate_config(prepared)
    return prepared


def release_orphans() -> int:
    """Remove this job's placement groups that were made by an actor which is dead; the number of others by actors.

    The public table of placement groups does not say who made them. Unnecessary once Ray Train's own watcher is
    reliable without a dashboard (ray#54305).
    """
    import ray
    from ray._private.state import state
    from ray._raylet import PlacementGroupID
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    living = 0
    for written in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(written)
        by_actor = any(byte != 0xFF for byte in group.creator_actor_id) and group.creator_job_id.hex() == job
        if not by_actor or group.is_detached or group.state == PlacementGroupTableData.REMOVED:
            continue
        if group.creator_actor_dead:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
        else:
            living += 1
    return living


def trainer_without_watcher() -> type[Any]:
    """`TorchTrainer` without a process that watches its placement group, 600 MB for each trial.

    `tuning.search.worker_groups` does better what it is for. Unnecessary once all runs share one watcher (ray#65443)
    that needs no dashboard (ray#54305).
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            found = super()._create_default_callbacks()
            return [callback for callback in found if not isinstance(callback, PlacementGroupCleanerCallback)]

    return Trainer


def judged_trial(goes_on: Callable[[Any, BaseException], bool]) -> type[Trial]:
    """The class that a trial of Tune gets, so that `goes_on(trial, error)` says whether it is retried after an error.

    Tune retries after every failure, up to a number, or after none; it does not ask which failure it was.
    """

    class JudgedTrial(Trial):
        def handle_error(self, exc: Any = None) -> None:
            super().handle_error(exc)
            self.goes_on = goes_on(self, exc)

        def should_recover(self) -> bool:
            return self.goes_on

    return JudgedTrial


def judge(trial: Any, kind: type[Trial]) -> None:
    """Give a trial that Tune made the class of `judged_trial`: Tune makes its trials itself."""
    trial.__class__ = kind


@contextmanager
def losses_end_trials_alone() -> Iterator[None]:
    """Two faults of Tune's loop put right while a search runs: a lost worker is its trial's loss and nobody else's.

    Ray's memory monitor kills a worker, and Tune ends the whole search with 'Caught unexpected exception': its actor
    manager knows errors of actors and of tasks, and `ray.exceptions.OutOfMemoryError` is neither. And an actor that
    dies while it is made ready for its next trial is told twice, the second time of a trial that is being retried,
    which would end it. No issue of Ray is known for either.
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
