"""EmoBox's folds of CREMA-D and EmoDB, read from lists of files: they share speakers, and say so."""

from collections import Counter
from pathlib import PurePosixPath

import pytest

from tests.helpers.layout import (
    CREMAD_NAMES,
    EMODB_NAMES,
    cremad_lists,
    emodb_lists,
    write_cremad,
    write_emobox,
    write_emodb,
)
from tuning.config.errors import UserError
from tuning.data.data_module import DataModule
from tuning.data.plan import make_plan, read_corpus
from tuning.datasets.corpus import load_classes
from tuning.datasets.settings import DataSettings
from tuning.datasets.splits.split import partition_of
from tuning.experiment.directory import setting_differences

WRITE = {"cremad": write_cremad, "emodb": write_emodb}
LISTS = {"cremad": cremad_lists(), "emodb": emodb_lists()}
HIGHER = "so that scores on them are higher than on new speakers; data.folds=speakers_5 keeps them apart"


def write(tmp_path, name, lists=None, **how):
    """A corpus and its lists below `tmp_path`; the settings that read both."""
    WRITE[name](tmp_path / "corpus")
    write_emobox(tmp_path / name, name, lists or LISTS[name], **how)
    return {"root": str(tmp_path / "corpus"), "folds": "emobox", "fold_lists": str(tmp_path / name)}


def load(name, **settings):
    return load_classes(DataSettings(corpus=name, **settings), None, {}, False)


def planned(name, settings, *words):
    given = [f"data.{setting}={value}" for setting, value in settings.items()]
    return make_plan([f"data.corpus={name}", "task.name=classification", *given, *words])


def names(clips):
    return sorted(PurePosixPath(clip.id).stem for clip in clips)


def test_the_folds_of_emodb_are_its_test_lists(tmp_path):
    settings = write(tmp_path, "emodb")
    for fold, other in (("1", "2"), ("5", "1")):
        corpus, split = read_corpus(planned("emodb", settings, f"split.test_fold={fold}").config)
        assert split.method == "folds" and corpus.notes == []
        assert names(split.test) == sorted(LISTS["emodb"][fold]["test"])
        assert names(split.val) == sorted(LISTS["emodb"][other]["test"])
        assert sorted(names(split.train) + names(split.val) + names(split.test)) == sorted(EMODB_NAMES)
        assert split.cautions() == [
            "the folds 'emobox' of emodb share speakers: 10 of the 10 in validation are in training, too, and 10 of "
            f"the 10 in the test are in training or validation, too, {HIGHER}"
        ]
        cells = partition_of(corpus.clips, split)
        assert {cells[clip.id] for clip in split.test} == {f"fold-{fold}"}


def test_the_fold_of_cremad_has_its_test_list_and_every_fifth_speaker_validates(tmp_path):
    corpus, split = read_corpus(planned("cremad", write(tmp_path, "cremad")).config)
    assert split.method == "column"
    assert names(split.test) == sorted(LISTS["cremad"]["1"]["test"]) and len(split.test) == 91
    actors = [{clip.group for clip in part} for part in (split.train, split.val)]
    assert actors[1] == {str(actor) for actor in range(1005, 1092, 5)} and len(actors[0]) == 91 - 18
    assert not actors[0] & actors[1]
    assert names(split.train + split.val) == sorted(LISTS["cremad"]["1"]["train"])
    assert corpus.notes == [
        "18 of the 91 speakers of EmoBox's training list validate, every fifth in the order of their names, since it "
        "names none"
    ]
    assert split.cautions() == [
        "the folds 'emobox' of cremad share speakers: 91 of the 91 in the test are in training or validation, too, "
        f"{HIGHER}"
    ]
    cells = partition_of(corpus.clips, split)
    assert Counter(cells.values()) == {name: len(part) for name, part in split.parts().items()}


@pytest.mark.parametrize("name", WRITE)
def test_lists_are_read_in_any_place_and_form(tmp_path, name):
    settings = write(tmp_path, name)
    first = load(name, **settings).clips
    assert load(name, **settings | {"fold_lists": f"file://{tmp_path}/{name}"}).clips == first
    assert load(name, **settings | {"fold_lists": str(tmp_path)}).clips == first
    write_emobox(tmp_path / "EmoBox" / "data" / name, name, LISTS[name], column="audio")
    assert load(name, **settings | {"fold_lists": f"{tmp_path}/EmoBox"}).clips == first
    write_emobox(tmp_path / "as_json", name, LISTS[name], suffix="json")
    assert load(name, **settings | {"fold_lists": f"{tmp_path}/as_json"}).clips == first
    (tmp_path / "deep").mkdir()
    (tmp_path / "EmoBox").rename(tmp_path / "deep" / "EmoBox")
    with pytest.raises(ValueError, match=rf"; did you mean data.fold_lists='{tmp_path}/deep/EmoBox'\?$"):
        load(name, **settings | {"fold_lists": f"{tmp_path}/deep"})


FIRST, SECOND = LISTS["emodb"]["1"]["test"][:2]
FILE = "emodb/fold_1/emodb_test_fold_1.jsonl"


def changed(tmp_path, line, number=1):
    file = tmp_path / FILE
    lines = file.read_text().splitlines()
    lines[number - 1] = line
    file.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"wav": "a/03a01F', rf"JSON, got '{{\"wav\": \"a/03a01F' \(.*\) at .*/{FILE}:2$"),
        ('["a/03a01Fa.wav"]', rf"an object with a path in 'wav' or 'audio', got '\[.*\]' at .*/{FILE}:2$"),
        ('{"file": "a/03a01Fa.wav"}', rf"an object with a path in 'wav' or 'audio', got '.*' at .*/{FILE}:2$"),
        ('{"wav": 3}', rf"an object with a path in 'wav' or 'audio', got '.*' at .*/{FILE}:2$"),
        ("[" * 100_000, rf"JSON, got '\[+' \(.*\) at .*/{FILE}:2$"),
        (f'{{"wav": "a/{FIRST}.wav"}}', rf"each file once in all lists, got '{FIRST}' at .*/{FILE}:1 and .*/{FILE}:2$"),
        (
            f'{{"wav": "a/{LISTS["emodb"]["2"]["test"][0]}.wav"}}',
            rf"each file once in all lists, got '.*' at .*/{FILE}:2 and .*fold_2/emodb_test_fold_2.jsonl:1$",
        ),
        ('{"wav": "a\\\\03b09Nx.wav"}', rf"files that are in .*/corpus, got '03b09Nx' at .*/{FILE}:2"),
        (
            f'{{"wav": "a/{SECOND[:-1]}x.wav"}}',
            rf"files that are in .*/corpus, got '{SECOND[:-1]}x' at .*/{FILE}:2; did you mean '{SECOND}'\?$",
        ),
        ("", r"every recording in a list below .*/emodb, got none with wav/\w+.wav$"),
    ],
)
def test_a_list_that_is_wrong_is_named_with_the_line(tmp_path, line, message):
    settings = write(tmp_path, "emodb")
    changed(tmp_path, line, number=2)
    with pytest.raises(ValueError, match=rf"(?s)^data.fold_lists: expected {message}"):
        load("emodb", **settings)


def test_a_damaged_json_list_is_named_with_the_line_or_the_key(tmp_path):
    settings = write(tmp_path, "cremad", suffix="json")
    file = tmp_path / "cremad/fold_1/cremad_test_fold_1.json"
    text = file.read_text()
    file.write_text(text.replace('"emo": "?"', '"emo": ?', 1))
    with pytest.raises(ValueError, match=rf"data.fold_lists: expected JSON, got '\"emo\": \?' \(.*\) at {file}:4$"):
        load("cremad", **settings)
    file.write_text(text.replace('"wav"', '"file"', 1))
    with pytest.raises(ValueError, match=rf"path in 'wav' or 'audio', got '.*' at {file}, 'cremad-1001_DFA_\w+_XX'$"):
        load("cremad", **settings)
    file.write_text("[]")
    with pytest.raises(ValueError, match=rf"expected a JSON object of the files in {file}, got list$"):
        load("cremad", **settings)


def test_what_is_missing_of_the_lists_is_named_with_what_is_there(tmp_path):
    settings = write(tmp_path, "emodb")
    wanted = r"^data.fold_lists: expected"
    with pytest.raises(ValueError, match=rf"{wanted} the folder or URI of EmoBox's lists, .*/data/emodb, .* nothing"):
        load("emodb", **settings | {"fold_lists": None})
    with pytest.raises(ValueError, match=rf"{wanted} a folder, .*\(no such folder\); did you mean 'emodb'\?$"):
        load("emodb", **settings | {"fold_lists": str(tmp_path / "emodbb")})
    with pytest.raises(ValueError, match=rf"{wanted} one of the folders 'fold_1', 'emodb/fold_1', .*, found .*wav"):
        load("emodb", **settings | {"fold_lists": settings["root"]})
    write_emobox(tmp_path / "cremad", "cremad", LISTS["cremad"])
    with pytest.raises(
        ValueError,
        match=rf"{wanted} the file 'emodb_test_fold_1.jsonl' in .*/cremad/fold_1, found cremad_test_.*; did you mean ",
    ):
        load("emodb", **settings | {"fold_lists": str(tmp_path / "cremad")})
    (tmp_path / "emodb/fold_3").rename(tmp_path / "emodb/fold_6")
    with pytest.raises(ValueError, match=rf"{wanted} the folder 'fold_3' in {tmp_path}/emodb, found fold_1, fold_2, "):
        load("emodb", **settings)


def test_a_place_that_was_meant_as_a_uri_is_told():
    with pytest.raises(UserError, match=r"data.fold_lists: .*; did you mean 's3://bucket/EmoBox'\?"):
        planned("cremad", {"fold_lists": "s3:/bucket/EmoBox"})


def test_lists_of_another_edition_of_the_corpus_are_refused(tmp_path):
    settings = write(tmp_path, "cremad")
    for name in CREMAD_NAMES[6:9]:
        (tmp_path / "corpus/AudioWAV" / f"{name}.wav").unlink()
    with pytest.raises(ValueError, match=r"expected files that are in .*/corpus, got '1002_\w+' at .* and 2 more"):
        load("cremad", **settings)


@pytest.mark.parametrize("name", WRITE)
def test_only_these_folds_may_share_speakers(tmp_path, name):
    settings = write(tmp_path, name)
    with pytest.raises(UserError, match=r"^split.method: 'random' puts \d+ groups into more than one part"):
        read_corpus(planned(name, settings, "split.method=random").config)
    apart = settings | {"folds": "speakers_5", "fold_lists": "null"}
    none = {"root": settings["root"]}
    for given, words in [(apart, []), (none, []), (settings, ["split.method=group_folds", "split.test_fold=1"])]:
        _, split = read_corpus(planned(name, given, *words).config)
        groups = [{clip.group for clip in part} for part in split.parts().values()]
        assert sum(map(len, groups)) == len(set().union(*groups))
        assert not any("share" in caution for caution in split.cautions())


@pytest.mark.parametrize("name", WRITE)
def test_lists_without_their_folds_are_refused(tmp_path, name):
    settings = write(tmp_path, name)
    for folds in (None, "speakers", "speakers_5"):
        with pytest.raises(ValueError, match=r"^data.fold_lists: expected nothing without data.folds=emobox, got '"):
            load(name, **settings | {"folds": folds})
    with pytest.raises(
        ValueError, match=r"^data.folds: expected one of emobox, speakers, .* 'emobx'; did you mean 'emobox'\?"
    ):
        load(name, **settings | {"folds": "emobx"})


@pytest.mark.parametrize("name", WRITE)
def test_inner_folds_keep_speakers_apart_and_the_test_is_still_told(tmp_path, name):
    _, split = read_corpus(planned(name, write(tmp_path, name), "split.inner_folds=3").config)
    (caution,) = split.cautions()
    assert "in validation" not in caution and "in the test are in training or validation, too" in caution


def test_a_search_keeps_to_its_folds_and_not_to_their_place(tmp_path):
    settings = write(tmp_path, "emodb")

    def begun(**changed):
        prepared = f"data.prepared={tmp_path}/prepared"
        plan = planned("emodb", settings | changed, prepared)
        return plan.space, DataModule.read(plan.space).identity()

    space, identity = begun()
    (tmp_path / "emodb").rename(tmp_path / "elsewhere")
    other_space, other_identity = begun(fold_lists=str(tmp_path / "elsewhere"))
    assert setting_differences(space, other_space) == [] and other_identity == identity
    one, other = (tmp_path / f"elsewhere/fold_{fold}/emodb_test_fold_{fold}.jsonl" for fold in "12")
    (first, *ones), (second, *others) = one.read_text().splitlines(), other.read_text().splitlines()
    one.write_text("\n".join([second, *ones]))
    other.write_text("\n".join([first, *others]))
    _, swapped = begun(fold_lists=str(tmp_path / "elsewhere"))
    assert swapped["corpus"] != identity["corpus"]
    assert sum(swapped["clips"][clip] != identity["clips"][clip] for clip in identity["clips"]) == 2


def test_settings_of_the_split_count_as_with_any_folds(tmp_path):
    settings = write(tmp_path, "emodb")
    corpus, split = read_corpus(planned("emodb", settings, "split.test_fold=2", "split.val_fold=5").config)
    assert {clip.fold for clip in split.val} == {"5"} and len(corpus.clips) == len(EMODB_NAMES)
    with pytest.raises(UserError, match=r"split.dev_groups: '03' is in the test fold '1'"):
        read_corpus(planned("emodb", settings, "split.test_fold=1", "split.dev_groups=[03]").config)
