"""Run the same searches with two checkouts, and compare their leaderboards to the last bit.

    python -m benchmarks.same_leaderboards OTHER_CHECKOUT [--scratch FOLDER] [--only NAME]

Five spaces on the demo corpora with few trials and epochs, each search in a process with the checkout on the path. All
columns but `seconds` are compared; the exit code is 1 if any differs.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
SEARCHES = {
    "crnn": ("space=crnn", "search.num_trials=4", "training.epochs=3"),
    "crnn_grid": ("space=crnn_grid", "training.epochs=1"),
    "ser_demo": ("space=ser_demo", "search.num_trials=3", "training.epochs=2"),
    "bimodal": ("space=bimodal", "search.num_trials=2", "training.epochs=2"),
    "vit_gan": ("space=vit_gan", "search.num_trials=2", "training.epochs=2", "gan.epochs=2"),
}


def main() -> int:
    """Compare the checkouts; 0 if all leaderboards are equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--only", choices=SEARCHES, action="append")
    options = parser.parse_args()
    scratch = options.scratch or Path(tempfile.mkdtemp(prefix="same-leaderboards-"))
    differ = False
    for name in options.only or SEARCHES:
        old, new = (search(checkout, name, scratch / label) for label, checkout in pairs(options.other))
        same = old == new
        differ |= not same
        print(
            f"{name:<10} {len(new) - 1:>3} trials, {len(new[0])} columns: {'equal' if same else 'DIFFER'}", flush=True
        )
        for one, two in zip(old, new, strict=False) if not same else ():
            print(*(f"  {a} | {b}" for a, b in zip(one, two, strict=False) if a != b), sep="\n")
    return int(differ)


def pairs(other: Path) -> tuple[tuple[str, Path], tuple[str, Path]]:
    """The two checkouts, each with the name of its folder of results."""
    return ("old", other.resolve()), ("new", HERE)


def search(checkout: Path, name: str, folder: Path) -> list[list[str]]:
    """Run a search with a checkout; its leaderboard, header first, without `seconds`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tuning.run", *SEARCHES[name], f"name={name}", "storage=results"]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    with (folder / f"{name}.log").open("w") as log:
        subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, check=True)
    with (folder / "results" / name / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    kept = [index for index, column in enumerate(rows[0]) if column != "seconds"]
    return [[row[index] for index in kept] for row in rows]


if __name__ == "__main__":
    sys.exit(main())
