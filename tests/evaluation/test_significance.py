"""Who won, on simulated scores: the stated error rate, the stated power, and scipy's own test of two."""

import numpy as np
import pytest
from scipy import stats

from tuning.evaluation.significance import critical, decide


def simulated(means, n, repetitions, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(np.array(means)[:, None], 1.0, size=(repetitions, len(means), n))


@pytest.mark.parametrize(("k", "n"), [(2, 5), (3, 3), (5, 3)])
def test_equal_configurations_are_told_apart_in_one_of_twenty(k, n):
    repetitions = 1000
    false = sum(
        len(decide(scores, "min").not_told_apart) < k - 1 for scores in simulated([0.0] * k, n, repetitions, seed=k)
    )
    assert stats.binomtest(false, repetitions, 0.05).pvalue > 0.001


@pytest.mark.parametrize(("k", "n"), [(2, 5), (4, 3)])
def test_the_detectable_difference_is_found_in_four_of_five(k, n):
    """The difference that a decision states, for the spread that is true, is found as often as it says."""
    repetitions = 1000
    # Scores whose pooled spread is exactly 1.
    exact = np.tile(np.linspace(-1, 1, n) / np.linspace(-1, 1, n).std(ddof=1), (k, 1))
    stated = decide(exact, "max").detectable
    # Between two of them; the others lie so far below that they are never the best.
    means = [stated, 0.0, *[-20.0] * (k - 2)]
    decisions = [decide(scores, "max") for scores in simulated(means, n, repetitions, seed=1)]
    found = sum(decision.winner == 0 and decision.told_apart[1] for decision in decisions)
    assert stats.binomtest(found, repetitions, 0.8).pvalue > 0.001


def test_it_is_tukeys_test():
    told = 0
    for scores in simulated([0.0, 1.0, 2.0], 4, 12, seed=3):
        found = decide(scores, "min")
        wanted = stats.tukey_hsd(*scores).pvalue[found.winner] < 0.05
        told += sum(wanted)
        assert found.told_apart == wanted.tolist()
    assert 3 < told < 24


def test_of_two_it_is_students_test():
    scores = np.random.default_rng(0).normal([[0.5], [0.6]], 0.1, size=(2, 6))
    found = decide(scores, "min")
    assert found.winner == int(scores.mean(axis=1).argmin())
    assert found.told_apart[1 - found.winner] == (stats.ttest_ind(*scores).pvalue < 0.05)
    assert critical(2, 6) == pytest.approx(stats.t.ppf(0.975, 10), rel=1e-5)
    interval = stats.t.interval(0.95, 5, scores[0].mean(), scores[0].std(ddof=1) / np.sqrt(6))
    assert found.means[0] - found.half_widths[0] == pytest.approx(interval[0])


def test_direction_order_and_single_scores():
    scores = [[0.3, 0.31], [0.5, 0.52], [0.1, 0.12]]
    assert decide(scores, "max").order == [1, 0, 2]
    assert decide(scores, "min").order == [2, 0, 1]
    single = decide([[0.3], [0.5]], "max")
    assert (single.winner, single.half_widths, single.not_told_apart) == (1, None, [0])


def test_scores_without_spread():
    same = decide([[0.5, 0.5], [0.5, 0.5], [0.4, 0.4]], "max")
    assert same.winner == 0 and same.not_told_apart == [1] and same.detectable == 0
