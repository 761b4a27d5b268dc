"""Any corpus as a CSV table: one line per recording, columns named in the settings and never guessed."""

import csv
import io
import math
import os
import posixpath
from collections.abc import Iterator

from datasets import storage
from datasets.corpus import Clip, Corpus, did_you_mean
from datasets.settings import DataSettings

SPLITS = ("train", "val", "test")
Row = tuple[str, dict[str, str]]  # where it stands (path:line), and its cells by column name


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """Clips of the table `data.manifest` under `data.root`. Raises ValueError naming the setting at fault."""
    if data.root is None:
        raise ValueError(f"data.root: expected the corpus's folder or URI (data.corpus={data.corpus}), got nothing")
    return Corpus(data.corpus, storage.absolute(data.root), read_manifest(data.root, data, targets))


def read_manifest(root: str, data: DataSettings, targets: list[str]) -> list[Clip]:
    """Clips of the table under `root`, in its order.

    Raises ValueError for a missing folder, table or column, an empty table, a label that is no finite number
    or outside `data.target_range`, an unknown split, an empty group, and a file that is listed twice or lies
    outside the root.
    """
    path, text = _read_table(root, data)
    rows = _rows(path, text)
    columns = _named_columns(data, targets)
    header = next(rows)[1]
    for setting, column in columns:
        if column not in header:
            raise ValueError(f"{setting}: no column '{column}' in {path}{did_you_mean(column, header)}")
    target_columns = [column for setting, column in columns if setting in ("data.target_columns", "task.targets")]
    clips: list[Clip] = []
    seen: dict[str, str] = {}
    for place, row in rows:
        clip = _clip(place, row, data, target_columns)
        if clip.id in seen:
            raise ValueError(f"data.manifest: '{clip.id}' stands twice, at {seen[clip.id]} and {place}")
        seen[clip.id] = place
        clips.append(clip)
    if not clips:
        raise ValueError(f"data.manifest: no recordings in {path}")
    return clips


def _read_table(root: str, data: DataSettings) -> tuple[str, str]:
    if storage.is_uri(root):
        path = storage.below(root, data.manifest)
        try:
            raw = storage.read_bytes(root, data.manifest)
        except FileNotFoundError:
            raise ValueError(f"data.manifest: no file {path}") from None
    else:
        folder = storage.absolute(root)
        if not os.path.isdir(folder):
            what = "not a folder" if os.path.exists(folder) else "no such folder"
            raise ValueError(f"data.root: expected a folder, got '{root}' ({what}){_near_sibling(folder)}")
        path = os.path.join(folder, data.manifest)
        if not os.path.isfile(path):
            raise ValueError(f"data.manifest: no file {path}{_near_sibling(path)}")
        with open(path, "rb") as file:
            raw = file.read()
    try:
        return path, raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"{error.reason} at byte {error.start}"
        raise ValueError(f"data.manifest: expected UTF-8 text in {path}, got {problem}") from None


def _near_sibling(path: str) -> str:
    folder, name = os.path.split(path)
    try:
        return did_you_mean(name, os.listdir(folder))
    except OSError:
        return ""


def _rows(path: str, text: str) -> Iterator[Row]:
    """The header as a first row of itself, then the rows; lines without any text are passed over."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            place = f"{path}:{reader.line_num}"
            if header is None:
                header = [cell.strip() for cell in cells]
            if len(cells) != len(header):
                raise ValueError(f"data.manifest: expected {len(header)} cells, got {len(cells)} at {place}")
            yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise ValueError(f"data.manifest: {error} at {path}:{reader.line_num}") from None
    if header is None:
        raise ValueError(f"data.manifest: no recordings in {path}")


def _named_columns(data: DataSettings, targets: list[str]) -> list[tuple[str, str]]:
    """Every column that must be there, with the setting that names it."""
    if data.target_columns is not None and len(data.target_columns) != len(targets):
        raise ValueError(
            f"data.target_columns: expected one column for each of task.targets ({', '.join(targets)}), "
            f"got {len(data.target_columns)}: {', '.join(data.target_columns)}"
        )
    named = [("data.file_column", data.file_column)]
    setting = "task.targets" if data.target_columns is None else "data.target_columns"
    named += [(setting, column) for column in data.target_columns or targets]
    for setting in ("group_column", "fold_column", "split_column"):
        if (column := getattr(data, setting)) is not None:
            named.append((f"data.{setting}", column))
    return named


def _clip(place: str, row: dict[str, str], data: DataSettings, target_columns: list[str]) -> Clip:
    def text(setting: str) -> str | None:
        if (column := getattr(data, setting)) is None:
            return None
        if not (cell := row[column].strip()):
            raise ValueError(f"data.{setting}: expected text in column '{column}', got an empty cell at {place}")
        return cell

    split = text("split_column")
    if split is not None and split not in SPLITS:
        raise ValueError(f"data.split_column: expected {', '.join(SPLITS)}, got '{split}' at {place}")
    return Clip(
        id=_inside(text("file_column") or "", place),
        targets=tuple(_label(row[column], column, place, data.target_range) for column in target_columns),
        group=text("group_column"),
        fold=text("fold_column"),
        split=split,
    )


def _inside(file: str, place: str) -> str:
    """The path in one spelling. Only below the root: a clip's name must mean the same on every machine."""
    path = posixpath.normpath(file)
    if posixpath.isabs(path) or storage.is_uri(file) or path.split("/")[0] in (".", ".."):
        raise ValueError(f"data.file_column: expected a path below data.root, got '{file}' at {place}")
    return path


def _label(cell: str, column: str, place: str, scale: tuple[float, float] | None) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"data.target_columns: expected a number in column '{column}', got '{cell}' at {place}")
    if scale is None:
        return value
    low, high = scale
    if not low <= value <= high:
        raise ValueError(
            f"data.target_range: expected {low:g} to {high:g} in column '{column}', got {value:g} at {place}"
        )
    return 2 * (value - low) / (high - low) - 1
