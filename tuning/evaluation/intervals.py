"""Confidence intervals of test metrics by bootstrap over groups, since clips of one speaker are not independent.

scipy's bootstrap of the groups' numbers draws the same resamples and gives the same intervals. It is not used, because
a metric that is undefined in a single resample would lose its interval there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95
# A percentile interval of fewer is too narrow: few resamples differ, and none is beyond what was drawn.
LEAST_GROUPS = 10
# Share of the resamples in which a metric has to be defined to have an interval.
LEAST_DEFINED = 0.9


def group_intervals(
    targets: np.ndarray,
    outputs: np.ndarray,
    groups: Sequence[str | None],
    metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]],
    seed: int,
) -> tuple[dict[str, tuple[float, float]], int]:
    """Return the 95 % percentile interval of every metric, and the number of groups.

    Each of 1,000 resamples draws as many whole groups as there are, with replacement (Efron & Tibshirani 1993, section
    8). A clip without a group is a group of its own. With fewer than ten groups there are no intervals (`basis` says
    why).

    Args:
        targets: labels of N clips [N, targets].
        outputs: predictions for them [N, K].
        groups: of each clip.
        metrics: a function of the targets and outputs of some clips; it leaves out metrics that are not defined.
        seed: of the draws.
    """
    _, group_of_clip = np.unique(_units(groups), return_inverse=True)
    num_groups = int(np.max(group_of_clip)) + 1
    if num_groups < LEAST_GROUPS:
        return {}, num_groups
    rows_of_group = [np.flatnonzero(group_of_clip == number) for number in range(num_groups)]
    rng = np.random.default_rng(seed)
    resampled: dict[str, list[float]] = {}
    for _ in range(RESAMPLES):
        rows = np.concatenate([rows_of_group[number] for number in rng.integers(num_groups, size=num_groups)])
        for name, value in metrics(targets[rows], outputs[rows]).items():
            resampled.setdefault(name, []).append(value)
    tail = 100 * (1 - CONFIDENCE) / 2
    return {
        name: (float(np.percentile(values, tail)), float(np.percentile(values, 100 - tail)))
        for name, values in resampled.items()
        if len(values) >= LEAST_DEFINED * RESAMPLES
    }, num_groups


def basis(groups: Sequence[str | None]) -> str:
    """Say over what `group_intervals` draws for clips of these groups, or why it gives no interval."""
    num_groups = len(set(_units(groups)))
    s = "" if num_groups == 1 else "s"
    known = {group is not None for group in groups}
    if known == {False}:
        what = f"clip{s}"
    elif known == {True}:
        what = f"speaker{s} or artist{s}"
    else:
        what = f"speaker{s}, artist{s} or clip{s}"
    if num_groups < LEAST_GROUPS:
        return f"no interval: {num_groups} {what} in the test, at least {LEAST_GROUPS} needed"
    return f"intervals by bootstrap over the {num_groups} {what} of the test"


def _units(groups: Sequence[str | None]) -> list[str]:
    """A name of each clip's group; a clip without one is a group of its own."""
    return [f"clip {row}" if group is None else f"group {group}" for row, group in enumerate(groups)]
