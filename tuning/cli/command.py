"""What every command does around its work: help, errors in words, exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from tuning.config.errors import UserError
from tuning.experiment.faults import StorageError, storage_fault

DONE, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


def run_command(
    usage: Callable[[], str], work: Callable[[list[str]], int | None], arguments: list[str] | None, resume: str = ""
) -> int:
    """Do `work` on the arguments, `sys.argv`'s unless given; the exit code, 0 unless `work` has another.

    2 is the user's input: a UserError, printed as one message. 130 is an interrupt, 1 a disk that takes no more or a
    reader of the output that went away. `--help` prints `usage` and works nothing. `resume` is the command that
    resumes the work, where there is one.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"--help", "-h"} & set(arguments):
        print(usage())
        return DONE
    try:
        return work(arguments) or DONE
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"\ninterrupted{f'; to go on: {resume}' if resume else ''}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        fault = str(error) if isinstance(error, StorageError) else storage_fault(error)
        if not fault:
            raise
        print(f"error: {fault}; what was finished is kept", file=sys.stderr)
        if resume:
            print(f"once it can be written there again, go on with: {resume}", file=sys.stderr)
        return FAILED
