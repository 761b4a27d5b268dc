"""Write a space file for your own recordings: `tuning init labels.csv`."""

from __future__ import annotations

import textwrap
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from tuning.cli.command import Parser, run_command
from tuning.config.errors import UserError
from tuning.config.terminal import visible

PARSER = Parser(
    "tuning init DATA.csv [out=MY_SPACE.yaml] [setting=VALUE ...]",
    """\
Look at a CSV file that lists recordings and their labels, and write a commented space file for a search on them: its
columns, a split that keeps speakers or artists apart, the metric, a space for so many clips, and the time it may take.
Every setting is in the file, with its value and what it means. Nothing is prepared or trained.

What the columns hold is told by their names and contents. A setting on the command line takes the place of what is
guessed: data.label_column=mood data.group_column=singer. The file is called like the table, in the folder you are in,
unless out= names another; an existing file is left alone.""",
    settings=True,
)
PARSER.option("out", str, "MY_SPACE.yaml", "the file to write")

WIDTH = 110


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input, 1 anything else."""
    return run_command(PARSER, _init, words)


def _init(options: Namespace) -> None:
    tables = [word for word in options.settings if "=" not in word]
    given = [word for word in options.settings if "=" in word]
    if len(tables) != 1:
        got = ", ".join(f"'{table}'" for table in tables) or "none"
        what = "one CSV file that lists recordings and their labels"
        raise UserError(f"expected {what}, got {got}\nusage: {PARSER.usage}")
    out = Path(options.out or f"{Path(tables[0]).stem}.yaml")
    if out.exists():
        raise UserError(f"out: expected a new file, got '{out}', which is there; out=OTHER.yaml names another")
    from tuning.config.space_text import space_text  # not before wrong words are refused
    from tuning.data.proposal import propose

    found = propose(tables[0], given)
    lines = [f"{name:<9} {text}" for name, text in found.lines]
    header = _header(tables[0], found.space, lines, out)
    text = space_text([f"space={found.space}", *found.words], header, searched=True)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"out: expected a file that can be written, got '{out}' ({error.strerror})") from None
    print(visible("\n".join(lines)))
    print(f"written   {out}; next: python -m tuning.run space={_as_path(out)} --dry-run")


def _header(table: str, space: str, lines: Sequence[str], out: Path) -> str:
    indent = "#" + " " * 11
    told = [textwrap.fill(line, WIDTH, initial_indent="# ", subsequent_indent=indent) for line in lines]
    return "\n".join(
        [
            f"# Searches: what {space} does, for the recordings of {table}.",
            "# Written by tuning init; change what you like.",
            "#",
            *told,
            "#",
            "# Every setting has its value, or the distribution that is searched. What is commented out counts only",
            "# for another choice, as it says.",
            "#",
            f"#     python -m tuning.run space={_as_path(out)} --dry-run",
            "",
        ]
    )


def _as_path(out: Path) -> str:
    """The file as `space=` takes it, where a name without a slash or an ending is a built-in space."""
    return str(out) if out.suffix in (".yaml", ".yml") or "/" in str(out) else f"./{out}"
