"""A trained model on new recordings. `python -m tuning.predict results/NAME/best FILES...`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tuning.checks import UserError, nearest
from tuning.command import USER_ERROR, run_command
from tuning.encoders import needs_text
from tuning.text_stage import text_batch

if TYPE_CHECKING:
    import numpy as np

    from tuning.checkpoint import Best

USAGE = """\
python -m tuning.predict results/NAME/best FILES... [step_seconds=S] [lyrics=FOLDER] [format=table|csv|json] [out=FILE]

What a finalised model says of recordings (WAV, FLAC, OGG, MP3 and what else soundfile reads), their features made as
those it was trained on. A recording longer than the model's window is judged by its middle, as in training; with
step_seconds=S by a window every S seconds, with time stamps. Models of an ensemble predict together. A model that
reads lyrics finds those of song.mp3 in song.txt beside it, or in the folder lyrics=.

Numbers stand on the scale that the model was trained on, of classes there is the probability of each. A recording
that can't be used is named with the reason, the others are predicted; the exit code is then 2.
"""
FORMATS = ("table", "csv", "json")


@dataclass
class Request:
    """What the command line asks for."""

    best: Path
    files: list[Path]
    step_seconds: float | None = None
    lyrics: Path | None = None
    format: str = ""
    out: Path | None = None


@dataclass
class Window:
    """A stretch of a recording and what the models say of it together; no outputs [K] where it is silent."""

    file: Path
    start_seconds: float
    end_seconds: float
    waveforms: list[np.ndarray]  # [samples] for each model, at its rate; none where silent
    text: str = ""
    outputs: np.ndarray | None = field(default=None)


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input or a recording that can't be used, 1 else."""
    return run_command(USAGE, _main, arguments)


def _main(arguments: list[str]) -> int:
    request = read_request(arguments)
    try:
        predictor = Predictor(request.best)
    except ValueError as error:
        raise UserError(str(error)) from None
    windows, problems = [], []
    for file in request.files:
        try:
            text = predictor.text_of(file, request.lyrics)
            windows += [replace(window, text=text) for window in predictor.windows(file, request.step_seconds)]
        except ValueError as error:
            problems.append(f"{file}: {error}")
    predictor.predict(windows)
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
    if not (best / "config.yaml").exists():
        raise UserError(f"{best}: expected a folder best/ that python -m tuning.finalize wrote, with its config.yaml")
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
    if out is not None and not out.parent.is_dir():
        raise UserError(f"out: expected a file in a folder that is there, got '{out}'")
    lyrics = Path(options["lyrics"]) if "lyrics" in options else None
    if lyrics is not None and not lyrics.is_dir():
        raise UserError(f"lyrics: expected a folder with a text for each recording, got '{lyrics}'")
    return Request(best, files, _step(options.get("step_seconds")), lyrics, form, out)


def _step(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"step_seconds: expected seconds above 0, got '{value}'")
    return seconds


class Predictor:
    """The models of a folder best/, one or an ensemble.

    Raises:
        ValueError: a file is missing, can't be read, or does not fit the others.
    """

    def __init__(self, best: Path) -> None:
        from tuning.checkpoint import load_best, member_folders
        from tuning.tasks import task_of

        self.models: list[Best] = [load_best(path) for path in member_folders(best)]
        self.labels, self.config = self.models[0].labels, self.models[0].config
        self.task = task_of(self.config)
        self.is_classes = self.config.task.name == "classification"

    def windows(self, file: Path, step_seconds: float | None) -> Iterator[Window]:
        """The stretches of a recording that are judged: its middle, or one every `step_seconds`.

        Windows are as long as the longest that a model hears; the last of a series ends with the recording.

        Raises:
            ValueError: the recording can't be used.
        """
        raw = file.read_bytes()
        if step_seconds is None:
            # Each model hears what it heard in training: where a cut begins decides how it is resampled.
            parts = self._decoded(raw, [(self._rate(model), self._samples(model)) for model in self.models])
            seconds = max(len(part) / self._rate(model) for part, model in zip(parts, self.models, strict=True))
            start = max(0.0, (_seconds(raw) - seconds) / 2) if self.config.features.segment == "middle" else 0.0
            yield Window(file, start, start + seconds, parts)
            return
        whole = self._decoded(raw, [(self._rate(model), None) for model in self.models])
        length = max(self._samples(model) / self._rate(model) for model in self.models)
        level = 10 ** (self.config.data.silence_dbfs / 20)
        seconds = len(whole[0]) / self._rate(self.models[0])
        for start in _starts(seconds, length, step_seconds):
            parts = []
            for waveform, model in zip(whole, self.models, strict=True):
                first, size = round(start * self._rate(model)), round(length * self._rate(model))
                parts.append(waveform[first : first + size])
            silent = float(abs(parts[0]).max()) < level
            yield Window(file, start, min(start + length, seconds), [] if silent else parts)

    def text_of(self, file: Path, folder: Path | None) -> str:
        """The lyrics of a recording: what stands in its .txt file beside it, or in a folder; none if no model reads.

        Raises:
            ValueError: no such file, or no text in it.
        """
        from datasets.texts import decode_text

        if not any(needs_text(model.config) for model in self.models):
            return ""
        place = (folder or file.parent) / f"{file.stem}.txt"
        try:
            return decode_text(place.read_bytes())
        except FileNotFoundError:
            raise ValueError(f"expected its lyrics in {place} (lyrics=FOLDER), got no such file") from None

    def _decoded(self, raw: bytes, wanted: list[tuple[int, int | None]]) -> list[np.ndarray]:
        """The recording at each rate, a segment where a number of samples is given."""
        from datasets.audio import AudioError, decode

        try:
            segment = self.config.features.segment
            found = {each: decode(raw, each[0], self.config.data, each[1], segment) for each in set(wanted)}
        except AudioError as error:
            raise ValueError(str(error)) from None
        return [found[each] for each in wanted]

    @staticmethod
    def _rate(model: Best) -> int:
        return model.config.features.sample_rate_hz

    @staticmethod
    def _samples(model: Best) -> int:
        from datasets.features import num_samples

        return max(1, num_samples(model.num_frames, model.config.features))

    def predict(self, windows: list[Window]) -> None:
        """Fill in the windows' outputs."""
        from tuning.checkpoint import CLIPS_PER_BATCH

        heard = [window for window in windows if window.waveforms]
        for start in range(0, len(heard), CLIPS_PER_BATCH):
            batch = heard[start : start + CLIPS_PER_BATCH]
            members = []
            for number, model in enumerate(self.models):
                members.append(_outputs(model, [w.waveforms[number] for w in batch], [w.text for w in batch]))
            for window, values in zip(batch, self.task.mean_outputs(members), strict=True):
                window.outputs = values

    def columns(self) -> list[str]:
        """What `values` gives of a window."""
        if self.is_classes:
            return ["predicted", "confidence", *(f"p_{label}" for label in self.labels)]
        return self.labels

    def values(self, window: Window) -> list[Any]:
        """The window's predictions; None throughout where it is silent."""
        from tuning.class_metrics import softmax

        if window.outputs is None:
            return [None] * len(self.columns())
        if not self.is_classes:
            return [float(value) for value in window.outputs]
        shares = softmax(window.outputs[None])[0]
        index = int(shares.argmax())
        return [self.labels[index], float(shares[index]), *(float(share) for share in shares)]


def _outputs(model: Best, waveforms: list[np.ndarray], texts: list[str]) -> np.ndarray:
    """Outputs [N, K] of one model for waveforms [samples] at its rate, and the texts that belong to them."""
    import numpy as np

    from datasets.features import extract
    from datasets.resident import collate
    from tuning.checkpoint import outputs_of

    features = model.config.features
    rows = []
    for index, waveform in enumerate(waveforms):
        values, num_valid = extract(waveform, features, model.num_frames)
        rows.append((index, num_valid, values))
    no_targets = np.zeros((len(rows), 1), dtype=np.float32)
    batch = collate(rows, no_targets, model.features, features.num_frames, features.padding, features.segment)
    if needs_text(model.config):
        batch |= text_batch(texts, model.config)
    return outputs_of(model, batch)


def _seconds(raw: bytes) -> float:
    import io

    import soundfile

    info = soundfile.info(io.BytesIO(raw))
    return info.frames / info.samplerate


def _starts(seconds: float, length: float, step: float) -> list[float]:
    """Where windows begin: every `step`, and one that ends with the recording."""
    last = max(0.0, seconds - length)
    starts = [number * step for number in range(int(last / step + 1e-9) + 1)]
    return starts if last - starts[-1] < 0.001 else [*starts, last]


def write(request: Request, predictor: Predictor, windows: list[Window]) -> None:
    """The predictions as a table, CSV or JSON: to the file, whose name may say which, or printed."""
    form = request.format
    if not form and request.out is not None:
        form = {".csv": "csv", ".json": "json"}.get(request.out.suffix, "csv")
    columns = ["file", "start_seconds", "end_seconds", *predictor.columns()]
    rows = [[str(w.file), round(w.start_seconds, 3), round(w.end_seconds, 3), *predictor.values(w)] for w in windows]
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


if __name__ == "__main__":
    sys.exit(main())
