import doctest
import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from tests.helpers.keras_reference import keras
from tuning.training import metrics
from tuning.training.metrics import JOINT_METRICS, METRICS, metric_modes, regression_metrics


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
    for metric in [*METRICS.values(), *JOINT_METRICS.values()]:
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
    single = {f"{m}{suffix}" for m in METRICS for suffix in ("", "_valence", "_arousal")}
    assert set(values) == single | set(JOINT_METRICS) == set(metric_modes(["valence", "arousal"]))
    assert list(values)[: len(METRICS) + 3] == [*METRICS, *JOINT_METRICS]
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
    missing |= {"quadrant_accuracy", "quadrant_penalty"}
    assert missing.isdisjoint(values)
    assert missing | set(values) == set(metric_modes(["valence", "arousal"]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_an_error(bad):
    with pytest.raises(ValueError, match="predictions: expected finite values, got 1 "):
        regression_metrics(np.zeros((2, 1)), [[0.0], [bad]], ["valence"])


def literal_accuracy(t, p, threshold=0.5):
    """The guide's metric, clip by clip."""
    right = [abs(a - c) <= threshold and abs(b - d) <= threshold for (a, b), (c, d) in zip(t, p, strict=True)]
    return sum(right) / len(right)


def literal_quadrant_penalty(t, p):
    """Half of the guide's sum over valence and arousal; no value is 0."""
    crossed = (np.sign(t[:, 0]) - np.sign(p[:, 0])) ** 2 + (np.sign(t[:, 1]) - np.sign(p[:, 1])) ** 2
    return crossed.mean() / 2


def quadrant_names(values):
    return [("right" if v >= 0 else "left") + (" up" if a >= 0 else " down") for v, a in values]


@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
def test_joint_metrics_equal_literal_formulas(noise):
    rng = np.random.default_rng(2)
    for _ in range(20):
        t = rng.uniform(-1, 1, (37, 2))
        p = t + noise * rng.normal(size=(37, 2))
        values = regression_metrics(t, p, ["valence", "arousal"])
        assert values["accuracy"] == pytest.approx(literal_accuracy(t, p))
        expected = sklearn.metrics.accuracy_score(quadrant_names(t), quadrant_names(p))
        assert values["quadrant_accuracy"] == pytest.approx(expected)
        assert values["quadrant_penalty"] == pytest.approx(literal_quadrant_penalty(t, p))
        wider = regression_metrics(t, p, ["valence", "arousal"], accuracy_threshold=0.8)
        assert wider["accuracy"] == pytest.approx(literal_accuracy(t, p, 0.8)) and wider["rmse"] == values["rmse"]


@pytest.mark.parametrize("name", list(JOINT_METRICS))
def test_joint_modes_say_which_way_is_better(name):
    rng = np.random.default_rng(0)
    t, noise = rng.normal(size=(60, 2)), rng.normal(size=(60, 2))
    metric = JOINT_METRICS[name]
    best, good, bad = (metric.function(t, t + scale * noise) for scale in (0.0, 0.3, 3.0))
    assert (good < bad) == (metric.mode == "min") and good != bad
    assert best == (0 if metric.mode == "min" else 1)
    worst = metric.function(t, -t - np.sign(t))
    assert worst == (4 if metric.mode == "min" else 0)


def test_an_error_at_the_threshold_counts_as_right_and_one_wrong_target_makes_a_clip_wrong():
    accuracy = JOINT_METRICS["accuracy"].function
    assert accuracy([[0.0, 0.0]], [[0.5, -0.5]]) == 1.0
    assert accuracy([[0.0, 0.0]], [[0.500001, 0.0]]) == accuracy([[0.0, 0.0]], [[0.0, -0.6]]) == 0.0
    assert accuracy([[1.0], [1.0]], [[1.2], [9.0]]) == 0.5
    assert accuracy([[0.0, 0.0, 0.0]], [[0.1, 0.1, 0.9]]) == 0.0


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_value_on_an_axis_is_on_its_positive_side(zero):
    t, same, other = ([[value, 1.0], [-1.0, -1.0], [1.0, 1.0]] for value in (zero, 0.2, -0.2))
    for name, values in {"quadrant_accuracy": (1.0, 2 / 3), "quadrant_penalty": (0.0, 4 / 6)}.items():
        function = JOINT_METRICS[name].function
        assert function(t, same) == function(same, t) == values[0]
        assert function(t, other) == function(other, t) == pytest.approx(values[1])


@pytest.mark.parametrize("name", ["quadrant_accuracy", "quadrant_penalty"])
def test_quadrants_are_undefined_where_labels_are_not_centred(name):
    function = JOINT_METRICS[name].function
    rng = np.random.default_rng(0)
    centred = rng.uniform(-1, 1, (30, 2))
    for t in (
        5 + 4 * centred,
        centred * [1, 0] + [0, 0.5],
        centred * [1, 0] - [0, 0.5],
        -np.abs(centred) - 0.1,
        np.zeros((30, 2)),
    ):
        assert math.isnan(function(t, centred))
    assert not math.isnan(function(centred, 5 + centred))


@pytest.mark.parametrize("name", list(JOINT_METRICS))
def test_joint_metrics_refuse_nothing_and_other_shapes(name):
    function = JOINT_METRICS[name].function
    with pytest.raises(ValueError, match="at least one sample"):
        function(np.zeros((0, 2)), np.zeros((0, 2)))
    for shapes in [((3,), (3,)), ((3, 2), (3, 1)), ((3, 2), (2, 2))]:
        with pytest.raises(AssertionError):
            function(*(np.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("names", [["valence"], ["valence", "arousal", "dominance"]])
def test_quadrants_are_for_two_targets(names):
    rng = np.random.default_rng(0)
    t = rng.normal(size=(20, len(names)))
    values = regression_metrics(t, t + 0.1, names)
    assert set(values) == set(metric_modes(names)) and values["accuracy"] == 1
    assert not {"quadrant_accuracy", "quadrant_penalty"} & set(values)
