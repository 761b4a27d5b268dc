"""Measure the overhead of a search over a bare PyTorch loop that trains the same configurations.

`python -m benchmarks.overhead` in the repository's root, on an idle machine; about 25 minutes on 2 cores by default. A
repeat trains all trials three times (search, bare loop, whole command).
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.bare import NICENESS, Job
from benchmarks.report import machine, publish, spread, table
from tuning.config.errors import UserError
from tuning.data.data_module import DataModule
from tuning.data.plan import make_plan, planned_points
from tuning.experiment.directory import SearchFolder, read_progress
from tuning.search.resources import local_machine, plan_resources, start_ray

ROOT = Path(__file__).resolve().parents[1]
# Largest accepted difference of losses; on one machine they are equal to the last bit.
TOLERANCE = 1e-6
# Of tiny trials, whose cost is that of starting them.
TINY_FRAMES, TINY_EPOCHS = 20, 1
# The cost of a further trial is the slope between a search and one with this many times its trials.
TIMES_MORE = 3


@dataclass
class Bench:
    """Settings of the runs, and measurements: `seconds` by name, one value per repeat."""

    trials: int
    epochs: int
    frames: int
    concurrency: int | None
    prepared: str
    scratch: Path
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    trial_seconds: list[float] = field(default_factory=list)
    differences: list[float] = field(default_factory=list)
    slots: int = 0

    def settings(self, name: str, tiny: int = 0) -> list[str]:
        """Command line of a search: the main one, or one with `tiny` tiny trials."""
        return [
            "space=crnn",
            f"name={name}",
            f"storage={self.scratch}",
            f"data.prepared={self.prepared}",
            "data.loading=resident",
            f"features.num_frames={TINY_FRAMES if tiny else self.frames}",
            f"search.num_trials={tiny or self.trials}",
            "training.patience=null",
            f"training.epochs={TINY_EPOCHS if tiny else self.epochs}",
            "resources.gpus_per_worker=0",
            *([f"search.max_concurrent={self.concurrency}"] if self.concurrency else []),
        ]

    def job(self, tiny: int = 0) -> Job:
        """The same trials for the bare loop; prepares missing features."""
        plan = make_plan(self.settings("job", tiny))

        def on_progress(done: int, total: int) -> None:
            if done < total:
                start_ray(plan.config)

        data = DataModule.read(plan.space)
        data.prepare_features(on_progress)
        (prepared,) = data.features.values()
        self.slots = plan_resources(plan.config, *local_machine()).concurrent
        points = planned_points(plan.space, plan.config)
        configs = [plan.space.config(point).model_dump(mode="json") for point in points]
        return Job(configs, prepared, data.split, self.slots)

    def search(self, name: str, tiny: int = 0, kind: str = "crnn") -> float:
        """Seconds of a search in a running Ray."""
        result = self.scratch / f"{name}.json"
        self._run(name, "benchmarks.timed_search", kind, str(result), *self.settings(name, tiny))
        found = json.loads(result.read_text(encoding="utf-8"))
        if found["concurrent"] != self.slots:
            raise RuntimeError(f"the search runs {found['concurrent']} trials at once, the bare loop {self.slots}")
        return float(found["seconds"])

    def command(self, name: str) -> float:
        """Seconds of the main search as a command, with start and end of Python and Ray."""
        return self._run(name, "tuning.run", *self.settings(name))

    def bare(self, name: str, job: Job) -> tuple[dict[str, Any], float]:
        """Result of `bare.run`, and seconds of the whole script."""
        pickled, result = self.scratch / f"{name}.pickle", self.scratch / f"{name}.json"
        pickled.write_bytes(pickle.dumps(job))
        whole = self._run(name, "benchmarks.bare", str(pickled), str(result))
        return json.loads(result.read_text(encoding="utf-8")), whole

    def compare(self, name: str, job: Job, losses: list[float]) -> None:
        """Check that the search trained the same settings, and record the differences of the last validation losses."""
        folder = SearchFolder(self.scratch, name)
        for number, (config, loss) in enumerate(zip(job.configs, losses, strict=True), start=1):
            trained = json.loads((folder.trial(number) / "params.json").read_text(encoding="utf-8"))["config"]
            for part in ("features", "model", "loss", "optim", "training", "seed"):
                if trained[part] != config[part]:
                    raise RuntimeError(f"trial {number} of {name} was trained with other settings of {part}")
            rows = read_progress(folder.trial(number))
            if len(rows) != config["training"]["epochs"]:
                raise RuntimeError(f"trial {number} of {name} ended after {len(rows)} epochs")
            self.differences.append(abs(float(rows[-1]["val_loss"]) - loss))

    def _run(self, name: str, module: str, *arguments: str) -> float:
        """Seconds of `python -m module`; its output goes to a file."""
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        log = self.scratch / f"{name}.log"
        with log.open("w", encoding="utf-8") as stream:
            began = time.perf_counter()
            code = subprocess.call(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
            seconds = time.perf_counter() - began
        if code:
            tail = log.read_text(encoding="utf-8")[-4000:]
            raise RuntimeError(f"python -m {module} ({name}) ended with {code}:\n{tail}")
        return seconds


def measure(bench: Bench, repeats: int) -> None:
    """Run searches and bare loops in turns."""
    job, many = bench.job(), bench.job(tiny=TIMES_MORE * bench.trials)
    few = Job(many.configs[: bench.trials], many.prepared, many.split, many.processes)
    _shut_ray_down()
    bench.search("warm-up", tiny=bench.slots)  # fills the page cache with libraries and shards
    for repeat in range(1, repeats + 1):
        # Searches and bare loops take turns, so that a slow minute of the machine meets both.
        _long_trials(bench, job, repeat)
        _tiny_trials(bench, few, many, repeat)
        last = ", ".join(f"{name} {values[-1]:.2f} s" for name, values in bench.seconds.items())
        print(f"repeat {repeat} of {repeats}: {last}", file=sys.stderr, flush=True)


def _long_trials(bench: Bench, job: Job, repeat: int) -> None:
    seconds = bench.seconds
    seconds["search"].append(bench.search(f"search-{repeat}"))
    found, script = bench.bare(f"bare-{repeat}", job)
    seconds["bare"].append(found["seconds"])
    seconds["script"].append(script)
    seconds["command"].append(bench.command(f"command-{repeat}"))
    bench.trial_seconds += found["trial_seconds"]
    bench.compare(f"search-{repeat}", job, found["losses"])
    bench.compare(f"command-{repeat}", job, found["losses"])


def _tiny_trials(bench: Bench, few: Job, many: Job, repeat: int) -> None:
    some, more = len(few.configs), len(many.configs)
    shorter = bench.search(f"few-{repeat}", tiny=some)
    found, _ = bench.bare(f"tiny-{repeat}", many)
    longer = bench.search(f"many-{repeat}", tiny=more)
    bench.compare(f"few-{repeat}", few, found["losses"][:some])
    bench.compare(f"many-{repeat}", many, found["losses"])
    # Time of the training itself: each slot runs every `slots`-th trial.
    trained, trained_more = (sum(found["trial_seconds"][:count]) / bench.slots for count in (some, more))
    start = (shorter - trained) / (some / bench.slots)
    further = (longer - shorter - (trained_more - trained)) / ((more - some) / bench.slots)
    formula = bench.search(f"formula-{repeat}", tiny=some, kind="formula") / (some / bench.slots)
    for name, value in (("start", start), ("further", further), ("formula", formula)):
        bench.seconds[name].append(value)


def describe(bench: Bench, repeats: int, load: float) -> str:
    """A Markdown table, and an explanation of its lines."""
    seconds = bench.seconds
    ratio, ratio_whole = (
        [a / b for a, b in zip(seconds[ours], seconds[theirs], strict=True)]
        for ours, theirs in (("search", "bare"), ("command", "script"))
    )
    rows = [
        ["search in a running Ray, s", *spread(seconds["search"], 1)],
        ["bare loop, s", *spread(seconds["bare"], 1)],
        ["**search / bare loop**", *spread(ratio, 3)],
        ["whole command `python -m tuning.run`, s", *spread(seconds["command"], 1)],
        ["whole script of the bare loop, s", *spread(seconds["script"], 1)],
        ["**whole command / whole script**", *spread(ratio_whole, 3)],
        [f"start of a trial, {bench.trials} trials, s", *spread(seconds["start"], 2)],
        ["start of each further trial, s", *spread(seconds["further"], 2)],
        [f"start of a formula trial, {bench.trials} trials, s", *spread(seconds["formula"], 2)],
    ]
    largest = max(bench.differences)
    equal = "equal to the last bit" if largest == 0 else f"equal to within {largest:.1e}"
    if largest > TOLERANCE:
        equal = f"NOT EQUAL: they differ by up to {largest:.1e}, so that the figures compare different trainings"
    trial = spread(bench.trial_seconds, 1)
    return f"""## Overhead of a search

{table(["", "median", "minimum", "maximum"], rows)}

- Machine: {machine("torch", "ray")}.
  Load average before the run: {load:.2f}. Repeats: {repeats}, searches and bare loops in turn; ratios within each.
- Trials: {bench.trials} of `space=crnn` on the demo corpus, {bench.frames} frames, {bench.epochs} epochs,
  1 thread each, {bench.slots} at once. In the bare loop a trial took {trial[0]} s (median; {trial[1]} to {trial[2]} s).
- Last validation losses of search, command and bare loop, {len(bench.differences)} comparisons: {equal}.
- Search: plan, corpus, shared data, trials with checkpoints and reports after each epoch, ranking; features prepared
  and Ray up beforehand. Bare loop: from before its processes start until the last result, no checkpoint, report or
  log; its processes run at the niceness of Ray's workers ({NICENESS}).
- Start of a trial: a search of trials with {TINY_EPOCHS} epoch of {TINY_FRAMES} frames, less the bare loop's training
  time for them, divided by the trials per slot; what a search does once is in it. Each further trial: the slope from
  {bench.trials} to {TIMES_MORE * bench.trials} trials. Formula: trials with no model."""


def _shut_ray_down() -> None:
    import ray

    if ray.is_initialized():
        ray.shutdown()


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; exit code 1 if the losses differ, 2 for wrong settings."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument(
        "--epochs", type=int, default=60, help="epochs of a trial; 60 epochs of 600 frames take 20 s or more"
    )
    parser.add_argument("--frames", type=int, default=600, help="frames of a clip (default: 600, as the space)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--concurrency", type=int, help="trials at once (default: one per CPU)")
    parser.add_argument("--prepared", default="prepared", help="folder of prepared features")
    parser.add_argument("--out", help="also write the table to this file")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="overhead-") as scratch:
        bench = Bench(
            options.trials,
            options.epochs,
            options.frames,
            options.concurrency,
            os.path.abspath(options.prepared),
            Path(scratch),
        )
        try:
            measure(bench, options.repeats)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    publish(describe(bench, options.repeats, load), options.out)
    return int(max(bench.differences) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
