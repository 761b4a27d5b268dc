"""Count the clips and speakers of each class in each part of a split."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuning.datasets.corpus import Clip
from tuning.datasets.splits.stratification import classes_of


@dataclass(frozen=True)
class ClassCount:
    """One class in one part."""

    part: str
    name: str
    num_clips: int
    share: float  # of the part's clips
    num_groups: int | None  # speakers or artists; None where none is known


def class_balance(parts: Mapping[str, Sequence[Clip]]) -> list[ClassCount]:
    """A row for each part (such as `Split.parts()`) and each class, also for a class without clips in that part.

    Parts without clips have no rows. Raises ValueError if the clips have no classes.
    """
    names = classes_of([clip for clips in parts.values() for clip in clips])
    if not names:
        raise ValueError("task.name: expected classification, as the clips have no classes to count")
    rows = []
    for part, clips in parts.items():
        counts = Counter(clip.label for clip in clips)
        known = any(clip.group is not None for clip in clips)
        for name in names if clips else ():
            groups = {clip.group for clip in clips if clip.label == name and clip.group is not None}
            rows.append(ClassCount(part, name, counts[name], counts[name] / len(clips), len(groups) if known else None))
    return rows
