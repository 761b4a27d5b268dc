"""Write a commented space file: `tuning space model.name=ser data.corpus=ravdess > my_space.yaml`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from tuning.cli.command import Parser, run_command
from tuning.config.space_text import space_text

PARSER = Parser(
    "tuning space [model.name=NAME] [data.corpus=NAME] [setting=VALUE ...] > MY_SPACE.yaml",
    """\
Print a space file with every setting of a model and a corpus: its documented value or default, what it means and takes,
and its documented distribution as a comment. python -m tuning.run space=MY_SPACE.yaml reads it as it is.

Settings of the command line are written in place of the defaults, distributions too. space=NAME takes values and
distributions from another space than the model's own.""",
    settings=True,
)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input."""
    return run_command(PARSER, _space, words)


def _space(options: Namespace) -> None:
    print(space_text(options.settings), end="")
