"""Show the state of a search that runs elsewhere, or that ended: `tuning status results/NAME`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from tuning.cli.allow_code import take_allow_code
from tuning.cli.command import DONE, SEARCH, Parser, run_command
from tuning.config.errors import UserError
from tuning.config.terminal import visible
from tuning.datasets.dotted_path import allowing
from tuning.datasets.redaction import redacted
from tuning.search.callbacks.progress_table import draw
from tuning.search.status import StatusReader

DAMAGED_SHOWN = 5  # damaged files that are named; the others are counted

PARSER = Parser(
    "tuning status SEARCH [watch=SECONDS] [allow_code=true]",
    """\
Show what the search's own terminal shows: trials done, running and failed, the best so far with its epoch, time left,
throughput, resources. The search may run in another process, or on another machine that writes to the same storage. If
it was cut off, the command that resumes it is shown. Takes no lock, writes nothing, starts no Ray.""",
)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"expected seconds from 0.1 to 86400, got '{text}'")
    return seconds


PARSER.place("search", "one folder of a search", SEARCH)
PARSER.option("watch", _seconds, "SECONDS", "in a terminal: refresh every so often, until the search ends or Ctrl-C")
take_allow_code(PARSER)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input, 1 anything else."""
    return run_command(PARSER, _show, words)


def _show(options: argparse.Namespace) -> int:
    with allowing(bool(options.allow_code)):
        return _watch(StatusReader(options.search), options.watch)


def _watch(reader: StatusReader, pause: float | None) -> int:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    shown, is_running = picture(reader, console.height)
    if pause is None or not console.is_terminal:
        console.print(shown)
        return DONE
    try:
        with Live(shown, console=console, auto_refresh=False) as live:
            while is_running:
                time.sleep(pause)  # until the next look
                shown, is_running = picture(reader, console.height)
                live.update(shown, refresh=True)
    except KeyboardInterrupt:  # ends the display
        pass
    return DONE


def picture(reader: StatusReader, height: int) -> tuple[RenderableType, bool]:
    """The search on at most `height` lines, and whether somebody works on it."""
    status = reader.read()
    standing = status.standing
    if standing is None:
        return Text(visible(f"{reader.name}  no trial yet: {status.worker} prepares it")), True
    damaged = [Text(visible(f"damaged: {each}"), style="red") for each in status.damaged[:DAMAGED_SHOWN]]
    if more := len(status.damaged) - len(damaged):
        damaged.append(Text(f"and {more} more damaged", style="red"))
    height = max(8, height - 2 * len(damaged))
    if status.worker:
        standing.note = f"{status.worker} works on it"
        return Group(draw(standing, height), *damaged), True
    if standing.ended >= standing.total:
        standing.note = (
            f"ended: all {standing.total} trials; the ranking is in {redacted(reader.location)}/leaderboard.md"
        )
        return Group(draw(standing, height), *damaged), False
    try:
        command = reader.command()
    except UserError as error:
        return Group(draw(standing, height), *damaged, Text(f"damaged: {error}", style="red")), False
    # The command is to be copied, so it may wrap; the rest makes room.
    lines = 1 + len(command) // 60
    note = Text("cut off: nobody works on it; to resume:", style="yellow")
    return Group(draw(standing, max(8, height - lines - 1)), *damaged, note, Text(visible(redacted(command)))), False
