from collections import Counter

import pytest

from tests.helpers.layout import iemocap_ratings, write_iemocap, write_tree
from tuning.datasets.corpus import Clip, load_classes
from tuning.datasets.settings import CORPUS_DEFAULTS, DataSettings, SplitSettings
from tuning.datasets.splits.split import split_clips

RATINGS = iemocap_ratings()
FOUR = {path.removeprefix("task."): value for path, value in CORPUS_DEFAULTS["iemocap"].items()}
FIRST = "Ses01F_impro01_F000"


def load(root, classes=None, merge_classes=None, drop_other_classes=False, **settings):
    data = DataSettings(corpus="iemocap", root=str(root), **settings)
    return load_classes(data, classes, merge_classes or {}, drop_other_classes)


def test_emotion_speaker_and_session(tmp_path):
    corpus = load(write_iemocap(tmp_path, RATINGS))
    assert corpus.notes == []
    assert len(corpus.clips) == len(RATINGS)
    label = {"neu": "neutral", "hap": "happy", "sad": "sad", "ang": "angry", "exc": "excited", "fru": "frustrated"}
    label |= {"fea": "fearful", "sur": "surprised", "dis": "disgust", "oth": "other", "xxx": "undecided"}
    assert {clip.id.rpartition("/")[2]: clip.label for clip in corpus.clips} == {
        f"{name}.wav": label[code] for name, code in RATINGS.items()
    }
    path = "Session2/sentences/wav/Ses02M_script01_1b/Ses02M_script01_1b_F001.wav"
    clip = next(clip for clip in corpus.clips if clip.id == path)
    assert (clip.group, clip.fold) == ("Ses02F", "2")  # who speaks, not who wears the markers
    assert Counter(clip.group for clip in corpus.clips) == dict.fromkeys(
        [f"Ses0{session}{letter}" for session in range(1, 6) for letter in "FM"], 8
    )


def test_tables_with_their_ending_in_upper_case(tmp_path):
    root = write_iemocap(tmp_path, RATINGS)
    clips = load(root).clips
    for table in list(root.glob("Session*/dialog/EmoEvaluation/Ses*.txt")):
        table.rename(table.with_suffix(".TXT"))
    assert load(root).clips == clips


def test_the_four_classes_that_the_corpus_brings_along(tmp_path):
    corpus = load(write_iemocap(tmp_path, RATINGS), **FOUR)
    assert corpus.classes == ["angry", "happy", "neutral", "sad"]
    happy = {clip.id[-23:-4] for clip in corpus.clips if clip.label == "happy" and "impro01" in clip.id}
    assert happy == {name for name, code in RATINGS.items() if code in ("hap", "exc") and "impro01" in name}
    assert len(corpus.notes) == 1 and "clips of other classes are left out" in corpus.notes[0]
    split = split_clips(corpus.clips, SplitSettings(test_fold="5"))
    assert {clip.group for clip in split.test} == {"Ses05F", "Ses05M"}
    assert {clip.fold for clip in split.val} == {"1"}


TABLE = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[4.1100 - 6.0200]\tSes01F_impro01_F000\txxx\t[2.5000, 2.0000, 3.5000]
C-E2:\tNeutral; Frustration;\t()
C-E4:\tOther;\t(impatient
[4.5 is when she turns away], [sighs])
C-F1:\tSadness;\t()
A-E3:\tval 3; act 2; dom  2;\t()
A-F1:\tval 2; act 2; dom  4;\t()


[7.0000 - 8.9100]   Ses01F_impro01_F001   fru   [2.0000, 3.5000, 3.0000]  
C-E2:\tFrustration;\t()

[11.2500 - 12.0050]\tSes01F_impro01_M000\tneu\t[3, 3, 3]
"""


def test_every_kind_of_line_of_the_published_tables(tmp_path):
    """Blank lines, no agreement, ratings with comments over two lines, spaces for tabs, ends of lines of Windows."""
    root = write_iemocap(tmp_path, RATINGS)
    (root / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt").write_bytes(
        TABLE.replace("\n", "\r\n").encode("latin-1")
    )
    corpus = load(root)
    found = {clip.id[-23:-4]: clip.label for clip in corpus.clips if "Ses01F_impro01/" in clip.id}
    assert found == {
        "Ses01F_impro01_F000": "undecided",
        "Ses01F_impro01_F001": "frustrated",
        "Ses01F_impro01_M000": "neutral",
    }
    assert corpus.notes == [
        "5 recordings in Session*/sentences/wav have no label and are left out: Ses01F_impro01_F002.wav, "
        "Ses01F_impro01_F003.wav, Ses01F_impro01_M001.wav, Ses01F_impro01_M002.wav, Ses01F_impro01_M003.wav"
    ]


def test_the_sessions_are_the_folds_unless_others_are_named(tmp_path):
    """The first is sealed if no fold is named, which is said; leaving out speakers, the partner may train."""
    corpus = load(write_iemocap(tmp_path, RATINGS))
    split = split_clips(corpus.clips, SplitSettings())
    assert {clip.group for clip in split.test} == {"Ses01F", "Ses01M"}
    assert {clip.group for clip in split.val} == {"Ses02F", "Ses02M"}
    assert "fold 1 is sealed for the test, the first of 1, 2, 3, 4, 5 (split.test_fold)" in split.notes
    assert load(tmp_path, folds="sessions").clips == corpus.clips
    alone = split_clips(load(tmp_path, folds="speakers").clips, SplitSettings(test_fold="Ses01F"))
    assert {clip.group for clip in alone.test} == {"Ses01F"}
    assert {clip.group for clip in alone.val} == {"Ses01M"}


def test_recordings_and_labels_that_miss_each_other(tmp_path):
    root = write_iemocap(tmp_path, RATINGS, missing=[FIRST])
    write_tree(root, {"Session3/sentences/wav/Ses03F_impro01/Ses03F_impro01_F900.wav": b""})
    corpus = load(root)
    assert corpus.clips[0] == Clip(
        f"Session1/sentences/wav/Ses01F_impro01/{FIRST}.wav", (6.0,), "Ses01F", "1", None, "neutral"
    )
    assert corpus.notes == [
        "1 recordings in Session*/sentences/wav have no label and are left out: Ses03F_impro01_F900.wav"
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {FIRST: "nue"},
            r"data.root: expected the emotion, one of ang \(angry\), .* got 'nue' in .*F_impro01.txt:3; did .* 'neu'",
        ),
        (
            {"Ses01F_impro01_X000": "neu"},
            r"expected an utterance such as Ses01F_impro01_F000, got 'Ses01F_impro01_X000' at",
        ),
        (
            {"Ses01F_impro01_F009\tmore": "neu"},
            r"expected '\[start - end\] utterance emotion .*', got '\[6.2901 - 8.2357\].*more.*' at .*impro01.txt:\d+",
        ),
    ],
)
def test_errors_name_the_place(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        load(write_iemocap(tmp_path, RATINGS | changed))


def test_utterances_twice_or_in_another_session(tmp_path):
    root = write_iemocap(tmp_path, RATINGS)
    table = root / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    text = table.read_text(encoding="latin-1")
    table.write_text(text + "[1.0 - 2.0]\tSes01F_impro01_F000\tneu\t[2, 2, 2]\n", encoding="latin-1")
    with pytest.raises(ValueError, match=rf"utterance '{FIRST}' is listed twice, at .*txt:3 and .*txt:\d\d"):
        load(root)
    table.write_text(text + "[1.0 - 2.0]\tSes02F_impro01_F000\tneu\t[2, 2, 2]\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"such as Ses01F_impro01_F000, got 'Ses02F_impro01_F000' at .*txt:\d\d"):
        load(root)


def test_what_is_missing(tmp_path):
    whole = {name: code for name, code in RATINGS.items() if not name.startswith("Ses03")}
    with pytest.raises(ValueError, match=r"expected the folder 'Session3' in .*found Session1, Session2, Session4"):
        load(write_iemocap(tmp_path / "session", whole))
    silent = {name: code for name, code in RATINGS.items() if not (name.startswith("Ses03") and "_M0" in name)}
    with pytest.raises(ValueError, match=r"10 speakers, Ses01F to Ses05M, got none of Ses03M in "):
        load(write_iemocap(tmp_path / "speaker", silent))
    with pytest.raises(ValueError, match=r"expected recordings <dialog>/<utterance>.wav in .*Session4/sentences/wav"):
        load(write_iemocap(tmp_path / "audio", RATINGS, [name for name in RATINGS if name.startswith("Ses04")]))
    with pytest.raises(ValueError, match=r"data.fold_column: expected nothing for data.corpus=iemocap"):
        load(tmp_path / "audio", fold_column="fold")
