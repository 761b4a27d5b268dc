"""From the bytes of a recording to a mono waveform, or to the reason why it is unusable."""

import io
import math
from typing import TYPE_CHECKING, Any, Literal

from datasets.settings import DataSettings

if TYPE_CHECKING:
    import numpy as np

Segment = Literal["middle", "start"]
BLOCK_FRAMES = 1 << 20  # read at a time, so that an hour of stereo needs the memory of what is kept
MP3_SLACK_FRAMES = 2 * 1152  # an MP3 stream may end two codec frames off the length in its header
RESAMPLING_MARGIN_SECONDS = 0.1  # kept around a cut, so that the filter does not ring into what is used


class AudioError(ValueError):
    """A recording that can't be used: `kind` is short and counts, `detail` is for whoever repairs it."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.detail = detail


def decode(
    raw: bytes,
    sample_rate_hz: int,
    quality: DataSettings,
    keep_samples: int | None = None,
    segment: Segment = "middle",
) -> "np.ndarray":
    """Mono float32 waveform [samples] at `sample_rate_hz`: a segment of `keep_samples` of a longer recording.

    The whole recording is read and checked, though only the segment is resampled: a seek past the damage
    would take for whole what is not. Raises AudioError when it is empty, can't be decoded, is truncated, too
    short, non-finite, has too many channels, or is silent in the part that is kept.
    """
    waveform, rate = _read_segment(raw, sample_rate_hz, quality, keep_samples, segment)
    if rate != sample_rate_hz:
        import librosa

        waveform = librosa.resample(waveform, orig_sr=rate, target_sr=sample_rate_hz, res_type="soxr_hq")
    waveform = cut(waveform, keep_samples, segment)
    peak = float(abs(waveform).max())
    if peak < 10 ** (quality.silence_dbfs / 20):
        level = f"{20 * math.log10(peak):.0f} dBFS" if peak > 0 else "digital zero"
        raise AudioError("silent", f"peak {level}, expected at least {quality.silence_dbfs:g} dBFS")
    return waveform


def cut(waveform: "np.ndarray", num_samples: int | None, segment: Segment = "middle") -> "np.ndarray":
    """The segment of `num_samples` of a waveform [samples], or all of a shorter one."""
    if num_samples is None or len(waveform) <= num_samples:
        return waveform
    start = first_kept(len(waveform), num_samples, segment)
    return waveform[start : start + num_samples]


def first_kept(length: int, kept: int, segment: Segment) -> int:
    """Where a segment of `kept` begins."""
    return (length - kept) // 2 if segment == "middle" else 0


def _read_segment(
    raw: bytes, sample_rate_hz: int, quality: DataSettings, keep_samples: int | None, segment: Segment
) -> "tuple[np.ndarray, int]":
    """Mono waveform at the recording's own rate, cut with a margin around the part that is kept."""
    import numpy as np
    import soundfile

    if not raw:
        raise AudioError("empty", "the file has no bytes")
    if truncation := _truncation(raw):
        raise AudioError("truncated", truncation)
    try:
        with soundfile.SoundFile(io.BytesIO(raw)) as file:
            _check_shape(file, quality)
            start, stop = 0, file.frames
            if keep_samples is not None:
                margin = 0 if file.samplerate == sample_rate_hz else RESAMPLING_MARGIN_SECONDS * file.samplerate
                keep = math.ceil(keep_samples * file.samplerate / sample_rate_hz + 2 * margin)
                start = max(0, first_kept(file.frames, keep, segment))
                stop = min(file.frames, start + keep)
            kept: list[np.ndarray] = []
            num_read = 0
            while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
                if not np.isfinite(block).all():
                    raise AudioError("non-finite", f"NaN or infinite samples near frame {num_read}")
                kept.append(block[max(0, start - num_read) : max(0, stop - num_read)].mean(axis=1))
                num_read += len(block)
            slack = MP3_SLACK_FRAMES if file.format == "MP3" else 0
            if num_read < file.frames - slack:
                raise AudioError("truncated", f"{num_read} of {file.frames} frames can be read")
            return np.concatenate(kept), file.samplerate
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
    """How the container says that its end is missing, or nothing.

    libsndfile reads what is left of a cut WAV, AIFF or Ogg file without a word, so their own lengths are
    compared here; a cut FLAC or MP3 file shows when it is read.
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
            # Programs that write to a pipe can't know the length and put a huge one.
            return f"{missing} bytes of samples are missing" if missing > 0 and size < 0x7FFFF000 else ""
        position += 8 + size + size % 2
    return "the chunk of samples is missing"


def _ogg_truncation(raw: bytes) -> str:
    """An Ogg stream's last page is whole and marked as the end (RFC 3533, section 6)."""
    page = raw.rfind(b"OggS")
    header = raw[page : page + 27]
    if len(header) < 27:
        return "the last Ogg page is cut"
    segments = raw[page + 27 : page + 27 + header[26]]
    if len(segments) < header[26] or page + 27 + header[26] + sum(segments) > len(raw):
        return "the last Ogg page is cut"
    return "" if header[5] & 0x04 else "the Ogg stream has no last page"
