"""Draw the learning curves of a trial: `tuning history results/NAME [TRIAL]`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from tuning import api
from tuning.cli.allow_code import take_allow_code
from tuning.cli.command import SEARCH, Parser, run_command

PARSER = Parser(
    "tuning history SEARCH [TRIAL] [allow_code=true]",
    """\
Draw the learning curves of a trial, finished or not, as history.png in its folder: training and validation loss, the
ranking metric, and the best epoch. A search draws those of its best trials in one picture, SEARCH/history.png, at its
end.""",
)
PARSER.place("search", "the folder of a search and at most a trial's number", SEARCH)
PARSER.place("trial", "", "number of the trial (the best one)", nargs="?")
take_allow_code(PARSER)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input."""
    return run_command(PARSER, _history, words)


def _history(options: Namespace) -> None:
    api.history(options.search, options.trial, allow_code=bool(options.allow_code))
