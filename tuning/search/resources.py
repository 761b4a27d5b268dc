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
from tuning.experiment.faults import NoRayError
from tuning.experiment.machine import ensure_home, num_cpus
from tuning.search.cluster import (
    CLUSTER_ENVIRONMENT,
    cluster_address,
    full_capacity,
    guard_token,
    runtime_env,
    unreachable,
)
from tuning.search.ray_watch import watch_ray
from tuning.search.temporary import ray_folder, ray_temp

# Defaults for a quiet and quick Ray; a variable that the user has set is left alone.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "600",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # How long a busy machine may take to start Ray's processes; the default is 30 s.
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_raylet_start_wait_time_s": "120",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

SECONDS_TO_START = 120


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
    if cluster_address() is not None:
        return
    wants_gpus = bool(config.resources.gpus_per_worker)
    cpus, gpus = local_machine() if wants_gpus else (num_cpus(), 0.0)
    plan_resources(config, cpus, gpus)


def start_ray(config: Config) -> None:
    """Start Ray on this machine, or connect to the cluster that RAY_ADDRESS names, without Ray's messages.

    When Ray dies later, this process ends with a message (`tuning.search.ray_watch`).

    Raises:
        UserError: nothing answers at RAY_ADDRESS.
        NoRayError: Ray does not start.
    """
    ensure_home()
    address = cluster_address()
    if address is not None:
        _check_reachable(address)
    for name, value in ({} if address is None else CLUSTER_ENVIRONMENT).items():
        os.environ.setdefault(name, value)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    from tuning.search.ray_internals import patient_start

    guard_token(create=address is None)
    options: dict[str, Any]
    if address is None:
        # Ray alone knows quotas of containers, but not affinity.
        options = {"include_dashboard": False, "num_cpus": num_cpus(), "_temp_dir": ray_folder()}
    else:
        options = {"runtime_env": runtime_env(config, {**ENVIRONMENT, **CLUSTER_ENVIRONMENT})}
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        with _own_sigterm(), patient_start(SECONDS_TO_START):
            ray.init(address=address or "local", **quiet, **options)
    except Exception as error:  # Ray raises bare exceptions here
        raise NoRayError(_why_not_started(address, error)) from error
    for name in ("ray", "ray.data", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    watch_ray()


def _check_reachable(address: str) -> None:
    """Refuse the address of a cluster that is gone at once; Ray would ask for minutes.

    Raises:
        UserError: nothing answers there.
    """
    found, why = address, ""
    if address == "auto":
        from tuning.search.ray_internals import running_cluster

        found, why = running_cluster()
    why = why or unreachable(found)
    if why:
        shown = address if found == address else f"{address} ({found})"
        raise UserError(
            f"RAY_ADDRESS: expected the address of a running cluster, got {shown} ({why})\n"
            "to run on this machine: unset RAY_ADDRESS"
        )


def _why_not_started(address: str | None, error: Exception) -> str:
    said = " ".join(str(error).split())[:300]
    if address is not None:
        return f"RAY_ADDRESS: no connection to the cluster at {address} ({said})"
    logs = f"{ray_folder() or ray_temp()}/session_latest/logs"
    return f"Ray does not start on this machine, which may be busy or out of memory ({said}); its logs: {logs}"


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
