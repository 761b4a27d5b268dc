"""Search a space of audio emotion models: `python -m tuning.run space=crnn`; `--help` says what can be set."""

from __future__ import annotations

import os
import shlex
import signal
import sys

from tuning.cli.command import DONE, FAILED, INTERRUPTED, run_command


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input, 130 interrupted, 1 anything else."""
    arguments = sys.argv[1:] if arguments is None else arguments
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run_command(_usage, _main, arguments, resume=_command(arguments))
    finally:
        signal.signal(signal.SIGTERM, before)


def _main(arguments: list[str]) -> int:
    from tuning import api
    from tuning.data.plan import make_plan

    plan = make_plan([argument for argument in arguments if argument != "--dry-run"])
    if "--dry-run" in arguments:
        from tuning.cli.dry_run import preview

        preview(plan)
        return DONE
    search = api.run(plan)
    has_result = search.best is not None
    if not has_result:
        print(f"error: no trial came to a result; why: {search.folder.trials}/*/error.txt", file=sys.stderr)
    if search.stopped:
        print(f"stopped   {search.stopped}: not all trials ended; to go on: {_command(arguments)}")
    if search.stopped == "interrupted":
        return INTERRUPTED
    return DONE if has_result else FAILED


def _usage() -> str:
    from tuning.config.help import help_text

    return help_text()


def _command(arguments: list[str]) -> str:
    kept = [argument for argument in arguments if not argument.startswith("fresh=")]
    return f"python -m tuning.run {shlex.join(kept)}"


if __name__ == "__main__":
    # As with -m, also where `ray submit` runs a copy of this file elsewhere: a user's own modules lie here.
    sys.path[0] = os.getcwd()
    sys.exit(main())
