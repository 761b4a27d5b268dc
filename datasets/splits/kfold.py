"""Split clips by folds: published ones, folds of whole groups, or a fold for each group."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence

from tuning.datasets.corpus import Clip, did_you_mean
from tuning.datasets.settings import SplitSettings
from tuning.datasets.splits.stratification import classes_of, strata

METHODS = ("folds", "group_folds", "leave_one_group_out")


def folds_of(clips: list[Clip], method: str, settings: SplitSettings, notes: list[str]) -> dict[str, str]:
    """The fold of each clip by its id. Raises ValueError if there are fewer groups than folds."""
    if method == "folds":
        return {clip.id: str(clip.fold) for clip in clips}
    if method == "leave_one_group_out":
        return {clip.id: str(clip.group) for clip in clips}
    fold_of = deal(clips, settings.num_folds, settings.seed, "split.num_folds", settings.quadrants)
    if _uneven(clips, fold_of):
        notes.append("too few groups to have every class in every fold (split.num_folds)")
    return {clip: str(fold + 1) for clip, fold in fold_of.items()}


def by_folds(
    clips: list[Clip],
    fold_of: Mapping[str, str],
    settings: SplitSettings,
    published: Mapping[str, list[str]],
    notes: list[str],
) -> dict[str, str]:
    """Assign folds to parts: `split.test_fold` is the test, and the settings name the folds or groups for validation.

    If they do not, the corpus may (`published`: groups by test fold); otherwise the next fold validates. The first fold
    is the test, with a note, if no setting names a method nor a fold. Returns the part of each clip by its id. Raises
    ValueError for an unknown fold, and for groups that are unknown or in the test.
    """
    folds = in_order(fold_of.values())
    known = f"the folds are {', '.join(folds)}"
    test_fold = settings.test_fold
    if test_fold is None and settings.method == "auto" and settings.val_fold is None and settings.dev_groups is None:
        test_fold = folds[0]
        notes.append(f"fold {test_fold} is sealed for the test, the first of {', '.join(folds)} (split.test_fold)")
    if test_fold is None:
        raise ValueError(f"split.test_fold: expected the fold to seal for the test, got nothing; {known}")
    for name in ("test_fold", "val_fold"):
        value = getattr(settings, name)
        if value is not None and value not in folds:
            raise ValueError(f"split.{name}: no fold '{value}'; {known}")
    if settings.val_fold == test_fold:
        raise ValueError(f"split.val_fold: '{settings.val_fold}' is sealed for the test; {known}")
    part_of = {clip.id: "test" if fold_of[clip.id] == test_fold else "train" for clip in clips}
    if settings.dev_groups is not None and settings.val_fold is not None:
        raise ValueError("split.dev_groups: takes the place of split.val_fold; name one of them")
    dev_groups = settings.dev_groups
    if dev_groups is None and settings.val_fold is None and test_fold in published:
        dev_groups = published[test_fold]
        notes.append(f"{', '.join(dev_groups)} validate, as published for test fold {test_fold}")
    if dev_groups is not None:
        return part_of | dict.fromkeys(_dev_clips(clips, dev_groups, part_of, test_fold), "val")
    val_fold = settings.val_fold or folds[(folds.index(test_fold) + 1) % len(folds)]
    return part_of | {clip.id: "val" for clip in clips if fold_of[clip.id] == val_fold != test_fold}


def _dev_clips(clips: list[Clip], wanted: list[str], part_of: Mapping[str, str], test_fold: str) -> list[str]:
    groups = {clip.group for clip in clips if clip.group is not None}
    sealed = {clip.group for clip in clips if part_of[clip.id] == "test"}
    for group in wanted:
        if group not in groups:
            raise ValueError(f"split.dev_groups: no group '{group}'{did_you_mean(group, groups)}")
        if group in sealed:
            raise ValueError(f"split.dev_groups: '{group}' is in the test fold '{test_fold}'")
    return [clip.id for clip in clips if clip.group in wanted]


def deal(
    clips: Sequence[Clip], num_folds: int, seed: int, setting: str = "split.num_folds", meet: str = "median"
) -> dict[str, int]:
    """Deal whole groups into folds, stratified by class or quadrant; return the fold of each clip, from 0, by its id.

    A clip without a group is a group of its own. The same clips in any order give the same folds. Raises ValueError,
    which begins with `setting`, for fewer than two folds and for fewer groups than folds.
    """
    clips = sorted(clips, key=lambda clip: clip.id)
    keys = [(clip.group is None, clip.group or clip.id) for clip in clips]
    row_of = {key: row for row, key in enumerate(sorted(set(keys)))}
    if not 2 <= num_folds <= len(row_of):
        what = "groups" if any(clip.group is not None for clip in clips) else "clips"
        raise ValueError(f"{setting}: expected from 2 folds to {len(row_of)}, as there are {what}, got {num_folds}")
    rows = [row_of[key] for key in keys]
    folds = _stratified(rows, strata(clips, meet), num_folds, seed)
    if len(set(folds)) < num_folds:  # stratification can leave a fold without groups; sizes alone never do
        folds = _stratified(rows, [0] * len(rows), num_folds, seed)
    return {clip.id: fold for clip, fold in zip(clips, folds, strict=True)}


def _stratified(rows: list[int], stratum_of: list[int], num_folds: int, seed: int) -> list[int]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if max(stratum_of.count(stratum) for stratum in set(stratum_of)) < num_folds:
        stratum_of = [0] * len(rows)
    kind = StratifiedKFold if len(set(rows)) == len(rows) else StratifiedGroupKFold
    folds = [0] * len(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a stratum may be smaller than the number of folds
        parts = kind(num_folds, shuffle=True, random_state=seed).split(rows, stratum_of, rows)
        for fold, (_, held) in enumerate(parts):
            for index in held:
                folds[index] = fold
    return folds


def _uneven(clips: Sequence[Clip], fold_of: Mapping[str, int]) -> bool:
    """Whether some fold lacks a class."""
    names, num_folds = classes_of(clips), len(set(fold_of.values()))
    return len({(clip.label, fold_of[clip.id]) for clip in clips}) < len(names) * num_folds


def in_order(names: Iterable[str]) -> list[str]:
    """The distinct names of folds, 10 after 9."""
    return sorted(set(names), key=_natural)


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """A sort key that puts fold 10 after fold 9."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", text) if part]
