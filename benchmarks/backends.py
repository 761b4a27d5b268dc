"""Measure what Ray Train and Ray Data cost: a trial's start, its epochs, and the bytes that it reads.

`python -m benchmarks.backends [--trials 4] [--epochs 6] [--frames 80] [--out FILE]` in the repository's root, on an
idle machine. The same trials, one after the other, train in the process of Ray Tune and in a worker group of Ray Train,
from memory and streamed, by one worker and by two. With one worker all must have equal losses, to the last bit.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import itertools
import statistics
import sys
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import machine, publish, spread, table
from tuning import run
from tuning.cli.command import DONE, FAILED
from tuning.config.errors import UserError
from tuning.data.data_module import DataModule
from tuning.data.plan import make_plan
from tuning.datasets.loaders import streaming
from tuning.experiment.directory import SearchFolder, read_progress
from tuning.experiment.timeline import BEGAN, FILE, ROW

# Backend, loading, workers.
Case = tuple[str, str, int]
CASES: tuple[Case, ...] = (
    ("direct", "resident", 1),
    ("train", "resident", 1),
    ("direct", "streamed", 1),
    ("train", "streamed", 1),
    ("train", "resident", 2),
    ("train", "streamed", 2),
)


@dataclass(frozen=True)
class Measured:
    """Seconds of a case: each trial's start until its first epoch begins, and each later epoch; losses; bytes."""

    starts: list[float]
    epochs: list[float]
    losses: list[list[str]]
    read: tuple[int, int]  # bytes of an epoch, and those of the clips' features


def arguments_of(case: Case, storage: Path, options: argparse.Namespace) -> list[str]:
    """The command line of a case's search."""
    backend, loading, workers = case
    return [
        f"storage={storage}", f"name={backend}-{loading}-{workers}", f"data.prepared={storage}/prepared",
        f"features.num_frames={options.frames}", f"search.num_trials={options.trials + 1}", "search.max_concurrent=1",
        f"training.epochs={options.epochs}", "training.patience=null", f"data.loading={loading}",
        f"resources.backend={backend}", f"resources.workers_per_trial={workers}", "resources.gpus_per_worker=0",
    ]  # fmt: skip


def measure(case: Case, storage: Path, options: argparse.Namespace) -> Measured:
    """Run the search of a case, one trial at a time. The first trial warms up and is left out."""
    name = "-".join(map(str, case))
    code = run.main(arguments_of(case, storage, options))
    if code != DONE:
        raise UserError(f"{name}: expected a search that ends, got exit code {code}")
    folder = SearchFolder(storage, name)
    starts, lasted, losses = [], [], []
    for record in folder.records():
        rows = read_progress(folder.trial(record.number))
        losses.append([row["val_loss"] for row in rows])
        if record.number == 1:
            continue
        with (folder.trial(record.number) / FILE).open(encoding="utf-8") as stream:
            events = [(line["event"], datetime.datetime.fromisoformat(line["time"])) for line in csv.DictReader(stream)]
        began = next(time for event, time in events if event == BEGAN)
        ended = [time for event, time in events if event == ROW]
        starts.append((ended[0] - began).total_seconds() - float(rows[0]["seconds"]))
        lasted += [(after - before).total_seconds() for before, after in itertools.pairwise(ended)]
    return Measured(starts, lasted, losses, bytes_of_an_epoch(case, storage, options))


def bytes_of_an_epoch(case: Case, storage: Path, options: argparse.Namespace) -> tuple[int, int]:
    """Bytes that all workers of a trial read from files in an epoch of training, and those of the clips' features.

    Clips in memory are read once for a whole search. Streamed ones are read by tasks of Ray Data, which count here what
    their process reads.
    """
    _, loading, workers = case
    plan = make_plan(arguments_of(case, storage, options))
    module = DataModule.read(plan.space).prepare()
    data = module.source(plan.config).open()
    features = 4 * data.num_train * options.frames * data.num_features
    if loading == "resident":
        return 0, features
    counts = storage / f"counts-{workers}-{case[0]}"
    counts.mkdir()
    read = streaming._read

    def counting(batch: Any) -> Any:
        def so_far() -> int:
            return int(Path("/proc/self/io").read_text(encoding="ascii").split()[1])

        before = so_far()
        table = read(batch)
        (counts / uuid.uuid4().hex).write_text(str(so_far() - before), encoding="ascii")
        return table

    streaming._read = counting
    try:
        for epoch in (1, 2):  # the first reads footers, too, which a process keeps
            for file in counts.iterdir():
                file.unlink()
            for rank in range(workers):
                for _ in data.train_batches(epoch, plan.config.training.batch_size, 42, rank, workers):
                    pass
    finally:
        streaming._read = read
    return sum(int(file.read_text(encoding="ascii")) for file in counts.iterdir()), features


def describe(found: dict[Case, Measured], options: argparse.Namespace) -> str:
    """A Markdown table with a row per case, and an explanation."""
    base = found[CASES[0]]
    rows = []
    for (backend, loading, workers), case in found.items():
        ratio = statistics.median(case.epochs) / statistics.median(base.epochs)
        times = [*spread(case.starts, 1), *spread(case.epochs, 2), f"{ratio:.2f}"]
        megabytes = [f"{case.read[0] / 1e6:.2f}", f"{case.read[0] / case.read[1]:.2f}"]
        rows.append([backend, loading, str(workers), *times, *megabytes, "yes" if case.losses == base.losses else "no"])
    header = ["backend", "data", "workers", "start, s", "least", "most", "epoch, s", "least", "most", "ratio"]
    header += ["MB read", "of the features", "equal"]
    return f"""## Ray Train and Ray Data

{table(header, rows, left=2)}

- {options.trials} trials of {options.epochs} epochs each, one at a time, after one to warm up; CRNN on {options.frames}
  frames of the demo corpus (200 clips). Start: from Ray Tune's start of a trial until its first epoch begins. Epoch:
  between two rows, with validation, checkpoint and report. Ratio: of the median epoch to that of the first row.
- MB read: by all workers together from files in an epoch of training, and as a share of the training clips' features.
- Equal: losses of every epoch are those of the first row, to the last bit. Streamed clips come in another order, and
  two workers add up in another one.
- {machine("ray", "torch")}."""


def main(arguments: list[str] | None = None) -> int:
    """Print and write the table; exit code 1 if a worker group of one has other losses than a process of Ray Tune."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backends", description=__doc__)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--frames", type=int, default=80)
    parser.add_argument("--out", help="also write the table to this file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        found = {case: measure(case, Path(scratch), options) for case in CASES}
    publish(describe(found, options), options.out)
    pairs = [(("direct", loading, 1), ("train", loading, 1)) for loading in ("resident", "streamed")]
    return DONE if all(found[a].losses == found[b].losses for a, b in pairs) else FAILED


if __name__ == "__main__":
    sys.exit(main())
