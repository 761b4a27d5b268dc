"""Compare configurations by their scores with several seeds: means, confidence intervals, Tukey's test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, stats

from tuning.evaluation.intervals import CONFIDENCE
from tuning.training.ranking import Mode

POWER = 0.8


@dataclass(frozen=True)
class Decision:
    """The comparison of k configurations, numbered as given, with n scores each.

    Args:
        order: the configurations, best mean first.
        means: of each configuration [k].
        half_widths: of the 95 % confidence interval of each mean (Student's t); None with a single score each.
        told_apart: whether each configuration differs significantly from the winner, at 5 % for all comparisons
            together; False throughout with a single score each.
        pooled: standard deviation between seeds, one for all configurations; None with a single score each.
        num_scores: n.
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
        """Configurations that do not differ significantly from the winner, best first."""
        return [number for number in self.order[1:] if not self.told_apart[number]]

    @property
    def detectable(self) -> float | None:
        """The true difference between two means that would be found in 4 of 5 repetitions."""
        if self.pooled is None or len(self.means) < 2:
            return None
        return self.pooled * detectable_difference(len(self.means), self.num_scores)


def decide(scores: Sequence[Sequence[float]], mode: Mode) -> Decision:
    """Compare k configurations by their scores [k, n], one for each of n seeds.

    The winner was picked for having the best of k means, so it is compared by Tukey's test (1949): of k equal
    configurations it is called different from another one in at most 5 % of repetitions. The test assumes that scores
    are normal with the same spread for all configurations.
    """
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
    apart = means != means[order[0]]
    if k > 1 and pooled > 0:  # without any spread every difference is real
        apart = np.abs(means - means[order[0]]) > critical(k, n) * pooled * (2 / n) ** 0.5
    return Decision(order, means.tolist(), half.tolist(), apart.tolist(), pooled, n)


@cache
def critical(k: int, n: int) -> float:
    """The critical value of Tukey's test for the t statistic between two of k means of n scores each.

    Kept between calls, since it takes 0.05 s; `scipy.stats.tukey_hsd` says the same and takes up to a second each time.
    """
    return float(stats.studentized_range.ppf(CONFIDENCE, k, k * (n - 1)) / 2**0.5)


@cache
def detectable_difference(k: int, n: int) -> float:
    """The difference of two of k means, in standard deviations, that is found with probability `POWER`."""

    def missing(difference: float) -> float:
        return float(stats.nct.sf(critical(k, n), k * (n - 1), difference / (2 / n) ** 0.5)) - POWER

    return float(optimize.brentq(missing, 0.0, 100 * critical(k, n)))
