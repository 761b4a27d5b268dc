"""Confidence intervals of test metrics, by bootstrap over groups: clips of one speaker are not independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95
# A metric that so few resamples define has no interval.
LEAST_DEFINED = 0.9


def group_intervals(
    targets: np.ndarray,
    outputs: np.ndarray,
    groups: Sequence[str | None],
    metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]],
    seed: int,
) -> tuple[dict[str, tuple[float, float]], int]:
    """The 95 % percentile interval of every metric, and the number of groups.

    Whole groups are drawn with replacement, as many as there are (Efron & Tibshirani 1993, section 8); a clip without
    a group is one of its own. With fewer than two groups there are no intervals.

    Args:
        targets, outputs: of N clips [N, K].
        groups: of each clip.
        metrics: targets and outputs of some clips -> metrics, those left out that are not defined.
        seed: of the draws.
    """
    names = [f"clip {row}" if group is None else f"group {group}" for row, group in enumerate(groups)]
    _, of_clip = np.unique(names, return_inverse=True)
    num_groups = int(of_clip.max()) + 1
    if num_groups < 2:
        return {}, num_groups
    rows_of = [np.flatnonzero(of_clip == number) for number in range(num_groups)]
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(RESAMPLES):
        rows = np.concatenate([rows_of[number] for number in rng.integers(num_groups, size=num_groups)])
        for name, value in metrics(targets[rows], outputs[rows]).items():
            found.setdefault(name, []).append(value)
    tail = 100 * (1 - CONFIDENCE) / 2
    return {
        name: (float(np.percentile(values, tail)), float(np.percentile(values, 100 - tail)))
        for name, values in found.items()
        if len(values) >= LEAST_DEFINED * RESAMPLES
    }, num_groups
