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

    Starts Ray if it does not run. The function is called again elsewhere, as a trial is: when its machine or process is
    lost, at most `resources.max_restarts` times; and with twice the share of a GPU when it runs out of memory on one.
    An interrupt ends it.

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
    # After Ray has started: they import torch.
    import ray

    from tuning.search.fault_tolerance import describe_loss
    from tuning.training.gradient_accumulation import is_out_of_memory

    share, restarts = resources.gpus_per_worker, 0
    while True:
        # Not Ray's own retries: of processes that it kills for lack of memory it counts none.
        task = ray.remote(num_cpus=resources.cpus, num_gpus=share, max_retries=0)(function).remote(*arguments)
        try:
            result: Result = ray.get(task)
            return result
        except KeyboardInterrupt:
            ray.cancel(task, force=True)
            raise
        except ray.exceptions.RayTaskError as error:
            if not (0 < share < 1 and is_out_of_memory(error.cause)):
                raise error.cause from error
            share = min(1.0, 2 * share)
            print(f"note      out of memory on a share of a GPU: again with {share:g} of one", flush=True)
        except ray.exceptions.RayError as error:
            why = describe_loss(error)
            if restarts == config.resources.max_restarts:
                times = counted(restarts, "restart")
                raise UserError(f"resources: expected a machine that lives, but {why}, after {times}") from None
            restarts += 1
            print(f"note      {why}: again on another", flush=True)


def assigned_share() -> float:
    """The GPUs, or the share of one, that Ray has assigned to this task."""
    import ray

    return float(ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0))


def assigned_to_task() -> tuple[torch.device, bool]:
    """The device of this task, and whether a batch that does not fit into its memory is trained in parts."""
    share = assigned_share()
    device = assigned_device(share)
    return device, splits_batches(device, share)


def assigned_device(share: float) -> torch.device:
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


def splits_batches(device: torch.device, share: float) -> bool:
    """Whether a batch that does not fit into memory is trained in parts; a share of a GPU is made larger instead."""
    return not (device.type == "cuda" and 0 < share < 1)
