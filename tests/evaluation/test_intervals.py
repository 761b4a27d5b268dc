"""Intervals by bootstrap over groups: their coverage, against scipy's bootstrap, and how groups widen them."""

import numpy as np
import pytest
from scipy import stats

from tuning.evaluation.intervals import group_intervals


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


def test_one_group_has_no_interval_and_a_rare_metric_none():
    values = np.arange(4.0)[:, None]
    assert group_intervals(values, values, ["a"] * 4, mean_of, seed=0) == ({}, 1)
    found, _ = group_intervals(values, values, list("abcd"), lambda t, o: {"m": 1.0} if o.min() == 0 else {}, seed=0)
    assert found == {}
