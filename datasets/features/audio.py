"""Decode recordings to mono waveforms, and say why one can't be used."""

import io
import math
from typing import Any, Literal, NamedTuple

import librosa
import numpy as np
import soundfile

from tuning.datasets.settings import DataSettings, Segment

BLOCK_FRAMES = 1 << 20  # read at a time, so that a long recording takes no more memory than the part that is kept
MP3_SLACK_FRAMES = 2 * 1152  # an MP3 file may be two codec frames shorter than its header says
RESAMPLING_MARGIN_SECONDS = 0.1  # read around a segment, so that the resampling filter does not ring into it


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
    raw: bytes,
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
    raw: bytes,
    sample_rate_hz: int,
    quality: DataSettings,
    keep_samples: int | None,
    segment: Segment,
    trim_db: float | None,
) -> Excerpt:
    """Decode a recording to a mono waveform at `sample_rate_hz`, cut to a segment of `keep_samples`.

    With `trim_db`, silent ends of the whole recording are cut first: those that stay so many decibels below its loudest
    passage. The file is read to its end even where a segment suffices, because damage shows only there. Raises
    AudioError when the recording is empty, can't be decoded, is truncated, too short or non-finite, has too many
    channels, or when its segment is silent.
    """
    read_samples = keep_samples if trim_db is None else None
    waveform, rate, start = _read_segment(raw, sample_rate_hz, quality, read_samples, segment)
    if rate != sample_rate_hz:
        waveform = librosa.resample(waveform, orig_sr=rate, target_sr=sample_rate_hz, res_type="soxr_hq")
    sound = slice(0, len(waveform)) if trim_db is None else _without_silent_ends(waveform, trim_db)
    span = segment_slice(sound.stop - sound.start, keep_samples, segment)
    waveform = waveform[sound][span]
    peak = float(abs(waveform).max())
    if peak < 10 ** (quality.silence_dbfs / 20):
        level = f"{20 * math.log10(peak):.0f} dBFS" if peak > 0 else "digital zero"
        raise AudioError("silent", f"peak {level}, expected at least {quality.silence_dbfs:g} dBFS")
    return Excerpt(waveform, start / rate + (sound.start + span.start) / sample_rate_hz)


def cut_segment(waveform: np.ndarray, num_samples: int, segment: Segment) -> np.ndarray:
    """Cut a waveform [samples] to a segment of `num_samples`; a shorter one stays whole."""
    return waveform[segment_slice(len(waveform), num_samples, segment)]


def segment_slice(length: int, wanted: int | None, segment: Segment) -> slice:
    """The slice of `length` samples or frames that holds a segment of `wanted`, or all of them if there are fewer."""
    size = length if wanted is None else min(wanted, length)
    start = (length - size) // 2 if segment == "middle" else 0
    return slice(start, start + size)


def _without_silent_ends(waveform: np.ndarray, trim_db: float) -> slice:
    """The slice between the ends whose RMS over 2048 samples stays `trim_db` below the loudest."""
    from librosa.effects import trim

    start, stop = trim(waveform, top_db=trim_db)[1].tolist()
    return slice(start, stop)


def _read_segment(
    raw: bytes, sample_rate_hz: int, quality: DataSettings, keep_samples: int | None, segment: Segment
) -> tuple[np.ndarray, int, int]:
    """Read a segment with a margin around it: mono waveform, the recording's own rate in Hz, and its first sample."""
    if not raw:
        raise AudioError("empty", "the file has no bytes")
    if truncation := _truncation(raw):
        raise AudioError("truncated", truncation)
    try:
        with soundfile.SoundFile(io.BytesIO(raw)) as file:
            _check_shape(file, quality)
            keep = None
            if keep_samples is not None:
                margin = 0 if file.samplerate == sample_rate_hz else RESAMPLING_MARGIN_SECONDS * file.samplerate
                keep = math.ceil(keep_samples * file.samplerate / sample_rate_hz + 2 * margin)
            span = segment_slice(file.frames, keep, segment)
            kept: list[np.ndarray] = []
            num_read = 0
            while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
                if not np.isfinite(block).all():
                    raise AudioError("non-finite", f"NaN or infinite samples near frame {num_read}")
                kept.append(block[max(0, span.start - num_read) : max(0, span.stop - num_read)].mean(axis=1))
                num_read += len(block)
            slack = MP3_SLACK_FRAMES if file.format == "MP3" else 0
            if num_read < file.frames - slack:
                raise AudioError("truncated", f"{num_read} of {file.frames} frames can be read")
            return np.concatenate(kept), file.samplerate, span.start
    except soundfile.LibsndfileError as error:
        raise AudioError("cannot be decoded", error.error_string.strip()) from None


def _check_shape(file: Any, quality: DataSettings) -> None:
    if file.frames <= 0:
        raise AudioError("empty", "no samples")
    seconds = file.frames / file.samplerate
    if seconds < quality.min_clip_seconds:
        raise AudioError(
            "too short", f"{file.frames} samples ({seconds:.4f} s), expected at least {quality.min_clip_seconds:g} s"
        )
    if file.channels > quality.max_channels:
        raise AudioError("too many channels", f"{file.channels}, expected at most {quality.max_channels}")


def _truncation(raw: bytes) -> str:
    """What is missing at the end of a cut WAV, AIFF or Ogg file by its own headers, or "".

    libsndfile reads such files without an error; a cut FLAC or MP3 file it reports.
    """
    if raw[:4] == b"RIFF" and raw[8:12] == b"WAVE":
        return _chunk_truncation(raw, b"data", "little")
    if raw[:4] == b"FORM" and raw[8:12] in (b"AIFF", b"AIFC"):
        return _chunk_truncation(raw, b"SSND", "big")
    if raw[:4] == b"OggS":
        return _ogg_truncation(raw)
    return ""


def _chunk_truncation(raw: bytes, wanted: bytes, order: Literal["little", "big"]) -> str:
    position = 12
    while position + 8 <= len(raw):
        size = int.from_bytes(raw[position + 4 : position + 8], order)
        if raw[position : position + 4] == wanted:
            missing = position + 8 + size - len(raw)
            # Programs that write to a pipe can't know the length and write a huge one.
            return f"{missing} bytes of samples are missing" if missing > 0 and size < 0x7FFFF000 else ""
        position += 8 + size + size % 2
    return "the chunk of samples is missing"


def _ogg_truncation(raw: bytes) -> str:
    """As `_truncation`: the last page of an Ogg stream is complete and flagged as the end (RFC 3533, section 6)."""
    page = raw.rfind(b"OggS")
    header = raw[page : page + 27]
    if len(header) < 27:
        return "the last Ogg page is cut"
    segments = raw[page + 27 : page + 27 + header[26]]
    if len(segments) < header[26] or page + 27 + header[26] + sum(segments) > len(raw):
        return "the last Ogg page is cut"
    return "" if header[5] & 0x04 else "the Ogg stream has no last page"
