from collections import Counter

import pytest

from tests.helpers.layout import CREMAD_NAMES, write_cremad
from tuning.datasets.corpus import Clip, load_classes
from tuning.datasets.settings import DataSettings, SplitSettings
from tuning.datasets.splits.split import split_clips

NAMES = ["angry", "disgust", "fearful", "happy", "neutral", "sad"]


def load(root, **settings):
    return load_classes(DataSettings(corpus="cremad", root=str(root), **settings), None, {}, False)


def test_emotion_and_actor_come_from_the_names(tmp_path):
    corpus = load(write_cremad(tmp_path, [*CREMAD_NAMES, "1040_ITH_SAD_X", "1091_IEO_HAP_MD"]))
    assert corpus.classes == NAMES
    assert [clip.label for clip in corpus.clips[:6]] == NAMES
    assert corpus.clips[0] == Clip("AudioWAV/1001_DFA_ANG_XX.wav", (0.0,), "1001", None, None, "angry")
    assert Counter(Counter(clip.group for clip in corpus.clips).values()) == {6: 89, 7: 2}
    split = split_clips(corpus.clips, SplitSettings(method="group_folds", test_fold="1"))
    assert {len({clip.group for clip in part}) for part in (split.val, split.test)} <= {18, 19}


def test_wav_is_read_where_the_archive_has_mp3_too(tmp_path):
    write_cremad(write_cremad(tmp_path), top="AudioMP3/", suffix="mp3")
    assert {clip.id.split("/")[0] for clip in load(tmp_path).clips} == {"AudioWAV"}
    for file in (tmp_path / "AudioWAV").iterdir():
        file.unlink()
    assert {clip.id.split("/")[0] for clip in load(tmp_path).clips} == {"AudioMP3"}


@pytest.mark.parametrize(
    ("added", "settings", "message"),
    [
        (
            "1001_DFA_HPA_XX",
            {},
            r"data.root: expected the emotion, one of ANG \(angry\), .* got 'HPA' in .*WAV/1001.*; did you mean 'HAP'",
        ),
        ("1092_DFA_HAP_XX", {}, r"expected the actor, 1001 to 1091, got '1092' in .*1092_DFA_HAP_XX.wav"),
        ("1001_DFE_HAP_XX", {}, r"expected the sentence, one of DFA, .* WSI, got 'DFE' in .*; did you mean 'DFA'"),
        ("1001_DFA_HAP_LOW", {}, r"expected the level, one of LO \(low\), .* got 'LOW' in .*; did you mean 'LO'"),
        ("1001_DFA_HAP", {}, r"expected a name such as 1001_DFA_ANG_XX.wav, got .*1001_DFA_HAP.wav"),
    ],
)
def test_errors_name_the_setting_and_the_path(tmp_path, added, settings, message):
    with pytest.raises(ValueError, match=message):
        load(write_cremad(tmp_path, [*CREMAD_NAMES, added]), **settings)


def test_a_missing_actor_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"91 speakers, 1001 to 1091, got none of 1033 in .*/AudioWAV"):
        load(write_cremad(tmp_path, [name for name in CREMAD_NAMES if not name.startswith("1033")]))
