"""Hand the commands hostile input, and count what they make of it.

`python -m benchmarks.hostile --lines 500 --recordings 200 --seed 0 --out table.md`

Three tables. Command lines and space files: a good one with one hostile word, value or byte, each run with `--dry-run`.
Recordings: sound in every container that can be written, damaged in one way, then prepared, decoded and predicted.
Files: every file of a finished search, and of a prepared store, damaged in one way, then every command that reads it.

No command may end in a traceback, hang, or exit otherwise than with 0, 1 or 2; a refusal names what it refuses. A
recording that is accepted although its sound is not the one that was written is a silent change, unless its container
has neither a checksum nor a length that could tell. Whatever falls short is printed in full.

The commands run in forks of one process, so that torch is imported once; those that start Ray run as processes.
"""

from __future__ import annotations

import argparse
import importlib
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.hostile.commands import Faults, started
from benchmarks.hostile.files import run_files, run_store
from benchmarks.hostile.lines import run_lines
from benchmarks.hostile.recordings import run_recordings
from benchmarks.report import machine, publish

SMALL = (
    "space=crnn", "features.num_frames=64", "model.conv_filters=[8, 8]", "model.lstm_units=[8, 4]",
    "training.epochs=2", "search.num_trials=3",
)  # fmt: skip


def _on_a_search(options: argparse.Namespace, folder: Path, faults: Faults) -> Iterator[str]:
    """The tables that need a finished search with its model."""
    words = ["run", *SMALL]
    places = [f"storage={folder / 'results'}", f"data.prepared={folder / 'prepared'}"]
    for command in ([*words, *places], ["finalize", str(folder / "results/crnn")]):
        outcome = started(command, folder)
        if outcome.kind != "accepted":
            raise SystemExit(outcome.text)
    search, recording = folder / "results/crnn", next((folder / "prepared").rglob("*.wav"))
    if options.recordings:
        draw = random.Random(options.seed + 1)
        yield run_recordings(options.recordings, draw, folder, search / "best", faults)
    if options.files:
        draw = random.Random(options.seed + 2)
        yield run_files(search, recording, draw, folder, options.files, faults)
        yield run_store(folder / "prepared", words, draw, folder, options.files, faults)


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=500, help="command lines and space files")
    parser.add_argument("--recordings", type=int, default=200)
    parser.add_argument("--files", type=int, default=1, help="damages of each file of a search and a store, 0 to 5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    options = parser.parse_args()
    for module in ("tuning.cli.app", "tuning.api", "tuning.cli.predict", "tuning.cli.report", "librosa", "torch"):
        importlib.import_module(module)
    faults, parts = Faults(), [machine("numpy", "soundfile", "torch")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.lines:
            parts.append(run_lines(options.lines, random.Random(options.seed), folder, faults))
        if options.recordings or options.files:
            parts += _on_a_search(options, folder, faults)
    parts.append("\n".join(faults.lines) or "Nothing falls short.")
    publish("\n\n".join(parts), options.out)


if __name__ == "__main__":
    main()
