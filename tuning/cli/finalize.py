"""Retrain the winner of a search and test it once: `tuning finalize results/NAME`."""

from __future__ import annotations

from typing import Any

from tuning.cli.command import run_command
from tuning.config.errors import UserError, nearest

USAGE = """\
tuning finalize results/NAME [top=K seeds=N] [ensemble=K] [again=true]

With top=K the K best trials are first repeated with N other seeds (3 unless given) on the search's own split, and the
winner is the one with the best mean; who can't be told apart from it is said. Without, it is the best trial. Trials of
equal settings count as one.

Retrains the winner on the search's training and validation clips, for as many epochs as its best one took (after inner
folds, or repeated: as the best ones took in the mean), tests it once on the sealed test clips, and writes
results/NAME/best/ anew. With ensemble=K the K best trials are retrained and predict together; after top= they are
ordered as the repetitions say. Intervals of the test figures are by bootstrap over speakers or artists. A second look
at the test is refused unless again=true; every look is recorded. A search in an object store is named
s3://bucket/prefix/NAME.

best/ holds the model with its settings and names, metrics.json, test_predictions.csv and history.png; of classes also
confusion.csv, confusion.png and errors.csv (the most confident first), of numbers scatter.png.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input, 1 anything else."""
    return run_command(lambda: USAGE, _main, arguments)


def _main(arguments: list[str]) -> None:
    options, paths = _read(arguments)
    if len(paths) != 1:
        raise UserError(f"expected one folder of a search, got {paths or 'none'}\n{USAGE}")
    from tuning import api

    api.finalize(paths[0], **options)


def _read(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    options: dict[str, Any] = {}
    paths = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument == "again=true":
            options["again"] = True
        elif name in ("ensemble", "top", "seeds"):
            if not value.isdigit():
                what = "seeds" if name == "seeds" else "trials"
                raise UserError(f"{name}: expected a number of {what} from 1, got '{value}'")
            options[name] = int(value)
        elif equals and name == "again":
            raise UserError(f"again: expected true, got '{value}'")
        elif equals and name.isidentifier():
            known = ("top", "seeds", "ensemble", "again")
            raise UserError(f"{name}: expected one of {', '.join(known)}{nearest(name, known)}")
        else:
            paths.append(argument)
    return options, paths
