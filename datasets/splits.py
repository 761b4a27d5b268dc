"""Who trains, who validates, and who is sealed for the test; groups never cross."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from datasets.corpus import Clip, did_you_mean
from datasets.settings import SplitSettings

if TYPE_CHECKING:
    import numpy as np

NUM_DRAWS = 500  # orders of the groups that a grouped split chooses from
SHOWN = 5  # names listed in an error


@dataclass(frozen=True)
class Split:
    """Clips of each part, in the corpus's order; how they were parted and what to know about it."""

    train: list[Clip]
    val: list[Clip]
    test: list[Clip]
    method: str
    notes: list[str] = field(default_factory=list)

    def parts(self) -> dict[str, list[Clip]]:
        """The three parts by name."""
        return {"train": self.train, "val": self.val, "test": self.test}


def split_clips(clips: list[Clip], settings: SplitSettings) -> Split:
    """Part the clips by `split.method`; the same clips and settings give the same parts, in any order of clips.

    Raises ValueError, which begins with the setting at fault, when groups would cross parts, when training or
    validation would be empty, and when the corpus lacks what the method needs.
    """
    method = choose_method(clips, settings)
    notes: list[str] = []
    if method == "column":
        part_of = {clip.id: clip.split or "" for clip in clips}
    elif method == "folds":
        part_of = _by_folds(clips, settings)
    elif method == "grouped":
        part_of = _by_groups(clips, settings)
    else:
        part_of = _at_random(clips, settings, notes)
    parts = {name: [clip for clip in clips if part_of[clip.id] == name] for name in ("train", "val", "test")}
    split = Split(**parts, method=method, notes=notes)
    _check_groups(split)
    _check_filled(split)
    if method in ("grouped", "random") and len(clips) > 1 and len(set(quadrants(clips, settings.quadrants))) == 1:
        split.notes.append("all clips lie in one quadrant: nothing to keep alike (split.quadrants, data.target_range)")
    if not split.test:
        split.notes.append("no clips are sealed for a test")
    if all(clip.group is None for clip in clips):
        split.notes.append("no speaker or artist is known (data.group_column): nothing keeps them apart")
    return split


def choose_method(clips: list[Clip], settings: SplitSettings) -> str:
    """The method in use: what is asked for, or the first that the clips allow. Raises ValueError."""
    has = {
        "column": all(clip.split is not None for clip in clips),
        "folds": all(clip.fold is not None for clip in clips),
        "grouped": all(clip.group is not None for clip in clips),
        "random": True,
    }
    named = [name for name in ("test_fold", "val_fold", "dev_groups") if getattr(settings, name) is not None]
    method: str = settings.method
    if method == "auto":
        possible: Sequence[str] = ["folds"] if named else [name for name in has if has[name]]
        method = possible[0]
    if not has[method]:
        column = {"column": "split_column", "folds": "fold_column", "grouped": "group_column"}[method]
        raise ValueError(f"split.method: '{method}' needs data.{column}, which names no column")
    if named and method != "folds":
        raise ValueError(f"split.{named[0]}: only for split.method=folds, got method '{method}'")
    return method


def cells(clips: list[Clip], split: Split) -> dict[str, str]:
    """The cell of each clip by its id: clips of two cells never lie in one shard.

    With folds each fold is a cell, so that the searches that seal one fold after the other share their shards;
    otherwise each part is one. Test clips have cells of their own either way.
    """
    if split.method == "folds":
        return {clip.id: f"fold-{clip.fold}" for clip in clips}
    return {clip.id: name for name, part in split.parts().items() for clip in part}


def without(split: Split, dropped: Iterable[str]) -> Split:
    """The split without some clips, such as the quarantined. Raises ValueError when a part is left empty."""
    gone = set(dropped)
    left = {name: [clip for clip in part if clip.id not in gone] for name, part in split.parts().items()}
    smaller = replace(split, train=left["train"], val=left["val"], test=left["test"])
    _check_filled(smaller)
    return smaller


def check_duplicates(split: Split, digests: Mapping[str, str]) -> None:
    """Raise ValueError when the same recording, by content, stands in two parts; clips without digest pass."""
    first: dict[str, tuple[str, str]] = {}
    for name, part in split.parts().items():
        for clip in part:
            if (digest := digests.get(clip.id)) is None:
                continue
            other, path = first.setdefault(digest, (name, clip.id))
            if other != name:
                raise ValueError(f"split: the same recording is in {other} ('{path}') and in {name} ('{clip.id}')")


def quadrants(clips: list[Clip], meet: str = "median") -> list[int]:
    """Quadrant of each clip's first two targets: 0 to 3 (0 or 1 with one target).

    They meet at the medians or at zero (`split.quadrants`); a target just there is on the upper side.
    """
    import numpy as np

    targets = np.array([clip.targets[:2] for clip in clips], dtype=np.float64).reshape(len(clips), -1)
    above = targets >= (np.median(targets, axis=0) if meet == "median" else 0)
    return (above @ (1 << np.arange(above.shape[1]))).astype(int).tolist()


def _by_folds(clips: list[Clip], settings: SplitSettings) -> dict[str, str]:
    folds = sorted({str(clip.fold) for clip in clips}, key=_natural)
    known = f"the folds are {', '.join(folds)}"
    if settings.test_fold is None:
        raise ValueError(f"split.test_fold: expected the fold to seal for the test, got nothing; {known}")
    for name in ("test_fold", "val_fold"):
        value = getattr(settings, name)
        if value is not None and value not in folds:
            raise ValueError(f"split.{name}: no fold '{value}'; {known}")
    if settings.val_fold == settings.test_fold:
        raise ValueError(f"split.val_fold: '{settings.val_fold}' is sealed for the test; {known}")
    part_of = {clip.id: "test" if clip.fold == settings.test_fold else "train" for clip in clips}
    if settings.dev_groups is not None:
        if settings.val_fold is not None:
            raise ValueError("split.dev_groups: takes the place of split.val_fold; name one of them")
        return part_of | dict.fromkeys(_dev_clips(clips, settings), "val")
    val_fold = settings.val_fold or folds[(folds.index(settings.test_fold) + 1) % len(folds)]
    return part_of | {clip.id: "val" for clip in clips if clip.fold == val_fold and val_fold != settings.test_fold}


def _dev_clips(clips: list[Clip], settings: SplitSettings) -> list[str]:
    wanted = settings.dev_groups or []
    groups = {clip.group for clip in clips if clip.group is not None}
    sealed = {clip.group for clip in clips if clip.fold == settings.test_fold}
    for group in wanted:
        if group not in groups:
            raise ValueError(f"split.dev_groups: no group '{group}'{did_you_mean(group, groups)}")
        if group in sealed:
            raise ValueError(f"split.dev_groups: '{group}' is in the test fold '{settings.test_fold}'")
    return [clip.id for clip in clips if clip.group in wanted]


def _by_groups(clips: list[Clip], settings: SplitSettings) -> dict[str, str]:
    """Whole groups to test and val so that sizes and quadrants come nearest to the shares asked for."""
    import numpy as np

    groups = sorted({str(clip.group) for clip in clips})
    if len(groups) < 3:
        raise ValueError(
            f"split.method: 'grouped' needs at least 3 groups, for train, val and test, got {len(groups)}: "
            f"{', '.join(groups)}"
        )
    rows = {group: row for row, group in enumerate(groups)}
    counts = np.zeros((len(groups), 4))
    for clip, quadrant in zip(clips, quadrants(clips, settings.quadrants), strict=True):
        counts[rows[str(clip.group)], quadrant] += 1
    rng = np.random.default_rng([settings.seed, 0])
    left = np.arange(len(groups))
    chosen: dict[str, str] = dict.fromkeys(groups, "train")
    for name, share, kept in (("test", settings.test_share, 2), ("val", settings.val_share, 1)):
        picked = _nearest_prefix(counts[left], share * counts.sum(axis=0), rng, kept)
        chosen |= {groups[left[row]]: name for row in picked}
        left = np.delete(left, picked)
    return {clip.id: chosen[str(clip.group)] for clip in clips}


def _nearest_prefix(
    counts: "np.ndarray", wanted: "np.ndarray", rng: "np.random.Generator", num_kept: int
) -> "np.ndarray":
    """Rows of `counts` [groups, quadrants] whose sum comes nearest to `wanted` [quadrants].

    Of random orders of the rows, the beginning of the best one. At least one row, and `num_kept` stay behind.
    """
    import numpy as np

    best, best_cost = np.array([], dtype=int), np.inf
    for _ in range(NUM_DRAWS):
        order = rng.permutation(len(counts))
        sums = np.cumsum(counts[order], axis=0)[: len(counts) - num_kept]
        cost = np.abs(sums - wanted).sum(axis=1) + np.abs(sums.sum(axis=1) - wanted.sum())
        if cost.min() < best_cost:
            best, best_cost = order[: int(cost.argmin()) + 1], cost.min()
    return best


def _at_random(clips: list[Clip], settings: SplitSettings, notes: list[str]) -> dict[str, str]:
    """Clip by clip, each quadrant shared out alike: first the test against the rest, then val against train."""
    from sklearn.model_selection import train_test_split

    clips = sorted(clips, key=lambda clip: clip.id)
    if len(clips) < 3:
        raise ValueError(f"split.method: 'random' needs at least 3 clips, got {len(clips)}")
    quadrant_of = quadrants(clips, settings.quadrants)
    alike = True

    def part(indices: list[int], num_held: int) -> tuple[list[int], list[int]]:
        nonlocal alike
        strata = [quadrant_of[index] for index in indices]
        try:
            return train_test_split(indices, test_size=num_held, random_state=settings.seed, stratify=strata)
        except ValueError:  # a quadrant with too few clips to share out
            alike = False
            return train_test_split(indices, test_size=num_held, random_state=settings.seed)

    num_val, num_test = _num_held_out(len(clips), settings)
    rest, test = part(list(range(len(clips))), num_test)
    train, val = part(rest, num_val)
    if not alike:
        notes.append("too few clips to part each quadrant alike: parted without regard to them")
    names = {index: name for name, indices in (("train", train), ("val", val), ("test", test)) for index in indices}
    return {clip.id: names[index] for index, clip in enumerate(clips)}


def _num_held_out(num_clips: int, settings: SplitSettings) -> tuple[int, int]:
    """Clips for val and test: shares of train and val are rounded down and the test takes the rest.

    So documented for 1,802 songs: 1,261, 270 and 271. Each part gets at least one of three clips or more.
    """
    tiny = 1e-9  # 1 - 0.15 - 0.15 is not quite 0.7
    num_train = max(1, int((1 - settings.val_share - settings.test_share) * num_clips + tiny))
    num_val = min(max(1, int(settings.val_share * num_clips + tiny)), num_clips - 2)
    return num_val, max(1, num_clips - num_train - num_val)


def _check_groups(split: Split) -> None:
    first: dict[str, str] = {}
    crossing: dict[str, str] = {}
    for name, part in split.parts().items():
        for group in dict.fromkeys(clip.group for clip in part if clip.group is not None):
            if (other := first.setdefault(group, name)) != name:
                crossing[group] = f"'{group}' ({other}, {name})"
    if crossing:
        more = f" and {len(crossing) - SHOWN} more" if len(crossing) > SHOWN else ""
        raise ValueError(
            f"split.method: '{split.method}' puts {len(crossing)} groups into more than one part: "
            f"{', '.join(list(crossing.values())[:SHOWN])}{more}; use split.method=grouped, or leave "
            "data.group_column out to part by clip in spite of it"
        )


def _check_filled(split: Split) -> None:
    for name in ("train", "val"):
        if not split.parts()[name]:
            raise ValueError(f"split.method: '{split.method}' leaves no clips in {name}")


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """Sort key by which fold 10 comes after fold 9."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", text) if part]
