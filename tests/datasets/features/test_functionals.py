"""eGeMAPS beside openSMILE's own reading of a file, and what goes with a clip that is one frame."""

import numpy as np
import pytest
import soundfile

from tests.helpers.command import refusals
from tuning.data.plan import make_plan
from tuning.datasets.features.audio import excerpt
from tuning.datasets.features.frames import frames_in, num_samples
from tuning.datasets.features.spectral import extract, extract_all
from tuning.datasets.settings import EGEMAPS, DataSettings, FeatureSettings
from tuning.run import main

opensmile = pytest.importorskip("opensmile")

EGEMAPS_SETTINGS = FeatureSettings(name="egemaps")


def voice(seconds, pitch_hz=140.0, rate=16000):
    """Pulses with two formants, as a vowel has."""
    time = np.arange(round(seconds * rate)) / rate
    pulses = sum(np.cos(2 * np.pi * n * pitch_hz * time) / n for n in range(1, 40))
    return (0.02 * pulses * (1 + 0.3 * np.sin(2 * np.pi * 3 * time))).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.3, 2.0])
def test_they_are_opensmiles_own_of_the_file(tmp_path, seconds):
    file = tmp_path / "voice.wav"
    soundfile.write(file, voice(seconds), 16000, subtype="FLOAT")
    known = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals).process_file(str(file))
    assert known.shape == (1, EGEMAPS)
    heard = excerpt(file, 16000, DataSettings(), num_samples(1, EGEMAPS_SETTINGS), "middle", None)
    found, num_valid = extract(heard.waveform, EGEMAPS_SETTINGS, 1)
    assert (found.shape, found.dtype, num_valid) == ((1, 88), np.float32, 1)
    np.testing.assert_allclose(found, known.to_numpy(), rtol=1e-5, atol=1e-5)
    pitch = known.columns.get_loc("F0semitoneFrom27.5Hz_sma3nz_amean")
    assert found[0, pitch] == pytest.approx(12 * np.log2(140 / 27.5), abs=0.2)


def test_of_a_long_recording_the_middle_is_heard():
    settings = FeatureSettings(name="egemaps", pooled_seconds=1.0)
    assert (num_samples(1, settings), frames_in(50_000, settings), settings.num_frames) == (16000, 4, 1)
    long = np.concatenate([voice(1, 90), voice(1, 200), voice(1, 90)])
    (found, _), (middle, _) = extract_all([long, voice(1, 200)], settings, 1)
    np.testing.assert_array_equal(found, middle)


def test_the_licence_is_said_where_it_is_chosen(tmp_path, capsys):
    words = ["space=ser_encoder", f"storage={tmp_path}"]
    assert main([*words, "features.name=egemaps", f"data.prepared={tmp_path}", "--dry-run"]) == 0
    assert "under the audEERING Research License: for research, teaching" in capsys.readouterr().out
    assert main([*words, "features.name=mfcc", f"data.prepared={tmp_path}", "--dry-run"]) == 0
    assert "audEERING" not in capsys.readouterr().out


def test_a_clip_is_one_frame_in_a_plan(capsys):
    plan = make_plan(["space=ser_encoder", "features.name=egemaps"])
    assert plan.config.features.num_frames == 1 and plan.config.features.num_features == 88


@pytest.mark.parametrize(("features", "told"), [("mfcc", True), ("egemaps", False)])
def test_frames_that_a_corpus_sets_are_told_where_they_count(features, told, tmp_path, capsys):
    words = [f"storage={tmp_path}", f"data.prepared={tmp_path}", "--dry-run"]
    assert main(["space=music_encoder", f"features.name={features}", *words]) == 0
    assert ("corpus sets features.num_frames" in capsys.readouterr().out) == told


def test_what_needs_a_spectrum_or_a_sequence_is_refused():
    mlp = "space=ser_encoder features.name=egemaps"
    one_frame = "with features.name=egemaps, by which a clip is one frame"
    wanted = {
        f"{mlp} features.deltas=1": "features.deltas: expected 0 with features.name=egemaps, got 1",
        f"{mlp} augment.enabled=true augment.time_masks=1": f"augment.time_masks: expected 0 {one_frame}",
        f"{mlp} augment.enabled=true augment.freq_masks=1": "augment.freq_masks: expected 0 with features.name=egemaps",
        f"{mlp} model.layer_weights=learnt": "model.layer_weights: expected null unless features.name=encoder",
        "space=ser features.name=egemaps": f"model.name: expected mlp {one_frame}, got ser",
    }
    found = refusals([words.split() for words in wanted])
    for (code, _, error), message in zip(found, wanted.values(), strict=True):
        assert code == 2 and message in error
