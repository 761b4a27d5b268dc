"""From a waveform to frames x features: mel spectrogram in dB, or cepstral coefficients of it."""

from functools import lru_cache
from typing import TYPE_CHECKING

from datasets.audio import middle
from datasets.settings import FeatureSettings

if TYPE_CHECKING:
    import numpy as np


def num_samples(num_frames: int, settings: FeatureSettings) -> int:
    """Samples that give exactly `num_frames` centred frames: one frame stands at each multiple of the hop."""
    return (num_frames - 1) * settings.hop_samples


def extract(waveform: "np.ndarray", settings: FeatureSettings, num_frames: int) -> "tuple[np.ndarray, int]":
    """Features float32 [num_frames, num_features] of a waveform [samples], and how many frames are valid.

    The middle of a longer waveform; a shorter one is followed by the features of silence (`db_floor` in every
    mel band). Frames are centred, with silence beyond the ends.
    """
    import numpy as np

    waveform = middle(waveform, max(1, num_samples(num_frames, settings)))
    num_valid = min(num_frames, 1 + len(waveform) // settings.hop_samples)
    decibels = np.full((settings.num_mels, num_frames), settings.db_floor, dtype=np.float32)
    decibels[:, :num_valid] = mel_decibels(waveform, settings)[:, :num_valid]
    features = cepstrum(decibels, settings) if settings.name == "mfcc" else decibels
    return np.ascontiguousarray(features.T, dtype=np.float32), num_valid


def mel_decibels(waveform: "np.ndarray", settings: FeatureSettings) -> "np.ndarray":
    """Mel power spectrogram [num_mels, frames] in dB re 1, never below `db_floor`.

    The floor is fixed: librosa's default `top_db` hangs it 80 dB below each clip's own peak, so that a loud
    passage would change the values of silent frames.
    """
    import librosa
    import numpy as np

    # Beyond the ends there is silence anyway; librosa warns of a waveform that is shorter than its window.
    waveform = np.pad(waveform, (0, max(0, settings.window_samples - len(waveform))))
    spectrum = librosa.stft(
        waveform, n_fft=settings.window_samples, hop_length=settings.hop_samples, center=True, pad_mode="constant"
    )
    power = _mel_filters(
        settings.sample_rate_hz, settings.window_samples, settings.num_mels, settings.fmin_hz, settings.fmax_hz
    ) @ (spectrum.real**2 + spectrum.imag**2)
    decibels = librosa.power_to_db(power, ref=1.0, amin=10 ** (settings.db_floor / 10), top_db=None)
    return np.maximum(decibels, np.float32(settings.db_floor))


def cepstrum(decibels: "np.ndarray", settings: FeatureSettings) -> "np.ndarray":
    """First `num_mfcc` coefficients [num_mfcc, frames] of the orthonormal DCT-II over mel bands in dB."""
    import librosa

    return librosa.feature.mfcc(S=decibels, n_mfcc=settings.num_mfcc, dct_type=2, norm="ortho")


@lru_cache(maxsize=8)
def _mel_filters(
    sample_rate_hz: int, window_samples: int, num_mels: int, fmin_hz: float, fmax_hz: float | None
) -> "np.ndarray":
    """Triangular filters [num_mels, bins], slaney's scale and norm."""
    from librosa.filters import mel

    return mel(sr=sample_rate_hz, n_fft=window_samples, n_mels=num_mels, fmin=fmin_hz, fmax=fmax_hz)
