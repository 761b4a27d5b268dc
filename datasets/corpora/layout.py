"""Helpers of corpus layouts: the root, CSV tables, labels on their scale, recordings by stem."""

import codecs
import csv
import io
import math
import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tuning.datasets import storage
from tuning.datasets.corpus import Clip, did_you_mean
from tuning.datasets.settings import DataSettings

AUDIO_SUFFIXES = (".aif", ".aiff", ".flac", ".mp3", ".ogg", ".opus", ".wav")
SPLITS = ("train", "val", "test")
SHOWN = 8  # names listed in an error
LINE_SHOWN = 60  # characters of a line that can't be read
SEPARATORS = (",", ";", "\t")
MARKS = (  # of which that of UTF-32 begins as that of UTF-16
    ("utf-8", codecs.BOM_UTF8),
    ("utf-32-le", codecs.BOM_UTF32_LE),
    ("utf-32-be", codecs.BOM_UTF32_BE),
    ("utf-16-le", codecs.BOM_UTF16_LE),
    ("utf-16-be", codecs.BOM_UTF16_BE),
)
DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*$")
Row = tuple[str, dict[str, str]]  # its place (path:line), and its cells by column name


@dataclass(frozen=True)
class Table:
    """A CSV file: its path, the names of its columns, and its rows."""

    path: str
    header: list[str]
    rows: list[Row]

    def require(self, columns: Iterable[tuple[str, str]]) -> None:
        """Raise ValueError for the first missing column; each is given with the setting that names it."""
        for setting, column in columns:
            if column not in self.header:
                hint = did_you_mean(column, self.header) or f"; it has: {', '.join(self.header)}"
                raise ValueError(f"{setting}: no column '{column}' in {self.path}{hint}")
            self.require_one(setting, column)

    def require_one(self, setting: str, *columns: str) -> None:
        """Raise ValueError with its places for the first of these names that several columns have."""
        for column in columns:
            places = [str(place) for place, name in enumerate(self.header, start=1) if name == column]
            if len(places) > 1:
                where = f"{', '.join(places[:-1])} and {places[-1]}"
                raise ValueError(
                    f"{setting}: expected columns of different names in {self.path}, got '{column}' in columns {where}"
                )

    def lower(self) -> "Table":
        """The same table with names of columns in lower case."""
        rows = [(place, {column.lower(): cell for column, cell in row.items()}) for place, row in self.rows]
        return Table(self.path, [column.lower() for column in self.header], rows)


def check_root(data: DataSettings) -> str:
    """`data.root` as an absolute folder or a URI. Raises ValueError when it is not set or not a folder."""
    if data.root is None:
        raise ValueError(f"data.root: expected the corpus's folder or URI (data.corpus={data.corpus}), got nothing")
    return check_folder("data.root", data.root)


def check_folder(setting: str, given: str) -> str:
    """What a setting names as an absolute folder or a URI. Raises ValueError when it is a path and not a folder."""
    folder = storage.absolute(given)
    if not storage.is_uri(folder) and not os.path.isdir(folder):
        what = "not a folder" if os.path.exists(folder) else "no such folder"
        raise ValueError(f"{setting}: expected a folder, got '{given}' ({what}){_near_sibling(folder)}")
    return folder


def _near_sibling(path: str) -> str:
    """As `did_you_mean`, with the names in the same local folder."""
    folder, name = os.path.split(path)
    try:
        return did_you_mean(name, os.listdir(folder))
    except OSError:
        return ""


def find(root: str, *places: str, setting: str = "data.root") -> str:
    """The first of several known paths below the root that exists, as it is written there.

    Case does not count, nor `_` in place of a space: copies differ in them. A name with a dot is a file, another a
    folder. Raises ValueError, which begins with the setting that names the root, with the known paths when none of them
    begins there, else with the missing part of the one that exists the furthest, and with what is there instead.
    """
    misses = []
    for place in places:
        found, missing = _resolve(root, place)
        if missing is None:
            return found
        misses.append((found, missing))
    folder, missing = max(misses, key=lambda miss: len(miss[0].split("/")) if miss[0] else 0)
    wanted = [missing] if folder or len(places) == 1 else places
    kind = "file" if "." in posixpath.basename(wanted[0]) else "folder"
    known = f"the {kind} '{wanted[0]}'" if len(wanted) == 1 else f"one of the {kind}s {_listed(wanted)}"
    hint = "" if folder else _nested_root_hint(root, places, setting)
    raise ValueError(f"{setting}: expected {known} in {location(root, folder)}, {_there(root, folder, wanted)}{hint}")


def has(root: str, *places: str) -> bool:
    """Whether any of several known paths is below the root."""
    return any(_resolve(root, place)[1] is None for place in places)


def as_written(root: str, place: str) -> str:
    """A path below the root as it is written there, where `find` would find it, else as it is given."""
    found, missing = _resolve(root, place)
    return found if missing is None else place


def _resolve(root: str, place: str) -> tuple[str, str | None]:
    """The part of a path that exists, as it is written there, and the name after it that does not."""
    folder, parts = "", place.split("/")
    for depth, part in enumerate(parts):
        is_folder = depth < len(parts) - 1 or "." not in part
        alike = [name for name, kind in _entries(root, folder).items() if kind is is_folder and _same(name, part)]
        if not alike:
            return folder, part
        folder = posixpath.join(folder, part if part in alike else alike[0])
    return folder, None


def _entries(root: str, folder: str) -> dict[str, bool]:
    """The names in a folder, sorted, and whether each is a folder; without hidden ones."""
    listed = storage.list_folder(root, folder)
    return {name: listed[name] for name in sorted(listed) if not name.startswith(".")}


def _same(name: str, other: str) -> bool:
    return plain(name) == plain(other)


def plain(name: str) -> str:
    """The name of a file or folder without what copies differ in: case, and `_` in place of a space."""
    return name.casefold().replace(" ", "_")


def _listed(places: Iterable[str]) -> str:
    return ", ".join(f"'{place}'" for place in places)


def _there(root: str, folder: str, wanted: Iterable[str]) -> str:
    """What is in a folder, with the name that is nearest to one that is wanted."""
    names = list(_entries(root, folder))
    tops = [place.split("/")[0] for place in wanted]
    near = (did_you_mean(top, [name for name in names if name != top]) for top in tops)
    return f"found {first_names(names) or 'nothing'}{next(filter(None, near), '')}"


def location(root: str, folder: str) -> str:
    """The path or URI of a folder below the root, of which "" is the root."""
    return storage.below(root, folder) if folder else root


def _nested_root_hint(root: str, places: Iterable[str], setting: str = "data.root") -> str:
    """A hint for an archive that was unpacked one folder too deep."""
    tops = {place.split("/")[0] for place in places}
    for name in [name for name, is_folder in _entries(root, "").items() if is_folder][:SHOWN]:
        if any(_same(entry, top) for entry in _entries(root, name) for top in tops):
            return f"; did you mean {setting}='{storage.below(root, name)}'?"
    return ""


def recordings(root: str, folder: str) -> dict[str, str]:
    """Recordings in a folder below the root: path relative to the root by stem, for any audio extension.

    Raises ValueError when two have one stem, or when there are none.
    """
    if not (found := audio_files(root, folder)):
        suffixes = ", ".join(AUDIO_SUFFIXES)
        raise ValueError(f"data.root: no recordings ({suffixes}) in {location(root, folder)}")
    return found


def find_recordings(root: str, *folders: str, nested: bool = False) -> tuple[str, dict[str, str]]:
    """The first of several known folders that has recordings, or else the root itself, and the `recordings` there.

    With `nested` they may also be one folder deeper, as in a folder for each class. Raises ValueError when two have one
    stem, and when there are none, with the known folders and what is there instead.
    """
    for known in (*folders, ""):
        place, missing = _resolve(root, known) if known else ("", None)
        if missing is None and (found := audio_files(root, place, nested)):
            return place, found
    suffixes = ", ".join(AUDIO_SUFFIXES)
    hint = _nested_root_hint(root, folders)
    raise ValueError(
        f"data.root: expected recordings ({suffixes}) in {_listed(folders)} or without such a folder in {root}, "
        f"{_there(root, '', folders)}{hint}"
    )


def audio_files(root: str, folder: str, nested: bool = False) -> dict[str, str]:
    """As `recordings`, but empty if there are none; with `nested` also those one folder deeper."""
    found: dict[str, str] = {}
    entries = _entries(root, folder)  # without hidden ones: macOS adds files such as ._1.mp3 to archives
    paths = [posixpath.join(folder, name) for name, is_folder in entries.items() if not is_folder]
    for name in [name for name, is_folder in entries.items() if is_folder and nested]:
        inner = posixpath.join(folder, name)
        paths += [posixpath.join(inner, file) for file, is_folder in _entries(root, inner).items() if not is_folder]
    for path in paths:
        stem, suffix = posixpath.splitext(posixpath.basename(path))
        if suffix.lower() not in AUDIO_SUFFIXES:
            continue
        if stem in found:
            first, second = (posixpath.relpath(file, folder or ".") for file in (found[stem], path))
            where = location(root, folder)
            raise ValueError(f"data.root: expected one recording of '{stem}' in {where}, got {first} and {second}")
        found[stem] = path
    return found


def read_table(
    root: str,
    name: str,
    setting: str = "data.root",
    row_of: Callable[[list[str], list[str]], dict[str, str]] | None = None,
) -> Table:
    """Read a CSV file below the root: with commas, semicolons or tabs, in UTF-8 or as its byte order mark says.

    Header cells are stripped, empty lines skipped. Each line has as many cells as the header, unless `row_of` makes a
    row from header and cells. Raises ValueError, which begins with the setting, when the file is missing or no table.
    """
    path = storage.below(root, name)
    try:
        if storage.is_uri(root):
            raw = storage.read_bytes(root, name)
        else:
            with open(path, "rb") as file:
                raw = file.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        there = _there(root, posixpath.dirname(name), [posixpath.basename(name)])
        raise ValueError(f"{setting}: no file {path}, {there}") from None
    text = _decoded(raw, path, setting)
    lines = list(_lines(path, text, setting, any_width=row_of is not None))
    if not lines:
        raise ValueError(f"{setting}: no recordings in {path}")
    (_, header), *others = lines
    row_of = row_of or (lambda header, cells: dict(zip(header, cells, strict=True)))
    return Table(path, header, [(place, row_of(header, cells)) for place, cells in others])


def _decoded(raw: bytes, path: str, setting: str) -> str:
    """The text of a table: in the encoding of its byte order mark, else in UTF-8.

    Raises ValueError with what was found and how to save it for anything else, which would have to be guessed.
    """
    for name, mark in MARKS:
        if raw.startswith(mark):
            try:
                return raw.removeprefix(mark).decode(name)
            except UnicodeDecodeError as error:
                problem = f"{error.reason} at byte {error.start + len(mark)}"
                what = f"{name[:6].upper()} text, as its byte order mark says, in {path}"
                raise ValueError(f"{setting}: expected {what}, got {problem}") from None
    if raw.startswith(b"PK\x03\x04"):
        raise ValueError(f"{setting}: expected a CSV file in {path}, got an Excel workbook; save it as CSV UTF-8")
    if b"\0" in raw:
        every_second = raw[1:200:2].count(0) > 90 * len(raw[1:200:2]) // 100 or raw[:200:2].count(0) > 90
        found = "UTF-16 without a byte order mark" if every_second else "NUL bytes, which no text has"
        raise ValueError(f"{setting}: expected UTF-8 text in {path}, got {found}; save it as UTF-8")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        line = raw.split(b"\n")[number - 1].decode("cp1252", errors="replace").strip()[:LINE_SHOWN]
        raise ValueError(
            f"{setting}: expected UTF-8 text in {path}, got other bytes in line {number}, as Windows-1252 writes "
            f"'{line}'; save it as UTF-8 (of a spreadsheet: CSV UTF-8), or, if the line is right here: "
            f"iconv -f WINDOWS-1252 -t UTF-8 {posixpath.basename(path)} > utf8.csv"
        ) from None


def _separator(text: str) -> str:
    """The separator that gives the header the most cells: a comma, a semicolon or a tab; a comma if it has one cell."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    return max(SEPARATORS, key=lambda separator: len(next(csv.reader([header], delimiter=separator), [])))


def _lines(path: str, text: str, setting: str, any_width: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield place and cells of each line that is not empty, the header first."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            place = f"{path}:{reader.line_num}"
            if header is None:
                cells = header = [cell.strip() for cell in cells]
            if len(cells) != len(header) and not any_width:
                raise ValueError(f"{setting}: expected {len(header)} cells, got {len(cells)} at {place}")
            yield place, cells
    except csv.Error as error:
        raise ValueError(f"{setting}: {error} at {path}:{reader.line_num}") from None


def target_columns(
    data: DataSettings, targets: list[str], known: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """The column of each target and the setting that names it: `data.target_columns`, else the layout's `known`.

    Without `known`, columns are called as their targets. Raises ValueError when the numbers of columns and targets
    differ, and for a target that is not known.
    """
    if data.target_columns is not None:
        if len(data.target_columns) != len(targets):
            raise ValueError(
                f"data.target_columns: expected one column for each of task.targets ({', '.join(targets)}), "
                f"got {len(data.target_columns)}: {', '.join(data.target_columns)}"
            )
        return [("data.target_columns", column) for column in data.target_columns]
    if known is None:
        return [("task.targets", target) for target in targets]
    for target in targets:
        if target not in known:
            names = ", ".join(known)
            raise ValueError(
                f"task.targets: expected some of {names} (data.corpus={data.corpus}), got '{target}'"
                f"{did_you_mean(target, known)}"
            )
    return [("data.root", known[target]) for target in targets]


def refuse_settings(data: DataSettings, *names: str) -> None:
    """Raise ValueError for the first of these settings of `data` that is set, which the layout has no use for."""
    for name in names:
        if (value := getattr(data, name)) is not None:
            raise ValueError(f"data.{name}: expected nothing for data.corpus={data.corpus}, got '{value}'")


def named_columns(data: DataSettings) -> list[tuple[str, str]]:
    """The columns of texts, groups, folds and splits that settings name, each with its setting."""
    settings = ("text_column", "group_column", "fold_column", "split_column")
    return [(f"data.{name}", column) for name in settings if (column := getattr(data, name)) is not None]


def text_cell(row: Mapping[str, str], setting: str, column: str, place: str) -> str:
    """The text of a cell. Raises ValueError when it is empty."""
    if not (cell := row[column].strip()):
        raise ValueError(f"{setting}: expected text in column '{column}', got an empty cell at {place}")
    return cell


def named_cells(row: Mapping[str, str], data: DataSettings, place: str) -> dict[str, str]:
    """A clip's text, group, fold and split, as far as settings name their columns.

    Raises ValueError for an empty cell, a text file outside the root, and an unknown split.
    """
    cells = {
        setting.removeprefix("data.").removesuffix("_column"): text_cell(row, setting, column, place)
        for setting, column in named_columns(data)
    }
    if (split := cells.get("split")) is not None and split not in SPLITS:
        raise ValueError(f"data.split_column: expected {', '.join(SPLITS)}, got '{split}' at {place}")
    if (text := cells.get("text")) is not None:
        cells["text"] = relative_path(text, "data.text_column", place)
    return cells


def relative_path(file: str, setting: str, place: str) -> str:
    """Normalise a path below the root. Raises ValueError for others, which differ from machine to machine."""
    path = posixpath.normpath(file)
    if posixpath.isabs(path) or storage.is_uri(file) or path.split("/")[0] in (".", ".."):
        raise ValueError(f"{setting}: expected a path below data.root, got '{file}' at {place}")
    return path


def parse_label(cell: str, column: str, place: str, scale: tuple[float, float] | None) -> float:
    """Map the number in a cell from `scale` to [-1, 1]. Raises ValueError for other text or a number off the scale."""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        hint = f"; with a decimal point it is {cell.strip().replace(',', '.')}" if DECIMAL_COMMA.match(cell) else ""
        raise ValueError(f"data.target_columns: expected a number in column '{column}', got '{cell}' at {place}{hint}")
    if scale is None:
        return value
    low, high = scale
    if not low <= value <= high:
        raise ValueError(
            f"data.target_range: expected {low:g} to {high:g} in column '{column}', got {cell.strip()} at {place}"
        )
    return 2 * (value - low) / (high - low) - 1


def by_number(tables: Iterable[Table], column: str) -> dict[str, Row]:
    """Rows of tables by the whole number in a column, as text without leading zeros.

    Raises ValueError for other text, and for a number that is listed twice.
    """

    def number(row: dict[str, str], place: str) -> str:
        try:
            return str(int(row.get(column, "")))
        except ValueError:
            raise ValueError(
                f"data.root: expected a whole number in column '{column}', got '{row.get(column, '')}' at {place}"
            ) from None

    return _by_key(tables, column, number)


def by_name(tables: Iterable[Table], column: str) -> dict[str, Row]:
    """Rows of tables by the text in a column. Raises ValueError for an empty cell, and for a text listed twice."""
    return _by_key(tables, column, lambda row, place: text_cell(row, "data.root", column, place))


def _by_key(tables: Iterable[Table], column: str, key_of: Callable[[dict[str, str], str], str]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for table in tables:
        table.require([("data.root", column)])
        for place, row in table.rows:
            key = key_of(row, place)
            if key in found:
                raise ValueError(f"data.root: {column} {key} is listed twice, at {found[key][0]} and {place}")
            found[key] = (place, row)
    return found


def without_metadata(error: ValueError, wanted: Sequence[tuple[str, str]]) -> ValueError:
    """An error about missing metadata that says which columns it holds, and how to go without."""
    columns = ", ".join(f"'{column}'" for _, column in wanted)
    settings = " ".join(f"{setting}=null" for setting, _ in wanted)
    return ValueError(f"{error}; it holds {columns}; to go without: {settings}")


def join(
    songs: dict[str, Row], metadata: Mapping[str, Row], wanted: Sequence[tuple[str, str]], where: str
) -> list[str]:
    """Add columns of the metadata to the songs' rows in place; return notes.

    White space counts as one space. A song without its group is a group of its own, with a note.
    """
    alone: list[str] = []
    for song, (place, row) in songs.items():
        known_at, known = metadata.get(song, (f"no line of {where}", {}))
        for setting, column in wanted:
            row[column] = " ".join(known.get(column, "").split())
            if setting == "data.group_column" and not row[column]:
                row[column] = f"song {song}"
                alone.append(column)
        songs[song] = (f"{place}, {known_at}", row)
    return [f"{len(alone)} songs have no {alone[0]} in {where}: each is a group of its own"] if alone else []


def name_key(name: str) -> str:
    """What all spellings of a name have in common: its words, whatever their case and the punctuation between them."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(re.findall(r"\w+", folded)) or folded


def unify_groups(clips: Iterable[Clip]) -> list[Clip]:
    """The same clips, with the spelling of each group that comes first."""
    spelling: dict[str, str] = {}
    return [
        clip if clip.group is None else replace(clip, group=spelling.setdefault(name_key(clip.group), clip.group))
        for clip in clips
    ]


def first_names(names: Sequence[str]) -> str:
    """The first of names and the number of others, for a note."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def note_unlabelled(found: Mapping[str, str], labelled: Iterable[str], folder: str) -> list[str]:
    """A note on recordings without label, which are left out. Raises ValueError if none has one."""
    without = sorted(found.keys() - set(labelled))
    if len(without) == len(found):
        raise ValueError(
            f"data.root: none of the {len(found)} recordings in {folder} has a label; "
            f"expected names such as '{next(iter(labelled))}.mp3', got '{posixpath.basename(found[without[0]])}'"
        )
    names = first_names([posixpath.basename(found[stem]) for stem in without])
    return [f"{len(without)} recordings in {folder} have no label and are left out: {names}"] if without else []
