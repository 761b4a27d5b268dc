"""Measure a search's own work for hundreds of trials on four simulated machines with eight GPUs each.

`python -m benchmarks.scale [--trials 500] [--concurrent 16] [--epochs 3] [--out FILE]`

Trials compute a formula, and the GPUs exist only as resources of Ray. Every simulated machine is a raylet on this one,
every running trial a process of about 150 MB.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import machine, publish, table

NODES, GPUS = 4, 8


def formula(spec: dict[str, Any], data: dict[str, Any]) -> None:
    """A trial without model, that reports a curve computed from its number."""
    from ray import tune

    epochs = spec["config"]["training"]["epochs"]
    for epoch in range(1, epochs + 1):
        loss = 1 / spec["number"] + 1 / epoch
        row = {"epoch": epoch, "train_loss": loss, "val_loss": loss, "val_loss_best": loss, "best_epoch": epoch}
        tune.report(row | {"seconds": 0.0, "finished": "all epochs" if epoch == epochs else ""})


class Watch(threading.Thread):
    """A thread that samples this process's memory and the number of ended trials twice a second."""

    def __init__(self, trials: Path) -> None:
        super().__init__(daemon=True)
        self.trials, self.samples, self.done = trials, [], threading.Event()
        self.began = time.perf_counter()

    def run(self) -> None:
        """Sample until `done` is set."""
        while not self.done.wait(0.5):
            ended = sum(1 for _ in self.trials.glob("*/result.json"))
            self.samples.append((time.perf_counter() - self.began, ended, resident_mb()))


def resident_mb() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(algorithm: str, trials: int, concurrent: int, epochs: int) -> list[str]:
    """Run one search on the running cluster; a row of the table."""
    from tuning.data.plan import make_plan
    from tuning.experiment.directory import SearchFolder
    from tuning.search.resources import Resources
    from tuning.search.tuner import run_search

    with tempfile.TemporaryDirectory() as storage:
        arguments = [f"storage={storage}", f"search.algorithm={algorithm}", f"search.num_trials={trials}"]
        plan = make_plan([*arguments, f"training.epochs={epochs}", f"search.max_concurrent={concurrent}"])
        folder = SearchFolder(storage, plan.name)
        folder.create(plan.space, plan.overrides, {"corpus": "formula", "num_clips": 0})
        watch = Watch(folder.trials)
        watch.start()
        reason = run_search(folder, plan, {}, Resources(1, 1.0, 1, concurrent), trainable=formula)
        watch.done.set()
        watch.join()
        assert not reason, reason
        assert len(folder.records()) == trials
    return summary(algorithm, np.array(watch.samples), trials, epochs)


def summary(algorithm: str, samples: np.ndarray, trials: int, epochs: int) -> list[str]:
    """A row of the table, from samples of (seconds, ended trials, MiB)."""
    seconds, ended, memory = samples.T
    # Without the first tenth, in which actors start and modules are imported.
    steady = ended >= trials / 10
    slope = np.polyfit(ended[steady], memory[steady], 1)[0]
    paces = []
    for quarter in (1, 4):
        low, high = trials * (quarter - 1) / 4, trials * quarter / 4
        within = (ended >= max(low, trials / 10)) & (ended <= high)
        paces.append(np.polyfit(ended[within], seconds[within], 1)[0] * 1000)
    events = trials * (epochs + 2) / seconds[-1]  # begin, epochs, end
    figures = [seconds[-1], seconds[-1] / trials * 1000, *paces, events, memory[steady][0], memory[-1], slope * 1000]
    return [algorithm, str(trials), *(f"{figure:.0f}" for figure in figures)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[500], help="numbers of trials, a search for each")
    parser.add_argument("--concurrent", type=int, default=16, help="trials at once, at most 32")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of a trial")
    parser.add_argument("--algorithms", nargs="+", default=["random", "optuna"], help="random, optuna")
    parser.add_argument("--out", help="also write the table to this file")
    options = parser.parse_args(arguments)
    import ray
    from ray.cluster_utils import Cluster

    from tuning.search.resources import ENVIRONMENT

    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # for a busy machine
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(NODES):  # no more CPUs than needed: Ray starts a process for each beforehand
        cpus = -(-options.concurrent // NODES)
        cluster.add_node(num_cpus=cpus, num_gpus=GPUS, object_store_memory=100 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    header = ["search", "trials", "seconds", "ms a trial", "first quarter", "last quarter", "events/s"]
    header += ["MB at a tenth", "MB at the end", "MB per 1000 trials"]
    try:
        rows = [
            measure(algorithm, trials, options.concurrent, options.epochs)
            for algorithm in options.algorithms
            for trials in options.trials
        ]
    finally:
        ray.shutdown()
        cluster.shutdown()
    text = (
        f"{NODES} simulated machines with {GPUS} GPUs, {options.concurrent} trials at once, {options.epochs} epochs; "
    )
    publish(f"{text}{machine('ray', 'optuna')}\n\n{table(header, rows)}", options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
