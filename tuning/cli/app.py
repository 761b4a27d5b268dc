"""Every command by its name: `tuning COMMAND ...`, the same as `python -m tuning COMMAND ...`."""

from __future__ import annotations

import importlib
import sys

from tuning.cli.command import DONE, USER_ERROR
from tuning.config.errors import nearest

# Name -> the module with its `main`, and what it does in a line. A new command is one file and one line here.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("tuning.run", "search: features, trials, ranking (python -m tuning.run does the same)"),
    "finalize": ("tuning.cli.finalize", "retrain the winner of a search and test it once"),
    "reproduce": ("tuning.cli.reproduce", "train a trial again from its record and compare"),
    "predict": ("tuning.cli.predict", "predict recordings with a finalised model"),
    "export": ("tuning.cli.export", "write a finalised model as ONNX"),
    "report": ("tuning.cli.report", "write a search as one HTML page"),
    "status": ("tuning.cli.status", "look on while a search runs"),
    "balance": ("tuning.cli.class_balance", "count clips and groups of each class in each part of a corpus"),
    "doctor": ("tuning.cli.doctor.main", "say what is missing here for a search or a cluster"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the first argument names; its exit code, 2 for a name that is none."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name, *rest = arguments or ["--help"]
    if name in ("--help", "-h"):
        print(usage())
        return DONE
    if name not in COMMANDS:
        print(f"error: expected one of {', '.join(COMMANDS)}, got '{name}'{nearest(name, COMMANDS)}", file=sys.stderr)
        return USER_ERROR
    # Only what the command needs is imported: `--help` and refusals answer at once.
    command = importlib.import_module(COMMANDS[name][0])
    return int(command.main(rest))


def usage() -> str:
    """The commands with a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(["tuning COMMAND [...]", "", *lines, "", "tuning COMMAND --help says what a command takes."])
