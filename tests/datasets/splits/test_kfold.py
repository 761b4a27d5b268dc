import json
import random
import warnings
from collections import Counter

import numpy as np
import pytest

from tuning.datasets.corpus import Clip
from tuning.datasets.settings import SplitSettings
from tuning.datasets.splits.kfold import deal
from tuning.datasets.splits.split import Split, choose_method, inner_folds, partition_of, split_clips, without
from tuning.datasets.splits.stratification import quadrants, strata

NAMES = ["angry", "happy", "neutral", "sad"]


def speakers(num=12, takes=3, names=NAMES, labelled=True):
    """Each speaker says everything `takes` times; or numbers in place of classes."""
    rng = np.random.default_rng(0)
    return [
        Clip(
            f"s{speaker:02d}/{name}{take}.wav",
            (float(names.index(name)),) if labelled else tuple(rng.normal(size=2)),
            group=f"s{speaker:02d}",
            label=name if labelled else None,
        )
        for speaker in range(num)
        for name in names
        for take in range(takes)
    ]


def groups_of(*parts):
    return [{clip.group for clip in part} for part in parts]


def inner(split, num_folds, seed=0, quadrants="median"):
    """(training, validation) of each inner fold."""
    settings = SplitSettings(inner_folds=num_folds, seed=seed, quadrants=quadrants)
    return inner_folds(split, settings).inner_parts()


def ids(split):
    return {name: {clip.id for clip in part} for name, part in split.parts().items()}


@pytest.mark.parametrize("labelled", [True, False])
def test_whole_groups_are_dealt_into_folds_alike(labelled):
    clips = speakers(labelled=labelled)
    tested = []
    for fold in "12345":
        split = split_clips(clips, SplitSettings(method="group_folds", test_fold=fold))
        train, val, test = groups_of(split.train, split.val, split.test)
        assert not train & val | train & test | val & test
        assert len(test) in (2, 3)
        assert {split.folds[clip.id] for clip in split.val} == {str(int(fold) % 5 + 1)}
        tested += sorted(test)
        if labelled:
            shares = Counter(clip.label for clip in split.test)
            assert shares == dict.fromkeys(NAMES, 3 * len(test))
    assert sorted(tested) == sorted({clip.group for clip in clips})


def test_folds_of_unlike_groups_are_alike_in_classes():
    """Half of the speakers only shout: each fold gets some of them."""
    clips = speakers(10, names=["neutral", "sad"]) + [
        Clip(f"t{speaker}/{take}.wav", (2.0,), f"t{speaker}", label="angry")
        for speaker in range(10)
        for take in range(6)
    ]
    split = split_clips(clips, SplitSettings(method="group_folds", test_fold="1"))
    assert Counter((split.folds[clip.id], clip.label == "angry") for clip in clips) == {
        (fold, angry): 12 for fold in "12345" for angry in (True, False)
    }
    assert split.notes == []


@pytest.mark.parametrize("method", ["group_folds", "leave_one_group_out", "grouped", "random"])
def test_same_seed_same_split_whatever_the_order_of_the_clips(method):
    clips = [clip if method != "random" else Clip(clip.id, clip.targets, label=clip.label) for clip in speakers()]
    test_fold = {"group_folds": "2", "leave_one_group_out": "s03"}.get(method)
    settings = SplitSettings(method=method, test_fold=test_fold)
    split = split_clips(clips, settings)
    assert split == split_clips(clips, settings)
    shuffled = random.Random(1).sample(clips, len(clips))
    assert ids(split_clips(shuffled, settings)) == ids(split)
    if method != "leave_one_group_out":
        assert ids(split_clips(clips, settings.model_copy(update={"seed": 7}))) != ids(split)


def test_each_group_is_a_fold_of_its_own():
    clips = speakers(11)
    split = split_clips(clips, SplitSettings(method="leave_one_group_out", test_fold="s09"))
    assert groups_of(split.test, split.val) == [{"s09"}, {"s10"}]
    assert len(groups_of(split.train)[0]) == 9
    last = split_clips(clips, SplitSettings(method="leave_one_group_out", test_fold="s10"))
    assert groups_of(last.val) == [{"s00"}]
    named = split_clips(clips, SplitSettings(method="leave_one_group_out", test_fold="s09", val_fold="s04"))
    assert groups_of(named.val) == [{"s04"}]
    dev = split_clips(clips, SplitSettings(method="leave_one_group_out", test_fold="s09", dev_groups=["s01", "s02"]))
    assert groups_of(dev.val) == [{"s01", "s02"}]


@pytest.mark.parametrize("method", ["group_folds", "leave_one_group_out"])
def test_searches_that_seal_one_fold_after_the_other_share_their_cells(method):
    clips = speakers()
    folds = "12345" if method == "group_folds" else sorted({str(clip.group) for clip in clips})
    splits = [split_clips(clips, SplitSettings(method=method, test_fold=fold)) for fold in folds]
    found = [partition_of(clips, split) for split in splits]
    assert all(cell_of == found[0] for cell_of in found)
    assert set(found[0].values()) == {f"fold-{fold}" for fold in folds}
    for split in splits:
        sealed = {found[0][clip.id] for clip in split.test}
        assert not sealed & {found[0][clip.id] for clip in [*split.train, *split.val]}
        assert without(split, [split.train[0].id]).folds == split.folds


@pytest.mark.parametrize(
    ("clips", "settings", "message"),
    [
        (
            speakers(),
            {"method": "group_folds"},
            r"split.test_fold: expected the fold to seal for the test, got nothing; the folds are 1, 2, 3, 4, 5",
        ),
        (
            speakers(3),
            {"method": "leave_one_group_out"},
            r"split.test_fold: .* got nothing; the folds are s00, s01, s02",
        ),
        (
            speakers(4),
            {"method": "group_folds", "test_fold": "1"},
            r"split.num_folds: expected from 2 folds to 4, as there are groups, got 5",
        ),
        (
            [Clip(clip.id, clip.targets, label=clip.label) for clip in speakers()],
            {"method": "group_folds", "test_fold": "1"},
            r"split.method: 'group_folds' needs data.group_column, which names no column",
        ),
        (
            [Clip(clip.id, clip.targets, label=clip.label) for clip in speakers()],
            {"method": "leave_one_group_out", "test_fold": "s00"},
            r"split.method: 'leave_one_group_out' needs data.group_column",
        ),
        (speakers(), {"test_fold": "1"}, r"split.method: 'folds' needs .* split.method=group_folds makes folds"),
        (
            speakers(),
            {"method": "group_folds", "test_fold": "1", "num_folds": 2},
            r"split.method: 'group_folds' leaves no clips in train",
        ),
        (
            speakers(2),
            {"method": "leave_one_group_out", "test_fold": "s00"},
            r"split.method: 'leave_one_group_out' leaves no clips in train",
        ),
        (
            speakers(),
            {"method": "leave_one_group_out", "test_fold": "s00", "dev_groups": ["s00"]},
            r"split.dev_groups: 's00' is in the test fold 's00'",
        ),
    ],
)
def test_errors(clips, settings, message):
    with pytest.raises(ValueError, match=message):
        split_clips(clips, SplitSettings(**settings))


def published(fold_of):
    return [Clip(c.id, c.targets, c.group, fold_of(index, c), label=c.label) for index, c in enumerate(speakers())]


def by_speaker(index, clip):
    return str(int(clip.group[1:]) % 4 + 1)


def test_groups_that_validate_as_published():
    clips = published(by_speaker)
    split = split_clips(clips, SplitSettings(test_fold="1"), {"1": ["s01", "s06"], "2": ["s00"]})
    assert groups_of(split.val) == [{"s01", "s06"}]
    assert "s01, s06 validate, as published for test fold 1" in split.notes
    assert groups_of(split_clips(clips, SplitSettings(test_fold="3"), {"1": ["s01"]}).val) == [{"s03", "s07", "s11"}]
    for wrong, message in (("s99", "no group 's99'; did you mean"), ("s04", "'s04' is in the test fold '1'")):
        with pytest.raises(ValueError, match=rf"split.dev_groups: {message}"):
            split_clips(clips, SplitSettings(test_fold="1"), {"1": ["s01", wrong]})


def methods():
    """Every method with settings that put the speakers of `speakers()` into all three parts."""
    return {
        "column": ({}, None),
        "folds": ({"test_fold": "1"}, None),
        "folds, val_fold": ({"test_fold": "1", "val_fold": "3"}, None),
        "folds, dev_groups": ({"test_fold": "1", "dev_groups": ["s01", "s02"]}, None),
        "folds, published": ({"test_fold": "1"}, {"1": ["s01", "s02"]}),
        "group_folds": ({"test_fold": "1"}, None),
        "group_folds, dev_groups": ({"test_fold": "1", "dev_groups": ["s01"]}, None),
        "leave_one_group_out": ({"test_fold": "s03"}, None),
        "leave_one_group_out, dev_groups": ({"test_fold": "s03", "dev_groups": ["s01"]}, None),
        "grouped": ({}, None),
        "random": ({}, None),
    }


@pytest.mark.parametrize("case", methods())
@pytest.mark.parametrize("made", ["by speaker", "by clip", "one clip astray"])
def test_a_speaker_is_never_on_two_sides_whichever_the_method(case, made):
    """Columns made by hand may share speakers between parts: then it is an error; nothing else can."""

    def number(index, clip):
        by_hand = by_speaker(index, clip)
        if made == "by clip":
            return str(index % 4 + 1)
        return "3" if made == "one clip astray" and clip.id == "s04/sad2.wav" else by_hand  # s04 is else in fold 1

    sides = {"1": "test", "2": "val", "3": "train", "4": "train"}
    clips = [
        Clip(c.id, c.targets, c.group, fold := number(index, c), sides[fold], c.label)
        for index, c in enumerate(speakers())
    ]
    settings, dev_groups = methods()[case]
    method = case.partition(",")[0]
    by_hand = method in ("column", "folds") and made != "by speaker"
    if by_hand or method == "random":
        with pytest.raises(
            ValueError, match=r"into more than one part: 's\d\d|split.dev_groups: 's\d\d' is in the test"
        ):
            split_clips(clips, SplitSettings(method=method, **settings), dev_groups)
        return
    split = split_clips(clips, SplitSettings(method=method, **settings), dev_groups)
    train, val, test = groups_of(split.train, split.val, split.test)
    assert train and val and test
    assert not train & val | train & test | val & test


def test_classes_take_the_place_of_quadrants():
    clips = speakers(30, 1)
    assert strata(clips) == [NAMES.index(str(clip.label)) for clip in clips]
    numbers = [Clip(clip.id, (clip.targets[0], 1.0), clip.group) for clip in clips]
    assert strata(numbers) == quadrants(numbers)
    alone = [Clip(f"{i}.wav", (0.0,), label=NAMES[i % 4] if i % 10 else "rare") for i in range(100)]
    split = split_clips(alone, SplitSettings())
    assert split.method == "random"
    overall = Counter(clip.label for clip in alone)
    for part in (split.val, split.test):
        counts = Counter(clip.label for clip in part)
        assert all(abs(counts[name] - 0.15 * overall[name]) <= 1 for name in overall)
    assert not any("quadrant" in note for note in split.notes)
    few = split_clips([Clip(f"{i}.wav", (0.0,), label="ab"[i % 2]) for i in range(8)], SplitSettings())
    assert any("too few clips to part each class alike" in note for note in few.notes)


def test_a_grouped_split_keeps_rare_classes_in_training_and_validation():
    """Two of twenty speakers are afraid: one trains, one validates, whatever the seed."""
    clips = speakers(20)
    clips += [
        Clip(f"s{i:02d}/fear{take}.wav", (4.0,), f"s{i:02d}", label="fearful") for i in (3, 11) for take in range(2)
    ]
    for seed in range(10):
        split = split_clips(clips, SplitSettings(method="grouped", seed=seed))
        assert "fearful" in {clip.label for clip in split.train}
        assert "fearful" in {clip.label for clip in split.val}
        assert "test has no clips of class fearful" in split.notes


def test_a_single_clip_of_a_class_trains():
    clips = [Clip(f"{i:02d}.wav", (0.0,), label="rare" if i == 7 else "ab"[i % 2]) for i in range(40)]
    for seed in range(5):
        split = split_clips(clips, SplitSettings(seed=seed))
        assert "rare" in {clip.label for clip in split.train}
        assert {"val has no clips of class rare", "test has no clips of class rare"} <= set(split.notes)


def test_a_class_that_training_lacks_is_an_error():
    clips = published(by_speaker)
    only = [clip for clip in clips if clip.label != "sad" or clip.fold == "1"]
    with pytest.raises(ValueError, match=r"split.method: 'folds' leaves no clips of class sad in train"):
        split_clips(only, SplitSettings(test_fold="1"))
    split = split_clips([c for c in clips if c.label != "sad" or c.fold in "34"], SplitSettings(test_fold="1"))
    assert {"val has no clips of class sad", "test has no clips of class sad"} <= set(split.notes)
    with pytest.raises(ValueError, match=r"leaves no clips of class happy in train"):
        without(split, [clip.id for clip in split.train if clip.label == "happy"])
    smaller = without(split, [clip.id for clip in split.val if clip.label == "happy"])
    assert smaller.notes == [*split.notes, "val has no clips of class happy, sad"]


def test_auto_knows_the_groups_but_makes_no_folds():
    assert choose_method(speakers(), SplitSettings()) == "grouped"
    assert choose_method(published(by_speaker), SplitSettings()) == "folds"


@pytest.mark.parametrize("labelled", [True, False])
def test_inner_folds_validate_every_clip_once_and_leave_the_test_alone(labelled):
    split = split_clips(speakers(labelled=labelled), SplitSettings(method="group_folds", test_fold="1"))
    folds = inner(split, 4, seed=3)
    left = {clip.id for clip in [*split.train, *split.val]}
    assert Counter(clip.id for _, val in folds for clip in val) == dict.fromkeys(left, 1)
    for train, val in folds:
        assert {clip.id for clip in train} | {clip.id for clip in val} == left
        inner_train, inner_val, test = groups_of(train, val, split.test)
        assert inner_train and inner_val and not inner_train & inner_val | inner_train & test | inner_val & test
        if labelled:
            assert len(set(Counter(clip.label for clip in val).values())) == 1


def test_inner_folds_do_not_depend_on_the_order_of_the_clips():
    split = split_clips(speakers(), SplitSettings(method="grouped"))
    shuffle = random.Random(0)
    other = Split(*(shuffle.sample(part, len(part)) for part in split.parts().values()), method="grouped")
    assert inner(other, 5, seed=1) == inner(split, 5, seed=1)
    assert inner(split, 5, seed=2) != inner(split, 5, seed=1)


def test_inner_folds_without_groups_are_stratified():
    clips = [Clip(f"{i:03d}.wav", (0.0,), label="common" if i % 5 else "rare") for i in range(100)]
    split = split_clips(clips, SplitSettings())
    for train, val in inner(split, 5):
        counts = Counter(clip.label for clip in val)
        assert len(train) + len(val) == 85
        assert 3 <= counts["rare"] <= 4 and 13 <= counts["common"] <= 14
    known = [Clip(c.id, c.targets, "both" if i < 50 else None, label=c.label) for i, c in enumerate(clips)]
    for train, val in inner(Split(known[:60], known[60:], [], "column"), 3):
        assert len({"both"} & groups_of(train)[0]) + len({"both"} & groups_of(val)[0]) == 1


def test_inner_folds_of_few_or_unlike_groups():
    split = Split(speakers(3), [], [], "column")
    with pytest.raises(ValueError, match=r"split.inner_folds: expected from 2 folds to 3, as there are groups, got 4"):
        inner(split, 4)
    with pytest.raises(ValueError, match=r"split.inner_folds: .* to 2, as there are clips, got 3"):
        inner(Split([Clip("a.wav", (0.0,)), Clip("b.wav", (1.0,))], [], [], "column"), 3)
    assert [groups_of(val) for _, val in inner(split, 3)]
    one = [clip for clip in speakers(4) if clip.label != "sad" or clip.group == "s02"]
    with pytest.raises(ValueError, match=r"split.inner_folds: inner fold \d leaves no clips of class sad in train"):
        inner(Split(one, [], [], "column"), 4)


def test_an_inner_fold_that_shares_a_speaker_with_the_test_is_refused():
    clips = speakers(5)
    with pytest.raises(ValueError, match=r"split.inner_folds: inner fold 1 puts 1 groups .* 's04' \(\w+, test\)"):
        inner(Split(clips[:-1], [], clips[-1:], "by hand"), 3)


def test_quadrants_of_inner_folds_meet_where_the_setting_says():
    """Every fifth song is sad; around the medians, which all lie above zero, nothing would keep them apart."""
    rng = np.random.default_rng(0)
    clips = [
        Clip(f"{i:03d}.wav", (-0.5, -0.5) if i % 5 == 0 else tuple(rng.uniform(0.1, 1, 2)), f"g{i // 3}")
        for i in range(150)
    ]
    for seed in range(5):
        for _, val in inner(Split(clips, [], [], "grouped"), 5, seed, "zero"):
            assert sum(clip.targets[0] < 0 for clip in val) == 6


def test_a_split_is_whole_again_from_its_record():
    split = split_clips(speakers(), SplitSettings(method="group_folds", test_fold="1"))
    dropped = [split.train[0].id, split.val[3].id, split.test[1].id]
    settings = SplitSettings(inner_folds=3)
    usable = inner_folds(without(split, dropped[:2]), settings)
    record = json.loads(json.dumps(without(usable, dropped[2:]).record()))
    found = Split.recorded(record, speakers(), split.notes)
    assert (found.parts(), found.folds, found.method) == (split.parts(), split.folds, "group_folds")
    again = without(found, dropped)
    assert again.inner_parts() == usable.inner_parts()
    assert again.unusable == {dropped[0]: "train", dropped[1]: "val", dropped[2]: "test"}


def test_no_fold_is_left_without_clips():
    """Groups so unlike that likeness alone would leave one of five folds empty."""
    sizes = {"a": {"x": 81}, "b": {"x": 7}, "c": {"w": 6}, "d": {"y": 21}, "e": {"z": 72}}
    clips = [
        Clip(f"{group}/{name}{i}.wav", group=group, label=name)
        for group, counts in sizes.items()
        for name, count in counts.items()
        for i in range(count)
    ]
    for seed in range(10):
        assert sorted({clip[0]: fold for clip, fold in deal(clips, 5, seed).items()}.values()) == [0, 1, 2, 3, 4]


def test_classes_too_rare_for_every_fold():
    clips = speakers(10, names=["neutral", "sad"])
    clips += [Clip(f"s0{i}/shout.wav", (2.0,), f"s0{i}", label="angry") for i in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split = split_clips(clips, SplitSettings(method="group_folds", test_fold="1", val_fold="2"))
    assert "too few groups to have every class in every fold (split.num_folds)" in split.notes
    rarer = [Clip(f"{i}.wav", (0.0,), f"g{i}", label="ab"[i % 2]) for i in range(5)]
    assert sorted(deal(rarer, 5, seed=0).values()) == [0, 1, 2, 3, 4]


def test_clips_that_are_groups_of_their_own_fall_alike_in_any_order():
    clips = [Clip(f"{i:02d}.wav", (0.0,), f"g{i}", label=NAMES[i % 3]) for i in range(30)]
    found = deal(clips, 5, seed=1)
    assert deal(random.Random(0).sample(clips, 30), 5, seed=1) == found
    assert Counter((found[clip.id], clip.label) for clip in clips) == {(f, n): 2 for f in range(5) for n in NAMES[:3]}
