"""What every small command does around its work: help, the user's errors, exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tuning.config.errors import UserError

DONE, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


def run_command(usage: str, work: Callable[[list[str]], int | None], arguments: list[str] | None) -> int:
    """Do `work` on the arguments, `sys.argv`'s unless given; the exit code, 0 unless `work` has another.

    2 is the user's input: a UserError, printed as one message. `--help` prints `usage` and works nothing.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"--help", "-h"} & set(arguments):
        print(usage)
        return DONE
    try:
        return work(arguments) or DONE
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
