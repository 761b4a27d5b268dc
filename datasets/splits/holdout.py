"""Split clips by shares, in whole groups or clip by clip, stratified by classes or quadrants."""

from collections import Counter
from typing import TYPE_CHECKING

from tuning.datasets.corpus import Clip
from tuning.datasets.settings import SplitSettings
from tuning.datasets.splits.stratification import classes_of, strata

if TYPE_CHECKING:
    import numpy as np

NUM_DRAWS = 500  # orders of the groups that a grouped split chooses from


def by_groups(clips: list[Clip], settings: SplitSettings) -> dict[str, str]:
    """Assign whole groups to test and val so that sizes and strata come closest to the wanted shares.

    Returns the part of each clip by its id. Raises ValueError for fewer than three groups.
    """
    import numpy as np

    groups = sorted({str(clip.group) for clip in clips})
    if len(groups) < 3:
        raise ValueError(
            f"split.method: 'grouped' needs at least 3 groups, for train, val and test, got {len(groups)}: "
            f"{', '.join(groups)}"
        )
    rows = {group: row for row, group in enumerate(groups)}
    stratum_of = strata(clips, settings.quadrants)
    counts = np.zeros((len(groups), max(stratum_of) + 1))
    for clip, stratum in zip(clips, stratum_of, strict=True):
        counts[rows[str(clip.group)], stratum] += 1
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
    """Choose rows of `counts` [groups, strata] whose sum comes closest to `wanted` [strata].

    They are the first rows in the best of many random orders. At least one row is chosen and `num_kept` are left, also
    of each stratum if it has so many, so that later parts can have it.
    """
    import numpy as np

    has = counts > 0
    num_with = has.sum(axis=0)
    best, best_cost = np.array([], dtype=int), np.inf
    for _ in range(NUM_DRAWS):
        order = rng.permutation(len(counts))
        sums = np.cumsum(counts[order], axis=0)[: len(counts) - num_kept]
        cost = np.abs(sums - wanted).sum(axis=1) + np.abs(sums.sum(axis=1) - wanted.sum())
        behind = num_with - np.cumsum(has[order], axis=0)[: len(counts) - num_kept]
        short = np.maximum(np.minimum(num_kept, num_with) - behind, 0).sum(axis=1)
        absent = ((behind == num_with) & (num_with > num_kept)).sum(axis=1)
        cost += 4 * counts.sum() * short + wanted.sum() * absent  # the first exceeds every mismatch of sizes
        if cost.min() < best_cost:
            best, best_cost = order[: int(cost.argmin()) + 1], cost.min()
    return best


def at_random(clips: list[Clip], settings: SplitSettings, notes: list[str]) -> dict[str, str]:
    """Draw test clips from all, then val clips from the rest, stratified.

    Returns the part of each clip by its id. Raises ValueError for fewer than three clips.
    """
    from sklearn.model_selection import train_test_split

    clips = sorted(clips, key=lambda clip: clip.id)
    if len(clips) < 3:
        raise ValueError(f"split.method: 'random' needs at least 3 clips, got {len(clips)}")
    stratum_of = strata(clips, settings.quadrants)
    alike = True

    def part(indices: list[int], num_held: int) -> tuple[list[int], list[int]]:
        nonlocal alike
        sizes = Counter(stratum_of[index] for index in indices)
        single = [index for index in indices if sizes[stratum_of[index]] == 1]  # the only one of its stratum trains
        shared = [index for index in indices if sizes[stratum_of[index]] > 1]
        try:
            left, held = train_test_split(
                shared, test_size=num_held, random_state=settings.seed, stratify=[stratum_of[i] for i in shared]
            )
            return left + single, held
        except ValueError:  # a stratum has too few clips
            alike = False
            return train_test_split(indices, test_size=num_held, random_state=settings.seed)

    num_val, num_test = _num_held_out(len(clips), settings)
    rest, test = part(list(range(len(clips))), num_test)
    train, val = part(rest, num_val)
    if not alike:
        what = "class" if classes_of(clips) else "quadrant"
        notes.append(f"too few clips to part each {what} alike: parted without regard to them")
    names = {index: name for name, indices in (("train", train), ("val", val), ("test", test)) for index in indices}
    return {clip.id: names[index] for index, clip in enumerate(clips)}


def _num_held_out(num_clips: int, settings: SplitSettings) -> tuple[int, int]:
    """The number of clips in val and test: shares of train and val are rounded down, and the test takes the rest.

    1,802 songs become 1,261, 270 and 271, as documented for DEAM. Each part has at least one clip.
    """
    tiny = 1e-9  # 1 - 0.15 - 0.15 is not quite 0.7
    num_train = max(1, int((1 - settings.val_share - settings.test_share) * num_clips + tiny))
    num_val = min(max(1, int(settings.val_share * num_clips + tiny)), num_clips - 2)
    return num_val, max(1, num_clips - num_train - num_val)
