"""Compute on a machine of the cluster, with the resources of a trial, what is not a trial of a search.

The retraining of a winner, its test and the reproduction of a trial run this way: where the search ran, on its kind of
CPUs and GPUs. The head of a cluster, which may have neither, computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from tuning.config.distributions import counted
from tuning.config.errors import UserError
from tuning.config.schema import Config
from tuning.search.resources import cluster_resources, plan_resources, start_ray

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")


def compute(config: Config, function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a Ray task that has the resources of one worker of a trial, and return its result.

    Starts Ray if it does not run. If the task's machine or process dies, the function is called again elsewhere, at
    most `resources.max_restarts` times; an interrupt ends it.

    Args:
        config: the configuration that says what a worker takes.
        function: an importable function.
        arguments: what it is called with.

    Raises:
        UserError: no machine has the resources, or each of them was lost.
        Exception: the function's own.
    """
    start_ray(config)
    resources = plan_resources(config, *cluster_resources())
    import ray

    from tuning.search.fault_tolerance import describe_loss

    task = ray.remote(
        num_cpus=resources.cpus, num_gpus=resources.gpus_per_worker, max_retries=config.resources.max_restarts
    )(_call).remote(function, resources.gpus_per_worker, *arguments)
    try:
        result: Result = ray.get(task)
    except KeyboardInterrupt:
        ray.cancel(task, force=True)
        raise
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        times = counted(config.resources.max_restarts, "restart")
        raise UserError(
            f"resources: a machine for {function.__name__} was lost: {describe_loss(error)}, after {times}"
        ) from None
    return result


def _call(function: Callable[..., Result], share: float, *arguments: Any) -> Result:
    """Call a function in the process of a task, whose torch may take `share` of a GPU."""
    assigned_device(share)
    return function(*arguments)


def assigned_device(share: float = 1.0) -> torch.device:
    """The device that Ray has assigned to this process: its GPU, of whose memory it may take `share`, else the CPU."""
    import ray
    import torch

    device = torch.device("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")
    limit_memory(device, share)
    return device


def limit_memory(device: torch.device, share: float) -> None:
    """Limit this process to a share of the memory of its GPU.

    Ray's fractions are bookkeeping: without a limit one process could take the others' memory.
    """
    import torch

    if device.type == "cuda" and 0 < share < 1:
        torch.cuda.set_per_process_memory_fraction(share, device.index)
