import sys
from collections import Counter

import pytest

from tests.helpers.layout import write_deam
from tuning.datasets.corpus import Clip, load_classes, load_corpus
from tuning.datasets.settings import DataSettings
from tuning.datasets.splits.class_balance import ClassCount, class_balance

ROWS = "file,emotion,speaker,valence\n" + "".join(
    f"{name}{take}.wav, {emotion} ,{take},loud\n"
    for name, emotion in (("a", "angry"), ("e", "excited"), ("h", "happy"), ("s", "sad"))
    for take in range(3)
)


def load(root, text=ROWS, classes=None, merge=None, drop_others=False, **settings):
    (root / "manifest.csv").write_text(text, encoding="utf-8")
    data = DataSettings(corpus="manifest", root=str(root), **({"label_column": "emotion"} | settings))
    return load_classes(data, classes, merge or {}, drop_others)


def counts(corpus):
    return Counter((clip.label, clip.targets) for clip in corpus.clips)


def test_classes_in_the_named_column_sorted_unless_listed(tmp_path):
    corpus = load(tmp_path, group_column="speaker")
    assert corpus.classes == ["angry", "excited", "happy", "sad"]
    assert corpus.clips[3] == Clip("e0.wav", (1.0,), "0", None, None, "excited")
    assert counts(corpus) == {(name, (float(i),)): 3 for i, name in enumerate(corpus.classes)}
    listed = ["sad", "excited", "angry", "happy"]
    corpus = load(tmp_path, classes=listed)
    assert corpus.classes == listed
    assert counts(corpus) == {(name, (float(i),)): 3 for i, name in enumerate(listed)}
    assert corpus.notes == []


def test_classes_are_merged_and_others_left_out_with_a_note(tmp_path):
    corpus = load(tmp_path, merge={"excited": "happy", "sad": "low"})
    assert corpus.classes == ["angry", "happy", "low"]
    assert counts(corpus) == {("angry", (0.0,)): 3, ("happy", (1.0,)): 6, ("low", (2.0,)): 3}
    corpus = load(tmp_path, classes=["happy", "angry"], merge={"excited": "happy"}, drop_others=True)
    assert counts(corpus) == {("happy", (0.0,)): 6, ("angry", (1.0,)): 3}
    assert corpus.notes == ["3 clips of other classes are left out (task.drop_other_classes): 3 sad"]
    assert load(tmp_path, drop_others=True).notes == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"classes": ["angry", "happy", "saad"]},
            r"task.classes: no clip has class 'saad'; did you mean 'sad'\?",
        ),
        (
            {"classes": ["angry", "xyz"], "drop_others": True},
            r"task.classes: no clip has class 'xyz'; the classes are angry, excited, happy, sad",
        ),
        (
            {"classes": ["angry", "excited", "happy"], "merge": {"excited": "happy"}},
            r"task.classes: no clip has class 'excited' \(task.merge_classes makes it 'happy'\)",
        ),
        (
            {"classes": ["angry", "happy"], "merge": {"sad": "hapy"}},
            r"task.classes: expected one of angry, happy, got 'excited' of 'e0.wav'; to leave .*classes=true",
        ),
        (
            {"classes": ["angry", "happy"], "merge": {"excited": "hapy"}},
            r"got 'hapy' of 'e0.wav'; did you mean 'happy'\?; to leave such clips out: task.drop_other_classes=true",
        ),
        ({"classes": ["angry", "angry"]}, r"task.classes: 'angry' is listed twice"),
        ({"merge": {"excitd": "happy"}}, r"task.merge_classes: no clip has class 'excitd'; did you mean 'excited'\?"),
        ({"merge": {"x": "happy"}}, r"task.merge_classes: no clip has class 'x'; the classes are angry, .*, sad"),
        (
            {"merge": {"excited": "happy", "happy": "high"}},
            r"task.merge_classes: 'excited' becomes 'happy', which itself becomes 'high'; expected 'excited: high'",
        ),
        ({"classes": ["angry"], "drop_others": True}, r"task.classes: expected at least 2 classes, got 1: angry"),
        (
            {"merge": {"excited": "a", "happy": "a", "sad": "a", "angry": "a"}},
            r"task.classes: expected at least 2 classes, got 1: a",
        ),
        ({"text": ROWS + "z.wav,odd,1,x\n"}, r"task.classes: expected at least 2 clips of 'odd', .* got z.wav"),
        ({"text": ROWS + "z.wav, ,1,x\n"}, r"data.label_column: expected text in column 'emotion', .*csv:14"),
        ({"label_column": "emotoin"}, r"data.label_column: no column 'emotoin' in .*; did you mean 'emotion'"),
        ({"label_column": None}, r"data.label_column: expected the column with each recording's class, got nothing"),
        ({"folds": "x", "fold_column": "speaker"}, r"data.folds: expected nothing for data.corpus=manifest, got 'x'"),
    ],
)
def test_errors_name_the_setting_at_fault(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, **settings)


def test_the_kind_of_prediction_must_be_that_of_the_corpus(tmp_path):
    (tmp_path / "manifest.csv").write_text(ROWS, encoding="utf-8")
    classes = DataSettings(corpus="manifest", root=str(tmp_path), label_column="emotion")
    with pytest.raises(
        ValueError,
        match=r"task.name: expected classification for data.corpus=manifest, whose clips have classes, got regression",
    ):
        load_corpus(classes, ["valence"])
    songs = {1: (3, 3), 2: (4, 4)}
    numbers = DataSettings(corpus="deam", root=str(write_deam(tmp_path, songs, {2001: (5, 5)}, ["1.mp3"])))
    with pytest.raises(
        ValueError, match=r"task.name: expected regression for data.corpus=deam, whose clips have numbers, got classif"
    ):
        load_classes(numbers, None, {}, False)
    with pytest.raises(ValueError, match=r"data.folds: expected nothing for data.corpus=deam, got 'reslstm'"):
        load_corpus(numbers.model_copy(update={"folds": "reslstm"}), ["valence"])


def test_own_corpus_with_classes_by_dotted_path(tmp_path, monkeypatch, named_code):
    (tmp_path / "own_speech.py").write_text(
        "from tuning.datasets.corpus import Clip, Corpus\n"
        "def load(data, targets):\n"
        "    assert targets == []\n"
        "    return Corpus('own', '/sounds', [Clip(f'{i}.wav', label='xy'[i % 2]) for i in range(4)])\n"
        "def some(data, targets):\n"
        "    return Corpus('own', '/sounds', [Clip(f'{i}.wav', label='x' * (i < 3)) for i in range(4)])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    corpus = load_classes(DataSettings(corpus="own_speech:load"), None, {}, False)
    assert [clip.targets for clip in corpus.clips] == [(0.0,), (1.0,), (0.0,), (1.0,)]
    with pytest.raises(ValueError, match=r"data.corpus: expected a class for every clip, got none for '3.wav'"):
        load_classes(DataSettings(corpus="own_speech:some"), None, {}, False)
    del sys.modules["own_speech"]


def test_clips_may_have_classes_and_numbers(tmp_path, monkeypatch, named_code):
    (tmp_path / "own_both.py").write_text(
        "from tuning.datasets.corpus import Clip, Corpus\n"
        "def load(data, targets):\n"
        "    return Corpus('own', '/sounds', [Clip(f'{i}.wav', (i / 4,), label='xy'[i % 2]) for i in range(4)])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    data = DataSettings(corpus="own_both:load")
    corpus = load_corpus(data, ["valence"])
    assert [(clip.targets, clip.label) for clip in corpus.clips] == [((i / 4,), None) for i in range(4)]
    corpus = load_classes(data, None, {}, False)
    assert [(clip.targets, clip.label) for clip in corpus.clips] == [((float(i % 2),), "xy"[i % 2]) for i in range(4)]
    del sys.modules["own_both"]


def test_balance_counts_clips_and_groups_of_each_class_in_each_part():
    def clips(part, **numbers):
        return [
            Clip(f"{part}/{name}{i}.wav", group=f"{part}{i % 2}", label=name)
            for name, number in numbers.items()
            for i in range(number)
        ]

    parts = {"train": clips("train", sad=6, angry=2), "val": clips("val", angry=1), "test": []}
    assert class_balance(parts) == [
        ClassCount("train", "angry", 2, 0.25, 2),
        ClassCount("train", "sad", 6, 0.75, 2),
        ClassCount("val", "angry", 1, 1.0, 1),
        ClassCount("val", "sad", 0, 0.0, 0),
    ]
    alone = class_balance({"all": [Clip("a.wav", label="x"), Clip("b.wav", label="y")]})
    assert alone == [ClassCount("all", "x", 1, 0.5, None), ClassCount("all", "y", 1, 0.5, None)]
    with pytest.raises(ValueError, match=r"task.name: expected classification, as the clips have no classes"):
        class_balance({"train": [Clip("a.wav", (0.0,))]})
