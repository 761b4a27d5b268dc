"""Use Ray 2.60 beyond its documented interface; each function names the Ray issue that would make it unnecessary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import services, worker
from ray._private.state import state
from ray._raylet import PlacementGroupID

# An internal package of Ray Tune's loop, whose handling of dead actors is corrected below.
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.util.placement_group import PlacementGroup, remove_placement_group


@contextmanager
def patient_start(seconds: float) -> Iterator[None]:
    """Wait longer for the raylet that `ray.init` starts in this context.

    Ray 2.60 gives it 30 s, whatever RAY_raylet_start_wait_time_s says. On a busy machine it takes longer. No issue of
    Ray is known for it.
    """
    look = services.get_node

    def look_again(*arguments: Any) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return look(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)  # between two looks

    services.get_node = look_again
    try:
        yield
    finally:
        services.get_node = look


def running_cluster() -> tuple[str, str]:
    """The address that RAY_ADDRESS=auto stands for, and why there is none; one of the two is empty.

    `ray.init` would connect to it for minutes, also where it was written down by a Ray that has died since.
    """
    try:
        return services.canonicalize_bootstrap_address("auto") or "", ""
    except ConnectionError:
        return "auto", "no Ray runs on this machine"


def dead_parts() -> set[str]:
    """The kinds of processes that `ray.init` has started here and that are dead, such as `raylet`.

    Of a Ray that is just being shut down none. Ray has no public call for it, and no issue is known that asks for one:
    its processes end this one a minute after they have lost each other, with a message for its developers.
    """
    node = worker._global_node
    dead = {kind for kind, _ in node.dead_processes()} if node is not None else set()
    return dead if ray.is_initialized() else set()


def raylet_socket() -> str:
    """The path at which the raylet of this process listens."""
    return str(worker._global_node.raylet_socket_name)


def complete_cluster_file(content: dict[str, Any]) -> dict[str, Any]:
    """Complete and check a cluster file as `ray up` does before it starts anything.

    Raises what Ray raises. Ray has no public way to check a file without starting machines, nor a known issue that asks
    for one.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(content)
    validate_config(prepared)
    return prepared


def prefer_available(
    node_resources: dict[str, Any], resources: list[dict[str, Any]], node_type: str, *, node_availability_summary: Any
) -> tuple[Any, ...] | None:
    """Ray's score of a node type for some requests, below all others while the cloud has refused its last launch.

    The autoscaler, version 1, calls what RAY_AUTOSCALER_UTILIZATION_SCORER names, and launches the type of the highest
    score; of equal ones the last name in the alphabet. It remembers a refusal for half an hour, but its own score does
    not read that; version 2 asks for the refused type for ever, since it notes only machines that came and did not
    start. No issue of Ray is known for either.
    """
    from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer

    score = _default_utilization_scorer(
        node_resources, resources, node_type, node_availability_summary=node_availability_summary
    )
    record = node_availability_summary.node_availabilities.get(node_type)
    return None if score is None else (record is None or record.is_available, *score)


def release_orphans() -> int:
    """Remove this job's placement groups whose creating actor is dead; return the number that living actors made.

    The public table of placement groups does not name their creators. Unnecessary once a placement group ends with the
    actor that created it (ray#65881), or Ray Train's cleaner works without a dashboard (ray#54305).
    """
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
    """`TorchTrainer` without Ray Train's placement group cleaner, a process of 600 MB for each trial.

    `tuning.search.worker_groups` takes its place. Unnecessary once all runs share one cleaner (ray#65443) that needs no
    dashboard (ray#54305).
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            found = super()._create_default_callbacks()
            return [callback for callback in found if not isinstance(callback, PlacementGroupCleanerCallback)]

    return Trainer


def retrying_trial(retries: Callable[[Any, BaseException], bool]) -> type[Trial]:
    """A class of Tune trials for which `retries(trial, error)` decides whether a failed trial is run again.

    Tune counts every failure but preemption (ray#41285) and retries up to a number, whatever the failure was. No issue
    of Ray asks for more. Without this class a trial would have to catch its own errors and report them as a last row.
    Tune would then give the process, perhaps with a broken CUDA context, to the next trial.
    """

    class RetryingTrial(Trial):
        def handle_error(self, exc: Any = None) -> None:
            super().handle_error(exc)
            self.is_retried = retries(self, exc)

        def should_recover(self) -> bool:
            return self.is_retried

    return RetryingTrial


def set_trial_class(trial: Any, kind: type[Trial]) -> None:
    """Give a trial that Tune has made the class of `retrying_trial`: Tune can't be told to make trials of it."""
    trial.__class__ = kind


@contextmanager
def lost_workers_handled() -> Iterator[None]:
    """Correct two faults of Tune while a search runs, so that a lost worker fails its own trial at most.

    When Ray's memory monitor kills a worker, Tune may end the whole search with 'Caught unexpected exception': its
    actor manager expects errors of actors and of tasks, and `ray.exceptions.OutOfMemoryError` is neither. And when an
    actor dies while it is reset for its next trial, Tune handles the failure twice; the second time the trial is
    already being retried, and ends. No issue of Ray is known for either.
    """
    task_failed, trial_failed = RayActorManager._actor_task_failed, TuneController._trial_task_failure
    handled: dict[str, BaseException] = {}

    def as_actor_error(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if not isinstance(exception, (RayActorError, RayTaskError)):
            died = RayActorError(error_msg=str(exception))
            died.__cause__ = exception
            exception = died
        task_failed(self, tracked_actor_task, exception)

    def once(self: Any, trial: Any, exception: Exception) -> None:
        self._resetting_trials.discard(trial)
        if handled.get(trial.trial_id) is not exception:
            handled[trial.trial_id] = exception
            trial_failed(self, trial, exception)

    RayActorManager._actor_task_failed, TuneController._trial_task_failure = as_actor_error, once
    try:
        yield
    finally:
        RayActorManager._actor_task_failed, TuneController._trial_task_failure = task_failed, trial_failed
