"""Read the files of a search or of a saved model, which may be damaged or anybody's.

Nothing here runs code from a file. A file that can't be read, or not understood, is a `DamagedFileError`, which names
it and says what is wrong with it and what can be done.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from tuning.config.errors import UserError, validation_message
from tuning.config.loader import build_space, fields_of, flatten
from tuning.config.own_functions import named_code
from tuning.config.references import refuse_lookups
from tuning.config.schema import COSTS, Config, parse_config
from tuning.config.space import Space
from tuning.config.yaml_text import read_yaml, text_settings
from tuning.datasets.dotted_path import module_of
from tuning.datasets.redaction import without_redacted
from tuning.experiment.faults import whole_lines

Kind = TypeVar("Kind", dict[str, Any], list[Any])

COPY = "put it back from a copy"
_LEFT_OUT = f"{COPY}, or delete it: the ranking does not depend on it"
_RUN_AGAIN = f"{COPY}, or resume the search, which runs this trial again"
# What can be done about a damaged file, by its name.
REMEDIES = {
    "params.json": _RUN_AGAIN,
    "progress.csv": f"{COPY}; a trial that has not ended begins anew when the search is resumed",
    "exploits.json": _RUN_AGAIN,
    "result.json": f"{COPY}, or resume the search, which makes it again",
    "run.json": f"{COPY}, or resume the search, which writes it again",
    "study.journal": f"{COPY}, or begin anew: fresh=true",
    ".mirror.json": "delete the folder that it is in: the search is in its bucket",
    "overrides.yaml": f"{COPY}, or delete it: only the line that resumes the search is made of it",
    **dict.fromkeys(("baseline.json", "environment.json", "quarantine.csv", "times.csv", "error.txt"), _LEFT_OUT),
    "metrics.json": f"{COPY}, or finalize the search again",
}
# Columns of progress.csv with whole numbers from 1, and with numbers; validation metrics are numbers, too.
_COUNTS = ("epoch", "fold", "best_epoch", "fold_epochs")
_NUMBERS = ("seconds", "train_loss", "penalty", "trained_parameters", *COSTS)


class DamagedFileError(UserError):
    """A file of a search or of a saved model that can't be read; the message names it and what can be done."""

    file: Path

    @classmethod
    def of(cls, file: Path | str, expected: str, got: object) -> DamagedFileError:
        """The error for a file, a path or a URI: what was expected in it, and what was found."""
        words = " ".join(str(got).split())[:300] or type(got).__name__
        return cls.told(file, f"expected {expected}, got {words}")

    @classmethod
    def told(cls, file: Path | str, words: str) -> DamagedFileError:
        """The error for a file, with what is wrong in words."""
        error = cls(f"{file}: {words}; {REMEDIES.get(Path(file).name, COPY)}")
        error.file = Path(file)
        return error


@contextmanager
def understood(file: Path | str, expected: str) -> Iterator[None]:
    """A context that makes use of a file's content: what the content does not allow is the file's damage.

    Raises:
        DamagedFileError: in place of the errors that wrong content raises.
    """
    try:
        yield
    except UserError:
        raise
    except ValidationError as error:
        raise DamagedFileError.told(file, "; ".join(validation_message(error).splitlines()[:3])) from None
    except KeyError as error:
        raise DamagedFileError.of(file, expected, f"nothing named {error}") from None
    except (ValueError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise DamagedFileError.of(file, expected, error) from None


def read_content(file: Path) -> bytes:
    """A file's bytes. Raises DamagedFileError if there is no such file or it can't be read."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise DamagedFileError.of(file, "a file", "no such file") from None
    except OSError as error:
        raise DamagedFileError.of(file, "a file that can be read", error.strerror or error) from None


def read_text(file: Path) -> str:
    """A text file. Raises DamagedFileError, also if it is not UTF-8."""
    try:
        return read_content(file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFileError.of(file, "text in UTF-8", f"byte {error.object[error.start]:#04x}") from None


def read_json(file: Path, kind: type[Kind]) -> Kind:
    """A JSON file with names and values (dict), or with a list. Raises DamagedFileError."""
    words = "JSON with names and values" if kind is dict else "JSON with a list"
    text = read_text(file)
    if not text.strip():
        raise DamagedFileError.of(file, words, "an empty file")
    with understood(file, words):
        found = json.loads(text)
    if not isinstance(found, kind):
        raise DamagedFileError.of(file, words, f"a {type(found).__name__}")
    return found


def read_rows(file: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV file that has these columns among others, without a last line that a kill cut off.

    Raises:
        DamagedFileError: not UTF-8, no such columns, a row with fewer or more cells.
    """
    expected = f"rows with {', '.join(columns)}"
    try:
        text = whole_lines(read_content(file)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFileError.of(file, "text in UTF-8", f"byte {error.object[error.start]:#04x}") from None
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        header, rows = reader.fieldnames or [], list(reader)
    except csv.Error as error:
        raise DamagedFileError.of(file, expected, error) from None
    if missing := [name for name in columns if name not in header]:
        raise DamagedFileError.of(file, expected, f"no column {missing[0]}" if header else "an empty file")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise DamagedFileError.of(file, expected, f"line {number} with another number of cells")
    return rows


def read_progress(folder: Path) -> list[dict[str, str]]:
    """Read the rows of a trial's `progress.csv`, without a line that a kill cut off; none if there is no such file.

    Raises:
        DamagedFileError: cells that should be numbers are none, or there are fewer rows than the trial's result says.
    """
    file = folder / "progress.csv"
    rows = _progress_rows(file) if file.exists() else []
    if len(rows) < (least := _recorded_epochs(folder)):
        raise DamagedFileError.of(file, f"a row for each of {least} epochs", len(rows) or "none")
    return rows


def _progress_rows(file: Path) -> list[dict[str, str]]:
    if not whole_lines(read_content(file)):  # killed while it wrote the first line
        return []
    rows = read_rows(file, ("epoch",))
    with understood(file, "rows of numbers"):
        for position, row in enumerate(rows, start=1):
            for name, value in row.items():
                if name in _COUNTS and int(value or "0") < (name == "epoch"):
                    raise ValueError(f"{name} {value}")
                if value and (name in _NUMBERS or name.startswith(("val_", "learning_rate"))):
                    float(value)
            if int(row["epoch"]) != position:
                raise ValueError(f"epoch {row['epoch']} in row {position}")
    return rows


def _recorded_epochs(folder: Path) -> int:
    """The epochs of a trial by its result; 0 if it has not ended, or the result is damaged, which its reader tells."""
    file = folder / "result.json"
    with suppress(DamagedFileError):
        found = read_json(file, dict).get("epochs") if file.exists() else 0
        return found if isinstance(found, int) else 0
    return 0


def read_moment(text: str) -> datetime.datetime:
    """A time in UTC. Raises ValueError for none, and for one without a time zone."""
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} without a time zone")
    return moment


def read_metrics(values: Any) -> dict[str, float]:
    """Names with numbers, perhaps infinite ones. Raises ValueError or TypeError for anything else."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{type(values).__name__} in place of metrics")
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise ValueError(f"{name} {value!r}")
    return dict(values)


def read_settings(file: Path, may_be_empty: bool = False) -> dict[str, Any]:
    """The settings of a file in YAML, by section or by path.

    Raises:
        DamagedFileError: no YAML, or no names with values.
    """
    text = read_text(file)
    try:
        tree = read_yaml(text, text_settings())
    except Exception as error:  # OmegaConf passes the YAML parser's own errors on
        raise DamagedFileError.of(file, "settings in YAML", error) from None
    if not isinstance(tree, dict) or not (tree or may_be_empty):
        raise DamagedFileError.of(file, "settings in YAML", f"a {type(tree).__name__}" if tree else "nothing")
    return {str(name): without_redacted(value) for name, value in tree.items()}


# What earlier versions called settings.
RENAMED = {"features.encoder_layer": "features.encoder_layers", "features.encoder_seconds": "features.pooled_seconds"}


def with_new_names(recorded: Any, section: str = "") -> Any:
    """Recorded settings, nested by section or by dotted path, also in lists of points, by the names of this version."""
    if isinstance(recorded, list):
        return [with_new_names(each, section) for each in recorded]
    if not isinstance(recorded, dict):
        return recorded
    found = {}
    for name, value in recorded.items():
        path = f"{section}.{name}" if section else str(name)
        new = RENAMED.get(path, path).removeprefix(f"{section}." if section else "")
        found[new if path in RENAMED else name] = with_new_names(value, str(name) if name == "features" else "")
    return found


def read_recorded(file: Path) -> Space:
    """Read the space of an earlier search from its `config.yaml`.

    Raises:
        UserError: it is damaged, names code that this user did not name, or refers to something else than settings.
    """
    tree = with_new_names(read_settings(file))
    _refuse_foreign(file, tree)
    with _told_of(file), understood(file, "settings of a search"):
        fields = fields_of(tree, {})
        return build_space(flatten(tree, fields), fields)


def read_config(file: Path | str, tree: Any) -> Config:
    """A configuration that a file records, nested by section.

    Raises:
        UserError: it is damaged, names code that this user did not name, or refers to other settings.
    """
    if not isinstance(tree, dict):
        raise DamagedFileError.of(file, "settings by section", f"a {type(tree).__name__}")
    tree = with_new_names(tree)
    _refuse_foreign(file, tree)
    with _told_of(file), understood(file, "settings of a trial"):
        return parse_config(without_redacted(tree))


def _refuse_foreign(file: Path | str, tree: dict[str, Any]) -> None:
    """Refuse code and references before anything is imported. A corpus is read, and refused, by those who need it."""
    try:
        for name, value in tree.items():
            refuse_lookups(name, value)
        for setting, path in named_code(tree):
            if setting != "data.corpus":
                module_of(setting, path, "class" if setting == "model.name" else "function")
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None


@contextmanager
def _told_of(file: Path | str) -> Iterator[None]:
    """A context in which what is wrong with settings is told with their file."""
    try:
        yield
    except DamagedFileError:
        raise
    except UserError as error:
        raise UserError(f"{file}: {error}; {COPY}") from None
