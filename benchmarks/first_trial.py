"""Measure the seconds from a command to the first epoch of its first trial, with nothing prepared.

`python -m benchmarks.first_trial [--against CHECKOUT] [--repeats 5] [KEY=VALUE ...]`, on idle cores.

Each repeat starts `python -m tuning.run space=crnn` in an empty folder, waits until a trial writes its first row, and
ends the search there. Another checkout, run by the same Python, takes turns with this one.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import machine, publish, spread, table

ROOT = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = 600


def seconds_of(checkout: Path, settings: list[str]) -> float:
    """Seconds until a trial's first row.

    Raises:
        SystemExit: the command ended, or took too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tuning.run", "space=crnn", "storage=results", *settings]
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        begin, seconds = time.monotonic(), 0.0
        log = Path(folder) / "log"
        with (
            log.open("w") as out,
            subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT) as process,
        ):
            while not seconds and time.monotonic() < begin + LIMIT_SECONDS and process.poll() is None:
                time.sleep(0.05)
                if any(file.read_bytes().count(b"\n") > 1 for file in Path(folder).glob("results/**/progress.csv")):
                    seconds = time.monotonic() - begin
            process.send_signal(signal.SIGINT)
        if not seconds:
            raise SystemExit(f"{checkout}: no epoch: {log.read_text()[-1000:]}")
        return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_trial", description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the search")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", help="also write the table to this file")
    options = parser.parse_args()
    checkouts = {"this checkout": ROOT}
    if options.against:
        checkouts["the other"] = options.against.resolve()
    found: dict[str, list[float]] = {name: [] for name in checkouts}
    for _ in range(options.repeats):
        for name, checkout in checkouts.items():
            found[name].append(seconds_of(checkout, options.settings))
    here = statistics.median(found["this checkout"])
    rows = [[name, *spread(times, 1), f"{statistics.median(times) / here:.2f}"] for name, times in found.items()]
    publish(
        f"""## The first trial

{table(["seconds until the first epoch is written", "median", "least", "most", "ratio"], rows)}

{machine("ray", "torch")}.""",
        options.out,
    )


if __name__ == "__main__":
    main()
