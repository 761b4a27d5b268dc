"""Predict recordings with saved models."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tuning.config.errors import UserError
from tuning.data.text import text_batch
from tuning.datasets.features.audio import AudioError, Excerpt, excerpt, segment_slice
from tuning.datasets.features.spectral import extract, frames_in, hop_samples, num_samples
from tuning.datasets.features.text_file import decode_text
from tuning.datasets.loaders.in_memory import collate
from tuning.evaluation.prediction_step import checked_step
from tuning.evaluation.saved_model import CLIPS_PER_BATCH, Best, outputs_of
from tuning.training.class_metrics import softmax
from tuning.training.encoders import needs_text
from tuning.training.tasks import task_of


class Heard(NamedTuple):
    """The input of one model: at most `config.features.num_frames` frames of a waveform, from the frame `first` on."""

    waveform: np.ndarray  # [samples] at the model's sample rate, at most as long as prepared features
    first: int


@dataclass
class Window:
    """A stretch of a recording and the common prediction of the models, outputs [K]; None if it is silent."""

    file: Path
    start_seconds: float
    end_seconds: float
    heard: list[Heard]  # the input of each model; empty if silent
    text: str = ""
    outputs: np.ndarray | None = field(default=None)


class Predictor:
    """One model, or several that predict together by the mean of their outputs."""

    def __init__(self, models: Sequence[Best]) -> None:
        self.models = list(models)
        self.labels, self.config = self.models[0].labels, self.models[0].config
        self.task = task_of(self.config)
        self.is_classes = self.config.task.name == "classification"

    def windows(self, file: Path, step_seconds: float | None) -> Iterator[Window]:
        """Iterate over the windows of a recording: one, cut as in training, or one every `step_seconds`.

        Without steps, start and end enclose what any of the models hears. With steps every model hears the whole
        window, which is as long as the shortest input of a model. The first window starts, and the last one ends, where
        the recording does after all models' trimming (`features.trim_db`).

        Raises:
            ValueError: the recording can't be used.
        """
        raw = file.read_bytes()
        if step_seconds is None:
            # The start of a cut affects how it is resampled, so each model gets the cut that it had in training.
            spans, heard = zip(*map(as_prepared, self.models, self._excerpts(raw, whole=False)), strict=True)
            yield Window(file, min(start for start, _ in spans), max(end for _, end in spans), list(heard))
            return
        whole = self._excerpts(raw, whole=True)
        settings = [model.config.features for model in self.models]
        rates = [features.sample_rate_hz for features in settings]
        begin = max(found.start_seconds for found in whole)
        end = min(found.start_seconds + len(found.waveform) / rate for found, rate in zip(whole, rates, strict=True))
        if begin >= end:
            raise ValueError("features.trim_db: the models' trimming leaves no stretch of it that all of them hear")
        length = self.window_seconds
        level = 10 ** (self.config.data.silence_dbfs / 20)
        for offset in _starts(end - begin, length, step_seconds):
            start, stop = begin + offset, min(begin + offset + length, end)
            first, size = round((start - whole[0].start_seconds) * rates[0]), round((stop - start) * rates[0])
            first = min(first, len(whole[0].waveform) - 1)  # rounding at another rate may exceed this end
            silent = float(abs(whole[0].waveform[first : first + max(1, size)]).max()) < level
            heard = [around(model, found, start, stop) for model, found in zip(self.models, whole, strict=True)]
            yield Window(file, start, stop, [] if silent else heard)

    @property
    def window_seconds(self) -> float:
        """Length of a window in seconds: that of the shortest input of a model."""
        settings = [model.config.features for model in self.models]
        return min(num_samples(each.num_frames, each) / each.sample_rate_hz for each in settings)

    def check_lyrics(self, files: Sequence[Path], folder: Path | None) -> None:
        """Check that no two recordings would be predicted with the same lyrics.

        Raises:
            UserError: two recordings have one text.
        """
        if not any(needs_text(model.config) for model in self.models):
            return
        read_by: dict[Path, Path] = {}
        for file in files:
            text = _lyrics_of(file, folder)
            other = read_by.setdefault(text, file)
            if other.resolve() != file.resolve():
                raise UserError(f"lyrics: expected a text for each recording, got {text} for both {other} and {file}")

    def text_of(self, file: Path, folder: Path | None) -> str:
        """Read the lyrics of a recording from the .txt file next to it or from a folder; empty if no model needs them.

        Raises:
            ValueError: there is no such file, or no text in it.
        """
        if not any(needs_text(model.config) for model in self.models):
            return ""
        lyrics = _lyrics_of(file, folder)
        try:
            return decode_text(lyrics.read_bytes())
        except FileNotFoundError:
            raise ValueError(f"expected its lyrics in {lyrics} (lyrics=FOLDER), got no such file") from None

    def _excerpts(self, raw: bytes, whole: bool) -> list[Excerpt]:
        """Decode for each model the excerpt of which its features are made, or the whole trimmed recording."""
        made: dict[tuple[Any, ...], Excerpt] = {}
        excerpts = []
        for model in self.models:
            features = model.config.features
            rate, keep = features.sample_rate_hz, None if whole else num_samples(model.num_frames, features)
            key = rate, keep, features.segment, features.trim_db
            try:
                if key not in made:
                    made[key] = excerpt(raw, rate, self.config.data, keep, features.segment, features.trim_db)
            except AudioError as error:
                raise ValueError(str(error)) from None
            excerpts.append(made[key])
        return excerpts

    def predict(
        self,
        files: str | Path | Sequence[str | Path],
        step_seconds: float | None = None,
        lyrics: str | Path | None = None,
    ) -> pd.DataFrame:
        """Predict recordings; return a table with a row for each window, as the command prints it.

        Args:
            files: one or more recordings.
            step_seconds: predict a window every so many seconds, in place of one for each recording.
            lyrics: folder of the texts, for models that read them; without it they are next to the recordings.

        Raises:
            UserError: a recording can't be used; the message names it.
        """
        if isinstance(files, (str, os.PathLike)):
            files = [Path(files)]
        if step_seconds is not None:
            step_seconds = checked_step(step_seconds)
        folder = Path(lyrics) if lyrics is not None else None
        windows, problems = self.listen([Path(file) for file in files], step_seconds, folder)
        if problems:
            raise UserError("\n".join(problems))
        self.judge(windows)
        columns, rows = self.table(windows)
        return pd.DataFrame(rows, columns=columns)

    def listen(
        self, files: Sequence[Path], step_seconds: float | None, lyrics: Path | None
    ) -> tuple[list[Window], list[str]]:
        """Read recordings; return their windows without outputs, and a line for each recording that can't be used.

        Raises:
            UserError: two recordings have one text.
        """
        self.check_lyrics(files, lyrics)
        windows: list[Window] = []
        problems: list[str] = []
        for file in files:
            try:
                text = self.text_of(file, lyrics)
                windows += [replace(window, text=text) for window in self.windows(file, step_seconds)]
            except (ValueError, OSError) as error:
                problems.append(f"{file}: {error}")
        return windows, problems

    def table(self, windows: Sequence[Window]) -> tuple[list[str], list[list[Any]]]:
        """The names of columns and a row for each window: file, start, end, and its `values`."""
        rows = [[str(w.file), round(w.start_seconds, 3), round(w.end_seconds, 3), *self.values(w)] for w in windows]
        return ["file", "start_seconds", "end_seconds", *self.columns()], rows

    def judge(self, windows: list[Window]) -> None:
        """Compute the outputs of windows that are not silent."""
        heard = [window for window in windows if window.heard]
        for start in range(0, len(heard), CLIPS_PER_BATCH):
            batch = heard[start : start + CLIPS_PER_BATCH]
            members = []
            for number, model in enumerate(self.models):
                members.append(_outputs(model, [w.heard[number] for w in batch], [w.text for w in batch]))
            for window, values in zip(batch, self.task.mean_outputs(members), strict=True):
                window.outputs = values

    def columns(self) -> list[str]:
        """The names of the `values` of a window."""
        if self.is_classes:
            return ["predicted", "confidence", *(f"p_{label}" for label in self.labels)]
        return self.labels

    def values(self, window: Window) -> list[Any]:
        """The predictions for a window; each is None if it is silent."""
        if window.outputs is None:
            return [None] * len(self.columns())
        if not self.is_classes:
            return [float(value) for value in window.outputs]
        shares = softmax(window.outputs[None])[0]
        index = int(shares.argmax())
        return [self.labels[index], float(shares[index]), *(float(share) for share in shares)]


def _lyrics_of(file: Path, folder: Path | None) -> Path:
    """The text file of a recording: next to it, in `folder`, or in a subfolder of the recording's folder name."""
    if folder is None:
        return file.with_suffix(".txt")
    below = folder / file.parent.name / f"{file.stem}.txt"
    return below if below.exists() else folder / f"{file.stem}.txt"


def as_prepared(model: Best, found: Excerpt) -> tuple[tuple[float, float], Heard]:
    """The input that a model had in training from an excerpt, and its start and end in the recording in seconds."""
    features, length = model.config.features, len(found.waveform)
    num_frames = features.num_frames
    first = segment_slice(frames_in(length, features), num_frames, features.segment).start
    begin = first * hop_samples(features)
    end = min(begin + num_samples(num_frames, features), length)
    start, stop = (found.start_seconds + sample / features.sample_rate_hz for sample in (begin, end))
    return (start, stop), Heard(found.waveform, first)


def around(model: Best, found: Excerpt, start: float, stop: float) -> Heard:
    """The input of a model for a window of a whole recording, with the window in its middle except near both ends.

    Frames are made of as much sound around the input as in preparation, since it affects the outer frames, and all
    frames of an encoder.
    """
    features, hop = model.config.features, hop_samples(model.config.features)
    size, length = num_samples(features.num_frames, features), len(found.waveform)
    centre = ((start + stop) / 2 - found.start_seconds) * features.sample_rate_hz
    begin = max(0, min(round(centre - size / 2), length - size))
    # Frames that are prepared but not part of the input: as many before it as in preparation, if there are so many.
    surplus = model.num_frames - features.num_frames
    before, after = begin // hop, max(0, length - begin - size) // hop
    wanted = segment_slice(model.num_frames, features.num_frames, features.segment).start
    first = min(max(wanted, surplus - after), before)
    beyond = begin - first * hop
    return Heard(found.waveform[beyond : beyond + num_samples(model.num_frames, features)], first)


def _outputs(model: Best, given: list[Heard], texts: list[str]) -> np.ndarray:
    """Outputs [N, K] of one model for its inputs and their texts."""
    features = model.config.features
    rows = []
    for index, (waveform, first) in enumerate(given):
        values, num_valid = extract(waveform, features, model.num_frames)
        heard = slice(first, first + features.num_frames)
        rows.append((index, min(num_valid - first, features.num_frames), values[heard]))
    no_targets = np.zeros((len(rows), 1), dtype=np.float32)
    batch = collate(rows, no_targets, model.features, features.num_frames, features.padding, features.segment)
    if needs_text(model.config):
        batch |= text_batch(texts, model.config)
    return outputs_of(model, batch)


def _starts(seconds: float, length: float, step: float) -> list[float]:
    """The starts of windows: every `step` seconds, and one for a window that ends with the recording."""
    last = max(0.0, seconds - length)
    starts = [number * step for number in range(int(last / step + 1e-9) + 1)]
    return starts if last - starts[-1] < 1e-6 else [*starts, last]
