"""Run a command by its name: `tuning COMMAND ...`, the same as `python -m tuning COMMAND ...`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from tuning.cli.command import DONE, USER_ERROR, guarded
from tuning.config.errors import nearest, shown
from tuning.config.terminal import visible

# Name -> the module with its `main`, and a line of help. A new command is one file and one line here.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("tuning.run", "search: features, trials, ranking (python -m tuning.run does the same)"),
    "init": ("tuning.cli.init", "look at a table of recordings and write a space file for them"),
    "space": ("tuning.cli.space", "print a commented space file for a model and a corpus"),
    "status": ("tuning.cli.status", "show the state of a search, also while it runs"),
    "report": ("tuning.cli.report", "write a search as one HTML page"),
    "history": ("tuning.cli.history", "draw the learning curves of a trial"),
    "reproduce": ("tuning.cli.reproduce", "train a trial again from its record and compare"),
    "finalize": ("tuning.cli.finalize", "retrain the winner of a search and test it once"),
    "folds": ("tuning.cli.folds", "search and test every fold of a corpus, and put the tests together"),
    "predict": ("tuning.cli.predict", "predict recordings with a finalized model"),
    "export": ("tuning.cli.export", "write a finalized model as ONNX"),
    "balance": ("tuning.cli.class_balance", "count the clips of each class in each part of a corpus"),
    "doctor": ("tuning.cli.doctor.main", "check what a search or a cluster needs"),
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that the first word names; its exit code, 2 for an unknown name."""
    name, *rest = (sys.argv[1:] if words is None else words) or ["--help"]
    if name in ("--help", "-h"):
        return guarded(_print_usage)
    if name not in COMMANDS:
        print(f"error: {visible(shown(name))}: no such command{nearest(name, COMMANDS)}", file=sys.stderr)
        return USER_ERROR
    # A user's own modules are in the folder where he stands. Last, so that none takes the place of an installed one.
    sys.path.append(os.getcwd())
    command = importlib.import_module(COMMANDS[name][0])
    return int(command.main(rest))


def _print_usage() -> int:
    print(usage())
    return DONE


def usage() -> str:
    """The commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(["tuning COMMAND [...]", "", *lines, "", "tuning COMMAND --help describes a command."])
