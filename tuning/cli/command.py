"""What every command does around its work: read its words, print its help, report errors, choose the exit code."""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from tuning.config.errors import UserError, nearest, shown
from tuning.config.schema import naming_variables
from tuning.config.terminal import visible
from tuning.datasets.redaction import redacted
from tuning.experiment.faults import NoRayError, StorageError, storage_fault
from tuning.experiment.machine import ensure_home
from tuning.search.ray_watch import end_if_lost

DONE, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130

# Help of places that several commands take.
SEARCH = "a search: results/NAME, or in an object store s3://bucket/prefix/NAME"
BEST = "the folder that tuning finalize wrote: results/NAME/best"
SELECTIONS = ("best", "greedy")  # of the members of an ensemble


class Parser(argparse.ArgumentParser):
    """Reads the words of a command in any order: places, settings, options `name=value`, flags `--name`.

    An option may also be written `--name=value` or `--name value`. What is wrong raises `UserError`.

    Args:
        usage: the command line on one line.
        description: what the command does.
        settings: whether words with `=` are settings of a search, left to the command as `settings`.
    """

    def __init__(self, usage: str, description: str, settings: bool = False) -> None:
        super().__init__(usage=usage, description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
        self._expected = ""
        self._known: list[str] = []
        self._takes_settings = settings
        if settings:
            self.add_argument("settings", metavar="key=value", nargs="*", help="settings, as of python -m tuning.run")
            self.flag("dry-run", argparse.SUPPRESS)

    def place(self, name: str, expected: str, help: str, **options: Any) -> None:
        """Take a word by its position; `expected` completes "expected ..., got none"."""
        self._expected = self._expected or expected
        self.add_argument(name, metavar=name.upper(), help=help, **options)

    def option(self, name: str, kind: Callable[[str], Any], value: str, help: str) -> None:
        """Take `name=value`, None where it is not given; `kind` raises `ArgumentTypeError` for a wrong value."""
        self._known.append(name)
        self.add_argument(f"--{name}", type=kind, metavar=value, help=help)

    def flag(self, name: str, help: str) -> None:
        """Take `--name`, False where it is not given."""
        self._known.append(f"--{name}")
        self.add_argument(f"--{name}", action="store_true", help=help)

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The words by name.

        Raises:
            UserError: an unknown option with the nearest name, a wrong value, too few or too many words.
        """
        options, unknown = self.parse_known_intermixed_args([self._as_option(word) for word in words])
        for word in unknown:
            if not word.startswith("-"):
                raise UserError(f"expected {self._expected}, got also '{word}'\nusage: {self.usage}")
            name, equals, _ = word.partition("=")
            if self._takes_settings and equals:
                raise UserError(f"{word}: expected a setting without dashes, {word.lstrip('-')}")
            shown = name.lstrip("-") if equals else name
            raise UserError(f"{shown}: no such option{nearest(shown, self._known)}")
        return options

    def _as_option(self, word: str) -> str:
        name, equals, _ = word.partition("=")
        is_option = name in self._known if self._takes_settings else name.isidentifier()
        return f"--{word}" if equals and is_option else word

    def error(self, message: str) -> NoReturn:
        """Refuse the command line in the words of the other refusals.

        Raises:
            UserError: always.
        """
        if message.startswith("the following arguments are required"):
            message = f"expected {self._expected}, got none\nusage: {self.usage}"
        message = re.sub("^argument (--)?", "", message)
        message = message.replace("expected one argument", "expected a value, got none")
        raise UserError(message.replace("ignored explicit argument", "expected no value, got"))


class _HelpFormatter(argparse.HelpFormatter):
    def add_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None) -> None:
        super().add_usage(usage, actions, groups, prefix="")

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(_HelpFormatter, self)._fill_text(part, width, indent) for part in text.split("\n\n"))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if action.option_strings and action.metavar:
            return f"{action.dest}={action.metavar}"
        return super()._format_action_invocation(action)


def count(text: str) -> int:
    """A whole number from 1, as the value of an option."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got '{text}'")
    return int(text)


def one_of(known: Iterable[str]) -> Callable[[str], str]:
    """A check that the value of an option is one of a few words."""

    def check(text: str) -> str:
        if text not in known:
            words = f"expected one of {', '.join(known)}, got '{text}'{nearest(text, known)}"
            raise argparse.ArgumentTypeError(words)
        return text

    return check


def guarded(work: Callable[[], int]) -> int:
    """Do the work and write out what it printed; its exit code, 1 if the reader of the output went away (`| head`)."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # no name of a file is too strange to be printed
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = work()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A context in which SIGTERM, by which batch systems end a job, is an interrupt like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_command(
    parser: Parser,
    work: Callable[[argparse.Namespace], int | None],
    words: Sequence[str] | None = None,
    resume: str = "",
) -> int:
    """Read the words, `sys.argv`'s unless given, and do the work; the exit code, 0 unless `work` returns another.

    2 is the user's input: a `UserError`, printed as one message, or a path that is too long. 130 is an interrupt, by
    Ctrl-C or SIGTERM; 1 a disk that takes no more, a Ray that does not start, or a reader of the output that went away.
    `--help` prints the help and does nothing else. `resume` is the command that resumes the work, where there is one.
    """
    given = sys.argv[1:] if words is None else words
    with _terminated_as_interrupted():
        return guarded(lambda: _run(parser, work, given, redacted(resume)))


def _run(parser: Parser, work: Callable[[argparse.Namespace], int | None], words: Sequence[str], resume: str) -> int:
    if {"--help", "-h"} & set(words):
        print(parser.format_help(), end="")
        return DONE
    ensure_home()
    try:
        return work(parser.read(words)) or DONE
    except UserError as error:
        print(f"error: {visible(naming_variables(str(error)))}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"\ninterrupted{f'; to resume: {resume}' if resume else ''}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            path = os.fsdecode(error.filename or "a path")
            print(f"error: {visible(shown(path))}: expected a shorter path", file=sys.stderr)
            return USER_ERROR
        is_known = isinstance(error, (StorageError, NoRayError))
        fault = redacted(str(error) if is_known else storage_fault(error))
        if not fault:
            end_if_lost()
            raise
        print(f"error: {visible(fault)}; what was finished is kept", file=sys.stderr)
        if resume:
            when = "" if isinstance(error, NoRayError) else "once it can be written there again, "
            print(f"{when}resume with: {resume}", file=sys.stderr)
        return FAILED
