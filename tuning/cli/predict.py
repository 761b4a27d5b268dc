"""Predict recordings with a saved model: `tuning predict results/NAME/best FILES...`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tuning.cli.command import USER_ERROR, run_command
from tuning.config.errors import UserError, nearest
from tuning.evaluation.prediction_step import checked_step

if TYPE_CHECKING:
    from tuning.evaluation.inference import Predictor, Window


USAGE = """\
tuning predict results/NAME/best FILES... [step_seconds=S] [lyrics=FOLDER] [format=table|csv|json] [out=FILE]

What a finalised model says of recordings (WAV, FLAC, OGG, MP3 and what else soundfile reads), their features made as
those it was trained on. A recording longer than the model's window is judged by its middle, or what else it was trained
on (features.segment); with step_seconds=S by a window every S seconds. Start and end are what was heard, in seconds of
the recording. Models of an ensemble predict together. A model that reads lyrics finds those of song.mp3 in song.txt
beside it, or below the folder lyrics=, in a folder of the same name as the recording's if there is one.

Numbers stand on the scale that the model was trained on, of classes there is the probability of each. A recording
that can't be used is named with the reason, the others are predicted; the exit code is then 2.
"""


FORMATS = ("table", "csv", "json")
SAVED = ("model.safetensors", "labels.json")  # beside config.yaml, which the folder of a search has, too


@dataclass
class Request:
    """What the command line asks for."""

    best: Path
    files: list[Path]
    step_seconds: float | None = None
    lyrics: Path | None = None
    format: str = ""
    out: Path | None = None


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input or a recording that can't be used, 1 else."""
    return run_command(lambda: USAGE, _main, arguments)


def _main(arguments: list[str]) -> int:
    request = read_request(arguments)
    from tuning.evaluation.inference import Predictor

    try:
        predictor = Predictor(request.best)
    except ValueError as error:
        raise UserError(str(error)) from None
    longest = predictor.window_seconds
    if request.step_seconds is not None and request.step_seconds > longest:
        step = f"step_seconds={request.step_seconds:g}"
        print(f"note: with {step} and windows of {longest:.2f} s not every second is judged", file=sys.stderr)
    windows, problems = predictor.listen(request.files, request.step_seconds, request.lyrics)
    predictor.judge(windows)
    write(request, predictor, windows)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return USER_ERROR if problems else 0


def read_request(arguments: Sequence[str]) -> Request:
    """The command line, checked.

    Raises:
        UserError: no model, no files, a file that is not there, an unknown option.
    """
    options = {name: value for name, eq, value in (a.partition("=") for a in arguments) if eq and name.isidentifier()}
    paths = [argument for argument in arguments if argument.partition("=")[0] not in options]
    known = ("step_seconds", "lyrics", "format", "out")
    for name in options:
        if name not in known:
            raise UserError(f"{name}: expected one of {', '.join(known)}{nearest(name, known)}")
    if not paths:
        raise UserError(f"expected a folder best/ and recordings, got nothing\n{USAGE}")
    best, files = Path(paths[0]), [Path(path) for path in paths[1:]]
    if not (best / "config.yaml").exists() or not any((best / name).exists() for name in SAVED):
        raise UserError(f"{best}: expected a folder best/ that tuning finalize wrote, with its config.yaml")
    if not files:
        raise UserError(f"expected recordings to predict after '{best}', got none")
    for file in files:
        if not file.is_file():
            what = "a folder" if file.is_dir() else "no such file"
            raise UserError(f"{file}: expected a recording, got {what}")
    form = options.get("format", "")
    if form and form not in FORMATS:
        raise UserError(f"format: expected one of {', '.join(FORMATS)}, got '{form}'{nearest(form, FORMATS)}")
    out = Path(options["out"]) if "out" in options else None
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        what = " (a folder)" if out.is_dir() else ""
        raise UserError(f"out: expected a file in a folder that is there, got '{out}'{what}")
    lyrics = Path(options["lyrics"]) if "lyrics" in options else None
    if lyrics is not None and not lyrics.is_dir():
        raise UserError(f"lyrics: expected a folder with a text for each recording, got '{lyrics}'")
    step = checked_step(options["step_seconds"]) if "step_seconds" in options else None
    return Request(best, files, step, lyrics, form, out)


def write(request: Request, predictor: Predictor, windows: list[Window]) -> None:
    """The predictions as a table, CSV or JSON: to the file, whose name may say which, or printed."""
    form = request.format
    if not form and request.out is not None:
        form = {".csv": "csv", ".json": "json"}.get(request.out.suffix, "csv")
    columns, rows = predictor.table(windows)
    if request.out is None:
        _write(sys.stdout, form or "table", columns, rows)
    else:
        with request.out.open("w", newline="", encoding="utf-8") as stream:
            _write(stream, form, columns, rows)
        print(f"predictions of {len(request.files)} recordings: {request.out}")


def _write(stream: TextIO, form: str, columns: list[str], rows: list[list[Any]]) -> None:
    if form == "json":
        json.dump([dict(zip(columns, row, strict=True)) for row in rows], stream, indent=2, allow_nan=False)
        stream.write("\n")
    elif form == "csv":
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
    else:
        _print_table(stream, columns, rows)


def _print_table(stream: TextIO, columns: list[str], rows: list[list[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column.replace("_seconds", ", s"), justify="right" if index else "left", no_wrap=index == 0)
    for row in rows:
        silent = all(cell is None for cell in row[3:])
        cells = ["silent" if silent else "", *[""] * (len(row) - 4)] if silent else [_shown(cell) for cell in row[3:]]
        table.add_row(row[0], f"{row[1]:.1f}", f"{row[2]:.1f}", *cells)
    Console(file=stream, width=None if stream.isatty() else 200, highlight=False).print(table)


def _shown(cell: Any) -> str:
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
