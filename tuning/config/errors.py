"""Checks of single settings and the words for what is wrong with them. Imports nothing heavy."""

import difflib
import types
import typing
import unicodedata
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from tuning.config.distributions import plain
from tuning.datasets.redaction import redacted

# Of a value that is wrong, so many characters are shown.
MOST_SHOWN = 200

# No path is longer on Linux, and no whole number that a setting takes has more bits.
MOST_CHARACTERS, MOST_BITS = 4096, 63


class UserError(ValueError):
    """What the user gave can't be used. The message has the path, the expectation, what came and the known names.

    Credentials within locations are hidden in it.
    """

    def __str__(self) -> str:
        return redacted(super().__str__())


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name that is nearest, or the whole list if none is near."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""


def shown(value: Any) -> str:
    """What came, on one line and no longer than a line is read."""
    text = plain(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}... ({len(text):,} characters)"


def unknown_setting(path: str, known: Iterable[str]) -> str:
    """The message for a path that no setting has: the nearest leaf of its section, or the nearest path."""
    section, dot, leaf = path.rpartition(".")
    siblings = [p.rpartition(".")[2] for p in known if p.rpartition(".")[0] == section]
    if dot and siblings:
        elsewhere = [p for p in known if p.rpartition(".")[2] == leaf]
        if elsewhere:
            return f"{path}: no such setting; did you mean '{elsewhere[0]}'?"
        return f"{path}: no such setting{nearest(leaf, siblings)}"
    same_leaf = [p for p in known if p.rpartition(".")[2] == path]
    if same_leaf:
        return f"{path}: no such setting; did you mean '{same_leaf[0]}'?"
    close = difflib.get_close_matches(path, list(known), n=1, cutoff=0.6)
    if close:
        return f"{path}: no such setting; did you mean '{close[0]}'?"
    sections = dict.fromkeys(p.split(".")[0] for p in known)
    return f"{path}: no such setting{nearest(path.split('.')[0], sections)}"


def type_name(annotation: Any) -> str:
    """A type in a user's words: `number`, `integer`, `one of a, b`, `list of numbers`, `... or null`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(args[0])
    if origin is Literal:
        return "one of " + ", ".join(str(arg) for arg in args)
    if origin in (Union, types.UnionType):
        if bool in args and (words := [word for arg in args if get_origin(arg) is Literal for word in get_args(arg)]):
            return f"true, false or {', '.join(words)}"
        return " or ".join("null" if arg is type(None) else type_name(arg) for arg in args)
    if origin is list:
        inner = args[0] if args else Any
        plural = {int: "integers", float: "numbers", str: "texts"}.get(inner, "settings")
        return f"list of {plural}"
    if origin is tuple:
        return "[" + ", ".join(type_name(arg) for arg in args) + "]"
    simple = {int: "integer", float: "number", bool: "true or false", str: "text"}
    return typing.cast(str, simple.get(annotation, getattr(annotation, "__name__", str(annotation))))


def expectation(field: FieldInfo) -> str:
    """What a setting takes: its type with its range, and what its metadata says in words."""
    words = {
        "gt": "above",
        "ge": "at least",
        "lt": "below",
        "le": "at most",
        "min_length": "of length at least",
        "max_length": "of length at most",
    }
    bounds = [
        f"{word} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, word in words.items()
        if getattr(limit, name, None) is not None
    ]
    patterns = [f"matching {limit.pattern}" for limit in field.metadata if getattr(limit, "pattern", None)]
    said = [part for part in field.metadata if isinstance(part, str)]
    return " ".join(filter(None, [type_name(field.annotation), " and ".join(bounds + patterns), *said]))


def cast(path: str, value: Any, field: FieldInfo) -> Any:
    """The value as the setting's type: text to numbers (`1e-5`), whole floats to integers.

    Raises:
        UserError: another type, or out of range.
    """
    annotated: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(
        annotated, config=ConfigDict(coerce_numbers_to_str=True, allow_inf_nan=False)
    )
    try:
        # Python's True is an integer, but not a user's.
        if isinstance(value, bool) and bool not in (field.annotation, *get_args(field.annotation)):
            raise TypeError
        found = adapter.validate_python(value)
    except (ValidationError, TypeError, OverflowError):
        hint = ""
        options = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        if isinstance(value, str) and options:
            hint = nearest(value, options) if difflib.get_close_matches(value, options, n=1, cutoff=0.5) else ""
        raise UserError(f"{path}: expected {expectation(field)}, got {shown(value)}{hint}") from None
    if limit := _beyond(found):
        raise UserError(f"{path}: expected {limit}, got {shown(value)}")
    return found


def _beyond(value: Any) -> str:
    """What is expected of a value that no path or number of this machine can be; empty if it is usable."""
    if isinstance(value, str):
        if len(value) > MOST_CHARACTERS:
            return f"text of at most {MOST_CHARACTERS:,} characters"
        control = any(unicodedata.category(letter) == "Cc" and letter not in "\n\t" for letter in value)
        return "text without control characters" if control else ""
    if isinstance(value, int):
        return f"a whole number of at most {MOST_BITS} bits" if value.bit_length() > MOST_BITS else ""
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next((limit for part in parts if (limit := _beyond(part))), "")


def validation_message(error: ValidationError) -> str:
    """Pydantic's findings on a whole configuration, a line each, by dotted path."""
    lines = []
    for finding in error.errors():
        path = ".".join(str(part) for part in finding["loc"])
        message = finding["msg"].removeprefix("Value error, ")
        if finding["type"] == "missing":
            message = "expected a value, since it has no default"
        own = finding["type"] == "value_error"  # our own messages begin with a setting's name
        lines.append(message if own and not path else f"{path}.{message}" if own else f"{path}: {message}")
    return "\n".join(dict.fromkeys(lines))
