"""Decode recordings to mono waveforms, and say why one can't be used."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import librosa
import numpy as np
import soundfile
import soxr

from tuning.datasets.features import containers
from tuning.datasets.settings import DataSettings, Segment

# Read at a time, so that they stay in the cache and a long recording takes no more memory than the part that is kept.
BLOCK_FRAMES = 1 << 16
KEPT_SAMPLES = 1 << 24  # of a waveform that is kept whole; of a longer one a part is decoded again when it is asked for
RESAMPLING_MARGIN_SECONDS = 0.1  # read around a segment, so that the resampling filter does not ring into it
# Files of floats may exceed full scale, 1, a little. Integers that were not scaled, and damage, exceed it by far.
HIGHEST_PEAK = 100.0
RATES_HZ = (1_000, 1_000_000)  # below, no speech or music is left; above, no recorder samples
TRIM_FRAME, TRIM_HOP = 2048, 512  # samples; librosa's defaults
NOTHING = np.zeros(0, np.float32)
Source = bytes | Path  # a recording: its content, or the file


class AudioError(ValueError):
    """A recording that can't be used. `kind` is what the summary counts, `detail` helps to repair the file."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


class Excerpt(NamedTuple):
    """The part of a recording that is used, and where in the recording it begins."""

    waveform: np.ndarray  # mono float32 [samples] at the requested rate
    start_seconds: float


def decode(
    raw: Source,
    sample_rate_hz: int,
    quality: DataSettings,
    keep_samples: int | None = None,
    segment: Segment | None = None,
    trim_db: float | None = None,
) -> np.ndarray:
    """Decode as `excerpt` does, to the waveform alone; without `keep_samples` the whole recording."""
    if segment is None and keep_samples is not None:
        raise TypeError("segment: expected middle or start with keep_samples, got none")
    return excerpt(raw, sample_rate_hz, quality, keep_samples, segment or "middle", trim_db).waveform


def excerpt(
    raw: Source,
    sample_rate_hz: int,
    quality: DataSettings,
    keep_samples: int | None,
    segment: Segment,
    trim_db: float | None,
) -> Excerpt:
    """Decode a recording to a mono waveform at `sample_rate_hz`, cut to a segment of `keep_samples`.

    With `trim_db`, silent ends of the whole recording are cut first: those that stay so many decibels below its loudest
    passage. The file is read to its end even where a segment suffices, because damage shows only there. Raises
    AudioError when the recording is empty, can't be decoded, is truncated, damaged, too short, non-finite or too loud,
    has too many channels or an absurd rate, or when its segment is silent.
    """
    if trim_db is not None:
        sound = LongSound(raw, sample_rate_hz, quality, trim_db)
        span = segment_slice(len(sound), keep_samples, segment)
        waveform, start_seconds = sound[span], sound.start_seconds + span.start / sample_rate_hz
    else:
        waveform, start = _read_segment(raw, sample_rate_hz, quality, keep_samples, segment)
        start_seconds = start / sample_rate_hz
    check_loud(float(np.max(abs(waveform))), quality)
    return Excerpt(waveform, start_seconds)


def resampled(waveform: np.ndarray, rate: float, wanted: float) -> np.ndarray:
    """Resample a waveform as librosa does with `soxr_hq`, whose import takes as long as that of PyTorch."""
    return np.concatenate([*_resampled_blocks([waveform], rate, wanted)])


def resampled_length(length: int, rate: float, wanted: float) -> int:
    """Samples of a waveform of `length` once it is resampled, as librosa counts them."""
    return math.ceil(length * (wanted / rate))


def check_loud(peak: float, quality: DataSettings) -> None:
    """Raise AudioError if a waveform of this peak counts as silent."""
    if peak < 10 ** (quality.silence_dbfs / 20):
        level = f"{20 * math.log10(peak):.0f} dBFS" if peak > 0 else "digital zero"
        raise AudioError("silent", f"peak {level}, expected at least {quality.silence_dbfs:g} dBFS")


class LongSound:
    """The waveform of a whole recording, mono at `sample_rate_hz`, decoded as far as it is asked for.

    Made, it has read the recording to its end once, and checked all of it as `excerpt` does. With `trim_db` its silent
    ends are left out. Slices are float32 arrays; asked for from the start to the end, they decode the recording once
    more, and memory does not grow with its length.
    """

    def __init__(self, source: Source, sample_rate_hz: int, quality: DataSettings, trim_db: float | None) -> None:
        self.source, self.sample_rate_hz, self.quality = source, sample_rate_hz, quality
        self._blocks: Iterator[np.ndarray] = iter(())
        self._held, self._first, self._longest = NOTHING, 0, 0
        loudness, kept, length, peak = _Loudness(), list[np.ndarray](), 0, 0.0
        for block in self._decode():
            if trim_db is not None:
                loudness.add(block)
            length += len(block)
            peak = max(peak, float(np.max(abs(block), initial=0)))
            kept.append(block)
            if length > KEPT_SAMPLES:
                kept.clear()
        check_loud(peak, quality)
        self._sound = slice(0, length) if trim_db is None else loudness.without_silent_ends(length, trim_db)
        if length <= KEPT_SAMPLES:
            self._held = np.concatenate(kept)
        else:
            self._restart()

    def __len__(self) -> int:
        return self._sound.stop - self._sound.start

    @property
    def start_seconds(self) -> float:
        """Where in the recording it begins."""
        return self._sound.start / self.sample_rate_hz

    def __getitem__(self, span: slice) -> np.ndarray:
        """Decode the samples of a slice."""
        begin, end, _ = span.indices(len(self))
        begin, end = begin + self._sound.start, end + self._sound.start
        self._longest = max(self._longest, end - begin)
        if begin < self._first:
            self._restart()
        parts, until = [self._held], self._first + len(self._held)
        while until < end:
            if (block := next(self._blocks, None)) is None:
                raise AudioError("truncated", "it has become shorter while it was read")
            parts.append(block)
            until += len(block)
            while len(parts) > 1 and self._first + len(parts[0]) <= begin - 3 * self._longest:
                self._first += len(parts.pop(0))
        # The next slice may begin somewhat before this one.
        passed = max(0, begin - 3 * self._longest - self._first)
        self._held, self._first = np.concatenate(parts)[passed:], self._first + passed
        return self._held[begin - self._first : end - self._first].copy()

    def _restart(self) -> None:
        self._blocks, self._held, self._first = self._decode(), NOTHING, 0

    def _decode(self) -> Iterator[np.ndarray]:
        with _opened(self.source, self.quality) as (file, raw):
            yield from _resampled_blocks(_mono_blocks(file, raw), file.samplerate, self.sample_rate_hz)


class _Loudness:
    """The RMS over frames of a waveform that comes in blocks, as `librosa.effects.trim` measures it."""

    def __init__(self) -> None:
        self.waiting = np.zeros(TRIM_FRAME // 2, np.float32)
        self.found: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        """Add the samples that follow."""
        self.waiting = np.concatenate([self.waiting, block])
        count = (len(self.waiting) - TRIM_FRAME) // TRIM_HOP + 1
        if count > 0:
            part = self.waiting[: (count - 1) * TRIM_HOP + TRIM_FRAME]
            rms = librosa.feature.rms(y=part, frame_length=TRIM_FRAME, hop_length=TRIM_HOP, center=False)
            self.found.append(rms[0])
            self.waiting = self.waiting[count * TRIM_HOP :]

    def without_silent_ends(self, length: int, trim_db: float) -> slice:
        """The slice of `length` samples between the ends that stay `trim_db` below the loudest frame."""
        self.add(np.zeros(TRIM_FRAME // 2, np.float32))
        decibels = librosa.amplitude_to_db(np.concatenate(self.found), ref=np.max, top_db=None)
        heard = np.flatnonzero(decibels > -trim_db)
        if not len(heard):
            return slice(0, 0)
        return slice(int(heard[0]) * TRIM_HOP, min(length, (int(heard[-1]) + 1) * TRIM_HOP))


def cut_segment(waveform: np.ndarray, num_samples: int, segment: Segment) -> np.ndarray:
    """Cut a waveform [samples] to a segment of `num_samples`; a shorter one stays whole."""
    return waveform[segment_slice(len(waveform), num_samples, segment)]


def segment_slice(length: int, wanted: int | None, segment: Segment) -> slice:
    """The slice of `length` samples or frames that holds a segment of `wanted`, or all of them if there are fewer."""
    size = length if wanted is None else min(wanted, length)
    start = (length - size) // 2 if segment == "middle" else 0
    return slice(start, start + size)


def _read_segment(
    source: Source,
    sample_rate_hz: int,
    quality: DataSettings,
    keep_samples: int | None,
    segment: Segment,
    num_frames: int | None = None,
) -> tuple[np.ndarray, int]:
    """Read a segment, resampled to `sample_rate_hz`, and return it with its first sample, counted at that rate.

    Its samples are at the places of those of the whole recording, so that whoever resamples the whole hears the same.
    The recording has `num_frames` at its own rate, by default as many as its header says.
    """
    with _opened(source, quality) as (file, raw):
        rate = file.samplerate
        num_frames = file.frames if num_frames is None else num_frames
        span = segment_slice(resampled_length(num_frames, rate, sample_rate_hz), keep_samples, segment)
        # Only every so many samples of the two rates fall on the same moment.
        shared = math.gcd(rate, sample_rate_hz)
        step, own_step = sample_rate_hz // shared, rate // shared
        margin = 0 if rate == sample_rate_hz else RESAMPLING_MARGIN_SECONDS
        first = max(0, span.start - math.ceil(margin * sample_rate_hz)) // step
        own = slice(first * own_step, math.ceil((span.stop / sample_rate_hz + margin) * rate))
        num_read = 0

        def parts() -> Iterator[np.ndarray]:
            nonlocal num_read
            for block in _mono_blocks(file, raw):
                part = block[max(0, own.start - num_read) : max(0, own.stop - num_read)]
                if len(part):  # an empty one would hold its block, too
                    yield part
                num_read += len(block)

        waveform = np.concatenate([NOTHING, *_resampled_blocks(parts(), rate, sample_rate_hz)])
    if num_read == 0:
        raise AudioError("empty", "no samples can be decoded")
    if span != segment_slice(resampled_length(num_read, rate, sample_rate_hz), keep_samples, segment):
        # As of an MP3 without its last frame.
        return _read_segment(source, sample_rate_hz, quality, keep_samples, segment, num_read)
    return waveform[span.start - first * step : span.stop - first * step], span.start


@contextmanager
def _opened(source: Source, quality: DataSettings) -> Iterator[tuple[Any, BinaryIO]]:
    """Open a recording with soundfile, and as the file that it is, once container and header are found to be usable."""
    with containers.opened(source) as raw:
        head = raw.read(32)
        if not head:
            raise AudioError("empty", "the file has no bytes")
        try:
            with soundfile.SoundFile(containers.whole(raw)) as file:
                _check_shape(file, quality)
                yield file, raw
        except containers.ContainerError as error:
            raise AudioError(error.kind, error.detail) from None
        except soundfile.LibsndfileError as error:
            reason = containers.unread_format(head) or error.error_string.strip()
            raise AudioError("cannot be decoded", reason) from None


def _mono_blocks(file: Any, raw: BinaryIO) -> Iterator[np.ndarray]:
    """Decode a recording to its end, block by block, as the mean of its channels.

    Raises AudioError if a sample is not finite or beyond any level of sound, or if samples are missing.
    """
    num_read = 0
    # libsndfile 1.2.2 misreads the end of an Opus file that is a short block of its own: the last two are read as one.
    while len(block := file.read(_next_block(file.frames - num_read), dtype="float32", always_2d=True)):
        peak = max(float(block.max()), -float(block.min()))  # NaN if any is
        if not math.isfinite(peak):
            raise AudioError("non-finite", f"NaN or infinite samples near frame {num_read}")
        if peak > HIGHEST_PEAK:
            raise AudioError("too loud", f"peak {peak:.3g} where full scale is 1, expected at most {HIGHEST_PEAK:g}")
        num_read += len(block)
        yield _mean_of_channels(block)
    containers.check_frames(raw, file.format, num_read, file.extra_info)
    # The frames of an MP3 file were counted; without a header that says how many there are, libsndfile guesses.
    if num_read < file.frames and file.format != "MP3":
        raise AudioError("truncated", f"{num_read} of {file.frames} frames can be read")


def _next_block(num_left: int) -> int:
    return BLOCK_FRAMES if num_left >= 2 * BLOCK_FRAMES else 2 * BLOCK_FRAMES


def _resampled_blocks(blocks: Iterable[np.ndarray], rate: float, wanted: float) -> Iterator[np.ndarray]:
    """Resample a waveform that comes in blocks; together they are what librosa makes of the whole."""
    if rate == wanted:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, wanted, 1, dtype="float32", quality="HQ")
    num_read = num_made = 0
    for block in blocks:
        num_read += len(block)
        found = stream.resample_chunk(block)
        num_made += len(found)
        yield found
    last = stream.resample_chunk(NOTHING, last=True)
    length = resampled_length(num_read, rate, wanted) - num_made
    yield np.pad(last, (0, max(0, length - len(last))))[: max(0, length)]


def _mean_of_channels(block: np.ndarray) -> np.ndarray:
    """The mean [frames] of samples [frames, channels]; numpy's own takes as long as decoding for a few channels."""
    total = block[:, 0].copy()
    for channel in block.T[1:]:
        total += channel
    return total if len(block.T) == 1 else total / np.float32(len(block.T))


def _check_shape(file: Any, quality: DataSettings) -> None:
    if file.frames <= 0:
        raise AudioError("empty", "no samples")
    lowest, highest = RATES_HZ
    if not lowest <= file.samplerate <= highest:
        raise AudioError("sample rate", f"{file.samplerate} Hz, expected {lowest} to {highest}")
    seconds = file.frames / file.samplerate
    if seconds < quality.min_clip_seconds:
        raise AudioError(
            "too short", f"{file.frames} samples ({seconds:.4f} s), expected at least {quality.min_clip_seconds:g} s"
        )
    if file.channels > quality.max_channels:
        raise AudioError("too many channels", f"{file.channels}, expected at most {quality.max_channels}")
