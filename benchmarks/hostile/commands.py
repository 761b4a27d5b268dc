"""Run the product's commands, and say what became of each."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT = 300.0  # an export takes a minute on a busy machine
TRACEBACK = "Traceback (most recent call last)"


@dataclass
class Outcome:
    """What a command did: its exit code, None where it did not end in time, and all that it printed."""

    code: int | None
    text: str

    @property
    def kind(self) -> str:
        """One of accepted, refused, failed, and the two that must not be: traceback and hang."""
        if self.code is None:
            return "hang"
        if TRACEBACK in self.text or self.code not in (0, 1, 2):
            return "traceback"
        return ("accepted", "failed", "refused")[self.code]


@dataclass
class Faults:
    """What falls short, for the list below the tables."""

    lines: list[str] = field(default_factory=list)

    def add(self, what: str, outcome: Outcome) -> None:
        """Keep what was done and the end of what was printed."""
        tail = "\n".join(outcome.text.strip().splitlines()[-4:])
        self.lines.append(f"- {what}: exit code {outcome.code}\n\n```\n{tail}\n```")
        print(self.lines[-1], file=sys.stderr)


def progress(what: str, done: int, total: int) -> None:
    """Say how far a part is, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {what}: {done} of {total}", file=sys.stderr, flush=True)


def forked(words: list[str], folder: Path) -> Outcome:
    """Run a command as a fork of this process, in a folder."""
    output = folder / ".output"
    output.touch()
    child = os.fork()
    if not child:
        _as_command(words, folder, output)
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return Outcome(os.waitstatus_to_exitcode(status), output.read_text(errors="replace"))
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return Outcome(None, output.read_text(errors="replace"))


def _as_command(words: list[str], folder: Path, output: Path) -> None:
    code = 1
    try:
        os.chdir(folder)
        out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(out, number)
        sys.argv = ["tuning", *words]
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", False), "utf-8")
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", False), "utf-8", "backslashreplace")
        code = importlib.import_module("tuning.cli.app").main(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code & 255)


def started(words: list[str], folder: Path) -> Outcome:
    """Run a command as a process, in a folder."""
    environment = os.environ | {"RAY_ADDRESS": "local"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tuning", *words], cwd=folder, env=environment, timeout=5 * TIMEOUT,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        return Outcome(None, (error.stdout or b"").decode(errors="replace"))
    return Outcome(done.returncode, done.stdout)
