"""Split clips into training, validation and test, so that no group is in two parts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tuning.datasets.corpus import Clip
from tuning.datasets.settings import SplitSettings
from tuning.datasets.splits import holdout, kfold
from tuning.datasets.splits.stratification import classes_of, quadrants

SHOWN = 5  # names listed in an error
PUBLISHED = ("column", "folds")  # methods that take a corpus's own parts or folds
FEW_GROUPS = 2  # in a part, whose figures then say little of others
NOT_APART = "no speaker or artist is known (data.group_column): nothing keeps them apart"
NEEDS = {  # what a method needs, and why it is missing
    "column": "data.split_column, which names no column",
    "folds": "data.fold_column, which names no column, or a corpus with published folds; "
    "split.method=group_folds makes folds",
    "group_folds": "data.group_column, which names no column",
    "leave_one_group_out": "data.group_column, which names no column",
    "grouped": "data.group_column, which names no column",
}


@dataclass(frozen=True)
class Split:
    """The clips of each part, in the corpus's order, with the method of the split and notes for the user."""

    train: list[Clip]
    val: list[Clip]
    test: list[Clip]
    method: str
    notes: list[str] = field(default_factory=list)
    folds: dict[str, str] = field(default_factory=dict)  # clip id -> fold, where there are folds
    inner: dict[str, int] = field(default_factory=dict)  # clip id -> inner fold, from 0
    unusable: dict[str, str] = field(default_factory=dict)  # id of a clip that was left out -> its part
    is_cross_validated: bool = False  # inner folds are to be dealt, or were: the part `val` validates nothing by itself
    folds_share_groups: str = ""  # what published folds are called (`Corpus`) that put groups into several parts

    def parts(self) -> dict[str, list[Clip]]:
        """The three parts by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def groups(self) -> dict[str, str]:
        """The group of each clip that has one, by clip id."""
        return {clip.id: clip.group for part in self.parts().values() for clip in part if clip.group is not None}

    def cautions(self) -> list[str]:
        """What has to be known with every score on this split: speakers are not kept apart, or are too few."""
        clips = [clip for part in self.parts().values() for clip in part]
        if all(clip.group is None for clip in clips):
            return [NOT_APART]
        known = (
            {"test": self.test}
            if self.inner or self.is_cross_validated
            else {"validation": self.val, "test": self.test}
        )
        few = [found for name, part in known.items() if (found := _few_groups(name, part))]
        return [*self._shared_groups(known), *few]

    def _shared_groups(self, known: Mapping[str, Sequence[Clip]]) -> list[str]:
        """A caution that counts the groups of validation and test that are trained on, if published folds allow it."""
        if not self.folds_share_groups:
            return []
        seen = {
            "validation": (self.train, "validation {} in training"),
            "test": (self.train + self.val, "the test {} in training or validation"),
        }
        told = []
        for name, part in known.items():
            groups, (others, where) = _groups(part), seen[name]
            if shared := groups & _groups(others):
                is_or_are = "is" if len(shared) == 1 else "are"
                told.append(f"{len(shared)} of the {len(groups)} in {where.format(is_or_are)}, too")
        if not told:
            return []
        return [
            f"{self.folds_share_groups} share speakers: {', and '.join(told)}, so that scores on them are higher than "
            "on new speakers; data.folds=speakers_5 keeps them apart"
        ]

    def inner_parts(self) -> list[tuple[list[Clip], list[Clip]]]:
        """The inner folds: the clips to train on and to validate with in each, sorted by id."""
        clips = sorted([*self.train, *self.val], key=lambda clip: clip.id)
        return [
            (
                [clip for clip in clips if self.inner[clip.id] != fold],
                [clip for clip in clips if self.inner[clip.id] == fold],
            )
            for fold in range(max(self.inner.values(), default=-1) + 1)
        ]

    def record(self) -> dict[str, Any]:
        """The split as JSON: the method, and for each clip its part and its folds, if it has any.

        It includes the parts of clips that were left out.
        """
        part_of = {clip.id: name for name, part in self.parts().items() for clip in part} | self.unusable
        clips: dict[str, dict[str, Any]] = {clip: {"part": part_of[clip]} for clip in sorted(part_of)}
        for name, found in (("fold", self.folds), ("inner", self.inner)):
            for clip in clips.keys() & found.keys():
                clips[clip][name] = found[clip]
        shared = {"folds_share_groups": self.folds_share_groups} if self.folds_share_groups else {}
        return {"method": self.method, **shared, "clips": clips}

    @classmethod
    def recorded(cls, record: Mapping[str, Any], clips: Sequence[Clip], notes: list[str]) -> "Split":
        """Restore the split of the same clips from what `record` returned, without leaving any out."""
        known: dict[str, dict[str, Any]] = record["clips"]
        train, val, test = ([c for c in clips if known[c.id]["part"] == name] for name in ("train", "val", "test"))
        fold_of = {clip: row["fold"] for clip, row in known.items() if "fold" in row}
        inner = {clip: row["inner"] for clip, row in known.items() if "inner" in row}
        shared = record.get("folds_share_groups", "")
        return cls(train, val, test, record["method"], notes, fold_of, inner, folds_share_groups=shared)


def split_clips(
    clips: list[Clip],
    settings: SplitSettings,
    dev_groups: Mapping[str, list[str]] | None = None,
    folds_share_groups: str = "",
) -> Split:
    """Split the clips by `split.method`; the same clips in any order, with the same settings, give the same parts.

    `dev_groups` (`Corpus.dev_groups`) are the groups that validate for each test fold, if the corpus's protocol names
    them. Published folds with groups in several of them (`Corpus.folds_share_groups`) are taken as they are, and the
    split's cautions count these groups. Raises ValueError, which begins with the wrong setting, if a group would be in
    two parts otherwise, if training or validation would be empty, if training would lack a class, or if the corpus
    lacks what the method needs.
    """
    method = choose_method(clips, settings)
    notes: list[str] = []
    fold_of: dict[str, str] = {}
    if method == "column":
        part_of = {clip.id: clip.split or "" for clip in clips}
    elif method in kfold.METHODS:
        fold_of = kfold.folds_of(clips, method, settings, notes)
        published = dev_groups if method == "folds" and dev_groups is not None else {}
        part_of = kfold.by_folds(clips, fold_of, settings, published, notes)
    elif method == "grouped":
        part_of = holdout.by_groups(clips, settings)
    else:
        part_of = holdout.at_random(clips, settings, notes)
    train, val, test = ([c for c in clips if part_of[c.id] == name] for name in ("train", "val", "test"))
    shared = folds_share_groups if method in PUBLISHED else ""
    split = Split(train, val, test, method, notes, fold_of, folds_share_groups=shared)
    parts = split.parts()
    where = f"split.method: '{method}'"
    if not shared:
        _check_groups(parts, where)
    _check_filled(parts, where)
    split.notes.extend(_check_classes(parts, classes_of(clips), where))
    if method in ("grouped", "random") and _in_one_quadrant(clips, settings):
        split.notes.append("all clips lie in one quadrant: nothing to keep alike (split.quadrants, data.target_range)")
    if not split.test:
        split.notes.append("no clips are sealed for a test")
    if all(clip.group is None for clip in clips):
        split.notes.append(NOT_APART)
    return split


def choose_method(clips: list[Clip], settings: SplitSettings) -> str:
    """The method of the settings, or for `auto` the first one that the clips allow. Raises ValueError if none fits."""
    grouped = all(clip.group is not None for clip in clips)
    has = {
        "column": all(clip.split is not None for clip in clips),
        "folds": all(clip.fold is not None for clip in clips),
        "group_folds": grouped,
        "leave_one_group_out": grouped,
        "grouped": grouped,
        "random": True,
    }
    named = [name for name in ("test_fold", "val_fold", "dev_groups") if getattr(settings, name) is not None]
    method: str = settings.method
    if method == "auto":
        possible = [name for name in ("column", "folds", "grouped", "random") if has[name]]
        method = "folds" if named else possible[0]
    if not has[method]:
        raise ValueError(f"split.method: '{method}' needs {NEEDS[method]}")
    if named and method not in kfold.METHODS:
        raise ValueError(
            f"split.{named[0]}: only for split.method=folds, group_folds or leave_one_group_out, got method '{method}'"
        )
    return method


def fold_sizes(clips: list[Clip], settings: SplitSettings) -> tuple[str, dict[str, int]]:
    """The method by which clips fall into folds, each of which can be the test once, and the clips of each fold.

    `auto` takes published folds, else folds of whole groups (`split.num_folds`). Raises ValueError for a method without
    folds, for clips without folds and groups, and for fewer than three folds, of which one validates and one trains.
    """
    known = ", ".join(kfold.METHODS)
    method: str = settings.method
    if method == "auto":
        has_folds = all(clip.fold is not None for clip in clips)
        method = "folds" if has_folds else "group_folds"
        if not has_folds and any(clip.group is None for clip in clips):
            raise ValueError(
                "split.method: expected clips with folds (data.fold_column) or with speakers or artists "
                "(data.group_column), from which folds are made, got neither"
            )
    if method not in kfold.METHODS:
        raise ValueError(f"split.method: expected one of {known} to test every fold, got {method}")
    choose_method(clips, settings.model_copy(update={"method": method}))
    fold_of = kfold.folds_of(clips, method, settings, [])
    names = kfold.in_order(fold_of.values())
    if len(names) < 3:
        raise ValueError(
            f"split.method: expected at least 3 folds, to train, to validate and to test, got {len(names)}: "
            f"{', '.join(names)}"
        )
    return method, {name: list(fold_of.values()).count(name) for name in names}


def partition_of(clips: list[Clip], split: Split) -> dict[str, str]:
    """The partition of each clip by its id: a shard holds clips of one partition only.

    With folds each fold is a partition, so that searches with different test folds share their shards. Otherwise each
    part is one. So test clips are never in a shard with others.
    """
    if split.folds:
        return {clip.id: f"fold-{split.folds[clip.id]}" for clip in clips}
    return {clip.id: name for name, part in split.parts().items() for clip in part}


def without(split: Split, dropped: Iterable[str]) -> Split:
    """The split without some clips, such as the quarantined ones, which are added to its `unusable`.

    Raises ValueError if training or validation becomes empty, or training lacks a class.
    """
    gone = set(dropped)
    left_out = {clip.id: name for name, part in split.parts().items() for clip in part if clip.id in gone}
    parts = {name: [clip for clip in part if clip.id not in gone] for name, part in split.parts().items()}
    where = f"split.method: '{split.method}'"
    _check_filled(parts, where)
    names = classes_of([clip for part in split.parts().values() for clip in part])
    notes = [note for note in _check_classes(parts, names, where) if note not in split.notes]
    notes = [*split.notes, *notes]
    train, val, test = parts["train"], parts["val"], parts["test"]
    return replace(split, train=train, val=val, test=test, notes=notes, unusable=split.unusable | left_out)


def inner_folds(split: Split, settings: SplitSettings) -> Split:
    """The split with its training and validation clips dealt into `split.inner_folds` for a cross-validation.

    Folds are whole groups, stratified by class or quadrant, and each clip validates once. The test is unchanged. Raises
    ValueError, which begins with the setting, for fewer groups than folds, and if a fold has no clips of a class to
    train on.
    """
    assert settings.inner_folds is not None
    setting, clips = "split.inner_folds", [*split.train, *split.val]
    dealt = kfold.deal(clips, settings.inner_folds, settings.seed, setting, settings.quadrants)
    split = replace(split, inner=dealt)
    for number, (train, val) in enumerate(split.inner_parts(), start=1):
        parts, where = {"train": train, "val": val}, f"{setting}: inner fold {number}"
        _check_groups(parts if split.folds_share_groups else {**parts, "test": split.test}, where)
        _check_filled(parts, where)
        _check_classes({"train": train}, classes_of(clips), where)
    return split


def dealt_by_sklearn(method: str, settings: SplitSettings) -> bool:
    """Whether scikit-learn makes the split, so that another version of it may make another one."""
    return method in ("group_folds", "random") or settings.inner_folds is not None


def check_duplicates(split: Split, digests: Mapping[str, str]) -> None:
    """Raise ValueError if a recording, by its content, is in two parts; clips without a digest are not checked."""
    first: dict[str, tuple[str, str]] = {}
    for name, part in split.parts().items():
        for clip in part:
            if (digest := digests.get(clip.id)) is None:
                continue
            other, path = first.setdefault(digest, (name, clip.id))
            if other != name:
                raise ValueError(f"split: the same recording is in {other} ('{path}') and in {name} ('{clip.id}')")


def _groups(clips: Sequence[Clip]) -> set[str]:
    return {clip.group for clip in clips if clip.group is not None}


def _few_groups(name: str, clips: Sequence[Clip]) -> str:
    """A caution for figures on clips of one or two groups; empty for more, and where a group is not known."""
    groups = sorted({str(clip.group) for clip in clips})
    if not 1 <= len(groups) <= FEW_GROUPS or any(clip.group is None for clip in clips):
        return ""
    if len(groups) == 1:
        return f"{name} has one speaker or artist, '{groups[0]}': figures on it hold for that one alone"
    return f"{name} has two speakers or artists, '{groups[0]}' and '{groups[1]}': figures on it hold for those alone"


def _check_groups(parts: Mapping[str, Sequence[Clip]], where: str) -> None:
    first: dict[str, str] = {}
    crossing: dict[str, str] = {}
    for name, part in parts.items():
        for group in dict.fromkeys(clip.group for clip in part if clip.group is not None):
            if (other := first.setdefault(group, name)) != name:
                crossing[group] = f"'{group}' ({other}, {name})"
    if crossing:
        more = f" and {len(crossing) - SHOWN} more" if len(crossing) > SHOWN else ""
        raise ValueError(
            f"{where} puts {len(crossing)} groups into more than one part: "
            f"{', '.join(list(crossing.values())[:SHOWN])}{more}; use split.method=grouped, or leave "
            "data.group_column out to part by clip in spite of it"
        )


def _check_filled(parts: Mapping[str, Sequence[Clip]], where: str) -> None:
    for name in ("train", "val"):
        if not parts[name]:
            raise ValueError(f"{where} leaves no clips in {name}")


def _check_classes(parts: Mapping[str, Sequence[Clip]], names: Sequence[str], where: str) -> list[str]:
    """Notes on classes that a part lacks. Raises ValueError if training lacks one."""
    notes = []
    for part, clips in parts.items():
        present = {clip.label for clip in clips}
        missing = [name for name in names if name not in present]
        if missing and part == "train":
            raise ValueError(f"{where} leaves no clips of class {', '.join(missing)} in train")
        if missing and clips:
            notes.append(f"{part} has no clips of class {', '.join(missing)}")
    return notes


def _in_one_quadrant(clips: list[Clip], settings: SplitSettings) -> bool:
    return len(clips) > 1 and not classes_of(clips) and len(set(quadrants(clips, settings.quadrants))) == 1
