"""Predict recordings with a saved model: `tuning predict results/NAME/best FILES...`."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

from tuning import api
from tuning.cli.allow_code import take_allow_code
from tuning.cli.command import BEST, DONE, USER_ERROR, Parser, one_of, run_command
from tuning.config.distributions import counted
from tuning.config.errors import UserError
from tuning.config.terminal import visible
from tuning.evaluation.prediction_step import checked_step, why_no_recording
from tuning.evaluation.table import make_console, make_table
from tuning.experiment.faults import whole_or_absent

FORMATS, GROUPS = ("table", "csv", "json"), ("all", "folder")
PARSER = Parser(
    "tuning predict BEST FILES... [step_seconds=S] [lyrics=FOLDER] [group=all|folder] [format=table|csv|json] "
    "[out=FILE] [allow_code=true]",
    """\
Predict recordings with a finalized model, or with that of any trial by its checkpoint; their features are made as those
that it was trained on. Of a recording that is longer than the model's window the middle is judged, or what else it was
trained on (features.segment), or with step_seconds=S a window every S seconds. Start and end are in seconds of the
recording. Models of an ensemble predict together. A model that reads lyrics finds those of song.mp3 in song.txt in the
same folder, or below lyrics=FOLDER, in a folder of the same name as the recording's if there is one.

A model with features.normalise=group normalises the recordings of a speaker or artist by all of them together, at least
two: group=all says that those given are of one, group=folder that those in each folder are.

Values of regression are on the scale of training; of classes there is the probability of each. A recording that can't
be used is named with the reason, the others are predicted, and the exit code is 2.""",
)


def _lyrics(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder with a text for each recording, got '{text}'")
    return Path(text)


def _out(text: str) -> Path:
    if Path(text).is_dir() or not Path(text).parent.is_dir():
        what = " (a folder)" if Path(text).is_dir() else ""
        raise argparse.ArgumentTypeError(f"expected a file in a folder that is there, got '{text}'{what}")
    return Path(text)


PARSER.place("best", "a folder best/ and recordings", f"{BEST}, or a trial's checkpoint: .../checkpoints/best.pt")
PARSER.place("files", "", "recordings: WAV, FLAC, OGG, MP3 and what else soundfile reads", nargs="*", type=Path)
PARSER.option("step_seconds", str, "S", "judge a window every S seconds")
PARSER.option("lyrics", _lyrics, "FOLDER", "texts of the recordings, where the model reads them")
PARSER.option(
    "group",
    one_of(GROUPS),
    "|".join(GROUPS),
    "recordings of one speaker or artist, where the model normalises by those",
)
PARSER.option(
    "format",
    one_of(FORMATS),
    "|".join(FORMATS),
    "of the predictions: table, or with out= JSON for a file *.json and CSV for others",
)
PARSER.option("out", _out, "FILE", "write the predictions there")
take_allow_code(PARSER)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input or a recording that can't be used, 1 else."""
    return run_command(PARSER, _predict, words)


def _predict(options: argparse.Namespace) -> int:
    best = options.best if api.is_checkpoint(options.best) else api.saved(options.best)
    if not options.files:
        raise UserError(f"expected recordings to predict after '{best}', got none")
    reasons = {file: why_no_recording(file) for file in options.files}
    if all(reasons.values()):  # said at once
        raise UserError("\n".join(f"{file}: {why}" for file, why in reasons.items()))
    step = None if options.step_seconds is None else checked_step(options.step_seconds)
    predictor = api.load(best, allow_code=bool(options.allow_code))
    longest = predictor.window_seconds
    if step is not None and step > longest:
        words = f"step_seconds={step:g} and windows of {longest:.2f} s"
        print(f"note: with {words} not every second is judged", file=sys.stderr)
    windows, problems = predictor.listen(options.files, step, options.lyrics, options.group)
    columns, rows = predictor.table(windows)
    if rows and options.out is None:
        _write(sys.stdout, options.format or "table", columns, rows)
    elif rows:
        # Written whole or not at all; a device such as /dev/stdout can't be replaced.
        is_file = options.out.is_file() or not options.out.exists()
        form = options.format or options.out.suffix.removeprefix(".")
        with (
            whole_or_absent(options.out) if is_file else nullcontext(options.out) as target,
            target.open("w", newline="", encoding="utf-8") as stream,
        ):
            _write(stream, form, columns, rows)
        print(f"predictions of {counted(len(options.files) - len(problems), 'recording')}: {options.out}")
    for problem in problems:
        print(f"error: {visible(problem)}", file=sys.stderr)
    return USER_ERROR if problems else DONE


def _write(stream: TextIO, form: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Write a table, JSON, or else CSV."""
    if form == "json":
        json.dump([dict(zip(columns, row, strict=True)) for row in rows], stream, indent=2, allow_nan=False)
        stream.write("\n")
    elif form == "table":
        headings = [column.replace("_seconds", ", s") for column in columns]
        make_console(stream, width=200).print(
            make_table(headings, [_cells(row) for row in rows], wrapped=range(1, len(headings)))
        )
    else:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([["" if cell is None else cell for cell in row] for row in rows])


def _cells(row: list[Any]) -> list[str]:
    file, start, end, *values = row
    if all(value is None for value in values):
        values = ["silent", *[""] * (len(values) - 1)]
    shown = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in values]
    return [file, f"{start:.1f}", f"{end:.1f}", *shown]
