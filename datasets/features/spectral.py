"""From a waveform to frames x features: mel spectrogram in dB, cepstra, chroma and deltas, or a speech encoder's."""

from functools import lru_cache
from typing import TYPE_CHECKING

from tuning.datasets.features.audio import cut
from tuning.datasets.settings import FeatureSettings
from tuning.models.encoder_shapes import speech_shape

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy as np
    from threadpoolctl import ThreadpoolController

DELTA_FRAMES = 9  # librosa's default: the frames that a local slope is fitted to


def num_samples(num_frames: int, settings: FeatureSettings) -> int:
    """Fewest samples that give `num_frames` frames: centred, one at each multiple of the hop, or an encoder's."""
    if settings.name == "encoder":
        return speech_shape(settings.encoder).num_samples(num_frames)
    return max(1, (num_frames - 1) * settings.hop_samples)


def frames_in(num_samples: int, settings: FeatureSettings) -> int:
    """Frames that a waveform of so many samples gives, at least one."""
    if settings.name == "encoder":
        return speech_shape(settings.encoder).frames_in(num_samples)
    return 1 + num_samples // settings.hop_samples


def hop_samples(settings: FeatureSettings) -> int:
    """Samples from the beginning of one frame to that of the next."""
    if settings.name == "encoder":
        return speech_shape(settings.encoder).hop_samples
    return settings.hop_samples


def extract(waveform: "np.ndarray", settings: FeatureSettings, num_frames: int) -> "tuple[np.ndarray, int]":
    """Features float32 [num_frames, num_features] of a waveform [samples], and how many frames are valid.

    A segment of a longer waveform; a shorter one is followed by the features of silence (`db_floor` in every mel band,
    no chroma, no change). Frames are centred, with silence beyond the ends. Parts stand in the order of
    `settings.parts`, then all of their first deltas, then all of their second. An encoder's frames are its own, and
    zeros follow a shorter waveform (`tuning.datasets.features.speech_encoder.encode`). Silent ends are cut before, when
    a recording is decoded (`tuning.datasets.features.audio.excerpt`).
    """
    waveform = cut(waveform, num_samples(num_frames, settings), settings.segment)
    if settings.name == "encoder":
        from tuning.datasets.features.speech_encoder import encode

        return encode(waveform, settings.encoder, settings.encoder_layer, num_frames)
    with one_blas_thread():
        return _spectral(waveform, settings, num_frames)


def _spectral(waveform: "np.ndarray", settings: FeatureSettings, num_frames: int) -> "tuple[np.ndarray, int]":
    import numpy as np

    num_valid = min(num_frames, frames_in(len(waveform), settings))
    power = power_spectrum(waveform, settings)[:, :num_valid]
    decibels = np.full((settings.num_mels, num_frames), settings.db_floor, dtype=np.float32)
    decibels[:, :num_valid] = mel_decibels(power, settings)
    parts = []
    for name in settings.parts:
        if name == "mel":
            parts.append(decibels)
        elif name == "mfcc":
            parts.append(cepstrum(decibels, settings))
        else:
            parts.append(np.pad(chroma(power, settings), ((0, 0), (0, num_frames - num_valid))))
    static = np.concatenate(parts)
    changes = [deltas(static, num_valid, order) for order in range(1, settings.deltas + 1)]
    return np.ascontiguousarray(np.concatenate([static, *changes]).T, dtype=np.float32), num_valid


def one_blas_thread() -> "AbstractContextManager[object]":
    """Matrix products on one thread: sums are then the same in every process, whatever its environment says.

    Preparation runs with one thread for each core, a prediction on a user's terminal with all of them.
    """
    return _blas().limit(limits=1, user_api="blas")


@lru_cache(maxsize=1)
def _blas() -> "ThreadpoolController":
    import numpy  # noqa: F401 (its library is among those that are found)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def power_spectrum(waveform: "np.ndarray", settings: FeatureSettings) -> "np.ndarray":
    """Squared magnitudes [bins, frames] of the short-time Fourier transform with a Hann window."""
    import librosa
    import numpy as np

    # Beyond the ends there is silence anyway; librosa warns of a waveform that is shorter than its window.
    waveform = np.pad(waveform, (0, max(0, settings.window_samples - len(waveform))))
    spectrum = librosa.stft(
        waveform, n_fft=settings.window_samples, hop_length=settings.hop_samples, center=True, pad_mode="constant"
    )
    power: np.ndarray = spectrum.real**2 + spectrum.imag**2
    return power


def mel_decibels(power: "np.ndarray", settings: FeatureSettings) -> "np.ndarray":
    """Mel power spectrogram [num_mels, frames] in dB re 1, never below `db_floor`, of a power spectrum.

    With `db_reference` peak re its own largest value. The floor is fixed: librosa's default `top_db` hangs it 80 dB
    below each clip's own peak, so that a loud passage would change the values of silent frames.
    """
    import librosa
    import numpy as np

    mel = mel_filters(settings) @ power
    if settings.db_reference == "peak":
        mel = mel / max(float(mel.max()), float(np.finfo(np.float32).tiny))
    decibels = librosa.power_to_db(mel, ref=1.0, amin=10 ** (settings.db_floor / 10), top_db=None)
    return np.maximum(decibels, np.float32(settings.db_floor))


def cepstrum(decibels: "np.ndarray", settings: FeatureSettings) -> "np.ndarray":
    """First `num_mfcc` coefficients [num_mfcc, frames] of the orthonormal DCT-II over mel bands in dB."""
    import librosa

    return librosa.feature.mfcc(S=decibels, n_mfcc=settings.num_mfcc, dct_type=2, norm="ortho")


def chroma(power: "np.ndarray", settings: FeatureSettings) -> "np.ndarray":
    """Share of each of the 12 pitch classes [12, frames] in a power spectrum, the strongest of a frame being 1.

    Tuned to 440 Hz: librosa would otherwise estimate each clip's own tuning. A silent frame is 0 throughout.
    """
    import librosa

    return librosa.feature.chroma_stft(
        S=power, sr=settings.sample_rate_hz, n_fft=settings.window_samples, tuning=0.0, n_chroma=12
    )


def deltas(static: "np.ndarray", num_valid: int, order: int) -> "np.ndarray":
    """Local slopes [features, frames] (order 1) or their slopes (order 2) by Savitzky and Golay's fit over 9 frames.

    Only over the `num_valid` frames, whose first and last stand for what lies beyond them; 0 in the padding.
    """
    import librosa
    import numpy as np

    found = np.zeros_like(static)
    found[:, :num_valid] = librosa.feature.delta(static[:, :num_valid], width=DELTA_FRAMES, order=order, mode="nearest")
    return found


def mel_filters(settings: FeatureSettings) -> "np.ndarray":
    """Triangular filters [num_mels, bins], slaney's scale and norm, from power spectra to mel powers."""
    return _filters(
        settings.sample_rate_hz, settings.window_samples, settings.num_mels, settings.fmin_hz, settings.fmax_hz
    )


@lru_cache(maxsize=8)
def _filters(
    sample_rate_hz: int, window_samples: int, num_mels: int, fmin_hz: float, fmax_hz: float | None
) -> "np.ndarray":
    from librosa.filters import mel

    return mel(sr=sample_rate_hz, n_fft=window_samples, n_mels=num_mels, fmin=fmin_hz, fmax=fmax_hz)
