"""Intervals by bootstrap over groups: their coverage, against scipy's bootstrap, and how groups widen them."""

import numpy as np
import pytest
from scipy import stats

from tuning.evaluation.intervals import basis, group_intervals


def mean_of(targets, outputs):
    return {"mean": float(outputs.mean())}


def test_without_groups_it_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(0).exponential(size=(60, 1))
    found, num_groups = group_intervals(values, values, [None] * 60, mean_of, seed=1)
    wanted = stats.bootstrap((values[:, 0],), np.mean, n_resamples=5000, method="percentile", rng=2)
    assert num_groups == 60
    spread = wanted.confidence_interval.high - wanted.confidence_interval.low
    assert found["mean"] == pytest.approx(tuple(wanted.confidence_interval), abs=0.1 * spread)


def test_clips_of_a_group_count_together():
    """Ten speakers with ten equal clips each are ten observations: the interval covers, that over clips does not."""
    covered = {"groups": 0, "clips": 0}
    for repetition in range(25):
        rng = np.random.default_rng(repetition)
        values = np.repeat(rng.normal(size=(10, 1)), 10, axis=0)
        names = np.repeat([f"s{i}" for i in range(10)], 10).tolist()
        for kind, groups in (("groups", names), ("clips", [None] * 100)):
            low, high = group_intervals(values, values, groups, mean_of, seed=repetition)[0]["mean"]
            covered[kind] += low <= 0 <= high
    assert covered["groups"] >= 19  # nominally 24; percentile intervals of ten observations are somewhat narrow
    assert covered["clips"] <= 15


@pytest.mark.parametrize(
    ("groups", "number", "sentence"),
    [
        (["a"] * 30, 1, "no interval: 1 speaker or artist in the test, at least 10 needed"),
        (list("abcd") * 6, 4, "no interval: 4 speakers or artists in the test, at least 10 needed"),
        (list("abcdefghi") * 3, 9, "no interval: 9 speakers or artists in the test, at least 10 needed"),
        (list("abcdefghij") * 3, 10, "intervals by bootstrap over the 10 speakers or artists of the test"),
        ([*"aabb", *[None] * 7], 9, "no interval: 9 speakers, artists or clips in the test, at least 10 needed"),
        ([*"aabb", *[None] * 8], 10, "intervals by bootstrap over the 10 speakers, artists or clips of the test"),
        ([None] * 9, 9, "no interval: 9 clips in the test, at least 10 needed"),
        ([None] * 10, 10, "intervals by bootstrap over the 10 clips of the test"),
    ],
)
def test_fewer_than_ten_groups_have_no_interval_and_it_is_said(groups, number, sentence):
    values = np.random.default_rng(0).normal(size=(len(groups), 1))
    found, num_groups = group_intervals(values, values, groups, mean_of, seed=0)
    assert num_groups == number
    assert set(found) == ({"mean"} if number >= 10 else set())
    assert basis(groups) == sentence


def test_a_metric_that_is_seldom_defined_has_no_interval():
    values = np.arange(12.0)[:, None]
    found, _ = group_intervals(values, values, [None] * 12, lambda t, o: {"m": 1.0} if o.min() == 0 else {}, seed=0)
    assert found == {}
