"""Run a trial in Ray Tune, on one worker or on several.

Two backends, one loop. One worker trains in the Tune trial itself, which starts in under a second; several workers are
a TorchTrainer inside the Tune trial, which itself computes nothing (seven to ten seconds to its first result).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tuning.config.schema import Config, parse_config
from tuning.data.data_module import fetch
from tuning.data.keys import DataKey, data_key
from tuning.experiment.faults import causes
from tuning.experiment.trial_spec import TrialSpec
from tuning.training.gradient_accumulation import is_out_of_memory
from tuning.training.trial import train


def run_trial(given: dict[str, Any], data: dict[DataKey, list[Any]]) -> None:
    """A Tune trial: trains here, or on a group of workers.

    Args:
        given: a `TrialSpec` as plain values.
        data: what `DataModule.share` gave, by `data_key`.
    """
    import ray
    from ray import tune

    spec = TrialSpec.from_dict(given)
    config = parse_config(spec.config)
    parts = data[data_key(config)]
    if config.resources.workers_per_trial > 1:
        train_on_workers(spec, config, parts)
        return
    import torch

    gpu = bool(ray.get_gpu_ids()) and torch.cuda.is_available()
    device = torch.device("cuda") if gpu else torch.device("cpu")
    share = spec.gpus_per_worker
    if gpu and share < 1:
        # Ray's fractions are bookkeeping: without a cap one trial could take the others' memory.
        torch.cuda.set_per_process_memory_fraction(share)
    # On a share of a GPU the trial can get more memory, and then trains as the others do.
    train(spec, fetch(parts), tune.report, device=device, splits=not (gpu and share < 1))


def train_on_workers(spec: TrialSpec, config: Config, parts: list[Any]) -> None:
    """Train a trial data-parallel (DDP).

    A group that ran out of memory begins again from its last checkpoint with batches in parts, half as large each
    time: one worker alone can't split its batch, since the others wait for each of its steps. With a share of a GPU
    that is left to the search, which gives the trial a larger one.

    Args:
        spec: the trial.
        config: its configuration.
        parts: what `DataModule.share` put there for it.

    Raises:
        Exception: the worker's own, as with one worker; of several workers the one that tells most.
    """
    from ray.train import TrainingFailedError

    clips = -(-config.training.batch_size // config.resources.workers_per_trial)
    while True:
        try:
            _make_trainer(spec, config, parts).fit()
            return
        except TrainingFailedError as error:
            own = worker_error(error)
            if not is_out_of_memory(own) or clips < 2 or 0 < spec.gpus_per_worker < 1:
                raise own from error
        clips = -(-clips // 2)
        spec = replace(spec, clips_at_once=clips)


def worker_error(error: BaseException) -> BaseException:
    """What failed in a group of workers: a lost machine, too little memory, else the first error that is no echo.

    When one worker fails, the others say that a connection was closed.
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

    context = ray.train.get_context()
    train(
        TrialSpec.from_dict(loop["spec"]),
        fetch(loop["parts"]),
        ray.train.report,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
    )
