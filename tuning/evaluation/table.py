"""Tables in a terminal, or as plain text where the output goes elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuning.config.terminal import visible

WIDTH = 140  # of text that goes to a file or a pipe


def make_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    wrapped: Collection[int] = (),
    styles: Mapping[int, str] | None = None,
) -> Table:
    """A table without lines, whose columns are right-aligned but for those in `left`.

    Args:
        headings: of the columns; one with a line break takes two lines.
        rows: cells, of anybody's text: nothing in them acts on the terminal or is read as markup.
        left: numbers of the columns of text.
        wrapped: numbers of the columns that become narrower, with cells of several lines, where room is short.
        styles: of some rows by their number, negative ones from the end.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        side: Literal["left", "right"] = "left" if number in left else "right"
        is_wrapped = number in wrapped
        # A figure that is cut has to look like one.
        overflow: Literal["fold", "ellipsis"] = "fold" if is_wrapped else "ellipsis"
        table.add_column(Text(visible(heading)), justify=side, no_wrap=not is_wrapped, overflow=overflow)
    style_of = {number % len(rows): style for number, style in (styles or {}).items() if rows}
    for number, row in enumerate(rows):
        table.add_row(*(Text(visible(cell)) for cell in row), style=style_of.get(number))
    return table


def make_console(stream: TextIO | None = None, width: int = WIDTH) -> Console:
    """A console as wide as the terminal; of another stream than a terminal `width` wide."""
    stream = stream or sys.stdout
    return Console(file=stream, width=None if stream.isatty() else width, highlight=False)
