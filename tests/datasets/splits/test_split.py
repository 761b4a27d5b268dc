import json
import random
from dataclasses import replace

import numpy as np
import pytest

from tuning.datasets.corpus import Clip
from tuning.datasets.settings import SplitSettings
from tuning.datasets.splits.split import (
    Split,
    check_duplicates,
    choose_method,
    inner_folds,
    partition_of,
    split_clips,
    without,
)
from tuning.datasets.splits.stratification import quadrants


def make(num=300, groups=40, folds=5, seed=0, split=None):
    rng = np.random.default_rng(seed)
    group_of = rng.integers(groups or 10, size=num)
    return [
        Clip(
            f"c{index:04d}.wav",
            tuple(rng.normal(size=2)),
            group=f"g{group_of[index]}" if groups else None,
            fold=str(group_of[index] % folds + 1) if folds else None,
            split=split[index % len(split)] if split else None,
        )
        for index in range(num)
    ]


def sizes(split):
    return [len(part) for part in split.parts().values()]


def ids(split):
    return {name: [clip.id for clip in part] for name, part in split.parts().items()}


def groups_of(split):
    return [{clip.group for clip in part} for part in split.parts().values()]


def test_auto_takes_what_the_clips_have():
    assert choose_method(make(split=["train", "val", "test"]), SplitSettings()) == "column"
    assert choose_method(make(), SplitSettings()) == "folds"
    assert choose_method(make(folds=0), SplitSettings()) == "grouped"
    assert choose_method(make(folds=0, groups=0), SplitSettings()) == "random"
    assert choose_method(make(split=["train", "val", "test"]), SplitSettings(test_fold="1")) == "folds"


def test_grouped_keeps_groups_apart_near_the_shares_and_alike():
    for seed in range(5):
        clips = make(400, 60, seed=seed)
        split = split_clips(clips, SplitSettings(method="grouped", seed=seed))
        train, val, test = groups_of(split)
        assert not train & val | train & test | val & test
        np.testing.assert_allclose(np.array(sizes(split)) / 400, [0.7, 0.15, 0.15], atol=0.015)
        quadrant_of = dict(zip((clip.id for clip in clips), quadrants(clips), strict=True))
        overall = np.bincount(list(quadrant_of.values()), minlength=4) / 400
        for part in (split.val, split.test):
            share = np.bincount([quadrant_of[clip.id] for clip in part], minlength=4) / len(part)
            np.testing.assert_allclose(share, overall, atol=0.06)


def test_random_is_the_documented_split_of_1802_songs():
    clips = make(1802, groups=0, folds=0)
    split = split_clips(clips, SplitSettings())
    assert sizes(split) == [1261, 270, 271]
    assert split.method == "random"
    assert any("nothing keeps them apart" in note for note in split.notes)
    quadrant_of = dict(zip((clip.id for clip in clips), quadrants(clips), strict=True))
    overall = np.bincount(list(quadrant_of.values()), minlength=4) / 1802
    for part in split.parts().values():
        share = np.bincount([quadrant_of[clip.id] for clip in part], minlength=4) / len(part)
        np.testing.assert_allclose(share, overall, atol=0.005)


@pytest.mark.parametrize(
    ("num", "settings", "expected"),
    [
        (1802, {}, (1261, 270, 271)),
        (200, {}, (140, 30, 30)),
        (240, {"val_share": 0.2, "test_share": 0.1}, (168, 48, 24)),
        (10, {}, (7, 1, 2)),
        (3, {}, (1, 1, 1)),
        (5, {"val_share": 0.8, "test_share": 0.1}, (1, 3, 1)),
        (5, {"val_share": 0.1, "test_share": 0.8}, (1, 1, 3)),
    ],
)
def test_random_rounds_train_and_val_down_and_gives_the_test_the_rest(num, settings, expected):
    assert tuple(sizes(split_clips(make(num, groups=0, folds=0), SplitSettings(**settings)))) == expected


@pytest.mark.parametrize("method", ["grouped", "random"])
def test_quadrants_meet_at_zero_where_that_is_asked_for(method):
    rng = np.random.default_rng(0)
    targets = rng.normal([0.9, -0.6], 1, size=(400, 2)).tolist()
    clips = [Clip(f"{i}.wav", tuple(t), f"g{i % 60}" if method == "grouped" else None) for i, t in enumerate(targets)]
    assert quadrants([Clip("a", (0.0, 0.0)), Clip("b", (-0.1, 0.1)), Clip("c", (0.1, -0.1))], "zero") == [3, 2, 1]
    split = split_clips(clips, SplitSettings(quadrants="zero"))
    overall = np.bincount(quadrants(clips, "zero"), minlength=4) / 400
    for part in (split.val, split.test):
        share = np.bincount(quadrants(part, "zero"), minlength=4) / len(part)
        np.testing.assert_allclose(share, overall, atol=0.07 if method == "grouped" else 0.02)


def test_one_quadrant_for_all_is_said():
    clips = [Clip(clip.id, (5.0 + clip.targets[0], 9.0), clip.group) for clip in make(folds=0)]
    assert not any("one quadrant" in note for note in split_clips(clips, SplitSettings()).notes)
    assert any("one quadrant" in note for note in split_clips(clips, SplitSettings(quadrants="zero")).notes)


@pytest.mark.parametrize("method", ["grouped", "random"])
def test_same_seed_same_split_whatever_the_order_of_the_clips(method):
    clips = make(groups=40 if method == "grouped" else 0, folds=0)
    split = split_clips(clips, SplitSettings(method=method))
    again = split_clips(clips, SplitSettings(method=method))
    assert split == again
    shuffled = random.Random(1).sample(clips, len(clips))
    other_order = split_clips(shuffled, SplitSettings(method=method))
    assert {name: set(part) for name, part in ids(split).items()} == {
        name: set(part) for name, part in ids(other_order).items()
    }
    other_seed = split_clips(clips, SplitSettings(method=method, seed=1))
    assert ids(other_seed) != ids(split)
    assert [clip for clip in clips if clip in set(split.train)] == split.train


def test_folds_seal_one_and_validate_on_the_next_in_natural_order():
    clips = [Clip(f"{fold}-{index}.wav", (0.0,), f"g{fold}", str(fold)) for fold in range(1, 11) for index in range(2)]
    split = split_clips(clips, SplitSettings(test_fold="9"))
    assert {clip.fold for clip in split.test} == {"9"}
    assert {clip.fold for clip in split.val} == {"10"}
    split = split_clips(clips, SplitSettings(test_fold="10"))
    assert {clip.fold for clip in split.val} == {"1"}
    split = split_clips(clips, SplitSettings(test_fold="10", val_fold="4"))
    assert {clip.fold for clip in split.val} == {"4"}
    assert len(split.train) == 16


def test_dev_groups_take_the_place_of_the_validation_fold():
    clips = make()
    dev = sorted({clip.group for clip in clips if clip.fold == "2"})[:2]
    split = split_clips(clips, SplitSettings(test_fold="1", dev_groups=dev))
    assert {clip.group for clip in split.val} == set(dev)
    assert {clip.fold for clip in split.train} == {"2", "3", "4", "5"}


def test_the_first_fold_is_sealed_if_nothing_else_is_asked_for():
    clips = make(folds=11)
    split = split_clips(clips, SplitSettings())
    assert split.method == "folds"
    assert [{clip.fold for clip in part} for part in (split.test, split.val)] == [{"1"}, {"2"}]
    assert split.notes == [
        "fold 1 is sealed for the test, the first of 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 (split.test_fold)"
    ]
    published = split_clips(clips, SplitSettings(), {"1": ["g1", "g3"]})
    assert {clip.group for clip in published.val} == {"g1", "g3"}


def test_column_is_taken_as_it_is():
    split = split_clips(make(groups=0, split=["train", "val", "train", "test"]), SplitSettings())
    assert sizes(split) == [150, 75, 75]
    no_test = split_clips(make(groups=0, split=["train", "val"]), SplitSettings())
    assert "no clips are sealed for a test" in no_test.notes


@pytest.mark.parametrize(
    ("clips", "settings", "message"),
    [
        (
            make(),
            {"method": "folds"},
            r"split.test_fold: expected the fold to seal for the test, got nothing; the folds are 1, 2, 3, 4, 5",
        ),
        (make(), {"val_fold": "2"}, r"split.test_fold: expected the fold to seal for the test, got nothing"),
        (make(), {"test_fold": "7"}, r"split.test_fold: no fold '7'; the folds are 1, 2"),
        (make(), {"test_fold": "1", "val_fold": "9"}, r"split.val_fold: no fold '9'"),
        (make(), {"test_fold": "1", "val_fold": "1"}, r"split.val_fold: '1' is sealed"),
        (make(), {"test_fold": "1", "val_fold": "2", "dev_groups": ["g1"]}, r"split.dev_groups: takes the place"),
        (make(), {"test_fold": "1", "dev_groups": ["g99"]}, r"split.dev_groups: no group 'g99'; did you mean 'g9'"),
        (make(), {"test_fold": "1", "dev_groups": ["g0"]}, r"split.dev_groups: 'g0' is in the test fold '1'"),
        (make(), {"method": "grouped", "test_fold": "1"}, r"split.test_fold: only for split.method=folds"),
        (make(folds=0), {"test_fold": "1"}, r"split.method: 'folds' needs data.fold_column"),
        (make(groups=0), {"method": "grouped"}, r"split.method: 'grouped' needs data.group_column"),
        (make(), {"method": "column"}, r"split.method: 'column' needs data.split_column"),
        (make(groups=2, folds=0), {}, r"split.method: 'grouped' needs at least 3 groups, .* got 2: g0, g1"),
        (make(folds=2), {"test_fold": "1"}, r"split.method: 'folds' leaves no clips in train"),
        (make(folds=1), {"test_fold": "1"}, r"split.method: 'folds' leaves no clips in train"),
        (make(groups=0, split=["train"]), {}, r"split.method: 'column' leaves no clips in val"),
        (make(2, groups=0, folds=0), {}, r"split.method: 'random' needs at least 3 clips"),
    ],
)
def test_errors(clips, settings, message):
    with pytest.raises(ValueError, match=message):
        split_clips(clips, SplitSettings(**settings))


@pytest.mark.parametrize("method", ["column", "folds", "random"])
def test_a_group_in_two_parts_is_an_error_whichever_the_method(method):
    clips = make(split=["train", "val", "test"])
    folds = [Clip(clip.id, clip.targets, clip.group, str(index % 5), clip.split) for index, clip in enumerate(clips)]
    settings = SplitSettings(method=method, test_fold="1" if method == "folds" else None)
    with pytest.raises(
        ValueError, match=rf"'{method}' puts \d+ groups into more than one part: 'g\d+' \(\w+, \w+\).* more"
    ):
        split_clips(folds, settings)


PARTS = ("train", "val", "test")
SHARED = "the folds 'x' of own"


def shared(test="abc", val="dce"):
    """Clips of published parts: a, b, c and d train."""
    parts = {"train": "abcd", "val": val, "test": test}
    return [
        Clip(f"{name}{n}.wav", (0.0, n), group, split=name) for name in parts for n, group in enumerate(parts[name])
    ]


@pytest.mark.parametrize("method", ["column", "folds"])
def test_published_folds_that_share_groups_are_taken_and_counted(method):
    clips = [Clip(clip.id, clip.targets, clip.group, clip.split, clip.split) for clip in shared()]
    settings = SplitSettings(method=method, **({"test_fold": "test", "val_fold": "val"} if method == "folds" else {}))
    split = split_clips(clips, settings, None, SHARED)
    assert {name: {clip.split for clip in part} for name, part in split.parts().items()} == {
        name: {name} for name in PARTS
    }
    assert split.cautions() == [
        f"{SHARED} share speakers: 2 of the 3 in validation are in training, too, and 3 of the 3 in the test are in "
        "training or validation, too, so that scores on them are higher than on new speakers; data.folds=speakers_5 "
        "keeps them apart"
    ]
    assert split.notes == []
    crossed = replace(split, is_cross_validated=True).cautions()
    assert len(crossed) == 1 and "in validation are" not in crossed[0] and "3 of the 3 in the test are" in crossed[0]
    cells = partition_of(clips, split)
    assert {cells[clip.id] for clip in split.test}.isdisjoint(cells[clip.id] for clip in split.train + split.val)
    with pytest.raises(ValueError, match="the same recording is in train"):
        check_duplicates(split, {split.train[0].id: "x", split.test[0].id: "x"})


def test_groups_that_published_folds_share_are_counted_anew_without_clips_that_can_not_be_used():
    split = split_clips(shared(), SplitSettings(), None, SHARED)
    left = without(split, ["test0.wav", "test1.wav", "val0.wav", "val1.wav"])
    assert left.cautions()[0].startswith(f"{SHARED} share speakers: 1 of the 1 in the test is in training or ")
    assert without(split, [clip.id for clip in [*split.train[:3], *split.val[:2]]]).cautions() == [
        "validation has one speaker or artist, 'e': figures on it hold for that one alone"
    ]
    record = json.loads(json.dumps(left.record()))
    again = without(Split.recorded(record, shared(), []), left.unusable)
    assert (again.cautions(), again.parts()) == (left.cautions(), left.parts())


def test_published_folds_that_share_no_group_have_no_caution():
    apart = [*shared(test="xyz", val="uvw")]
    assert split_clips(apart, SplitSettings(), None, SHARED).cautions() == []
    assert "folds_share_groups" not in split_clips(apart, SplitSettings()).record()


@pytest.mark.parametrize("method", ["random", "grouped", "group_folds", "leave_one_group_out"])
def test_other_splits_of_a_corpus_whose_folds_share_groups_are_as_strict_as_ever(method):
    clips = [clip for n in range(4) for clip in make(30, groups=6, folds=0, seed=n)]
    clips = [Clip(f"{n}.wav", clip.targets, clip.group, split="train") for n, clip in enumerate(clips)]
    fold = {"group_folds": "1", "leave_one_group_out": "g1"}.get(method)
    settings = SplitSettings(method=method, num_folds=4, test_fold=fold)
    if method == "random":
        with pytest.raises(ValueError, match="'random' puts 6 groups into more than one part"):
            split_clips(clips, settings, None, SHARED)
        return
    split = split_clips(clips, settings, None, SHARED)
    assert split == split_clips(clips, settings)
    assert not any(SHARED in caution for caution in split.cautions())


def test_inner_folds_keep_groups_apart_that_published_folds_share():
    clips = [
        Clip(f"{part}{n}{g}.wav", (n, g), f"g{g}", split=part) for part in PARTS for n in range(3) for g in range(6)
    ]
    split = inner_folds(split_clips(clips, SplitSettings(), None, SHARED), SplitSettings(inner_folds=3))
    for train, val in split.inner_parts():
        assert not {clip.group for clip in train} & {clip.group for clip in val}
    (caution,) = split.cautions()
    assert "6 of the 6 in the test are in training or validation, too" in caution and "in validation are" not in caution


def test_few_clips_of_a_quadrant_are_parted_with_a_note():
    clips = [Clip(f"{i}.wav", (float(i), 0.0)) for i in range(8)]
    split = split_clips(clips, SplitSettings())
    assert sum(sizes(split)) == 8
    assert any("too few clips to part each quadrant" in note for note in split.notes)


def test_cells_part_the_test_from_the_rest():
    clips = make()
    by_fold = [partition_of(clips, split_clips(clips, SplitSettings(test_fold=fold))) for fold in "12345"]
    assert all(cell == by_fold[0] for cell in by_fold)
    assert by_fold[0][clips[0].id] == f"fold-{clips[0].fold}"
    grouped = split_clips(clips, SplitSettings(method="grouped"))
    cell_of = partition_of(clips, grouped)
    assert {cell_of[clip.id] for clip in grouped.test} == {"test"}
    assert len(cell_of) == len(clips)


def test_the_same_recording_in_two_parts_is_an_error():
    split = split_clips(make(), SplitSettings(method="grouped"))
    digests = {clip.id: clip.id for part in split.parts().values() for clip in part}
    check_duplicates(split, digests)
    check_duplicates(split, digests | {split.train[0].id: "x", split.train[1].id: "x"})
    twins = {split.train[0].id: "x", split.test[0].id: "x"}
    with pytest.raises(ValueError, match=rf"in train \('{split.train[0].id}'\) and in test \('{split.test[0].id}'\)"):
        check_duplicates(split, digests | twins)


def test_without_quarantined_clips():
    split = split_clips(make(), SplitSettings(method="grouped"))
    smaller = without(split, [split.train[0].id, split.test[0].id])
    assert np.array_equal(np.subtract(sizes(split), sizes(smaller)), [1, 0, 1])
    with pytest.raises(ValueError, match="leaves no clips in val"):
        without(split, [clip.id for clip in split.val])
