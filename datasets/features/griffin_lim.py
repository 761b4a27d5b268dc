"""Sound from mel spectrograms."""

from pathlib import Path
from typing import TYPE_CHECKING

from tuning.datasets.features.spectral import mel_filters, num_samples
from tuning.datasets.settings import FeatureSettings

if TYPE_CHECKING:
    import numpy as np

MEL_ITERATIONS = 100
TINY = 1e-20  # added where a filter is empty or a bin belongs to none

# Valence and arousal of what a GAN is listened to with. Source: guide, section 5.
TEST_EMOTIONS = {
    "sad_calm": (-0.8, -0.6),
    "happy_energetic": (0.8, 0.7),
    "angry_tense": (-0.3, 0.8),
    "content_relaxed": (0.5, -0.5),
    "neutral": (0.0, 0.0),
}


def to_audio(decibels: "np.ndarray", features: FeatureSettings, seed: int = 0, iterations: int = 32) -> "np.ndarray":
    """Waveform float32 [samples] of a mel spectrogram in dB [T, F], whose phase Griffin and Lim's iteration finds.

    Amplitudes may exceed 1, and with `db_reference` peak the loudest value stands at 0 dB. Source: Griffin and Lim
    1984; Perraudin et al. 2013 for the momentum.

    Raises:
        ValueError: features other than mels, another number of mels, fewer than two frames.
    """
    import librosa
    import numpy as np

    _check(decibels, features)
    waveform = librosa.griffinlim(
        np.sqrt(power_behind(10 ** (decibels.T.astype(np.float64) / 10), features)),
        n_iter=iterations,
        n_fft=features.window_samples,
        hop_length=features.hop_samples,
        momentum=0.99,
        random_state=seed,
        pad_mode="constant",
        length=num_samples(len(decibels), features),
    )
    return waveform.astype(np.float32)


def power_behind(mel: "np.ndarray", features: FeatureSettings) -> "np.ndarray":
    """A power spectrum [bins, frames] whose mel powers are nearly those given [num_mels, frames].

    Updates that keep it positive and bring its mels nearer in the sense of Kullback and Leibler (Lee and Seung 2001):
    quiet passages count as loud ones do. Librosa's least squares by L-BFGS leave soft clips at the pseudo-inverse, 28 %
    off in the norm of magnitudes where this is 0.1 %, and take seconds for each second of a loud one.
    """
    import numpy as np

    filters = mel_filters(features).astype(np.float64)
    heard = filters.sum(0)[:, None] + TINY
    power = filters.T @ mel
    for _ in range(MEL_ITERATIONS):
        power *= filters.T @ (mel / (filters @ power + TINY)) / heard
    return power


def write_sounds(folder: Path, spectrograms: "dict[str, np.ndarray]", features: FeatureSettings) -> list[Path]:
    """Write `<name>.wav` (16 bit) of each mel spectrogram in dB [T, F]; the files.

    Only what would be clipped is made softer, so that loudness can be compared.
    """
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, decibels in spectrograms.items():
        waveform = to_audio(decibels, features)
        files.append(folder / f"{name}.wav")
        soundfile.write(files[-1], waveform / max(1.0, abs(waveform).max()), features.sample_rate_hz, subtype="PCM_16")
    return files


def _check(decibels: "np.ndarray", features: FeatureSettings) -> None:
    if features.name != "mel" or features.deltas:
        raise ValueError(f"features.name: expected mel without deltas to make sound of, got {features.name}")
    if decibels.ndim != 2 or decibels.shape[1] != features.num_mels or len(decibels) < 2:
        raise ValueError(f"features.num_mels: expected [frames > 1, {features.num_mels}], got {list(decibels.shape)}")
