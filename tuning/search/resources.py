"""Start Ray, and plan what a trial takes and how many run at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from tuning.config.distributions import counted
from tuning.config.errors import UserError
from tuning.config.schema import Config
from tuning.experiment.machine import num_cpus
from tuning.search.cluster import CLUSTER_ENVIRONMENT, full_capacity, guard_token, runtime_env

# Defaults for a quiet and quick Ray; a variable that the user has set is left alone.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "600",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@dataclass(frozen=True)
class Resources:
    """CPUs and GPUs of a trial, the number of trials at once, and how they train (`tuning.search.backend`)."""

    cpus: int
    gpus_per_worker: float
    workers: int
    concurrent: int
    backend: Literal["direct", "train"] = "direct"

    def __str__(self) -> str:
        cpus = self.cpus * self.workers
        words = [f"{cpus} CPU{'s' if cpus > 1 else ''}"]
        if self.gpus_per_worker:
            words.append(f"{self.gpus_per_worker * self.workers:g} GPU")
        if self.backend == "train":
            words.append(f"{counted(self.workers, 'worker')} of Ray Train")
        return ", ".join(words)


def local_machine() -> tuple[float, float]:
    """Return the CPUs and GPUs of this machine, without starting Ray."""
    import torch

    return num_cpus(), torch.cuda.device_count()


def plan_resources(config: Config, cpus: float, gpus: float) -> Resources:
    """Return the resources of a trial and the number of trials that fit.

    Raises:
        UserError: not one trial fits.
    """
    wanted = config.resources
    per_gpu = wanted.gpus_per_worker
    if per_gpu is None:
        per_gpu = 1.0 if gpus >= 1 else 0.0
    workers, per_cpu = wanted.workers_per_trial, wanted.cpus_per_worker
    fits = int(cpus // (per_cpu * workers))
    if per_gpu:
        fits = min(fits, int(gpus / per_gpu + 1e-9) // workers)
    if fits < 1:
        raise UserError(
            f"resources: expected at most what the machines have ({cpus:g} CPUs, {gpus:g} GPUs), "
            f"got {per_cpu * workers} CPUs and {per_gpu * workers:g} GPUs for one trial"
        )
    if config.search.max_concurrent is not None:
        fits = min(fits, config.search.max_concurrent)
    return Resources(per_cpu, per_gpu, workers, fits, "train" if workers > 1 else "direct")


def check_resources(config: Config) -> None:
    """Refuse a trial that is too large for this machine; the size of a cluster is not known before it runs.

    Raises:
        UserError: not even one trial fits.
    """
    if os.environ.get("RAY_ADDRESS"):
        return
    wants_gpus = bool(config.resources.gpus_per_worker)
    cpus, gpus = local_machine() if wants_gpus else (num_cpus(), 0.0)
    plan_resources(config, cpus, gpus)


def start_ray(config: Config) -> None:
    """Start Ray on this machine, or connect to the cluster that RAY_ADDRESS names, without Ray's messages."""
    address = os.environ.get("RAY_ADDRESS") or "local"
    for name, value in ({} if address == "local" else CLUSTER_ENVIRONMENT).items():
        os.environ.setdefault(name, value)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    guard_token(create=address == "local")
    options: dict[str, Any] = {"include_dashboard": False}
    if address != "local":
        options = {"runtime_env": runtime_env(config, {**ENVIRONMENT, **CLUSTER_ENVIRONMENT})}
    with _own_sigterm():
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **options)
    for name in ("ray", "ray.data", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM that this process has set, while Ray starts and afterwards.

    Ray's own handlers end the process at once, one of them with a stack trace.

    Raises:
        KeyboardInterrupt: SIGTERM came while Ray started.
    """
    before = signal.getsignal(signal.SIGTERM)
    is_ours = callable(before) and threading.current_thread() is threading.main_thread()
    try:
        yield
    except SystemExit as ended:  # by Ray's handler
        if not is_ours:
            raise
        raise KeyboardInterrupt from ended
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, before)


def cluster_resources() -> tuple[float, float]:
    """Return the CPUs and GPUs that Ray has; for an autoscaling cluster those of its full size."""
    import ray

    found, full = ray.cluster_resources(), full_capacity()
    cpus, gpus = (max(found.get(name, 0.0), full.get(name, 0.0)) for name in ("CPU", "GPU"))
    return cpus, gpus
