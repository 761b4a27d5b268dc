"""The task that trains a GAN, in this process: its sounds, and the picture beside each."""

import numpy as np
import pytest
import soundfile

from tuning.config.schema import nested, parse_config
from tuning.data.gan_worker import train_and_generate
from tuning.datasets.features.griffin_lim import TEST_EMOTIONS, mel_to_audio
from tuning.datasets.store.reader import Part

TINY = {
    "features.name": "mel", "features.num_mels": 16, "features.num_frames": 24, "gan.epochs": 1, "gan.batch_size": 4,
    "gan.channels": [8, 8, 4, 4], "gan.discriminator_channels": [4, 4, 8, 8], "gan.latent_dim": 8,
}  # fmt: skip


def test_each_sound_of_a_documented_emotion_has_the_picture_of_its_spectrogram(tmp_path, figures):
    rng = np.random.default_rng(0)
    decibels = rng.uniform(-60, -10, (8, 24, 16)).astype(np.float32)
    targets = rng.uniform(-1, 1, (8, 2)).astype(np.float32)
    ids = np.array([f"{number}.wav" for number in range(8)])
    settings = nested(TINY)
    features = parse_config(settings).features
    part = Part(ids, decibels, np.full(8, 24), targets)
    train_and_generate(str(tmp_path), settings, part, 8, dict.fromkeys(ids.tolist(), "digest"))
    assert sorted(file.stem for file in tmp_path.glob("*.wav")) == sorted(TEST_EMOTIONS)
    drawn = {figure.axes[0].get_title(): figure.axes[0] for figure in figures if figure.axes}
    for name, (valence, arousal) in TEST_EMOTIONS.items():
        assert (tmp_path / f"{name}_spectrogram.png").read_bytes().startswith(b"\x89PNG")
        axes = drawn[f"{name.replace('_', ' ')}: valence {valence:.1f}, arousal {arousal:.1f}"]
        shown = np.asarray(axes.images[0].get_array())
        assert axes.images[0].get_extent() == pytest.approx([0, 24 * 0.05, -0.5, 15.5])  # frames of 50 ms; mel bands
        # The sound is what Griffin-Lim makes of the spectrogram that is shown.
        expected = mel_to_audio(shown.T, features)
        sound, _ = soundfile.read(tmp_path / f"{name}.wav")
        np.testing.assert_allclose(sound, expected / max(1.0, abs(expected).max()), atol=2 / 2**15)
