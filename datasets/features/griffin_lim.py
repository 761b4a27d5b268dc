"""Turn mel spectrograms back into sound."""

from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from tuning.datasets.features.frames import num_samples
from tuning.datasets.features.spectral import mel_filters
from tuning.datasets.features.threads import one_thread
from tuning.datasets.settings import FeatureSettings
from tuning.models.torch_audio import functional

MEL_ITERATIONS = 100
TINY = 1e-20  # keeps divisions finite where a filter is empty or no filter covers a bin

# Valence and arousal of the sounds by which a GAN is judged by ear: the documented five emotions.
TEST_EMOTIONS = {
    "sad_calm": (-0.8, -0.6),
    "happy_energetic": (0.8, 0.7),
    "angry_tense": (-0.3, 0.8),
    "content_relaxed": (0.5, -0.5),
    "neutral": (0.0, 0.0),
}


def mel_to_audio(decibels: np.ndarray, features: FeatureSettings, seed: int = 0, iterations: int = 32) -> np.ndarray:
    """Convert a mel spectrogram in dB [frames, mels] to a waveform float32 [samples] by Griffin-Lim.

    Amplitudes may exceed 1. With `db_reference` peak the original loudness is lost: the loudest value is 0 dB. Source:
    Griffin and Lim 1984; Perraudin et al. 2013 for the momentum.

    Raises:
        ValueError: features other than mels, another number of mels, frames that overlap by less than half, or fewer
            frames than a window is long.
    """
    _check(decibels, features)
    size, length = features.window_samples, num_samples(len(decibels), features)
    with one_thread(), torch.inference_mode(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        power = mel_to_power(10 ** (torch.from_numpy(decibels.T.copy()).double() / 10), features)
        waveform: Tensor = functional.griffinlim(
            power.float(), torch.hann_window(size), size, features.hop_samples, size, power=2.0, n_iter=iterations,
            momentum=0.99, length=length + size % 2, rand_init=True,
        )  # fmt: skip
    return waveform[:length].numpy()


def mel_to_power(mel: Tensor, features: FeatureSettings) -> Tensor:
    """Estimate the power spectrum [bins, frames] behind mel powers [num_mels, frames], both float64.

    By multiplicative updates that lower the Kullback-Leibler divergence (Lee and Seung 2001), which weigh quiet
    passages as loud ones. `torchaudio.transforms.InverseMelScale` (least squares) is 26 % off in the norm of magnitudes
    on quiet clips, where this is 0.1 % off.
    """
    filters = mel_filters(features).double()
    heard = filters.sum(0)[:, None] + TINY
    power = filters.T @ mel
    for _ in range(MEL_ITERATIONS):
        power *= filters.T @ (mel / (filters @ power + TINY)) / heard
    return power


def write_sounds(folder: Path, spectrograms: dict[str, np.ndarray], features: FeatureSettings) -> list[Path]:
    """Write each mel spectrogram in dB [frames, mels] as `<name>.wav` (16 bit); return the files.

    Only a sound that would clip is scaled down, so that loudness can be compared.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, decibels in spectrograms.items():
        waveform = mel_to_audio(decibels, features)
        files.append(folder / f"{name}.wav")
        level = max(1.0, np.max(abs(waveform)))
        soundfile.write(files[-1], waveform / level, features.sample_rate_hz, subtype="PCM_16")
    return files


def _check(decibels: np.ndarray, features: FeatureSettings) -> None:
    if features.name != "mel" or features.deltas:
        raise ValueError(f"features.name: expected mel without deltas, to convert to sound, got {features.name}")
    if decibels.ndim != 2 or decibels.shape[1] != features.num_mels:
        raise ValueError(f"features.num_mels: expected [frames, {features.num_mels}], got {list(decibels.shape)}")
    if why := not_audible(len(decibels), features):
        raise ValueError(why)


def not_audible(num_frames: int, features: FeatureSettings) -> str:
    """Why so many frames can't be made audible; empty if they can."""
    size, hop = features.window_samples, features.hop_samples
    if 2 * hop > size:
        return f"features.hop_samples: expected at most half of features.window_samples ({size}) for sound, got {hop}"
    if (fewest := size // 2 // hop + 2) > num_frames:
        return f"expected at least {fewest} frames, which are longer than half of a window, for sound, got {num_frames}"
    return ""
