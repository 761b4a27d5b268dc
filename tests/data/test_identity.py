"""What a search is: every byte that a trial can read is in its fingerprint, and it keeps the split it began with."""

import contextlib
import csv
import functools
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.command import run
from tests.helpers.folds import arguments_of, corpus_arguments, write_corpus
from tuning.cli import finalize, reproduce
from tuning.config.errors import UserError
from tuning.config.loader import load
from tuning.data.data_module import DataModule
from tuning.data.plan import make_plan, read_corpus
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.features import library_versions as versions
from tuning.datasets.splits import kfold
from tuning.datasets.splits.split import Split
from tuning.datasets.store.shard_index import EXTRACTION_VERSION
from tuning.experiment.directory import SearchFolder

NUM_SONGS = 6
SPEECH, WORDS, IMAGES = ("speech-a", "speech-b"), ("words-a", "words-b"), ("images-a", "images-b")
ENCODER_FILES = ("config.json", "model.safetensors", "vocab.txt", "bpe.codes")
# Settings, what the trials read of each song, and every encoder that some trial may load.
SPACES = {
    "lyrics": (
        [
            "space=bimodal", "features.sample_rate_hz=16000", "features.padding=masked",
            "features.name={choice: [mel, encoder]}",
            f"features.encoder={{choice: [{', '.join(SPEECH)}]}}",
            f"model.text_encoder={{choice: [{', '.join(WORDS)}]}}",
        ],
        ("wav", "txt"),
        (*SPEECH, *WORDS),
    ),
    "images": (["space=vit", f"model.image_encoder={{choice: [{', '.join(IMAGES)}]}}"], ("wav",), IMAGES),
}  # fmt: skip


def write_world(root):
    """Songs with lyrics, and encoders, which nothing here loads."""
    for n in range(NUM_SONGS):
        for ending in ("wav", "txt"):
            put(root / "songs" / f"{n}.{ending}", f"{ending} of song {n}")
    for folder in (*SPEECH, *WORDS, *IMAGES):
        for name in ENCODER_FILES:
            put(root / folder / name, f"{name} of {folder}")
    return root


def put(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def songs_of(root):
    clips = [Clip(f"{n}.wav", (n / 10, -n / 10), f"g{n // 2}", text=f"{n}.txt") for n in range(NUM_SONGS)]
    return Corpus("own", str(root / "songs"), clips)


def split_of(corpus, **changed):
    clips = corpus.clips
    part_of = {
        clip.id: name for clip, name in zip(clips, ("train", "train", "val", "val", "test", "test"), strict=True)
    }
    part_of |= changed.get("parts", {})
    inner = {clip.id: n % 2 for n, clip in enumerate(clips) if part_of[clip.id] != "test"} | changed.get("inner", {})
    train, val, test = ([clip for clip in clips if part_of[clip.id] == name] for name in ("train", "val", "test"))
    return Split(train, val, test, "by hand", inner=inner)


@functools.cache
def space_of(kind, prepared, *more):
    return load([*SPACES[kind][0], "data.corpus=own:load", f"data.prepared={prepared}", *more])[1]


def begin(root, kind, results, corpus=None, split=None, *more):
    """A search's folder as it is begun, without trials, and its space."""
    corpus = corpus or songs_of(root)
    # Beside the world: what is remembered of its files goes by their place.
    space, folder = space_of(kind, root.parent / "prepared", *more), SearchFolder(results, kind)
    with contextlib.chdir(root):
        folder.create(space, {}, identity_of(space, corpus), split or split_of(corpus))
    return folder, space


def identity_of(space, corpus):
    """What a search over a corpus reads, however its clips are split."""
    return DataModule(space, corpus, Split([], [], [], "none")).identity()


def fingerprint(root, kind, corpus=None, split=None):
    with tempfile.TemporaryDirectory() as results:
        return json.loads((begin(root, kind, results, corpus, split)[0].path / "fingerprint.json").read_text())


@pytest.fixture(scope="module", params=SPACES)
def begun(request, tmp_path_factory):
    """A folder of songs and encoders, which of the spaces is searched, and the fingerprint."""
    root = write_world(tmp_path_factory.mktemp("worlds") / "world")
    return root, request.param, fingerprint(root, request.param)


@contextlib.contextmanager
def copied(root):
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        yield Path(shutil.copytree(root, folder, dirs_exist_ok=True))


@settings(max_examples=25)
@given(place=st.integers(0, 10**6), byte=st.integers(0, 10**6), bits=st.integers(1, 255))
def test_a_changed_byte_of_any_file_that_trials_read_changes_the_fingerprint(begun, place, byte, bits):
    root, kind, before = begun
    _, endings, encoders = SPACES[kind]
    files = [f"songs/{n}.{ending}" for n in range(NUM_SONGS) for ending in endings]
    files += [f"{folder}/{name}" for folder in encoders for name in ENCODER_FILES]
    with copied(root) as copy:
        file = copy / files[place % len(files)]
        content = bytearray(file.read_bytes())
        content[byte % len(content)] ^= bits
        file.write_bytes(content)
        assert fingerprint(copy, kind) != before


@settings(max_examples=25)
@given(
    song=st.integers(0, NUM_SONGS - 1),
    what=st.sampled_from(["target", "group", "fold", "split", "text", "part", "inner"]),
    other=st.integers(0, 10),
)
def test_a_changed_label_group_part_or_inner_fold_changes_the_fingerprint(begun, song, what, other):
    root, kind, before = begun
    corpus = songs_of(root)
    clip, split = corpus.clips[song], {}
    changed = {
        "target": {"targets": (clip.targets[0], other + 0.5)},
        "group": {"group": f"other {other}"},
        "fold": {"fold": str(other)},
        "split": {"split": ("train", "val", "test")[other % 3]},
        "text": {"text": f"{(song + 1) % NUM_SONGS}.txt"},
    }.get(what)
    if changed:
        corpus.clips[song] = replace(clip, **changed)
    elif what == "part":
        now = next(name for name, part in split_of(corpus).parts().items() if clip in part)
        split = {"parts": {clip.id: {"train": "val", "val": "test", "test": "train"}[now]}}
    else:
        split = {"inner": {clip.id: 2 + other}}
    reads = what != "text" or kind == "lyrics"
    assert (fingerprint(root, kind, corpus, split_of(corpus, **split)) != before) == reads


@settings(max_examples=10)
@given(seconds=st.integers(1, 10**9), order=st.permutations(range(NUM_SONGS)))
def test_another_place_other_times_and_another_order_leave_the_fingerprint(begun, seconds, order):
    root, kind, before = begun
    with copied(root) as copy:
        for file in copy.rglob("*"):
            os.utime(file, (seconds, seconds))
        put(copy / "words-a" / "README.md", "what else lies there")
        corpus = songs_of(copy)
        shuffled = replace(corpus, clips=[corpus.clips[n] for n in order])
        assert fingerprint(copy, kind, shuffled, split_of(corpus)) == before


def test_lyrics_that_songs_exchanged_are_found_with_verify_though_size_and_time_are_the_same(tmp_path):
    root = write_world(tmp_path / "world")
    songs, before = root / "songs", fingerprint(root, "lyrics")
    one, two = songs / "1.txt", songs / "2.txt"
    os.utime(one, (1, 1))
    os.utime(two, (1, 1))
    assert fingerprint(root, "lyrics") == before
    one.rename(songs / "kept")
    two.rename(one)
    (songs / "kept").rename(two)
    assert fingerprint(root, "lyrics") == before  # as documented
    folder, _ = begin(root, "lyrics", tmp_path / "results", None, None, "data.verify=true")
    assert json.loads((folder.path / "fingerprint.json").read_text())["lyrics"] != before["lyrics"]
    assert fingerprint(root, "lyrics")["lyrics"] != before["lyrics"]  # what was read is remembered


def refused(folder, space, root, corpus=None):
    """Why a search does not go on."""
    corpus = corpus or songs_of(root)
    with contextlib.chdir(root), pytest.raises(UserError) as caught:
        folder.split_begun_with(space, identity_of(space, corpus), corpus, split_of(corpus))
    return str(caught.value)


def test_what_is_read_otherwise_is_named_with_what_to_do(tmp_path, monkeypatch):
    root = write_world(tmp_path / "world")
    folder, space = begin(root, "lyrics", tmp_path / "results")
    put(root / "songs" / "1.txt", "rewritten")
    put(root / "words-b" / "model.safetensors", "other weights")
    put(root / "speech-a" / "model.safetensors", "other weights, too")
    installed, now = versions.installed, versions.installed("librosa")
    monkeypatch.setattr(versions, "installed", lambda name: "99.0" if name == "librosa" else installed(name))
    message = refused(folder, space, root)
    assert "name: expected the space and corpus that 'lyrics' was begun with, got others" in message
    assert "  lyrics: " in message and "put the earlier texts back" in message
    assert "  encoder model.text_encoder=words-b: " in message and "  encoder features.encoder=speech-a: " in message
    assert f"  librosa {now} -> 99.0: its numbers are in what was prepared; install librosa=={now}" in message
    assert "words-a" not in message and "recordings" not in message and "fresh=true" in message
    put(root / "songs" / "0.wav", "another recording")
    assert "recordings or labels: " in refused(folder, space, root)


def test_the_clips_that_are_not_what_they_were_are_named(tmp_path):
    root = write_world(tmp_path / "world")
    folder, space = begin(root, "lyrics", tmp_path / "results")
    put(root / "songs" / "1.txt", "rewritten")
    assert ": '1.wav' has another text; put the earlier texts back" in refused(folder, space, root)
    put(root / "songs" / "0.wav", "another recording")
    corpus = songs_of(root)
    corpus.clips[2] = replace(corpus.clips[2], group="another artist")
    corpus.clips[3] = replace(corpus.clips[3], id="new.wav")
    message = refused(folder, space, root, corpus)
    assert (
        ": '0.wav' has another recording, '2.wav' has other labels, group or fold, '3.wav' is gone and 1 more;"
        in message
    )


def test_a_hub_name_whose_commit_is_not_known_on_one_side_is_not_refused(tmp_path):
    root = write_world(tmp_path / "world")
    folder, space = begin(root, "images", tmp_path / "results")
    shutil.rmtree(root / "images-b")  # now it could be a hub name
    corpus = songs_of(root)
    with contextlib.chdir(root):
        folder.check_identity(space, identity_of(space, corpus))


def test_an_older_search_is_compared_by_what_it_recorded(tmp_path):
    root = write_world(tmp_path / "world")
    folder, space = begin(root, "lyrics", tmp_path / "results")
    file = folder.path / "fingerprint.json"
    older = {
        name: value
        for name, value in json.loads(file.read_text()).items()
        if name in ("corpus", "num_clips", "methods")
    }
    file.write_text(json.dumps(older))
    (folder.path / "split.json").unlink()
    put(root / "songs" / "1.txt", "rewritten")
    corpus, dealt = songs_of(root), split_of(songs_of(root))
    with contextlib.chdir(root):
        assert folder.split_begun_with(space, identity_of(space, corpus), corpus, dealt) is dealt
    put(root / "songs" / "1.wav", "another recording")
    assert "recordings or labels: " in refused(folder, space, root)


def older(tmp_path, *arguments, release="1.6.1"):
    """A search from before splits were recorded, with what is dealt now; `release` of scikit-learn began it."""
    songs = tmp_path / "songs"
    songs.mkdir()
    given = arguments_of(*corpus_arguments(write_corpus(songs)), "split.inner_folds=null", *arguments)
    plan = make_plan(given)
    corpus, split = read_corpus(plan.config)
    folder = SearchFolder(tmp_path / "results", "older")
    identity = identity_of(plan.space, corpus)
    folder.create(plan.space, {}, {name: identity[name] for name in ("corpus", "num_clips", "methods")})
    environment = json.loads((folder.path / "environment.json").read_text())
    environment["packages"]["scikit-learn"] = release
    (folder.path / "environment.json").write_text(json.dumps(environment))
    return split, lambda: folder.split_begun_with(plan.space, identity, corpus, split)


SKLEARN = versions.installed("scikit-learn")


@pytest.mark.parametrize(
    "arguments",
    [["split.method=group_folds", "split.test_fold=1"], ["split.inner_folds=3"], ["data.group_column=null"]],
)
def test_an_older_search_whose_split_another_scikit_learn_dealt_is_refused(tmp_path, arguments):
    _, go_on = older(tmp_path, *arguments)
    with pytest.raises(UserError, match=rf"expected scikit-learn 1.6.1, .* got {SKLEARN}.*scikit-learn==1.6.1"):
        go_on()


@pytest.mark.parametrize(
    ("arguments", "release"),
    [
        (["split.method=group_folds", "split.test_fold=1"], SKLEARN),
        (["split.inner_folds=3"], SKLEARN),
        (["split.method=grouped"], "1.6.1"),
        (["split.method=leave_one_group_out", "split.test_fold=s3"], "1.6.1"),
        (["data.fold_column=speaker", "split.test_fold=s3"], "1.6.1"),
    ],
)
def test_an_older_search_goes_on_where_the_same_split_is_dealt(tmp_path, arguments, release):
    split, go_on = older(tmp_path, *arguments, release=release)
    assert go_on() is split


def test_older_inner_folds_that_were_dealt_around_the_medians_are_not_taken_for_those_around_zero(tmp_path):
    _, go_on = older(tmp_path, "split.inner_folds=3", "split.quadrants=zero", release=SKLEARN)
    with pytest.raises(UserError, match=r"inner folds are recorded or made with split.quadrants=median"):
        go_on()


@pytest.fixture(scope="module")
def searched(ray_session, tmp_path_factory):
    """Arguments of a search of one trial with dealt folds inside and outside, and its folder."""
    songs = write_corpus(tmp_path_factory.mktemp("dealt"))
    arguments = arguments_of(*corpus_arguments(songs), "split.method=group_folds", "split.test_fold=1")
    run(*arguments)
    return arguments, songs / "results" / "crnn"


@pytest.fixture
def dealt_otherwise(searched, tmp_path, monkeypatch):
    """A copy of the search, its storage, and another library that deals groups into other folds."""
    real = kfold._stratified
    monkeypatch.setattr(kfold, "_stratified", lambda rows, of, num, seed: real(rows, of, num, seed + 1))
    copy = tmp_path / "crnn"
    shutil.copytree(searched[1], copy)
    return searched[0], copy


def recorded(folder, part):
    clips = json.loads((folder / "split.json").read_text())["clips"]
    return {clip for clip, row in clips.items() if row["part"] == part}


def test_a_trial_is_reproduced_on_the_recorded_split(dealt_otherwise, capsys):
    arguments, folder = dealt_otherwise
    _, split = read_corpus(make_plan(arguments).config)
    assert {clip.id for clip in split.test} != recorded(folder, "test")
    assert reproduce.main([str(folder)]) == 0
    assert "equal     to the last bit" in capsys.readouterr().out


def test_a_search_goes_on_and_is_finalized_on_the_recorded_split(dealt_otherwise):
    arguments, folder = dealt_otherwise
    before = json.loads((folder / "baseline.json").read_text())
    run(*arguments_of(*arguments, "search.num_trials=2", f"storage={folder.parent}"))
    assert json.loads((folder / "baseline.json").read_text()) == before  # of the inner folds, which it depends on
    assert finalize.main([str(folder)]) == 0
    tested = {row["clip"] for row in csv.DictReader((folder / "best" / "test_predictions.csv").open())}
    assert tested == recorded(folder, "test")


@pytest.mark.parametrize("damage", ["gone", "another part"])
def test_a_damaged_record_of_the_split_is_named(searched, tmp_path, damage, capsys):
    shutil.copytree(searched[1], folder := tmp_path / "crnn")
    file = folder / "split.json"
    if damage == "gone":
        file.unlink()
    else:
        file.write_text(file.read_text().replace('"test"', '"train"', 1))
    assert finalize.main([str(folder)]) == 2
    assert f"{file}: expected the split that 'crnn' was begun with" in capsys.readouterr().err
    output = run(*arguments_of(*searched[0], f"storage={tmp_path}"), code=2)
    assert f"{file}: expected the split" in output


@pytest.mark.parametrize(
    ("kind", "arguments", "version", "made"),
    [
        ("lyrics", (), "EXTRACTION_VERSION", "features"),
        ("lyrics", (), "TEXT_VERSION", "texts"),
        ("images", ("augment.noise_prob=0.5",), "AUGMENTATION_VERSION", "augmented clips"),
        ("images", ("augment.synthetic_share=0.5",), "GAN_VERSION", "generated clips"),
    ],
)
def test_another_version_of_our_own_methods_is_refused(tmp_path, monkeypatch, kind, arguments, version, made):
    root = write_world(tmp_path / "world")
    folder, space = begin(root, kind, tmp_path / "results", None, None, *arguments)
    corpus = songs_of(root)
    with contextlib.chdir(root):
        folder.check_identity(space, identity_of(space, corpus))
    from tuning.data import data_module

    now = getattr(data_module, version)
    monkeypatch.setattr(data_module, version, 99)
    assert f"  {made}: made by version {now} of our method, now by 99" in refused(folder, space, root)


def test_a_search_that_names_no_versions_is_of_the_first_and_refused(tmp_path):
    """Its features are librosa's, and if it trims, of other seconds: the part that is kept was cut out before."""
    root = write_world(tmp_path / "world")
    for trimmed in ("null", "30"):
        folder, space = begin(root, "images", tmp_path / trimmed, None, None, f"features.trim_db={trimmed}")
        file = folder.path / "fingerprint.json"
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "methods"}))
        said = refused(folder, space, root)
        assert f"  features: made by version 1 of our method, now by {EXTRACTION_VERSION}" in said
        assert ("  trimming: made by version 1 of our method, now by 2" in said) == (trimmed == "30")
