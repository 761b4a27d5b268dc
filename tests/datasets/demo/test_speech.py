import csv
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.helpers.made_corpus import check_built_once
from tuning.datasets import storage
from tuning.datasets.corpus import load_classes, load_corpus
from tuning.datasets.demo import speech as demo_speech
from tuning.datasets.features.audio import decode
from tuning.datasets.features.frames import num_samples
from tuning.datasets.features.spectral import extract
from tuning.datasets.settings import CORPUS_DEFAULTS, DataSettings, FeatureSettings

NAMES = ["angry", "happy", "neutral", "sad", "surprised"]
BROUGHT = {path.removeprefix("data."): value for path, value in CORPUS_DEFAULTS["demo_speech"].items()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return load(tmp_path_factory.mktemp("demo_speech"))


def load(prepared):
    return load_classes(DataSettings(corpus="demo_speech", prepared=str(prepared), **BROUGHT), None, {}, False)


def test_what_it_holds(corpus):
    assert corpus.classes == NAMES
    assert Counter(clip.label for clip in corpus.clips) == dict.fromkeys(NAMES, 72)
    assert Counter(Counter(clip.group for clip in corpus.clips).values()) == {30: 12}
    info = soundfile.info(Path(corpus.root) / corpus.clips[0].id)
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
    seconds = [soundfile.info(Path(corpus.root) / clip.id).duration for clip in corpus.clips]
    assert 1.7 < np.mean(seconds) < 2.2 and min(seconds) > 1 and max(seconds) < 4
    with open(Path(corpus.root) / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["emotion"]: row["speaker"] for row in rows}.keys() == set(NAMES)
    assert Counter(row["gender"] for row in rows) == {"M": 180, "F": 180}


def test_same_bytes_each_time_and_built_once(corpus, tmp_path, monkeypatch):
    check_built_once(load, demo_speech, corpus, tmp_path, monkeypatch)


def test_a_root_and_numbers_are_refused(corpus):
    with pytest.raises(ValueError, match=r"data.root: expected nothing for a demo corpus, got '/speech'; did you mean"):
        load_classes(DataSettings(corpus="demo_speech", root="/speech", **BROUGHT), None, {}, False)
    with pytest.raises(ValueError, match=r"task.name: expected classification for data.corpus=demo_speech"):
        load_corpus(
            DataSettings(corpus="demo_speech", prepared=str(Path(corpus.root).parents[1]), **BROUGHT), ["valence"]
        )


def spectrum(sound):
    return np.fft.rfftfreq(len(sound), 1 / 16000), np.abs(np.fft.rfft(sound))


def test_pitch_and_vowels_are_heard():
    """A steady voice has its pitch's harmonics; through a vowel, the formants stand out."""
    speaker = demo_speech._speaker(0)
    steady = replace(
        demo_speech._speech(0, speaker, "neutral", 0), pitch_hz=120.0, range_semitones=0, slope_semitones=0, breath=0.0
    )
    voice = demo_speech._voice(steady, np.random.default_rng(0), 32000)
    frequency, amplitude = spectrum(voice)
    near = np.abs((frequency / 120 + 0.5) % 1 - 0.5) < 0.1  # within a tenth of a harmonic; it is never quite steady
    low = (frequency > 60) & (frequency < 660)
    assert (amplitude[low & near] ** 2).sum() > 10 * (amplitude[low & ~near] ** 2).sum()

    click = np.zeros(4000)
    click[0] = 1
    for vowel, formants in demo_speech.VOWELS_HZ.items():
        frequency, amplitude = spectrum(demo_speech._resonate(click, vowel, 1.1))
        for formant in (formants[0], formants[2]):
            peak = amplitude[np.abs(frequency - 1.1 * formant) < 100].max()
            assert peak > 2 * amplitude[np.abs(frequency - 1.1 * (formant + 500)) < 20].min()


def test_emotions_sound_as_they_are_said_to(corpus):
    with open(Path(corpus.root) / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    means = {
        name: {
            column: np.mean([float(row[column]) for row in rows if row["emotion"] == name])
            for column in ("pitch_hz", "rate", "loudness_db")
        }
        for name in NAMES
    }
    assert means["angry"]["loudness_db"] > means["neutral"]["loudness_db"] + 3 > means["sad"]["loudness_db"] + 6
    assert means["surprised"]["pitch_hz"] > means["happy"]["pitch_hz"] > means["neutral"]["pitch_hz"]
    assert means["sad"]["rate"] < means["neutral"]["rate"] < means["angry"]["rate"]


def test_emotions_can_be_learnt_across_speakers_and_more_where_speakers_leak(corpus):
    """The usual reference, an SVM on means and deviations of MFCC: well above chance, far from perfect."""
    from sklearn.metrics import recall_score
    from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    features, inputs = FeatureSettings(), []
    for clip in corpus.clips:
        waveform = decode(
            storage.read_bytes(corpus.root, clip.id), 16000, DataSettings(), num_samples(80, features), "middle"
        )
        frames, num_valid = extract(waveform, features, 80)
        inputs.append(np.concatenate([frames[:num_valid].mean(0), frames[:num_valid].std(0)]))
    labels = [clip.label for clip in corpus.clips]
    groups = [clip.group for clip in corpus.clips]

    def uar(folds):
        model = make_pipeline(StandardScaler(), SVC(C=10))
        return recall_score(labels, cross_val_predict(model, np.array(inputs), labels, cv=list(folds)), average="macro")

    apart = uar(GroupKFold(6).split(inputs, labels, groups))
    mixed = uar(StratifiedKFold(6, shuffle=True, random_state=0).split(inputs, labels))
    assert 0.6 < apart < 0.9
    assert mixed > apart + 0.05


def test_sound_stays_within_full_scale(corpus):
    for clip in corpus.clips[::20]:
        sound, _ = soundfile.read(io.BytesIO(storage.read_bytes(corpus.root, clip.id)))
        assert 0.05 < np.abs(sound).max() < 1
