"""`--help` and `--dry-run`: what can be set, and what would be run. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tuning.config.distributions import KINDS, plain
from tuning.config.errors import expectation
from tuning.config.loader import known_spaces
from tuning.config.schema import PLACES, SEARCHABLE, SECTIONS, Config, RunSettings, default_places
from tuning.datasets.settings import Only

USAGE = """\
python -m tuning.run [space=NAME] [setting=VALUE ...] [--dry-run] [--help]

Searches hyperparameters of an audio emotion model and ranks the trials. Runs on a built-in demo corpus
unless data.corpus= and data.root= name another. The same command again resumes an unfinished search,
and prints the ranking of a finished one.

  --dry-run   print the trials and what each takes, run nothing
  --help      this text
"""


def help_text() -> str:
    """Every setting with its type, default and one line."""
    searched = ", ".join(SEARCHABLE)
    lines = [USAGE, f"Spaces: {', '.join(known_spaces())}", ""]
    lines += [f"A value may be a distribution in the sections {searched}:"]
    lines += ["  model.lstm_dropout='{uniform: [0.1, 0.3]}'", f"  kinds: {', '.join(KINDS)}", ""]
    lines += _section("command", RunSettings.model_fields, "")
    for name, section in SECTIONS.items():
        lines += _section(_first_line(section), section.model_fields, f"{name}.")
    lines += _section("Seed", {"seed": Config.model_fields["seed"]}, "")
    return "\n".join(lines)


def _first_line(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().splitlines()[0]


def _section(title: str, fields: dict[str, FieldInfo], prefix: str) -> list[str]:
    heading = "Command line" if title == "command" else f"{prefix.rstrip('.')}: {title}" if prefix else title
    lines = [heading]
    for name, field in fields.items():
        path = f"{prefix}{name}"
        default: Any = default_places().get(path, field.get_default(call_default_factory=True))
        lines.append(f"  {path}={plain(default) if default is not None else 'null'}  ({takes(prefix, field)})")
        lines.append(f"      {field.description}" + (f"; default: ${PLACES[path]}, if set" if path in PLACES else ""))
    return [*lines, ""]


def takes(prefix: str, field: FieldInfo) -> str:
    """What a setting takes, and the choices that it needs, if it needs any."""
    needed = [part for part in field.metadata if isinstance(part, Only)]
    choices = (f"with {prefix}{only.setting}={' or '.join(only.choices)}" for only in needed)
    return "; ".join([expectation(field), *choices])
