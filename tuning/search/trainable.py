"""Run a trial in Ray Tune, within its process or in a worker group of Ray Train (`tuning.search.backend`).

In the process of the Tune trial a training starts in under a second. A worker group is a TorchTrainer that the Tune
trial starts and waits for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tuning.config.schema import Config, parse_sent
from tuning.data.data_module import fetch
from tuning.data.keys import DataKey, data_key
from tuning.experiment.faults import causes
from tuning.experiment.trial_spec import TrialSpec
from tuning.search.compute import assigned_device, limit_memory, splits_batches
from tuning.training.gradient_accumulation import is_out_of_memory
from tuning.training.trial import train


def run_trial(given: dict[str, Any], data: dict[DataKey, list[Any]]) -> None:
    """Train a trial, here or on a group of workers.

    Args:
        given: a `TrialSpec` as plain values.
        data: the references that `DataModule.share` returned, by `data_key`.
    """
    from ray import tune

    spec = TrialSpec.from_dict(given)
    config = parse_sent(spec.config)
    parts = data[data_key(config)]
    if spec.backend == "train":
        train_on_workers(spec, config, parts)
        return
    device = assigned_device(spec.gpus_per_worker)
    train(spec, fetch(parts), tune.report, device=device, splits=splits_batches(device, spec.gpus_per_worker))


def train_on_workers(spec: TrialSpec, config: Config, parts: list[Any]) -> None:
    """Train a trial in a worker group of Ray Train, with several workers data-parallel (DDP).

    A group of several that runs out of memory starts again from its last checkpoint with half as many clips at once:
    no worker can split its batch alone, since the others wait for each of its steps. On a share of a GPU the error is
    raised instead, and the search gives the trial a larger share.

    Args:
        spec: the trial.
        config: its configuration.
        parts: references to its data, from `DataModule.share`.

    Raises:
        Exception: the worker's own, as with one worker; of several errors the one that says most.
    """
    from ray.train import TrainingFailedError

    clips = -(-config.training.batch_size // config.resources.workers_per_trial)
    while True:
        try:
            _make_trainer(spec, config, parts).fit()
            return
        except TrainingFailedError as error:
            own = worker_error(error)
            alone = config.resources.workers_per_trial == 1
            if alone or not is_out_of_memory(own) or clips < 2 or 0 < spec.gpus_per_worker < 1:
                raise own from error
        clips = -(-clips // 2)
        spec = replace(spec, clips_at_once=clips)


def worker_error(error: BaseException) -> BaseException:
    """Return the error that made a group of workers fail.

    A lost machine or too little memory before others; when one worker fails, the others only report a closed
    connection.
    """
    from ray.exceptions import RayActorError, RayError

    found = [e for e in causes(error) if not type(e).__module__.startswith("ray.train")]
    for wanted in (RayActorError, RayError):
        lost = next((e for e in found if isinstance(e, wanted)), None)
        if lost is not None:
            return lost
    out_of_memory = next((e for e in found if is_out_of_memory(e)), None)
    told = [e for e in found if "onnection closed" not in str(e)]
    return out_of_memory or next(iter(told or found), error)


def _make_trainer(spec: TrialSpec, config: Config, parts: list[Any]) -> Any:
    from ray.train import RunConfig, ScalingConfig
    from ray.tune.integration.ray_train import TuneReportCallback

    from tuning.search.ray_internals import trainer_without_watcher

    resources = config.resources
    gpus = spec.gpus_per_worker
    per_worker = {"CPU": float(resources.cpus_per_worker)} | ({"GPU": gpus} if gpus else {})
    return trainer_without_watcher()(
        _train_worker,
        train_loop_config={"spec": spec.as_dict(), "parts": parts},
        scaling_config=ScalingConfig(
            num_workers=resources.workers_per_trial, use_gpu=bool(gpus), resources_per_worker=per_worker
        ),
        run_config=RunConfig(
            name=f"{spec.search}-{spec.number:04d}",
            storage_path=spec.scratch,
            callbacks=[TuneReportCallback()],
        ),
    )


def _train_worker(loop: dict[str, Any]) -> None:
    import ray.train
    import ray.train.torch

    context, spec = ray.train.get_context(), TrialSpec.from_dict(loop["spec"])
    # Not that of `assigned_device`: workers on one machine see each other's GPUs.
    device = ray.train.torch.get_device()
    limit_memory(device, spec.gpus_per_worker)
    train(
        spec,
        fetch(loop["parts"]),
        ray.train.report,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=device,
        splits=splits_batches(device, spec.gpus_per_worker),
    )
