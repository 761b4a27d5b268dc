"""What every command does around its work: read its words, print its help, report errors, choose the exit code."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from tuning.config.errors import UserError, nearest
from tuning.experiment.faults import NoRayError, StorageError, storage_fault
from tuning.experiment.machine import ensure_home
from tuning.search.ray_watch import end_if_lost

DONE, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130

# Help of places that several commands take.
SEARCH = "a search: results/NAME, or in an object store s3://bucket/prefix/NAME"
BEST = "the folder that tuning finalize wrote: results/NAME/best"


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
        return f"--{word}" if equals and name.isidentifier() and not self._takes_settings else word

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


def run_command(
    parser: Parser,
    work: Callable[[argparse.Namespace], int | None],
    words: Sequence[str] | None = None,
    resume: str = "",
) -> int:
    """Read the words, `sys.argv`'s unless given, and do the work; the exit code, 0 unless `work` returns another.

    2 is the user's input: a `UserError`, printed as one message. 130 is an interrupt, 1 a disk that takes no more,
    a Ray that does not start, or a reader of the output that went away. `--help` prints the help and does nothing else.
    `resume` is the command that resumes the work, where there is one.
    """
    words = sys.argv[1:] if words is None else words
    if {"--help", "-h"} & set(words):
        print(parser.format_help(), end="")
        return DONE
    ensure_home()
    try:
        return work(parser.read(words)) or DONE
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"\ninterrupted{f'; to resume: {resume}' if resume else ''}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        is_known = isinstance(error, (StorageError, NoRayError))
        fault = str(error) if is_known else storage_fault(error)
        if not fault:
            end_if_lost()
            raise
        print(f"error: {fault}; what was finished is kept", file=sys.stderr)
        if resume:
            when = "" if isinstance(error, NoRayError) else "once it can be written there again, "
            print(f"{when}resume with: {resume}", file=sys.stderr)
        return FAILED
