"""How a search stands that runs elsewhere, or that ended. `tuning status results/NAME`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from tuning.cli.command import DONE, run_command
from tuning.config.errors import UserError, nearest

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tuning.cli.search_view import Onlooker

USAGE = """\
tuning status results/NAME [watch=SECONDS]

Shows what the search's own terminal shows: trials done, running and failed, the best so far with its epoch, time left,
throughput, resources. The search may run in another process, or on another machine that writes to the same storage;
one in an object store is named s3://bucket/prefix/NAME. Of one that ended or was cut off it says so, and how to go on.

With watch=SECONDS a terminal shows it again every so many seconds, on one screen, until the search ends or Ctrl-C.
Takes no lock, writes nothing into the search's folder, starts no Ray.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input, 1 anything else."""
    return run_command(lambda: USAGE, _main, arguments)


def _main(arguments: list[str]) -> int:
    location, seconds = _read(arguments)
    from rich.console import Console

    from tuning.cli.search_view import Onlooker

    onlooker = Onlooker(location)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    if seconds is None or not console.is_terminal:
        console.print(picture(onlooker, console.height)[0])
        return DONE
    from rich.live import Live

    try:
        shown, goes_on = picture(onlooker, console.height)
        with Live(shown, console=console, auto_refresh=False) as live:
            while goes_on:
                time.sleep(seconds)  # until the next look
                shown, goes_on = picture(onlooker, console.height)
                live.update(shown, refresh=True)
    except KeyboardInterrupt:  # how one stops looking
        pass
    return DONE


def picture(onlooker: Onlooker, height: int) -> tuple[RenderableType, bool]:
    """The search on at most `height` lines, and whether somebody works on it."""
    from rich.console import Group
    from rich.text import Text

    from tuning.search.callbacks.progress_table import draw

    seen = onlooker.look()
    standing = seen.standing
    if standing is None:
        return Text(f"{onlooker.name}  no trial yet: {seen.worker} prepares it"), True
    if seen.worker:
        standing.note = f"{seen.worker} works on it"
        return draw(standing, height), True
    if standing.ended >= standing.total:
        standing.note = f"ended: all {standing.total} trials; the ranking is in {onlooker.location}/leaderboard.md"
        return draw(standing, height), False
    command = onlooker.command()
    # The command is to be copied, so it may wrap; the rest makes room.
    lines = 1 + len(command) // 60
    note = Text("cut off: nobody works on it; to go on:", style="yellow")
    return Group(draw(standing, max(8, height - lines - 1)), note, Text(command)), False


def _read(arguments: list[str]) -> tuple[str, float | None]:
    from tuning.datasets.storage import is_uri

    seconds, paths = None, []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name == "watch" and equals:
            seconds = _seconds(value)
        elif (equals and name.isidentifier()) or argument.startswith("-"):
            raise UserError(f"{name}: expected watch=SECONDS{nearest(name.lstrip('-'), ['watch'])}")
        else:
            paths.append(argument)
    if len(paths) != 1:
        raise UserError(f"expected one folder of a search, got {paths or 'none'}\n{USAGE}")
    return (paths[0] if is_uri(paths[0]) else paths[0].rstrip("/") or "/"), seconds


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:
        raise UserError(f"watch: expected seconds from 0.1 to 86400, got '{value}'")
    return seconds
