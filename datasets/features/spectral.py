"""Features [frames, features] of a waveform: mel spectrogram, MFCC, chroma and deltas, or a speech encoder's states."""

from contextlib import AbstractContextManager
from functools import lru_cache

import librosa
import numpy as np
from threadpoolctl import ThreadpoolController

from tuning.datasets.features.audio import AudioError, cut_segment
from tuning.datasets.settings import FeatureSettings
from tuning.models.encoder_shapes import speech_shape

DELTA_FRAMES = 9  # librosa's default: the frames that a local slope is fitted to


def num_samples(num_frames: int, settings: FeatureSettings) -> int:
    """The fewest samples that give `num_frames` frames."""
    if settings.name == "encoder":
        return speech_shape(settings.encoder).num_samples(num_frames)
    return max(1, (num_frames - 1) * settings.hop_samples)


def frames_in(num_samples: int, settings: FeatureSettings) -> int:
    """Frames of a waveform of `num_samples`, at least one."""
    if settings.name == "encoder":
        return speech_shape(settings.encoder).frames_in(num_samples)
    return 1 + num_samples // settings.hop_samples


def hop_samples(settings: FeatureSettings) -> int:
    """Samples from the start of one frame to the start of the next."""
    if settings.name == "encoder":
        return speech_shape(settings.encoder).hop_samples
    return settings.hop_samples


def extract(waveform: np.ndarray, settings: FeatureSettings, num_frames: int) -> tuple[np.ndarray, int]:
    """Compute features float32 [num_frames, num_features] of a waveform [samples], and the number of valid frames.

    A longer waveform is cut to `settings.segment`. After a shorter one come the features of silence (`db_floor` in
    every mel band, zero chroma and deltas), or zeros with an encoder. Frames are centred on multiples of the hop.
    Columns are the `settings.parts`, then their first deltas, then their second. Silent ends are cut earlier, when the
    recording is decoded (`tuning.datasets.features.audio.excerpt`). Raises AudioError if a value is not finite.
    """
    waveform = cut_segment(waveform, num_samples(num_frames, settings), settings.segment)
    if settings.name == "encoder":
        from tuning.datasets.features.speech_encoder import encode

        return checked(encode(waveform, settings.encoder, settings.encoder_layer, num_frames))
    with one_blas_thread():
        return checked(_spectral(waveform, settings, num_frames))


def checked(rows: tuple[np.ndarray, int]) -> tuple[np.ndarray, int]:
    """Return features and the number of valid frames as they are. Raises AudioError if a value is not finite."""
    if not np.isfinite(rows[0]).all():
        raise AudioError("features not finite", "NaN or infinite values come out of this recording")
    return rows


def _spectral(waveform: np.ndarray, settings: FeatureSettings, num_frames: int) -> tuple[np.ndarray, int]:
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


def one_blas_thread() -> AbstractContextManager[object]:
    """Limit matrix products to one thread, so that preparation and prediction round sums alike.

    Preparation runs one process per core, a prediction in a terminal would use all cores.
    """
    return _blas().limit(limits=1, user_api="blas")


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def power_spectrum(waveform: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Squared magnitudes [bins, frames] of the short-time Fourier transform with a Hann window."""
    # Librosa warns of a waveform that is shorter than its window; it pads with silence, too.
    waveform = np.pad(waveform, (0, max(0, settings.window_samples - len(waveform))))
    spectrum = librosa.stft(
        waveform, n_fft=settings.window_samples, hop_length=settings.hop_samples, center=True, pad_mode="constant"
    )
    power: np.ndarray = spectrum.real**2 + spectrum.imag**2
    return power


def mel_decibels(power: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Mel spectrogram [num_mels, frames] in dB of a power spectrum [bins, frames], at least `db_floor`.

    0 dB is a power of 1, or with `db_reference` peak the clip's largest value. The floor is fixed: librosa's default
    `top_db` puts it 80 dB below each clip's peak, so that a loud passage would change the values of silent frames.
    """
    mel = mel_filters(settings) @ power
    if settings.db_reference == "peak":
        mel = mel / max(float(mel.max()), float(np.finfo(np.float32).tiny))
    decibels = librosa.power_to_db(mel, ref=1.0, amin=10 ** (settings.db_floor / 10), top_db=None)
    return np.maximum(decibels, np.float32(settings.db_floor))


def cepstrum(decibels: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """MFCC [num_mfcc, frames]: the first coefficients of the orthonormal DCT-II over mel bands in dB."""
    return librosa.feature.mfcc(S=decibels, n_mfcc=settings.num_mfcc, dct_type=2, norm="ortho")


def chroma(power: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Strength of the 12 pitch classes [12, frames] in a power spectrum; the strongest of a frame is 1.

    Tuned to 440 Hz, where librosa's default estimates a tuning for each clip. A silent frame is all 0.
    """
    return librosa.feature.chroma_stft(
        S=power, sr=settings.sample_rate_hz, n_fft=settings.window_samples, tuning=0.0, n_chroma=12
    )


def deltas(static: np.ndarray, num_valid: int, order: int) -> np.ndarray:
    """First (order 1) or second derivatives over time [features, frames], by a Savitzky-Golay fit over 9 frames.

    The first and last of the `num_valid` frames are repeated beyond the ends; padding gets 0.
    """
    found = np.zeros_like(static)
    found[:, :num_valid] = librosa.feature.delta(static[:, :num_valid], width=DELTA_FRAMES, order=order, mode="nearest")
    return found


def mel_filters(settings: FeatureSettings) -> np.ndarray:
    """Triangular filters [num_mels, bins] with Slaney's scale and norm; filters @ power spectrum are mel powers."""
    return _filters(
        settings.sample_rate_hz, settings.window_samples, settings.num_mels, settings.fmin_hz, settings.fmax_hz
    )


@lru_cache(maxsize=8)
def _filters(
    sample_rate_hz: int, window_samples: int, num_mels: int, fmin_hz: float, fmax_hz: float | None
) -> np.ndarray:
    from librosa.filters import mel

    return mel(sr=sample_rate_hz, n_fft=window_samples, n_mels=num_mels, fmin=fmin_hz, fmax=fmax_hz)
