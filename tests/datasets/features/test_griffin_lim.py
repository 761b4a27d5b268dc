"""Sound from spectrograms: that it has the spectrogram which it was made of."""

import librosa
import numpy as np
import pytest
import soundfile
import torch

from tuning.datasets.demo import music as demo
from tuning.datasets.features.griffin_lim import (
    TEST_EMOTIONS,
    mel_to_audio,
    mel_to_power,
    write_sounds,
)
from tuning.datasets.features.spectral import extract
from tuning.datasets.settings import FeatureSettings

FEATURES = FeatureSettings(name="mel", window_samples=1024, hop_samples=256, num_mels=64)


@pytest.fixture(scope="module")
def decibels():
    """Of a demo piece, [60, 64]."""
    timbre = demo.draw_timbre(0)
    waveform = demo.render(demo.draw_piece(0, 0, timbre), timbre, seconds=1).astype(np.float32)
    return extract(waveform, FEATURES, 60)[0]


def distance(waveform, decibels):
    """Of a waveform's mel magnitudes S' from the wanted ones S: ||S - S'|| / ||S|| (Sturmel and Daudet 2011)."""
    found, _ = extract(waveform, FEATURES, len(decibels))
    wanted, got = (10 ** (levels.astype(np.float64) / 20) for levels in (decibels, found))
    return np.linalg.norm(wanted - got) / np.linalg.norm(wanted)


def test_the_spectrogram_of_the_sound_is_the_wanted_one(decibels):
    waveform = mel_to_audio(decibels, FEATURES)
    assert waveform.dtype == np.float32 and len(waveform) == 59 * 256
    assert distance(waveform, decibels) < 0.12  # measured: 0.106
    assert distance(mel_to_audio(decibels, FEATURES, iterations=1), decibels) > 0.15


@pytest.mark.parametrize("level", [-60, 0, 60])
def test_the_power_behind_mels_fits_them_at_any_level(decibels, level):
    mel = 10 ** ((decibels.T.astype(np.float64) + level) / 10)
    power = mel_to_power(torch.from_numpy(mel), FEATURES).numpy()
    assert (power >= 0).all() and power.shape == (513, 60)
    filters = librosa.filters.mel(sr=16000, n_fft=1024, n_mels=64)
    off = np.linalg.norm(np.sqrt(filters @ power) - np.sqrt(mel)) / np.linalg.norm(np.sqrt(mel))
    assert off < 0.01
    least_squares = np.maximum(np.linalg.pinv(filters) @ mel, 0)
    assert np.linalg.norm(np.sqrt(filters @ least_squares) - np.sqrt(mel)) / np.linalg.norm(np.sqrt(mel)) > 0.1


def test_same_seed_same_sound(decibels):
    short = decibels[:20]
    first = mel_to_audio(short, FEATURES, seed=1, iterations=2)
    assert np.array_equal(first, mel_to_audio(short, FEATURES, seed=1, iterations=2))
    assert not np.allclose(first, mel_to_audio(short, FEATURES, seed=2, iterations=2))


def test_wav_files_keep_their_loudness_unless_clipped(decibels, tmp_path):
    soft, loud = decibels[:30] - 20, decibels[:30] + 40
    files = write_sounds(tmp_path / "sounds", {"neutral": soft, "angry_tense": loud}, FEATURES)
    assert [file.name for file in files] == ["neutral.wav", "angry_tense.wav"]
    read = [soundfile.read(file) for file in files]
    assert all(rate == 16000 for _, rate in read)
    np.testing.assert_allclose(read[0][0], mel_to_audio(soft, FEATURES), atol=1e-4)
    assert np.abs(read[1][0]).max() == pytest.approx(1, abs=1e-3)


def test_the_guides_five_emotions():
    assert TEST_EMOTIONS == {
        "sad_calm": (-0.8, -0.6),
        "happy_energetic": (0.8, 0.7),
        "angry_tense": (-0.3, 0.8),
        "content_relaxed": (0.5, -0.5),
        "neutral": (0.0, 0.0),
    }


@pytest.mark.parametrize(("window", "hop"), [(1023, 256), (401, 160), (511, 255)])
def test_windows_of_odd_length(decibels, window, hop):
    features = FEATURES.model_copy(update={"window_samples": window, "hop_samples": hop})
    assert len(mel_to_audio(decibels, features, iterations=2)) == 59 * hop


@pytest.mark.parametrize(("window", "hop", "frames"), [(1024, 256, 3), (1024, 256, 2), (400, 160, 2), (401, 160, 2)])
def test_a_sound_is_longer_than_half_a_window(decibels, window, hop, frames):
    features = FEATURES.model_copy(update={"window_samples": window, "hop_samples": hop})
    with pytest.raises(ValueError, match=f"expected at least .* frames, .* got {frames}"):
        mel_to_audio(decibels[:frames], features)
    fewest = window // 2 // hop + 2
    assert len(mel_to_audio(decibels[:fewest], features)) == (fewest - 1) * hop


@pytest.mark.parametrize("hop", [513, 1024, 2000])
def test_frames_overlap_by_half(decibels, hop):
    features = FEATURES.model_copy(update={"hop_samples": hop})
    with pytest.raises(ValueError, match=rf"at most half of features.window_samples \(1024\) for sound, got {hop}"):
        mel_to_audio(decibels, features)


def test_what_no_sound_can_be_made_of(decibels):
    with pytest.raises(ValueError, match="expected mel without deltas, to convert to sound, got mfcc"):
        mel_to_audio(decibels, FeatureSettings(name="mfcc"))
    with pytest.raises(ValueError, match=r"features.num_mels: expected \[frames, 64\], got \[60, 40\]"):
        mel_to_audio(decibels[:, :40], FEATURES)
