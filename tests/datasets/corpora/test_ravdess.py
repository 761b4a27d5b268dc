import csv
from collections import Counter

import pytest

from tests.helpers.layout import RAVDESS_NAMES, write_ravdess
from tuning.datasets.corpora.ravdess import FOLDS
from tuning.datasets.corpus import Clip, load_classes
from tuning.datasets.settings import DataSettings, SplitSettings
from tuning.datasets.splits.split import split_clips

ACTORS = [f"{actor:02d}" for actor in range(1, 25)]
NAMES = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]


def load(root, **settings):
    return load_classes(DataSettings(corpus="ravdess", root=str(root), **settings), None, {}, False)


def test_emotion_actor_and_fold_come_from_the_names(tmp_path):
    corpus = load(write_ravdess(tmp_path))
    assert corpus.notes == []
    assert corpus.classes == sorted(NAMES)
    assert [clip.label for clip in corpus.clips[:8]] == NAMES
    assert corpus.clips[0] == Clip(f"{RAVDESS_NAMES[0]}.wav", (5.0,), "01", "5", None, "neutral")
    assert Counter(clip.group for clip in corpus.clips) == dict.fromkeys(ACTORS, 8)


def test_songs_are_left_out_and_any_extension_is_found(tmp_path):
    names = [name for name in RAVDESS_NAMES if not name.startswith("Actor_03")]
    root = write_ravdess(tmp_path, [*names, "Actor_02/03-02-03-01-01-01-02", "Actor_02/03-02-04-01-01-01-02"])
    (root / "Actor_03").mkdir()
    for name in ("03-01-01-01-01-01-03.ogg", "03-01-02-01-01-01-03.FLAC", "._03-01-03-01-01-01-03.wav", "notes.txt"):
        (root / "Actor_03" / name).touch()
    corpus = load(root)
    assert corpus.notes == ["2 songs are left out: their names say channel 02"]
    assert len(corpus.clips) == 23 * 8 + 2
    assert [clip.id for clip in corpus.clips if clip.group == "03"] == [
        "Actor_03/03-01-01-01-01-01-03.ogg",
        "Actor_03/03-01-02-01-01-01-03.FLAC",
    ]


@pytest.mark.parametrize("protocol", ["reslstm", "emobox"])
def test_published_folds_test_every_actor_once(tmp_path, protocol):
    corpus = load(write_ravdess(tmp_path), folds=protocol)
    assert sorted(f"{actor:02d}" for actors in FOLDS[protocol].values() for actor in actors) == ACTORS
    for fold, actors in FOLDS[protocol].items():
        split = split_clips(corpus.clips, SplitSettings(test_fold=fold), corpus.dev_groups)
        assert {clip.group for clip in split.test} == {f"{actor:02d}" for actor in actors}
        dev = {clip.group for clip in split.val}
        if protocol == "reslstm":
            assert sorted(dev) == corpus.dev_groups[fold]
            assert any("validate, as published" in note for note in split.notes)
        else:
            after = str(int(fold) % 6 + 1)
            assert dev == {f"{actor:02d}" for actor in FOLDS[protocol][after]}


def test_published_dev_actors_give_way_to_what_is_named(tmp_path):
    corpus = load(write_ravdess(tmp_path))
    assert corpus.dev_groups == {
        "1": ["03", "06"],
        "2": ["10", "11"],
        "3": ["08", "17"],
        "4": ["01", "14"],
        "5": ["02", "05"],
    }
    named = split_clips(corpus.clips, SplitSettings(test_fold="1", val_fold="4"), corpus.dev_groups)
    assert {clip.fold for clip in named.val} == {"4"}
    groups = split_clips(corpus.clips, SplitSettings(test_fold="1", dev_groups=["24"]), corpus.dev_groups)
    assert {clip.group for clip in groups.val} == {"24"}
    dealt = split_clips(corpus.clips, SplitSettings(method="group_folds", test_fold="1"), corpus.dev_groups)
    assert {dealt.folds[clip.id] for clip in dealt.val} == {"2"}


@pytest.mark.parametrize(
    ("added", "settings", "message"),
    [
        (
            "Actor_01/03-01-09-01-01-01-01",
            {},
            r"data.root: expected the emotion, one of 01 \(neutral\), .* 08 \(surprised\), got '09' in .*-09-01-.*wav",
        ),
        ("Actor_01/02-01-01-01-01-01-01", {}, r"expected the modality, one of 03 \(audio\), got '02' in"),
        (
            "Actor_01/03-03-01-01-01-01-01",
            {},
            r"expected the vocal channel, one of 01 \(speech\), 02 \(song\), got '03'",
        ),
        ("Actor_01/03-01-01-03-01-01-01", {}, r"expected the intensity, .* got '03'"),
        ("Actor_01/03-01-01-01-03-01-01", {}, r"expected the statement, .* got '03'"),
        ("Actor_01/03-01-01-01-01-03-01", {}, r"expected the repetition, .* got '03'"),
        ("Actor_01/03-01-01-01-01-02-25", {}, r"expected the actor, one of 01, 02, .* 24, got '25'"),
        ("Actor_01/03-01-01-01-01-02-02", {}, r"data.root: expected actor 01, got '02' in .*Actor_01/03-.*-02.wav"),
        ("Actor_01/03-01-01-01-01-01", {}, r"expected a name of seven codes such as 03-01-.*, got .*Actor_01/03-"),
        ("Actor_25/03-01-01-01-01-01-25", {}, r"expected folders Actor_01 to Actor_24, got .*Actor_25"),
        (
            "x",
            {"folds": "reslstn"},
            r"data.folds: expected one of reslstm, emobox, speakers, .*; did .* 'reslstm'",
        ),
        ("x", {"fold_column": "f"}, r"data.fold_column: expected nothing for data.corpus=ravdess, got 'f'"),
        ("x", {"label_column": "f"}, r"data.label_column: expected nothing for data.corpus=ravdess, got 'f'"),
        ("x", {"group_column": "f"}, r"data.group_column: expected nothing"),
    ],
)
def test_errors_name_the_setting_and_the_path(tmp_path, added, settings, message):
    with pytest.raises(ValueError, match=message):
        load(write_ravdess(tmp_path, [*RAVDESS_NAMES, added]), **settings)


@pytest.mark.parametrize("added", ["actor_01/03-01-01-01-01-01-01", "ACTOR_01/03-01-01-01-01-02-01"])
def test_two_folders_of_one_actor_are_an_error(tmp_path, added):
    with pytest.raises(ValueError, match=r"data.root: expected one folder of actor 01 in .*, got (\w+_01) and (?!\1)"):
        load(write_ravdess(tmp_path, [*RAVDESS_NAMES, added]))


def test_an_actor_in_the_folder_of_another_in_lower_case(tmp_path):
    root = write_ravdess(tmp_path, [*RAVDESS_NAMES, "Actor_01/03-01-01-01-01-02-02"])
    (root / "Actor_01").rename(root / "actor_01")
    with pytest.raises(ValueError, match=r"data.root: expected actor 01, got '02' in .*actor_01/03-.*-02.wav"):
        load(root)


def test_a_missing_actor_is_an_error(tmp_path):
    names = [name for name in RAVDESS_NAMES if name[6:8] not in ("07", "24")]
    root = write_ravdess(tmp_path / "RAVDESS", names)
    with pytest.raises(ValueError, match=r"recordings of 24 speakers, 01 to 24, got none of 07, 24 in "):
        load(root)


def test_the_real_recordings(recordings):
    root = recordings / "ravdess"
    corpus = load(root)
    assert len(corpus.clips) == 1440
    assert Counter(clip.label for clip in corpus.clips) == dict.fromkeys(NAMES, 192) | {"neutral": 96}
    assert Counter(clip.group for clip in corpus.clips) == dict.fromkeys(ACTORS, 60)
    with open(root / "manifest.csv", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert {clip.id: (clip.label, clip.group, clip.fold) for clip in corpus.clips} == {
        name: (row["emotion"], row["speaker"], row["fold"]) for name, row in rows.items()
    }
    emobox = load(root, folds="emobox")
    assert {clip.id: clip.fold for clip in emobox.clips} == {name: row["emobox_fold"] for name, row in rows.items()}
