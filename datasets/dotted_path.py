"""Import what a dotted path names, `package.module:name`, if this user named it. Imports nothing heavy.

What a record names, such as the configuration of a search or of a saved model, may be somebody else's code, and
importing it would run it. So a path is imported only if the command line or the space file of this invocation names it,
or if the user allows code in words: `allow_code=true`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tuning.datasets import CORPORA
from tuning.models import MODELS

_BUILT_IN = frozenset([*CORPORA.values(), *MODELS.values()])
_named: set[str] = set()  # paths that the user of this process has named or allowed
_allows_all: ContextVar[bool] = ContextVar("allow_code", default=False)


class ForeignCodeError(ValueError):
    """A path that nobody but a record names."""


def allow(paths: Iterable[str]) -> None:
    """Let this process import these paths: the user has named them."""
    _named.update(paths)


@contextmanager
def allowing(everything: bool) -> Iterator[None]:
    """A context in which records may name code, if `everything`; what was imported there stays allowed."""
    token = _allows_all.set(everything or _allows_all.get())
    try:
        yield
    finally:
        _allows_all.reset(token)


def module_of(setting: str, path: str, kind: str = "function") -> str:
    """The module of a path that may be imported.

    Raises:
        ForeignCodeError: only a record names it.
        ValueError: it is no dotted path.
    """
    module, _, attribute = path.partition(":")
    if not module or module.startswith(".") or not attribute:
        raise ValueError(f"{setting}: expected a {kind} as package.module:name, got '{path}'")
    if path not in _BUILT_IN and path not in _named:
        if not _allows_all.get():
            raise ForeignCodeError(
                f"{setting}: expected a {kind} that this command line or its space file names, got '{path}' from a "
                "record, which may be anybody's; if you trust its author: allow_code=true"
            )
        allow([path])
    return module


def imported(setting: str, path: str, kind: str = "function") -> Any:
    """What a path names.

    Raises:
        ForeignCodeError: only a record names it; nothing was imported.
        ValueError: no such module or name.
    """
    module = module_of(setting, path, kind)
    attribute = path.partition(":")[2]
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A package that is missing within the user's module is that module's own error.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"{setting}: expected a {kind}, got '{path}' (no module '{error.name}')") from None
    if not callable(named := getattr(found, attribute, None)):
        hint = did_you_mean(attribute, vars(found))
        raise ValueError(f"{setting}: expected a {kind}, got '{path}' (no '{attribute}' in {module}){hint}")
    return named


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" with the nearest known name, or "" if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
