"""The strata of a split: classes, or the quadrants of two targets."""

from collections.abc import Sequence

from tuning.datasets.corpus import Clip


def classes_of(clips: Sequence[Clip]) -> list[str]:
    """The distinct classes, sorted; empty if the clips have numbers as targets."""
    return sorted({clip.label for clip in clips if clip.label is not None})


def strata(clips: Sequence[Clip], meet: str = "median") -> list[int]:
    """The stratum of each clip as an index: its class if it has one, else its quadrant."""
    if clips and all(clip.label is not None for clip in clips):
        index_of = {name: index for index, name in enumerate(classes_of(clips))}
        return [index_of[str(clip.label)] for clip in clips]
    return quadrants(clips, meet)


def quadrants(clips: Sequence[Clip], meet: str = "median") -> list[int]:
    """The quadrant of each clip's first two targets: 0 to 3 (0 or 1 with one target).

    Quadrants meet at the medians or at zero (`split.quadrants`); a target on the border belongs to the upper side.
    """
    import numpy as np

    targets = np.array([clip.targets[:2] for clip in clips], dtype=np.float64).reshape(len(clips), -1)
    above = targets >= (np.median(targets, axis=0) if meet == "median" else 0)
    return (above @ (1 << np.arange(above.shape[1]))).astype(int).tolist()
