"""Kill the driver of a search (SIGKILL) at random instants, resume by the same command, and count what was lost.

`python -m benchmarks.kills --algorithm grid random optuna --instants 20 --seed 0 --out table.md`

A search of 12 trials is killed four times; `--instants 20` makes five such searches per algorithm. Instants are uniform
over the duration of an undisturbed search. The first is counted from the start of the command, so that it may hit the
start of Ray; the others from when a trial trains again. `optuna` is Optuna with ASHA, one trial at a time; `grid` and
`random` run two at a time.

The model writes a line at the start of each epoch (`benchmarks.counted`). After a kill, epochs that were begun but are
not in a trial's `last.pt` are lost. A finished trial must keep its result to the end, and must not train again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.counted import FILE
from benchmarks.report import machine, publish, spread, table

KILLS_PER_SEARCH = 4

# Longer timeouts, for a machine that is busy otherwise.
BUSY = {"RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "900", "RAY_worker_niceness": "0"}
RAY_GAVE_UP = "timed out during startup"

COMMON = (
    "space=crnn", "model.name=benchmarks.counted:Counted", "features.num_frames=64", "model.conv_filters=[8, 8]",
    "model.lstm_units=[8, 4]", "training.batch_size=32", "training.patience=null", "optim.learning_rate=0.001",
)  # fmt: skip
RANDOM = ("model.lstm_dropout={uniform: [0.1, 0.5]}", "model.dense_l2={loguniform: [0.0001, 0.1]}")
ALGORITHMS = {
    "grid": (
        "search.algorithm=grid", "search.num_trials=null", "search.max_concurrent=2",
        "model.lstm_dropout={grid: [0.1, 0.2, 0.3, 0.4]}", "model.dense_l2={grid: [0.0001, 0.01, 0.1]}",
    ),
    "random": ("search.algorithm=random", "search.num_trials=12", "search.max_concurrent=2", *RANDOM),
    "optuna": (
        "search.algorithm=optuna", "search.num_trials=12", "search.max_concurrent=1", "search.scheduler=asha",
        "search.grace_epochs=2", *RANDOM,
    ),
}  # fmt: skip


@dataclass
class Found:
    """Measurements of one search.

    Args:
        kills: kills that hit a running driver.
        again: trials that had ended before a kill, but trained or were written again.
        lost: epochs that were begun but not saved, for each trial and each kill that hit it.
        trials: trials in the final leaderboard, done or stopped.
        same: whether the leaderboard, apart from seconds, equals that of the undisturbed search.
        lived: by how many seconds a trial's process outlived its driver, for each kill.
    """

    kills: int = 0
    again: int = 0
    lost: list[int] = field(default_factory=list)
    trials: int = 0
    same: bool = False
    lived: list[float] = field(default_factory=list)


class Search:
    """A search that is run as a command.

    Args:
        root: folder of its files.
        arguments: arguments of `tuning.run`.
    """

    def __init__(self, root: Path, arguments: list[str]) -> None:
        self.root, self.arguments = root, [*arguments, f"storage={root}", "name=search"]
        self.folder, self.lines_file, self.output = root / "search", root / "epochs.jsonl", root / "output.txt"
        root.mkdir(parents=True, exist_ok=True)
        self.lost: Counter[str] = Counter()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the command; its output goes to a file."""
        environment = os.environ | BUSY | {FILE: str(self.lines_file), "RAY_ADDRESS": "local"}
        command = [sys.executable, "-m", "tuning.run", *self.arguments]
        with self.output.open("wb") as stream:
            return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)

    def finish(self) -> float:
        """Run the command to its end; return the seconds."""
        for _ in range(3):
            began = time.monotonic()
            process = self.start()
            if not process.wait(timeout=1800):
                return time.monotonic() - began
            # On a busy machine Ray may time out; the same command resumes.
            if RAY_GAVE_UP not in self.output.read_text():
                break
        raise RuntimeError(f"exit code {process.returncode}: {self.output.read_text()}")

    def kill_after(self, seconds: float, once_it_trains: bool, found: Found) -> bool:
        """Start, kill the driver after `seconds`, and measure; False if it ended before."""
        before, process = len(self.lines()), self.start()
        while once_it_trains and process.poll() is None and len(self.lines()) == before:
            time.sleep(0.02)
        try:
            code = process.wait(timeout=seconds)
            if code and RAY_GAVE_UP not in self.output.read_text():
                raise RuntimeError(f"exit code {code}: {self.output.read_text()}")
            return False
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        found.kills += 1
        found.lived.append(self._wait_for_orphans())
        found.lost += self._lost_epochs()
        return True

    def lines(self) -> list[dict[str, Any]]:
        """The lines of all epochs that were begun."""
        if not self.lines_file.exists():
            return []
        return [json.loads(line) for line in self.lines_file.read_text(encoding="utf-8").splitlines()]

    def ended(self) -> dict[str, tuple[bytes, int]]:
        """Result and time of writing of each ended trial, by folder."""
        results = sorted(self.folder.glob("trials/*/result.json"))
        return {file.parent.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in results}

    def identities(self) -> dict[str, str]:
        """Folder of each trial by the `trial` of its lines, as JSON."""
        found = {}
        for file in self.folder.glob("trials/*/params.json"):
            model = json.loads(file.read_text(encoding="utf-8"))["config"]["model"]
            found[json.dumps([model["lstm_dropout"], model["dense_l2"]])] = file.parent.name
        return found

    def begun(self) -> Counter[str]:
        """Number of epochs that each trial began."""
        identities = self.identities()
        return Counter(identities[json.dumps(line["trial"])] for line in self.lines())

    def ranking(self) -> list[dict[str, str]]:
        """The leaderboard without seconds."""
        rows = csv.DictReader((self.folder / "leaderboard.csv").read_text(encoding="utf-8").splitlines())
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in rows]

    def _wait_for_orphans(self) -> float:
        """Wait until the processes of all trials have ended; return the seconds."""
        began, pids = time.monotonic(), {line["pid"] for line in self.lines()}
        while any(_is_alive(pid) for pid in pids):
            if time.monotonic() - began > 60:
                raise RuntimeError("trials outlive their driver by a minute")
            time.sleep(0.01)
        return time.monotonic() - began

    def _lost_epochs(self) -> list[int]:
        """Epochs that each running trial began since the last kill and its checkpoint does not have."""
        import torch

        lost = []
        ended = self.ended()
        for trial, begun in self.begun().items():
            file = self.folder / "trials" / trial / "checkpoints" / "last.pt"
            kept = torch.load(file, weights_only=True)["own"]["epoch"] if file.exists() else 0
            now = begun - kept - self.lost[trial]
            self.lost[trial] += now
            if trial not in ended:
                lost.append(now)
        return lost


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def killed_search(search: Search, instants: list[float], reference: list[dict[str, str]]) -> Found:
    """Run one search that is killed at the instants and resumed."""
    found, before = Found(), 0.0
    final: dict[str, tuple[bytes, int]] = {}
    begun: dict[str, int] = {}
    for number, instant in enumerate(sorted(instants)):
        if not search.kill_after(instant - before, number > 0, found):
            break
        before = instant
        counts = search.begun()
        for trial, result in search.ended().items():
            final.setdefault(trial, result)
            begun.setdefault(trial, counts[trial])
    search.finish()
    results, counts = search.ended(), search.begun()
    found.again = sum(results[trial] != result or counts[trial] != begun[trial] for trial, result in final.items())
    ranking = search.ranking()
    found.trials = sum(row["status"] in ("done", "stopped") for row in ranking)
    found.same = ranking == reference
    return found


def describe(algorithm: str, seconds: float, found: list[Found]) -> list[str]:
    """A row of the table."""
    lost = [epochs for one in found for epochs in one.lost]
    lived = [seconds for one in found for seconds in one.lived]
    return [
        algorithm,
        f"{seconds:.0f}",
        str(sum(one.kills for one in found)),
        str(sum(one.again for one in found)),
        f"{sum(lost)} in {len(lost)}",
        str(max(lost, default=0)),
        ", ".join(str(one.trials) for one in found),
        f"{sum(one.same for one in found)} of {len(found)}",
        spread(lived, 2)[2] if lived else "",
    ]


HEADER = [
    "search", "undisturbed, s", "kills", "ended trials run again", "epochs lost, in trials hit", "most by one kill",
    "trials ended", "leaderboard as undisturbed", "trial outlives driver, s at most",
]  # fmt: skip


def measure(algorithm: str, instants: int, seed: int, epochs: int, root: Path, prepared: Path) -> list[str]:
    """Measure one algorithm; a row of the table."""
    arguments = [*COMMON, *ALGORITHMS[algorithm], f"training.epochs={epochs}", f"data.prepared={prepared}"]
    calm = Search(root / "calm", arguments)
    seconds = calm.finish()
    drawn = random.Random(f"{seed}/{algorithm}")
    found = []
    while (missing := instants - sum(one.kills for one in found)) > 0:
        at = [drawn.uniform(0, seconds) for _ in range(min(KILLS_PER_SEARCH, missing))]
        found.append(killed_search(Search(root / f"{len(found)}", arguments), at, calm.ranking()))
        print(f"{algorithm}: killed at {', '.join(f'{t:.1f}' for t in sorted(at))} s: {found[-1]}", file=sys.stderr)
    return describe(algorithm, seconds, found)


def main() -> int:
    """Run the benchmark; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", nargs="+", choices=list(ALGORITHMS), default=list(ALGORITHMS))
    parser.add_argument("--instants", type=int, default=20, help="kills for each algorithm")
    parser.add_argument("--epochs", type=int, default=40, help="epochs of a trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prepared", help="folder of prepared features (default: a temporary one)")
    parser.add_argument("--out", help="also write the table to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        prepared = Path(options.prepared or Path(temporary) / "prepared").resolve()
        # Prepares the corpus, so that no measured time contains it.
        Search(Path(temporary) / "first", [*COMMON, "search.num_trials=1", "training.epochs=1",
               "model.lstm_dropout=0.3", "model.dense_l2=0.01", f"data.prepared={prepared}"]).finish()  # fmt: skip
        rows = [
            measure(name, options.instants, options.seed, options.epochs, Path(temporary) / name, prepared)
            for name in options.algorithm
        ]
    note = f"12 trials of {options.epochs} epochs, {KILLS_PER_SEARCH} kills a search, seed {options.seed}. "
    publish(f"{table(HEADER, rows)}\n\n{note}{machine('ray', 'torch', 'optuna')}", options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
