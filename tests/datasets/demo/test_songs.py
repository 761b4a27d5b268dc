import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.helpers.made_corpus import check_built_once, check_killed_writer
from tuning.datasets.corpus import load_classes, load_corpus
from tuning.datasets.demo import songs as demo_bimodal
from tuning.datasets.demo import text_encoder as demo_encoder
from tuning.datasets.features.text_file import decode_text
from tuning.datasets.settings import CORPUS_DEFAULTS, DataSettings

TARGETS = ["valence", "arousal"]
BROUGHT = {
    path.removeprefix("data."): value
    for path, value in CORPUS_DEFAULTS["demo_bimodal"].items()
    if path.startswith("data.")
}


@pytest.fixture(scope="module", autouse=True)
def short():
    """What the encoder learns is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_encoder, "STEPS", 2)
        patch.setattr(demo_encoder, "NUM_LYRICS", 50)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, short):
    return load(tmp_path_factory.mktemp("demo_bimodal"))


@pytest.fixture
def few(tmp_path, monkeypatch):
    """As many songs as a writer takes to be killed among them."""
    monkeypatch.setattr(demo_bimodal, "NUM_ARTISTS", 3)
    return load(tmp_path / "few")


def settings(prepared, **changed):
    return DataSettings(corpus="demo_bimodal", prepared=str(prepared), **(BROUGHT | changed))


def load(prepared):
    return load_corpus(settings(prepared), TARGETS)


def rows_of(corpus):
    with open(Path(corpus.root) / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_what_it_holds(corpus):
    assert len(corpus.clips) == len({clip.text for clip in corpus.clips}) == 200
    assert Counter(Counter(clip.group for clip in corpus.clips).values()) == {10: 20}
    targets = np.array([clip.targets for clip in corpus.clips])
    assert np.abs(targets).max() <= 1
    assert (targets.std(axis=0) > 0.35).all()
    assert abs(np.corrcoef(targets.T)[0, 1]) < 0.2
    info = soundfile.info(Path(corpus.root) / corpus.clips[0].id)
    assert (info.samplerate, info.frames, info.channels, info.subtype) == (16000, 48000, 1, "PCM_16")
    texts = [decode_text((Path(corpus.root) / clip.text).read_bytes()) for clip in corpus.clips]
    assert len(set(texts)) == 200
    assert all(20 <= len(text.split()) <= 40 and "\n" in text for text in texts)


def test_quadrants_are_the_classes_and_stand_aside_in_regression(corpus):
    assert all(clip.label is None for clip in corpus.clips)
    prepared = Path(corpus.root).parents[1]
    classes = load_classes(settings(prepared), None, {}, False)
    assert classes.classes == ["Q1", "Q2", "Q3", "Q4"]
    assert min(Counter(clip.label for clip in classes.clips).values()) > 30
    quadrants = {(True, True): "Q1", (False, True): "Q2", (False, False): "Q3", (True, False): "Q4"}
    for clip, labelled in zip(corpus.clips, classes.clips, strict=True):
        valence, arousal = clip.targets
        assert labelled.label == quadrants[valence >= 0, arousal >= 0]
        assert (labelled.id, labelled.text, labelled.group) == (clip.id, clip.text, clip.group)


def test_neither_music_nor_lyrics_decide_alone(corpus):
    """Least squares on what the songs were made from."""
    factors = np.array([[float(row[name]) for name in demo_bimodal.FACTORS] for row in rows_of(corpus)])
    targets = np.array([clip.targets for clip in corpus.clips])
    assert np.abs(np.corrcoef(factors.T) - np.eye(4)).max() < 0.15

    def explained(columns, target):
        inputs = np.column_stack([factors[:, columns], np.ones(len(factors))])
        residual = target - inputs @ np.linalg.lstsq(inputs, target, rcond=None)[0]
        return 1 - residual.var() / target.var()

    music, lyrics, both = [0, 1], [2, 3], [0, 1, 2, 3]
    valence, arousal = targets.T
    assert explained(both, valence) > 0.9
    assert 0.35 < explained(music, valence) < 0.65
    assert 0.35 < explained(lyrics, valence) < 0.65
    assert explained(both, arousal) > 0.9
    assert 0.1 < explained(lyrics, arousal) < explained(music, arousal) < 0.9


def test_the_encoder_lies_beside_the_songs(corpus):
    prepared = Path(corpus.root).parents[1]
    folder = Path(demo_bimodal.encoder_folder(settings(prepared)))
    assert folder == Path(corpus.root) / "encoder"
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip


def test_same_bytes_each_time_and_built_once(few, tmp_path, monkeypatch):
    torch.manual_seed(5)  # whatever was drawn before
    check_built_once(load, demo_bimodal, few, tmp_path, monkeypatch)


def test_a_killed_writer_leaves_nothing_half_used(few, tmp_path, monkeypatch):
    check_killed_writer(load, few, tmp_path, monkeypatch)


def test_killed_before_the_encoder_it_is_made_again(tmp_path, monkeypatch):
    def killed(root):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo_encoder, "build_encoder", killed)
        patch.setattr(demo_bimodal, "NUM_ARTISTS", 1)
        with pytest.raises(KeyboardInterrupt):
            load(tmp_path)
    monkeypatch.setattr(demo_bimodal, "NUM_ARTISTS", 2)
    again = load(tmp_path)
    assert len(again.clips) == 20
    assert (Path(again.root) / "encoder" / "model.safetensors").exists()


def test_a_uri_is_built_like_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_bimodal, "NUM_ARTISTS", 1)
    corpus = load(f"file://{tmp_path}")
    assert corpus.root == f"file://{tmp_path}/corpora/demo_bimodal-1"
    assert (tmp_path / "corpora/demo_bimodal-1/encoder/model.safetensors").exists()


def test_a_root_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data.root: expected nothing for a demo corpus, got '/songs'"):
        load_corpus(settings(tmp_path, root="/songs"), TARGETS)
