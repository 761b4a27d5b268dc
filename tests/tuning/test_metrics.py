import doctest
import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from keras_reference import keras

from tuning import metrics
from tuning.metrics import METRICS, regression_metrics


def literal_ccc(t: np.ndarray, p: np.ndarray) -> float:
    return 2 * np.cov(t, p, bias=True)[0, 1] / (t.var() + p.var() + (t.mean() - p.mean()) ** 2)


REFERENCES = {
    "rmse": sklearn.metrics.root_mean_squared_error,
    "mae": sklearn.metrics.mean_absolute_error,
    "r2": sklearn.metrics.r2_score,
    "pearson": lambda t, p: scipy.stats.pearsonr(t, p).statistic,
    "ccc": literal_ccc,
}


def test_doctests():
    assert doctest.testmod(metrics).failed == 0
    for metric in METRICS.values():
        assert ">>>" in (metric.function.__doc__ or "")


@pytest.mark.parametrize("name", list(METRICS))
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_metrics_equal_independent_references(name, scale):
    rng = np.random.default_rng(0)
    for _ in range(20):
        t = scale * rng.normal(3, 1, 37)
        p = scale * rng.normal(2, 1, 37) + rng.normal() * t
        assert METRICS[name].function(t, p) == pytest.approx(REFERENCES[name](t, p), rel=1e-9, abs=0)


@pytest.mark.parametrize("name", list(METRICS))
def test_mode_says_which_way_is_better(name):
    rng = np.random.default_rng(0)
    t = rng.normal(size=30)
    noise = rng.normal(size=30)
    metric = METRICS[name]
    good, bad = metric.function(t, t + 0.1 * noise), metric.function(t, t + noise)
    assert (good < bad) == (metric.mode == "min")
    assert metric.function(t, t) == pytest.approx(0 if metric.mode == "min" else 1, abs=1e-12)


# A thousand values of 0.1 have a mean that is not 0.1: a constant must be told by its values.
CONSTANT, OTHER, VARIED = np.full(1000, 0.1), np.full(1000, 0.3), np.linspace(-1, 1, 1000)


@pytest.mark.parametrize(
    ("name", "t", "p", "expected"),
    [
        ("r2", CONSTANT, CONSTANT, math.nan),
        ("r2", CONSTANT, VARIED, math.nan),
        ("r2", VARIED, np.zeros(1000), 0.0),
        ("pearson", CONSTANT, VARIED, math.nan),
        ("pearson", VARIED, CONSTANT, math.nan),
        ("pearson", VARIED * 1e-200, VARIED, 1.0),
        ("pearson", VARIED, -7 * VARIED, -1.0),
        ("ccc", CONSTANT, CONSTANT, math.nan),
        ("ccc", CONSTANT, OTHER, 0.0),
        ("ccc", CONSTANT, VARIED, 0.0),
        ("ccc", VARIED, CONSTANT, 0.0),
        ("rmse", CONSTANT, CONSTANT, 0.0),
        ("mae", CONSTANT, CONSTANT, 0.0),
    ],
)
def test_degenerate_inputs(name, t, p, expected):
    assert METRICS[name].function(t, p) == pytest.approx(expected, nan_ok=True, abs=1e-12)


@pytest.mark.parametrize("name", list(METRICS))
def test_no_samples_is_an_error(name):
    with pytest.raises(ValueError, match="at least one sample"):
        METRICS[name].function([], [])


def test_a_split_s_metrics():
    rng = np.random.default_rng(1)
    t, p = rng.normal(size=(40, 2)), rng.normal(size=(40, 2))
    values = regression_metrics(t, p, ["valence", "arousal"])
    assert set(values) == {f"{m}{suffix}" for m in METRICS for suffix in ("", "_valence", "_arousal")}
    assert list(values)[: len(METRICS)] == list(METRICS)
    for k, target in enumerate(["valence", "arousal"]):
        for name, reference in REFERENCES.items():
            assert values[f"{name}_{target}"] == pytest.approx(reference(t[:, k], p[:, k]))
    # Pooled as Keras pools: not the mean of the two roots.
    assert values["rmse"] == pytest.approx(np.sqrt(((t - p) ** 2).mean()))
    assert values["mae"] == pytest.approx(np.abs(t - p).mean())
    for name in ("r2", "ccc", "pearson"):
        assert values[name] == pytest.approx((values[f"{name}_valence"] + values[f"{name}_arousal"]) / 2)


def test_pooling_equals_keras():
    rng = np.random.default_rng(1)
    t, p = rng.normal(size=(40, 2)), rng.normal(size=(40, 2))
    values = regression_metrics(t, p, ["valence", "arousal"])
    for key, reference in {
        "rmse": keras.metrics.RootMeanSquaredError(),
        "mae": keras.metrics.MeanAbsoluteError(),
    }.items():
        reference.update_state(t, p)
        assert values[key] == pytest.approx(float(reference.result()), rel=1e-5)


def test_undefined_metrics_are_left_out():
    t = np.column_stack([VARIED, CONSTANT])
    values = regression_metrics(t, t + 1, ["valence", "arousal"])
    assert not any(math.isnan(value) for value in values.values())
    missing = {"r2", "r2_arousal", "pearson", "pearson_arousal"}
    assert missing.isdisjoint(values)
    assert missing | set(values) == {f"{m}{s}" for m in METRICS for s in ("", "_valence", "_arousal")}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_an_error(bad):
    with pytest.raises(ValueError, match="predictions: expected finite values, got 1 "):
        regression_metrics(np.zeros((2, 1)), [[0.0], [bad]], ["valence"])
