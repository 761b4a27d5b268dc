"""What is said of a corpus before anything is prepared: names that look alike, classes tied to speakers, files."""

import re

import pytest

from tuning.config.errors import UserError
from tuning.data.remarks import file_remarks, look_alikes, remarks, with_file_remarks
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.settings import DataSettings

MANIFEST = DataSettings(corpus="manifest")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann", "ann"),
        ("Ann Lee", "Ann  Lee"),
        ("Ann Lee", "Ann\u00a0Lee"),
        ("Ann_Lee", "ann lee"),
        ("AnnLee", "Ann Lee"),
        ("007", "7"),
        ("s01", "S1"),
        ("7.0", "7"),
        ("Jos\u00e9", "Jose\u0301"),
        ("\ufeffAnn", "Ann"),
        ("stra\u00dfe", "STRASSE"),
    ],
)
def test_names_that_look_alike(one, other):
    assert look_alikes([one, "x", other]) == [[one, other]]


@pytest.mark.parametrize(
    "names", [("1.5", "15"), ("1.05", "1.5"), ("-1", "1"), ("C", "C#"), ("10", "1"), ("Ann", "Anne"), ("0", "00x")]
)
def test_names_that_differ(names):
    assert look_alikes(names) == []


def corpus_of(rows):
    """Clips of (group, label, count)."""
    clips = [
        Clip(f"{group}/{label}{n}.wav", label=label, group=group) for group, label, count in rows for n in range(count)
    ]
    return Corpus("own", "/nowhere", clips)


def test_look_alikes_are_named_with_their_clips():
    (speakers, classes) = remarks(corpus_of([("Ann", "sad", 2), ("ann", "Sad", 1), ("Bo", "sad", 1), ("Bo", "Sad", 1)]))
    assert "'Ann' (2 clips), 'ann' (1)" in speakers and speakers.startswith("speakers or artists that look alike")
    assert "'sad' (3 clips), 'Sad' (2)" in classes and "task.merge_classes='{Sad: sad}'" in classes


def test_a_fold_is_compared_too():
    clips = [Clip("a", (0.0,), fold="1"), Clip("b", (0.0,), fold="01")]
    (found,) = remarks(Corpus("own", "/nowhere", clips))
    assert found.startswith("folds that look alike count as different ones: '1' (1 clip), '01' (1)")


def test_classes_that_are_told_by_the_speaker():
    """By hand: with every speaker's own class a guess by speaker has no error, so lambda is 1."""
    (found,) = remarks(corpus_of([("a", "sad", 5), ("b", "sad", 6), ("c", "happy", 5), ("d", "happy", 6)]))
    assert "the speaker or artist tells the class of 100 % of the clips" in found and "lambda 1.00" in found


def test_a_few_prolific_speakers_do_not_tie_a_corpus():
    prolific = [("a", "sad", 5), ("b", "happy", 5)]
    many = [(f"other {n}", ("sad", "happy")[n % 2], 1) for n in range(40)]
    assert "lambda" in remarks(corpus_of(prolific))[0]
    (found,) = remarks(corpus_of([*prolific, *many]))
    assert found.startswith("2 of 42 speakers or artists have clips of one class only: 'a' (sad), 'b' (happy)")


def test_a_few_speakers_of_one_class():
    rows = [("a", "sad", 5), ("a", "happy", 5), ("b", "sad", 5), ("b", "happy", 5), ("c", "sad", 5)]
    (found,) = remarks(corpus_of(rows))
    assert found.startswith("1 of 3 speakers or artists has clips of one class only: 'c' (sad)")


def test_a_speaker_with_most_of_a_class():
    rows = [(who, name, 5) for who in "abc" for name in ("sad", "happy")]
    (found,) = remarks(corpus_of([*rows, ("a", "bored", 7), ("b", "bored", 3)]))
    assert found.startswith("'a' has 7 of the 10 clips of bored")


@pytest.mark.parametrize(
    "rows",
    [
        [(who, name, 5) for who in "abc" for name in ("sad", "happy")],
        [("a", "sad", 2), ("b", "happy", 2), ("c", "sad", 2)],  # so few clips of one class are chance
        [(who, "sad", 50) for who in "abc"] + [(who, "happy", 2) for who in "abc"],
    ],
)
def test_nothing_is_said_where_nothing_is_wrong(rows):
    assert remarks(corpus_of(rows)) == []


def files(root, *names, here=(), content=b"RIFF"):
    for name in here:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return Corpus("own", str(root), [Clip(name, (0.0,)) for name in names])


def test_files_that_are_there_need_no_words(tmp_path):
    assert file_remarks(files(tmp_path, "a/b.wav", here=["a/b.wav"])) == []


@pytest.mark.parametrize(
    ("names", "here", "content", "message"),
    [
        (["a.wav", "b.wav"], ["a.wav"], b"RIFF", r"1 of 2 recordings is not in .*: b.wav$"),
        (["a\\b.wav"], ["a/b.wav"], b"RIFF", r"not in .*: a.b.wav; written with / in place of \\, it is there"),
        (["Audio/B.wav"], ["audio/b.wav"], b"RIFF", r"not in .*: Audio/B.wav; did you mean 'audio/b.wav'\?"),
        (
            ["a.wav"],
            ["a.wav"],
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            r"1 of 1 recording is a pointer of Git LFS, not the sound: a.wav; `git lfs pull` fetches it",
        ),
        (
            ["a.m4a"],
            ["a.m4a"],
            b"\0\0\0\x20ftypM4A ",
            r"is in a format that can't be read \(\.m4a\).*ffmpeg -i a\.m4a a\.flac",
        ),
    ],
)
def test_what_is_wrong_with_files_is_said_with_the_remedy(tmp_path, names, here, content, message):
    corpus = files(tmp_path, *names, here=here, content=content)
    (found,) = file_remarks(corpus)
    assert re.search(message, found)
    with pytest.raises(UserError, match=r"data.root: .*data.max_quarantined_share"):
        with_file_remarks(corpus, MANIFEST)


def test_as_many_as_may_be_quarantined_are_told_and_no_more(tmp_path):
    names = [f"{n}.wav" for n in range(20)]
    corpus = files(tmp_path, *names, here=names[1:])
    assert with_file_remarks(corpus, MANIFEST).notes == file_remarks(corpus) != []
    with pytest.raises(UserError, match="1 of 20 recordings"):
        with_file_remarks(corpus, MANIFEST.model_copy(update={"max_quarantined_share": 0.04}))


def test_numbers_of_session_and_speaker_are_not_run_together():
    assert look_alikes(["s1_12", "s11_2", "s1 12"]) == [["s1_12", "s1 12"]] or not look_alikes(["s1_12", "s11_2"])
    assert look_alikes(["Ann_1", "ann 1", "ann1"]) == [["Ann_1", "ann 1", "ann1"]]
