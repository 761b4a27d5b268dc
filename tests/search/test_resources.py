"""What a trial takes and how many fit."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tuning.config.errors import UserError
from tuning.config.schema import Config, nested
from tuning.search.resources import plan_resources, start_ray


def plan(cpus, gpus, **settings):
    config = Config.model_validate(nested({name.replace("__", "."): value for name, value in settings.items()}))
    return plan_resources(config, cpus, gpus)


@pytest.mark.parametrize(
    ("cpus", "gpus", "settings", "concurrent", "gpus_per_worker"),
    [
        (2, 0, {}, 2, 0),
        (16, 1, {}, 1, 1),
        (16, 4, {}, 4, 1),
        (16, 4, {"resources__gpus_per_worker": 0}, 16, 0),
        (16, 2, {"resources__gpus_per_worker": 0.25}, 8, 0.25),
        (6, 2, {"resources__gpus_per_worker": 0.25}, 6, 0.25),
        (16, 1, {"resources__gpus_per_worker": 0.1}, 10, 0.1),
        (16, 4, {"resources__workers_per_trial": 2}, 2, 1),
        (16, 0, {"resources__cpus_per_worker": 3}, 5, 0),
        (16, 0, {"resources__cpus_per_worker": 2, "resources__workers_per_trial": 3}, 2, 0),
        (16, 0, {"search__max_concurrent": 5}, 5, 0),
        (2, 0, {"search__max_concurrent": 5}, 2, 0),
    ],
)
def test_as_many_trials_as_fit(cpus, gpus, settings, concurrent, gpus_per_worker):
    found = plan(cpus, gpus, **settings)
    assert (found.concurrent, found.gpus_per_worker) == (concurrent, gpus_per_worker)


@pytest.mark.parametrize(
    "settings",
    [{"resources__gpus_per_worker": 1}, {"resources__cpus_per_worker": 3}, {"resources__workers_per_trial": 3}],
)
def test_a_trial_that_can_not_fit_is_an_error(settings):
    with pytest.raises(UserError, match=r"expected at most what the machines have \(2 CPUs, 0 GPUs\)"):
        plan(2, 0, **settings)


def test_more_than_one_gpu_is_a_whole_number():
    with pytest.raises(ValueError, match=r"gpus_per_worker: expected a fraction up to 1 or a whole number, got 1\.5"):
        plan(2, 4, resources__gpus_per_worker=1.5)


TERMINATED = """
import os, signal, sys
from tuning.config.schema import Config
from tuning.search.resources import start_ray

signal.signal(signal.SIGTERM, signal.default_int_handler)
start_ray(Config())
try:
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_sigterm_while_ray_starts_is_an_interrupt(monkeypatch):
    """Ray's handler, which is set as soon as it starts, ends the process with the signal's number."""
    import ray

    def starting(**options):
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)  # never

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", starting)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("tuning.search.resources.guard_token", lambda create: None)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            start_ray(Config())
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_sigterm_is_an_interrupt_also_once_ray_runs():
    done = subprocess.run([sys.executable, "-c", TERMINATED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")
