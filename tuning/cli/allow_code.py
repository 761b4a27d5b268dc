"""The option `allow_code=true` of commands that read what others may have made."""

from __future__ import annotations

import argparse

from tuning.cli.command import Parser


def true(text: str) -> bool:
    """The value of an option that is `true` or not given."""
    if text != "true":
        raise argparse.ArgumentTypeError(f"expected true, got '{text}'")
    return True


def take_allow_code(parser: Parser) -> None:
    """Let a command take `allow_code=true`."""
    parser.option(
        "allow_code", true, "true", "run the code that the record names (package.module:name); trust its author"
    )
