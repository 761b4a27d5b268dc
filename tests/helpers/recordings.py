"""Recordings good and bad, written on the spot, and small corpora of them."""

import csv
import io
from pathlib import Path

import numpy as np
import soundfile

from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.settings import FeatureSettings

RATE = 8000
SMALL = FeatureSettings(
    sample_rate_hz=RATE, window_samples=256, hop_samples=200, num_mels=32, num_mfcc=13, num_frames=24
)


def encode(waveform: np.ndarray, rate: int = RATE, container: str = "WAV", subtype: str | None = None) -> bytes:
    sink = io.BytesIO()
    soundfile.write(sink, waveform, rate, format=container, subtype=subtype)
    return sink.getvalue()


def tone(seconds: float = 1.0, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """A sound that differs with the seed and changes as it goes on."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    sweep = np.sin(2 * np.pi * (200 + 40 * (seed % 17)) * time * (1 + 0.2 * time))
    return (0.3 * sweep + 0.05 * rng.standard_normal(len(time))).astype(np.float32)


def bad_recordings() -> dict[str, tuple[bytes | None, str]]:
    """File name -> its bytes (None: not there) and the kind of reason it must be given."""
    whole = {kind: encode(tone(3), container=kind) for kind in ("WAV", "FLAC", "OGG", "AIFF", "MP3")}
    not_finite = tone(1).copy()
    not_finite[100] = np.nan
    return {
        "cut.wav": (whole["WAV"][: len(whole["WAV"]) // 2], "truncated"),
        "cut.aiff": (whole["AIFF"][: len(whole["AIFF"]) // 2], "truncated"),
        "cut.ogg": (whole["OGG"][: len(whole["OGG"]) * 2 // 3], "truncated"),
        "cut.mp3": (whole["MP3"][: len(whole["MP3"]) // 2], "truncated"),
        "cut.flac": (whole["FLAC"][: len(whole["FLAC"]) // 2], "cannot be decoded"),
        "nothing.wav": (b"", "empty"),
        "header_only.wav": (encode(np.zeros(0, dtype=np.float32)), "empty"),
        "text.wav": (b"this is no sound at all\n" * 20, "cannot be decoded"),
        "silent.wav": (encode(np.zeros(RATE, dtype=np.float32)), "silent"),
        "whisper.wav": (encode(1e-5 * tone(1), subtype="FLOAT"), "silent"),
        "nan.wav": (encode(not_finite, subtype="FLOAT"), "non-finite"),
        "absent.wav": (None, "missing"),
        "surround.wav": (encode(np.tile(tone(1)[:, None], (1, 6))), "too many channels"),
        "click.wav": (encode(tone(1)[:2]), "too short"),
    }


def write_corpus(root: Path, num_clips: int = 12, num_groups: int = 4, seconds: float = 1.0) -> Corpus:
    """Good recordings of several lengths, with a manifest."""
    root.mkdir(parents=True, exist_ok=True)
    clips = []
    for number in range(num_clips):
        name = f"clip_{number:02d}.wav"
        (root / name).write_bytes(encode(tone(seconds * (0.5 + number % 3 / 2), seed=number)))
        clips.append(Clip(name, (number / num_clips, -number / num_clips), group=f"g{number % num_groups}"))
    with open(root / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "valence", "arousal", "artist"])
        writer.writerows([clip.id, *clip.targets, clip.group] for clip in clips)
    return Corpus("manifest", str(root), clips)
