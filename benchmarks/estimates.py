"""Compare the estimate of `--dry-run probe=true` with the time that small searches take.

`python -m benchmarks.estimates --out table.md`

Three searches on the demo corpora are probed and run, each in a process of its own, with features prepared before. The
estimate is for all epochs; where trials end early, it is also computed for the epochs that were run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.report import machine, publish, table

TINY = ("features.num_frames=64", "model.conv_filters=[16, 16]", "model.lstm_units=[16, 8]")
SEARCHES: dict[str, tuple[str, ...]] = {
    "crnn, random, 6 trials, all 80 epochs": (
        "space=crnn", "search.num_trials=6", "training.epochs=80", "training.patience=null", *TINY,
    ),
    "ser_demo, random, 8 trials, stopped early": ("space=ser_demo", "search.num_trials=8", "search.algorithm=random"),
    "crnn, 3 inner folds, 4 trials, all 30 epochs": (
        "space=crnn", "search.num_trials=4", "split.inner_folds=3", "training.epochs=30", "training.patience=null",
        *TINY,
    ),
}  # fmt: skip


def probe(arguments: list[str]) -> dict[str, Any]:
    """The estimate of a command line, as plain values."""
    from tuning import api
    from tuning.data.plan import make_plan

    return asdict(api.measure(make_plan(arguments)))


def _epochs(trial: Path) -> list[int]:
    """Epochs of each model of a trial."""
    from tuning.experiment.directory import read_progress, read_record

    record = read_record(trial)
    if record.folds is None:
        return [record.epochs]
    config = json.loads((trial / "params.json").read_text(encoding="utf-8"))["config"]
    if config["training"]["patience"] is None:
        return [config["training"]["epochs"]] * record.epochs
    patience = config["training"]["patience"]
    return [min(config["training"]["epochs"], int(r["fold_epochs"]) + patience) for r in read_progress(trial)]


def measure(name: str, arguments: tuple[str, ...], root: Path) -> list[str]:
    """Probe and run one search; a row of the table."""
    from tuning.search.estimate import Estimate, Probe

    given = [*arguments, f"storage={root}", f"data.prepared={root}/prepared", f"name=s{len(list(root.glob('s*')))}"]
    out = root / "probe.json"
    command = [sys.executable, "-m", "benchmarks.estimates", "--probe", str(out), *given]
    subprocess.run(command, check=True)
    content = json.loads(out.read_text(encoding="utf-8"))
    found = Estimate(**{**content, "probes": {int(n): Probe(**each) for n, each in content["probes"].items()}})
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tuning.run", *given], check=True, stdout=subprocess.DEVNULL)
    took = time.perf_counter() - began
    trials = sorted((root / given[-1].partition("=")[2] / "trials").glob("[0-9]*"))
    ran = [sum(_epochs(trial)) for trial in trials]
    predicted = found.seconds(ran)
    cells = [found.least, found.most, sum(ran), predicted, took]
    return [name, *(f"{cell:.0f}" for cell in cells), f"{found.most / took:.2f}", f"{predicted / took:.2f}"]


def main() -> None:
    """Probe and run the searches, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", help="Markdown file to write")
    parser.add_argument("--probe", help="estimate one command line into this JSON file")
    options, arguments = parser.parse_known_args()
    if options.probe:
        Path(options.probe).write_text(json.dumps(probe(arguments)), encoding="utf-8")
        return
    header = ["search", "predicted at least, s", "at most, s", "epochs run", "predicted for these, s", "took, s"]
    header += ["**at most / took**", "**for these / took**"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root)
        rows = [measure(name, arguments, root) for name, arguments in SEARCHES.items()]
    publish("\n".join([machine("torch", "ray"), "", table(header, rows)]), options.out)


def prepare(root: Path) -> None:
    """Prepare the features of every search, by searches of one trial and one epoch."""
    short = {"search.num_trials": "1", "training.epochs": "1", "training.patience": "null"}
    for number, arguments in enumerate(SEARCHES.values()):
        given = dict(argument.split("=", 1) for argument in arguments) | short
        given |= {"storage": f"{root}/before", "name": f"s{number}", "data.prepared": f"{root}/prepared"}
        command = [sys.executable, "-m", "tuning.run", *(f"{name}={value}" for name, value in given.items())]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
