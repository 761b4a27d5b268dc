"""Search a space of audio emotion models: `python -m tuning.run space=crnn`; `--help` says what can be set."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence

from tuning.cli.command import DONE, FAILED, INTERRUPTED, Parser, run_command
from tuning.config import loader
from tuning.config.help import help_text
from tuning.config.own_functions import allow_code_word
from tuning.datasets.redaction import redacted


class _Parser(Parser):
    def format_help(self) -> str:
        return help_text()


PARSER = _Parser("python -m tuning.run [space=NAME] [setting=VALUE ...] [--dry-run]", "", settings=True)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input, 130 interrupted, 1 anything else."""
    words = sys.argv[1:] if words is None else words
    return run_command(PARSER, _run, words, resume=_command(words))


def _run(options: Namespace) -> int:
    loaded = loader.load(options.settings)  # wrong settings are refused before numpy, pyarrow and scipy are imported
    from tuning import api
    from tuning.data.plan import plan_of
    from tuning.search import ray_watch
    from tuning.search.checks import check

    ray_watch.resume_command = redacted(_command(options.settings))
    plan = plan_of(*loaded)
    if options.dry_run:
        checked = check(plan)  # what a run refuses, before torch is asked for the GPUs
        from tuning.cli.dry_run import preview

        preview(checked)
        return DONE
    search = api.run(plan)
    has_result = search.best is not None
    if not has_result:
        print(f"error: no trial came to a result; why: {search.folder.trials}/*/error.txt", file=sys.stderr)
    if search.stopped:
        print(f"stopped   {search.stopped}: not all trials ended; to resume: {redacted(_command(options.settings))}")
    elif has_result and not search.is_tested:
        where = shlex.quote(redacted(str(search.remote or search.path))) + allow_code_word(plan.config)
        print(f"next      tuning finalize {where}  (retrains the best trial and tests it once)")
    if search.stopped == "interrupted":
        return INTERRUPTED
    return DONE if has_result else FAILED


def _command(words: Sequence[str]) -> str:
    return f"python -m tuning.run {shlex.join(word for word in words if not word.startswith('fresh='))}"


if __name__ == "__main__":
    # As with -m, also where `ray submit` runs a copy of this file elsewhere: a user's own modules are found here.
    sys.path[0] = os.getcwd()
    sys.exit(main())
