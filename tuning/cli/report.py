"""Write a search as one HTML page: `tuning report results/NAME`."""

from __future__ import annotations

from tuning.cli.command import run_command
from tuning.config.errors import UserError

USAGE = """\
tuning report results/NAME

Writes results/NAME/report.html: the ranking, learning curves, what the settings did, when and where the trials ran,
what was left out, and the test if there was one. One file that needs no network. It works while a search runs, too;
the search writes it at its end, finalize again with the test. A search in an object store is named
s3://bucket/prefix/NAME.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input."""
    return run_command(lambda: USAGE, _main, arguments)


def _main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise UserError(f"expected one folder of a search, got {arguments or 'none'}\n{USAGE}")
    from tuning.datasets.storage import is_uri
    from tuning.evaluation.report import write_report
    from tuning.experiment.bucket_sync import open_location
    from tuning.experiment.recorded import folder_of

    location = arguments[0]
    if is_uri(location):
        with open_location(location) as folder:
            print(f"report    {write_report(folder)}, and in {folder.remote}")
        return
    try:
        print(f"report    {write_report(folder_of(location))}")
    except OSError as error:
        raise UserError(f"{location}: expected a folder to write in ({error.strerror or error})") from None
