"""Retrain the winner of a search and test it once: `tuning finalize results/NAME`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tuning import api
from tuning.cli.allow_code import take_allow_code, true
from tuning.cli.command import SEARCH, SELECTIONS, Parser, count, one_of, run_command

PARSER = Parser(
    "tuning finalize SEARCH [top=K] [seeds=N] [ensemble=K] [select=best|greedy] [again=true] [allow_code=true]",
    """\
Retrain the winner of a search on its training and validation clips, test it once on the sealed test clips, and write
SEARCH/best/. It is trained for as many epochs as its best trial took (after inner folds, or repetitions: their mean).

The winner is the best trial. With top=K the K best trials are first repeated with N other seeds on the search's own
split; the winner is then the one with the best mean, and the trials that can't be told apart from it are named. Trials
of equal settings count as one. With ensemble=K the K best trials are retrained and predict together, in the order of
the repetitions where there are any; with select=greedy at most K, chosen one after the other by what they say together
of the validation clips (Caruana et al. 2004).

Intervals of the test figures are by bootstrap over speakers or artists. A second look at the test is refused unless
again=true; every look is recorded.

best/ holds the model with its settings and names, metrics.json, test_predictions.csv and history.png; for classes also
confusion.csv, confusion.png and errors.csv (the most confident first), for regression scatter.png.""",
)


PARSER.place("search", "one folder of a search", SEARCH)
PARSER.option("top", count, "K", "repeat the K best trials and choose among them")
PARSER.option("seeds", count, "N", "repeat each of them with N seeds (3)")
PARSER.option("ensemble", count, "K", "retrain the K best trials, which predict together")
PARSER.option("select", one_of(SELECTIONS), "|".join(SELECTIONS), "which they are (best)")
PARSER.option("again", true, "true", "test once more")
take_allow_code(PARSER)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input, 1 anything else."""
    return run_command(PARSER, _finalize, words)


def _finalize(options: argparse.Namespace) -> None:
    given = {name: value for name, value in vars(options).items() if value is not None}
    api.finalize(given.pop("search"), **given)
