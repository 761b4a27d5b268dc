"""Train a trial again from its record and compare: `tuning reproduce results/NAME [TRIAL]`."""

from __future__ import annotations

from tuning.cli.command import DONE, FAILED, run_command
from tuning.config.errors import UserError

USAGE = """\
tuning reproduce results/NAME [TRIAL]

Trains a trial (by its number; the best one unless given) again from its record, for the epochs that it was trained,
and compares every loss and metric of every epoch. On CPU, one worker, they are equal to the last bit; the exit code is
then 0, else 1. Nothing of the search is changed, and no test clip is read.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code: 0 equal, 1 not, 2 the user's input."""
    return run_command(lambda: USAGE, _main, arguments)


def _main(arguments: list[str]) -> int:
    from tuning.evaluation.reproduce import chosen, compare, recorded_rows, reproduce, say_what_changed
    from tuning.experiment.recorded import folder_of

    if not 1 <= len(arguments) <= 2:
        raise UserError(f"expected the folder of a search and at most a trial's number, got {arguments}\n{USAGE}")
    folder = folder_of(arguments[0])
    record = chosen(folder, arguments[1] if len(arguments) > 1 else None)
    recorded = recorded_rows(folder, record)
    say_what_changed(folder)
    rows = reproduce(folder, record, len(recorded))
    return DONE if compare(folder, record, recorded, rows) else FAILED
