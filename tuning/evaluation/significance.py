"""Who won, from the scores of several seeds each: means, their confidence, and who can't be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from tuning.evaluation.intervals import CONFIDENCE
from tuning.training.tasks import Mode

POWER = 0.8


@dataclass(frozen=True)
class Decision:
    """The configurations by their number as given, k of them with n scores each.

    Args:
        order: best mean first.
        means: by configuration [k].
        half_widths: of the 95 % confidence interval of each mean (Student's t); None with a single score.
        told_apart: whether each configuration differs from the winner by more than chance (5 % for all comparisons
            together); never with a single score each.
        pooled: standard deviation between seeds, one for all configurations; None with a single score each.
    """

    order: list[int]
    means: list[float]
    half_widths: list[float] | None
    told_apart: list[bool]
    pooled: float | None
    num_scores: int

    @property
    def winner(self) -> int:
        """The configuration with the best mean."""
        return self.order[0]

    @property
    def not_told_apart(self) -> list[int]:
        """Configurations whose difference from the winner may be chance, best first."""
        return [number for number in self.order[1:] if not self.told_apart[number]]

    @property
    def detectable(self) -> float | None:
        """The difference between two means that would be found in 4 of 5 repetitions."""
        if self.pooled is None or len(self.means) < 2:
            return None
        return self.pooled * detectable_difference(len(self.means), self.num_scores)


def decide(scores: Sequence[Sequence[float]], mode: Mode) -> Decision:
    """Compare k configurations by their scores [k, n], one for each of n seeds.

    Of equal configurations a winner is called different from any other in at most 5 % of repetitions, however many
    there are: the best of k is always compared with the studentized range of k means (Tukey 1949), since it was picked
    for being the best. Scores are taken for normal with one spread for all.
    """
    from scipy import stats

    values = np.array(scores, dtype=float)
    assert values.ndim == 2 and np.isfinite(values).all(), "expected finite scores [configurations, seeds]"
    k, n = values.shape
    means = values.mean(axis=1)
    order = np.argsort(means if mode == "min" else -means, kind="stable").tolist()
    if n < 2:
        return Decision(order, means.tolist(), None, [False] * k, None, n)
    spreads = values.std(axis=1, ddof=1)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * spreads / np.sqrt(n)
    pooled = float(np.sqrt(np.mean(spreads**2)))
    distance = np.abs(means - means[order[0]])
    apart = distance > 0
    if k > 1 and pooled > 0:
        apart = distance > critical(k, n) * pooled * (2 / n) ** 0.5
    return Decision(order, means.tolist(), half.tolist(), apart.tolist(), pooled, n)


@cache
def critical(k: int, n: int) -> float:
    """Tukey's critical value of the t statistic between two of k means of n scores each."""
    from scipy import stats

    return float(stats.studentized_range.ppf(CONFIDENCE, k, k * (n - 1)) / 2**0.5)


@cache
def detectable_difference(k: int, n: int) -> float:
    """The difference of two of k means, in standard deviations, that is found with probability `POWER`."""
    from scipy import optimize, stats

    def missing(difference: float) -> float:
        return float(stats.nct.sf(critical(k, n), k * (n - 1), difference / (2 / n) ** 0.5)) - POWER

    return float(optimize.brentq(missing, 0.0, 100 * critical(k, n)))
