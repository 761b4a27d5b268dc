from collections import Counter

import pytest

from tests.helpers.layout import EMODB_NAMES, write_emodb
from tuning.datasets.corpus import Clip, load_classes
from tuning.datasets.settings import DataSettings, SplitSettings
from tuning.datasets.splits.split import split_clips

NAMES = ["fearful", "disgust", "happy", "bored", "neutral", "sad", "angry"]  # A E F L N T W


def load(root, **settings):
    return load_classes(DataSettings(corpus="emodb", root=str(root), **settings), None, {}, False)


def test_emotion_and_speaker_come_from_the_names(tmp_path):
    corpus = load(write_emodb(tmp_path))
    assert corpus.classes == sorted(NAMES)
    assert [clip.label for clip in corpus.clips[:7]] == NAMES
    assert corpus.clips[0] == Clip("wav/03a01Aa.wav", (3.0,), "03", None, None, "fearful")
    assert len({clip.group for clip in corpus.clips}) == 10
    split = split_clips(corpus.clips, SplitSettings())
    assert split.method == "grouped"
    assert Counter(clip.label for clip in split.val) == dict.fromkeys(NAMES, len(split.val) // 7)


def test_the_name_counts_not_the_folder_and_a_recording_twice_is_an_error(tmp_path):
    corpus = load(write_emodb(tmp_path, top="", classes=True))
    first = corpus.clips[0]  # in the order of speakers, not of folders
    assert first == Clip("anxiety/03a01Aa.wav", (3.0,), "03", None, None, "fearful")
    (tmp_path / "anger" / "03a01Aa.wav").touch()
    with pytest.raises(
        ValueError, match=r"expected one recording of '03a01Aa' in .*, got anger/03a01Aa.wav and anxiety/03a01Aa.wav$"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("added", "settings", "message"),
    [
        ("03a01Xa", {}, r"data.root: expected the emotion, one of A \(fearful\), .* W \(angry\), got 'X' in .*03a01Xa"),
        ("04a01Fa", {}, r"expected the speaker, one of 03, 08, .* 16, got '04' in .*/wav/04a01Fa.wav"),
        ("03c01Fa", {}, r"expected the sentence, one of a01, .* b10, got 'c01' in .*; did you mean '.01'"),
        ("03a01F", {}, r"expected a name such as 03a01Fa.wav, got .*/wav/03a01F.wav"),
        ("03a01fa", {}, r"expected a name such as 03a01Fa.wav"),
        ("03a01Fb", {"split_column": "part"}, r"data.split_column: expected nothing"),
    ],
)
def test_errors_name_the_setting_and_the_path(tmp_path, added, settings, message):
    with pytest.raises(ValueError, match=message):
        load(write_emodb(tmp_path, [*EMODB_NAMES, added]), **settings)


def test_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"10 speakers, 03 to 16, got none of 11 in .*/wav"):
        load(write_emodb(tmp_path / "a", [name for name in EMODB_NAMES if not name.startswith("11")]))
    with pytest.raises(
        ValueError, match=r"expected recordings \(.*\.wav\) in 'wav' or without .*, found 03a01Fa.lablaut"
    ):
        load(tmp_path / "a" / "labsilb")
    (tmp_path / "a" / "wav" / "03a01Fa.ogg").touch()
    with pytest.raises(ValueError, match=r"expected one recording of '03a01Fa' in .*wav, got .*ogg and .*wav"):
        load(tmp_path / "a")
