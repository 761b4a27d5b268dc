"""Tell by name and content what the columns of an unknown table hold; a user is asked, nothing is read by a guess."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tuning.datasets.corpora import layout
from tuning.datasets.settings import DataSettings

# Names by which such columns are found, whatever their case; the first that is there.
FILES = ("file", "path", "filename", "file_name", "filepath", "audio", "wav", "recording", "clip", "name")
CLASSES = ("label", "emotion", "class")
GROUPS = ("speaker", "speaker_id", "artist", "actor", "singer", "subject", "participant", "performer", "group")
FOLDS = ("fold",)
PARTS = ("split", "part", "set", "subset", "partition")
MOST_CLASSES = 30
LEAST_GROUPS = 3  # one for each part of a split


@dataclass(frozen=True)
class Columns:
    """The columns of a table by what they seem to hold; None or empty where nothing seems to."""

    file: str | None
    label: str | None
    targets: list[str]
    group: str | None
    fold: str | None
    split: str | None
    unused: list[str]  # what is told of columns whose names say more than their content


def class_column(table: layout.Table, data: DataSettings) -> str | None:
    """The one column that may hold classes: by its name, else the only one of texts that repeat; None if unclear."""
    named = _named(table, CLASSES)
    if named:
        return named[0] if len(named) == 1 else None
    others = {data.file_column, *(column for _, column in layout.named_columns(data))}
    others |= {*_named(table, FILES), *_named(table, GROUPS), *_named(table, FOLDS), *_named(table, PARTS)}
    texts = [column for column in table.header if column and column not in others and _repeats(table, column)]
    return texts[0] if len(texts) == 1 else None


def columns_of(table: layout.Table, targets: list[str]) -> Columns:
    """What the columns of a table seem to hold; `targets` are the names of numeric labels to look for."""
    named = [column for target in targets for column in _named(table, [target]) if _is_numeric(table, column)]
    label = class_column(table, DataSettings(corpus="manifest"))
    if named and not _named(table, CLASSES):  # any other column of texts, such as the genre, is no label then
        label = None
    spoken = [column for column in table.header if column and _is_audio(table, column)]
    file = next(iter(spoken), None) or next(iter(_named(table, FILES)), None)
    parts = _named(table, PARTS)
    split = [column for column in parts if set(_cells(table, column)) <= set(layout.SPLITS)]
    unused = []
    if parts and not split:
        unused.append(_unused(table, parts[0], f"as a split; expected {', '.join(layout.SPLITS)}"))
    group = next(iter(_named(table, GROUPS)), None)
    if group is not None and len(set(_cells(table, group))) < LEAST_GROUPS:
        unused.append(_unused(table, group, f"to keep speakers apart; expected at least {LEAST_GROUPS} of them"))
        group = None
    return Columns(
        file=file,
        label=label,
        targets=named,
        group=group,
        fold=next(iter(_named(table, FOLDS)), None),
        split=next(iter(split), None),
        unused=unused,
    )


def _unused(table: layout.Table, column: str, words: str) -> str:
    """Say what a column holds and what it is not used for."""
    found = list(dict.fromkeys(_cells(table, column)))
    shown = ", ".join(found[:4]) + (", ..." if len(found) > 4 else "")
    return f"column '{column}' holds {shown} and is not used {words}"


def _named(table: layout.Table, names: list[str] | tuple[str, ...]) -> list[str]:
    """The columns with one of these names, in the order of the names."""
    return [column for name in names for column in table.header if _plain(column) == _plain(name)]


def _plain(name: str) -> str:
    """A name without what differs between "Speaker ID" and speaker_id."""
    return re.sub(r"[\s_-]+", "", name.casefold())


def _cells(table: layout.Table, column: str) -> list[str]:
    return [row[column].strip() for _, row in table.rows]


def _is_audio(table: layout.Table, column: str) -> bool:
    return bool(table.rows) and all(cell.lower().endswith(layout.AUDIO_SUFFIXES) for cell in _cells(table, column))


def _is_numeric(table: layout.Table, column: str) -> bool:
    try:
        # With decimal commas, too, which the reader of the labels explains.
        cells = _cells(table, column)
        return bool([float(cell.replace(",", ".") if layout.DECIMAL_COMMA.fullmatch(cell) else cell) for cell in cells])
    except ValueError:
        return False


def _repeats(table: layout.Table, column: str) -> bool:
    """Whether a column has a few texts, each of them several times on average."""
    cells = _cells(table, column)
    return not _is_numeric(table, column) and 2 <= len(set(cells)) <= min(MOST_CLASSES, len(cells) // 2)
