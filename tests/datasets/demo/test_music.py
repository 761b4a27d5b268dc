import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.helpers.made_corpus import check_built_once
from tuning.datasets import storage
from tuning.datasets.corpus import load_corpus
from tuning.datasets.demo import music as demo
from tuning.datasets.features.audio import decode
from tuning.datasets.features.frames import num_samples
from tuning.datasets.features.spectral import extract
from tuning.datasets.settings import DataSettings, FeatureSettings

TARGETS = ["valence", "arousal"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return load(tmp_path_factory.mktemp("demo"))


def load(prepared):
    return load_corpus(DataSettings(prepared=str(prepared), group_column="artist"), TARGETS)


def test_what_it_holds(corpus):
    assert len(corpus.clips) == 240
    assert len({clip.group for clip in corpus.clips}) == 24
    targets = np.array([clip.targets for clip in corpus.clips])
    assert np.abs(targets).max() <= 1
    assert (targets.std(axis=0) > 0.4).all()
    assert abs(np.corrcoef(targets.T)[0, 1]) < 0.2
    info = soundfile.info(Path(corpus.root) / corpus.clips[0].id)
    assert (info.samplerate, info.frames, info.channels, info.subtype) == (16000, 64000, 1, "PCM_16")
    with open(Path(corpus.root) / "manifest.csv", newline="") as file:
        assert {row["mode"] for row in csv.DictReader(file)} == {"major", "minor"}


def test_same_bytes_each_time_and_built_once(corpus, tmp_path, monkeypatch):
    check_built_once(load, demo, corpus, tmp_path, monkeypatch)


def test_a_root_is_refused():
    with pytest.raises(ValueError, match=r"data.root: expected nothing for a demo corpus, got '/music'; did you mean"):
        load_corpus(DataSettings(root="/music"), TARGETS)


def test_mode_is_heard_in_the_thirds():
    """The same piece in major and in minor: the third above the tonic moves by a semitone."""
    timbre = demo.draw_timbre(0)
    piece = replace(demo.draw_piece(0, 0, timbre), tonic_hz=262.0, drums=-1.0)
    frequencies = np.fft.rfftfreq(64000, 1 / 16000)

    def energy(mode, semitones):
        spectrum = np.abs(np.fft.rfft(demo.render(replace(piece, mode=mode), timbre))) ** 2
        return spectrum[np.abs(frequencies - 262 * 2 ** (semitones / 12)) < 4].sum()

    assert energy("major", 4) > 3 * energy("minor", 4)
    assert energy("minor", 3) > 3 * energy("major", 3)


def test_it_can_be_learnt_by_artist_and_a_constant_learns_nothing(corpus):
    from sklearn.dummy import DummyRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import r2_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = FeatureSettings(num_frames=80)
    inputs = []
    for clip in corpus.clips:
        raw = storage.read_bytes(corpus.root, clip.id)
        waveform = decode(raw, 16000, DataSettings(), num_samples(80, features), "middle")
        frames, num_valid = extract(waveform, features, 80)
        assert num_valid == 80
        inputs.append(np.concatenate([frames.mean(0), frames.std(0), np.abs(np.diff(frames, axis=0)).mean(0)]))
    targets = np.array([clip.targets for clip in corpus.clips])
    groups = [clip.group for clip in corpus.clips]

    def r2(model):
        pipeline = make_pipeline(StandardScaler(), model)
        predicted = cross_val_predict(pipeline, np.array(inputs), targets, groups=groups, cv=GroupKFold(5))
        return r2_score(targets, predicted, multioutput="raw_values")

    valence, arousal = r2(RidgeCV(np.logspace(-1, 4, 12)))
    assert valence > 0.5
    assert arousal > 0.7
    assert np.abs(r2(DummyRegressor())).max() < 0.1


def test_sound_stays_within_full_scale(corpus):
    for clip in corpus.clips[::20]:
        sound, _ = soundfile.read(io.BytesIO(storage.read_bytes(corpus.root, clip.id)))
        assert 0.05 < np.abs(sound).max() < 1
