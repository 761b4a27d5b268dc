"""Predict recordings with saved models."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from tuning.config.distributions import counted
from tuning.config.errors import UserError
from tuning.data.text import text_batch
from tuning.datasets.features.audio import Excerpt, LongSound, excerpt, segment_slice
from tuning.datasets.features.frames import check_encoder, frames_in, hop_samples, num_samples
from tuning.datasets.features.spectral import extract
from tuning.datasets.features.text_file import decode_text
from tuning.datasets.loaders.in_memory import Row, collate
from tuning.datasets.store.reader import FeatureStatistics
from tuning.evaluation.prediction_step import checked_step, why_no_recording
from tuning.evaluation.saved_model import CLIPS_PER_BATCH, Best, outputs_of
from tuning.training.class_metrics import softmax
from tuning.training.encoders import needs_text
from tuning.training.tasks import task_of

Group = Literal["all", "folder"]
ALONE = (
    "expected several recordings of its speaker or artist, by which the model normalises it "
    "(features.normalise=group), got one"
)


class Heard(NamedTuple):
    """The input of one model: at most `config.features.num_frames` frames of a waveform, from the frame `first` on."""

    waveform: np.ndarray  # [samples] at the model's sample rate, at most as long as prepared features
    first: int


class Frames(NamedTuple):
    """The prepared frames [frames, features] of an input: how many are sound, and where those of the model begin."""

    values: np.ndarray
    num_valid: int
    first: int


@dataclass(eq=False)
class Window:
    """A stretch of a recording and the common prediction of the models, outputs [K]; None if it is silent."""

    file: Path
    start_seconds: float
    end_seconds: float
    text: str = ""
    outputs: np.ndarray | None = None


class Predictor:
    """One model, or several that predict together by the mean of their outputs."""

    def __init__(self, models: Sequence[Best]) -> None:
        self.models = list(models)
        for model in self.models:  # whose encoder was not needed to load it
            check_encoder(model.config.features)
        self.labels, self.config = self.models[0].labels, self.models[0].config
        self.task = task_of(self.config)
        self.is_classes = self.config.task.name == "classification"
        self.by_group = any(model.config.features.normalise == "group" for model in self.models)

    def windows(self, file: Path, step_seconds: float | None) -> Iterator[tuple[Window, list[Heard]]]:
        """Iterate over the windows of a recording, with the input of each model, or none of a silent window.

        There is one window, cut as in training, or one every `step_seconds`. A recording is decoded as its windows are
        asked for, so that a long one takes no more memory.

        Without steps, start and end enclose what any of the models hears. With steps every model hears the whole
        window, which is as long as the shortest input of a model. The first window starts, and the last one ends, where
        the recording does after all models' trimming (`features.trim_db`).

        Raises:
            ValueError: the recording can't be used.
        """
        if why := why_no_recording(file):
            raise ValueError(why)
        if step_seconds is None:
            # Each model gets the cut that it had in training.
            spans, heard = zip(*map(as_prepared, self.models, self._excerpts(file)), strict=True)
            yield Window(file, min(start for start, _ in spans), max(end for _, end in spans)), list(heard)
            return
        whole = self._sounds(file)
        settings = [model.config.features for model in self.models]
        rates = [features.sample_rate_hz for features in settings]
        begin = max(found.start_seconds for found in whole)
        end = min(found.start_seconds + len(found) / rate for found, rate in zip(whole, rates, strict=True))
        if begin >= end:
            raise ValueError("features.trim_db: the models' trimming leaves no stretch of it that all of them hear")
        length = self.window_seconds
        level = 10 ** (self.config.data.silence_dbfs / 20)
        for offset in _starts(end - begin, length, step_seconds):
            start, stop = begin + offset, min(begin + offset + length, end)
            first, size = round((start - whole[0].start_seconds) * rates[0]), round((stop - start) * rates[0])
            first = min(first, len(whole[0]) - 1)  # rounding at another rate may exceed this end
            silent = float(np.max(abs(whole[0][first : first + max(1, size)]))) < level
            heard = [around(model, found, start, stop) for model, found in zip(self.models, whole, strict=True)]
            yield Window(file, start, stop), [] if silent else heard

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

    def _excerpts(self, file: Path) -> list[Excerpt]:
        """Decode for each model the excerpt of which its features are made."""
        cuts = [
            (f.sample_rate_hz, num_samples(model.num_frames, f), f.segment, f.trim_db)
            for model, f in ((model, model.config.features) for model in self.models)
        ]
        made = {cut: excerpt(file, cut[0], self.config.data, *cut[1:]) for cut in dict.fromkeys(cuts)}
        return [made[cut] for cut in cuts]

    def _sounds(self, file: Path) -> list[LongSound]:
        """Open the whole trimmed recording for each model."""
        keys = [(model.config.features.sample_rate_hz, model.config.features.trim_db) for model in self.models]
        made = {key: LongSound(file, key[0], self.config.data, key[1]) for key in dict.fromkeys(keys)}
        return [made[key] for key in keys]

    def predict(
        self,
        files: str | Path | Sequence[str | Path],
        step_seconds: float | None = None,
        lyrics: str | Path | None = None,
        group: Group | None = None,
    ) -> pd.DataFrame:
        """Predict recordings; return a table with a row for each window, as the command prints it.

        Args:
            files: one or more recordings.
            step_seconds: predict a window every so many seconds, in place of one for each recording.
            lyrics: folder of the texts, for models that read them; without it they are next to the recordings.
            group: for models with features.normalise=group, whose recordings of one speaker or artist have to come
                together: "all" of them are of one, or those of each "folder".

        Raises:
            UserError: a recording can't be used; the message names it. No `group` where it is needed, or a recording
                alone in its group.
        """
        if isinstance(files, (str, os.PathLike)):
            files = [Path(files)]
        if step_seconds is not None:
            step_seconds = checked_step(step_seconds)
        folder = Path(lyrics) if lyrics is not None else None
        windows, problems = self.listen([Path(file) for file in files], step_seconds, folder, group)
        if problems:
            raise UserError("\n".join(problems))
        columns, rows = self.table(windows)
        return pd.DataFrame(rows, columns=columns)

    def listen(
        self, files: Sequence[Path], step_seconds: float | None, lyrics: Path | None, group: Group | None = None
    ) -> tuple[list[Window], list[str]]:
        """Predict recordings; return their windows, and a line for each recording that can't be used.

        Raises:
            UserError: two recordings have one text; `group` as of `predict`.
        """
        self.check_lyrics(files, lyrics)
        windows: dict[int, list[Window]] = {}
        problems: dict[int, str] = {}
        for numbers in self._groups(files, group):
            waiting: list[tuple[Window, list[Frames]]] = []  # with the frames that each model hears
            for number in numbers:
                file, found = files[number], list[Window]()
                try:
                    text = self.text_of(file, lyrics)
                    for window, heard in self.windows(file, step_seconds):
                        window.text = text
                        found.append(window)
                        if heard:
                            waiting.append((window, [*map(_frames, self.models, heard)]))
                        if len(waiting) == CLIPS_PER_BATCH and not self.by_group:
                            self._judge(waiting)
                except (ValueError, OSError) as error:
                    problems[number] = f"{file}: {error}"
                    waiting = [(window, frames) for window, frames in waiting if window not in found]
                else:
                    windows[number] = found
            # The same stretch twice is one.
            stretches = {(window.file.resolve(), window.start_seconds) for window, _ in waiting}
            if self.by_group and len(stretches) == 1:
                for number in [number for number in numbers if number in windows]:
                    problems[number] = f"{files[number]}: {ALONE}"
                    del windows[number]
                waiting = []
            self._judge(waiting)
        told = [problems[number] for number in sorted(problems)]
        in_order = [window for number in sorted(windows) for window in windows[number]]
        return _finite(in_order, told), told

    def _groups(self, files: Sequence[Path], group: Group | None) -> list[list[int]]:
        """The places of the recordings that are normalised together; all of them where they are not by groups."""
        if not self.by_group:
            if group is not None:
                raise UserError(
                    f"group: expected none for a model whose features are normalised by its training clips, got {group}"
                )
            return [[*range(len(files))]]
        if group is None:
            raise UserError(
                f"group: expected all or folder, since the model normalises the recordings of a speaker or artist by "
                f"all of them (features.normalise=group), got none for {counted(len(files), 'recording')}; group=all: "
                "they are of one speaker, group=folder: those in each folder are"
            )
        folders: dict[Path, list[int]] = defaultdict(list)
        for number, file in enumerate(files):
            folders[file.absolute().parent if group == "folder" else Path()].append(number)
        return [*folders.values()]

    def table(self, windows: Sequence[Window]) -> tuple[list[str], list[list[Any]]]:
        """The names of columns and a row for each window: file, start, end, and its `values`."""
        rows = [[str(w.file), round(w.start_seconds, 3), round(w.end_seconds, 3), *self.values(w)] for w in windows]
        return ["file", "start_seconds", "end_seconds", *self.columns()], rows

    def _judge(self, waiting: list[tuple[Window, list[Frames]]]) -> None:
        """Compute the outputs of windows, those of one group where models normalise by groups, and empty the list."""
        statistics = [
            _statistics(model, [frames[number] for _, frames in waiting]) for number, model in enumerate(self.models)
        ]
        for begin in range(0, len(waiting), CLIPS_PER_BATCH):
            batch = waiting[begin : begin + CLIPS_PER_BATCH]
            texts = [window.text for window, _ in batch]
            members = [
                _outputs(model, [frames[number] for _, frames in batch], texts, statistics[number])
                for number, model in enumerate(self.models)
            ]
            for (window, _), values in zip(batch, self.task.mean_outputs(members), strict=True):
                window.outputs = values
        waiting.clear()

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


def _finite(windows: list[Window], problems: list[str]) -> list[Window]:
    """The windows of files of which all outputs are finite; a line for each other file is added to the problems."""
    wild: dict[Path, float] = {}
    for window in windows:
        if window.outputs is not None and not np.isfinite(window.outputs).all():
            wild.setdefault(window.file, window.start_seconds)
    problems += [f"{file}: the model's outputs are not finite from {start:.1f} s on" for file, start in wild.items()]
    return [window for window in windows if window.file not in wild]


def as_prepared(model: Best, found: Excerpt) -> tuple[tuple[float, float], Heard]:
    """The input that a model had in training from an excerpt, and its start and end in the recording in seconds."""
    features, length = model.config.features, len(found.waveform)
    num_frames = features.num_frames
    first = segment_slice(frames_in(length, features), num_frames, features.segment).start
    begin = first * hop_samples(features)
    end = min(begin + num_samples(num_frames, features), length)
    start, stop = (found.start_seconds + sample / features.sample_rate_hz for sample in (begin, end))
    return (start, stop), Heard(found.waveform, first)


def around(model: Best, found: LongSound, start: float, stop: float) -> Heard:
    """The input of a model for a window of a whole recording, with the window in its middle except near both ends.

    Frames are made of as much sound around the input as in preparation, since it affects the outer frames, and all
    frames of an encoder.
    """
    features, hop = model.config.features, hop_samples(model.config.features)
    size, length = num_samples(features.num_frames, features), len(found)
    centre = ((start + stop) / 2 - found.start_seconds) * features.sample_rate_hz
    begin = max(0, min(round(centre - size / 2), length - size))
    # Frames that are prepared but not part of the input: as many before it as in preparation, if there are so many.
    surplus = model.num_frames - features.num_frames
    before, after = begin // hop, max(0, length - begin - size) // hop
    wanted = segment_slice(model.num_frames, features.num_frames, features.segment).start
    first = min(max(wanted, surplus - after), before)
    beyond = begin - first * hop
    return Heard(found[beyond : beyond + num_samples(model.num_frames, features)], first)


def _frames(model: Best, heard: Heard) -> Frames:
    """The prepared frames of what a model hears."""
    return Frames(*extract(heard.waveform, model.config.features, model.num_frames), heard.first)


def _statistics(model: Best, heard: Sequence[Frames]) -> FeatureStatistics:
    """By what a model normalises its inputs: its training clips, or these inputs, as those of one group."""
    if model.config.features.normalise != "group" or not heard:
        return model.features
    return FeatureStatistics.of((np.array([frames.num_valid]), frames.values[None]) for frames in heard)


def _outputs(model: Best, heard: list[Frames], texts: list[str], statistics: FeatureStatistics) -> np.ndarray:
    """Outputs [N, K] of one model for N inputs and their texts."""
    features = model.config.features
    size = features.num_frames
    rows: list[Row] = [
        (index, min(num_valid - first, size), values[first : first + size])
        for index, (values, num_valid, first) in enumerate(heard)
    ]
    no_targets = np.zeros((len(rows), 1), dtype=np.float32)
    batch = collate(rows, no_targets, statistics, size, features.padding, features.segment)
    if needs_text(model.config):
        batch |= text_batch(texts, model.config)
    return outputs_of(model, batch)


def _starts(seconds: float, length: float, step: float) -> list[float]:
    """The starts of windows: every `step` seconds, and one for a window that ends with the recording."""
    last = max(0.0, seconds - length)
    starts = [number * step for number in range(int(last / step + 1e-9) + 1)]
    return starts if last - starts[-1] < 1e-6 else [*starts, last]
