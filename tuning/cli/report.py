"""Write a search as one HTML page: `tuning report results/NAME`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from tuning import api
from tuning.cli.allow_code import take_allow_code
from tuning.cli.command import SEARCH, Parser, run_command

PARSER = Parser(
    "tuning report SEARCH [allow_code=true]",
    """\
Write SEARCH/report.html: the ranking, learning curves, what the settings did, when and where the trials ran, what was
left out, and the test if there was one. One file that needs no network. A search writes it at its end, and finalize
writes it again with the test; this command does so at any time, also while the search runs.""",
)
PARSER.place("search", "one folder of a search", SEARCH)
take_allow_code(PARSER)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input."""
    return run_command(PARSER, _report, words)


def _report(options: Namespace) -> None:
    api.report(options.search, allow_code=bool(options.allow_code))
