"""Train a trial again from its record and compare: `tuning reproduce results/NAME [TRIAL]`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from tuning import api
from tuning.cli.allow_code import take_allow_code
from tuning.cli.command import DONE, FAILED, SEARCH, Parser, run_command

PARSER = Parser(
    "tuning reproduce SEARCH [TRIAL] [allow_code=true]",
    """\
Train a trial again from its record, for as many epochs as it was trained, and compare every loss and metric of every
epoch. On the CPU with one worker they are equal to the last bit; the exit code is then 0, else 1. Nothing of the search
is changed, and no test clip is read.""",
)
PARSER.place("search", "the folder of a search and at most a trial's number", SEARCH)
PARSER.place("trial", "", "number of the trial (the best one)", nargs="?")
take_allow_code(PARSER)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code: 0 equal, 1 not, 2 the user's input."""
    return run_command(PARSER, _reproduce, words)


def _reproduce(options: Namespace) -> int:
    return DONE if api.reproduce(options.search, options.trial, allow_code=bool(options.allow_code)) else FAILED
