"""What the parts of a split are kept alike in: classes, or the quadrants of two targets."""

from collections.abc import Sequence

from tuning.datasets.corpus import Clip


def classes_of(clips: Sequence[Clip]) -> list[str]:
    """The distinct classes, sorted; empty where clips have numbers."""
    return sorted({clip.label for clip in clips if clip.label is not None})


def strata(clips: Sequence[Clip], meet: str = "median") -> list[int]:
    """What to keep alike, as a small number for each clip: its class, else its quadrant."""
    if clips and all(clip.label is not None for clip in clips):
        index_of = {name: index for index, name in enumerate(classes_of(clips))}
        return [index_of[str(clip.label)] for clip in clips]
    return quadrants(clips, meet)


def quadrants(clips: Sequence[Clip], meet: str = "median") -> list[int]:
    """Quadrant of each clip's first two targets: 0 to 3 (0 or 1 with one target).

    They meet at the medians or at zero (`split.quadrants`); a target just there is on the upper side.
    """
    import numpy as np

    targets = np.array([clip.targets[:2] for clip in clips], dtype=np.float64).reshape(len(clips), -1)
    above = targets >= (np.median(targets, axis=0) if meet == "median" else 0)
    return (above @ (1 << np.arange(above.shape[1]))).astype(int).tolist()
