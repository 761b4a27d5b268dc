"""Metrics of regression over a whole split, in float64. A new metric is one function and one line in a dict.

`METRICS` take one target at a time; `JOINT_METRICS` need all targets of a clip together. A metric that is not defined
for its data, such as a correlation with a constant, is NaN; `defined` leaves it out of what is recorded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def rmse(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Root-mean-square error, sqrt(mean((p - t)²)), in units of the target.

    Range: [0, inf), 0 is best. Always defined.

    >>> rmse([0, 0, 0, 0], [1, 1, 1, 5])
    2.6457513110645907
    """
    t, p = _checked(targets, predictions)
    return float(np.sqrt(np.mean((p - t) ** 2)))


def mae(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Mean absolute error, mean(|p - t|), in units of the target.

    Range: [0, inf), 0 is best. Always defined.

    >>> mae([0, 0, 0, 0], [1, -1, 1, 5])
    2.0
    """
    t, p = _checked(targets, predictions)
    return float(np.mean(np.abs(p - t)))


def r2(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Coefficient of determination, 1 - sum((p - t)²) / sum((t - mean(t))²).

    Range: (-inf, 1], 1 is best, 0 is what predicting the targets' mean gives. NaN where the target is constant.

    >>> r2([1, 2, 3], [1, 2, 4])
    0.5
    >>> r2([1, 1], [1, 1])
    nan
    """
    t, p = _checked(targets, predictions)
    deviation = _centred(t)
    if not deviation.any():
        return float("nan")
    return float(1 - np.sum((p - t) ** 2) / np.sum(deviation**2))


def pearson(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Pearson's correlation, cov(t, p) / (std(t) * std(p)).

    Range: [-1, 1], 1 is best. NaN where targets or predictions are constant.

    >>> round(pearson([1, 2, 3], [2, 4, 7]), 6)
    0.993399
    >>> pearson([1, 2, 3], [2, 2, 2])
    nan
    """
    t, p = (_centred(values) for values in _checked(targets, predictions))
    if not (t.any() and p.any()):
        return float("nan")
    # Each is scaled first, so that tiny deviations do not underflow when squared.
    t, p = t / np.abs(t).max(), p / np.abs(p).max()
    return float(np.clip(np.sum(t * p) / np.sqrt(np.sum(t**2) * np.sum(p**2)), -1.0, 1.0))


def ccc(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Concordance correlation coefficient, 2 cov(t, p) / (var(t) + var(p) + (mean(t) - mean(p))²).

    The moments divide by N. Range: [-1, 1], 1 is best; 0 where one of the two is constant. NaN where both are the
    same constant. Source: Lin 1989.

    >>> round(ccc([1, 2, 3], [2, 3, 4]), 6)
    0.571429
    >>> ccc([1, 2, 3], [2, 2, 2])
    0.0
    """
    t, p = _checked(targets, predictions)
    a, b = _centred(t), _centred(p)
    scale = np.mean(a**2) + np.mean(b**2) + (t.mean() - p.mean()) ** 2
    return float(2 * np.mean(a * b) / scale) if scale > 0 else float("nan")


def accuracy(targets: ArrayLike, predictions: ArrayLike, threshold: float = 0.5) -> float:
    """Share of clips that are right in every target, max_k |p - t| <= threshold in units of the target; [N, K].

    Range: [0, 1], 1 is best. Always defined.

    >>> accuracy([[0, 0], [0, 0], [0, 0]], [[0.5, -0.5], [0.4, 0.6], [0, 0]])
    0.6666666666666666
    """
    t, p = _checked(targets, predictions, dims=2)
    return float(np.mean((np.abs(p - t) <= threshold).all(axis=1)))


def quadrant_accuracy(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Share of clips in the right quadrant, side(p) = side(t) in every target; [N, 2].

    side(x) is 1 for x >= 0, else -1: a value on an axis is on its positive side. The labels must be centred on 0.
    Range: [0, 1], 1 is best. NaN where all labels of a target are on one side: then there is nothing to distinguish,
    and the labels are probably not centred.

    >>> quadrant_accuracy([[-1, -1], [1, 1], [0, 1], [-1, 0]], [[-2, -1], [1, -1], [0.1, 2], [-1, 0]])
    0.75
    >>> quadrant_accuracy([[1, 2], [3, 4]], [[1, 2], [3, 4]])
    nan
    """
    t, p = _checked(targets, predictions, dims=2)
    if not has_both_sides(t).all():
        return float("nan")
    return float(np.mean((_side(t) == _side(p)).all(axis=1)))


def quadrant_penalty(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Mean over clips and targets of (side(p) - side(t))², with `side` as in `quadrant_accuracy`; [N, 2].

    It is 4 times the share of values on the wrong side, and half of a penalty that sums over the two targets.
    Range: [0, 4], 0 is best. NaN as for `quadrant_accuracy`.

    >>> quadrant_penalty([[-1, -1], [1, 1]], [[-1, -1], [-1, 1]])
    1.0
    """
    t, p = _checked(targets, predictions, dims=2)
    if not has_both_sides(t).all():
        return float("nan")
    return float(np.mean((_side(p) - _side(t)) ** 2))


def has_both_sides(targets: ArrayLike) -> NDArray[np.bool_]:
    """For each target whether its labels lie on both sides of 0: [N, K] -> [K]."""
    t = np.asarray(targets, dtype=np.float64)
    return np.asarray((t >= 0).any(axis=0) & (t < 0).any(axis=0))


def _side(values: Array) -> Array:
    return np.where(values >= 0, 1.0, -1.0)


def _checked(targets: ArrayLike, predictions: ArrayLike, dims: int = 1) -> tuple[Array, Array]:
    """Both as float64 arrays of one shape with `dims` axes and at least one sample."""
    t, p = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    assert t.shape == p.shape, f"targets {t.shape}, predictions {p.shape}"
    assert t.ndim == dims, f"expected {dims} axes, got {t.shape}"
    if len(t) == 0:
        raise ValueError("metrics: expected at least one sample, got none")
    return t, p


def check_finite(what: str, values: Array) -> None:
    """Raise ValueError where a value is not finite: that is a failed trial, not a metric."""
    if not np.isfinite(values).all():
        raise ValueError(f"{what}: expected finite values, got {np.sum(~np.isfinite(values))} that are not")


def defined(values: Mapping[str, float]) -> dict[str, float]:
    """The metrics that their data define: the one place where NaN becomes an empty cell of a table."""
    return {name: value for name, value in values.items() if not np.isnan(value)}


def _centred(values: Array) -> Array:
    """Deviations from the mean, exactly zero for a constant: the mean of many 0.1 is not 0.1."""
    return np.zeros_like(values) if np.ptp(values) == 0 else values - values.mean()


@dataclass(frozen=True)
class Metric:
    """A function of (targets [N], predictions [N]) and its direction.

    Of several targets the metric is that of all values together (`pooled`), or the mean of the metric over targets.
    """

    function: Callable[[ArrayLike, ArrayLike], float]
    mode: Literal["min", "max"]
    pooled: bool = False


METRICS: dict[str, Metric] = {
    "rmse": Metric(rmse, "min", pooled=True),
    "mae": Metric(mae, "min", pooled=True),
    "r2": Metric(r2, "max"),
    "ccc": Metric(ccc, "max"),
    "pearson": Metric(pearson, "max"),
}


@dataclass(frozen=True)
class JointMetric:
    """A function of (targets [N, K], predictions [N, K]) and its direction; `num_targets` is K, None for any."""

    function: Callable[..., float]
    mode: Literal["min", "max"]
    num_targets: int | None = None


JOINT_METRICS: dict[str, JointMetric] = {
    "accuracy": JointMetric(accuracy, "max"),
    "quadrant_accuracy": JointMetric(quadrant_accuracy, "max", num_targets=2),
    "quadrant_penalty": JointMetric(quadrant_penalty, "min", num_targets=2),
}


def metric_modes(names: list[str]) -> dict[str, Literal["min", "max"]]:
    """The direction of every metric that `regression_metrics` may give for these targets.

    >>> metric_modes(["valence"])["rmse_valence"], "quadrant_accuracy" in metric_modes(["valence"])
    ('min', False)
    """
    modes: dict[str, Literal["min", "max"]] = {key: metric.mode for key, metric in METRICS.items()}
    modes |= {key: joint.mode for key, joint in JOINT_METRICS.items() if joint.num_targets in (None, len(names))}
    return modes | {f"{key}_{name}": metric.mode for key, metric in METRICS.items() for name in names}


def regression_metrics(
    targets: ArrayLike, predictions: ArrayLike, names: list[str], accuracy_threshold: float = 0.5
) -> dict[str, float]:
    """All metrics of a split: `rmse`, ..., and per target `rmse_<name>`, ...; [N, K], [N, K], K names.

    Undefined ones are left out; a mean over targets is undefined when that of one target is. Raises ValueError where
    a value is not finite.

    >>> values = regression_metrics([[0, 1], [1, 1]], [[0, 1], [2, 3]], ["valence", "arousal"])
    >>> values["mae"], values["r2_valence"], "r2_arousal" in values, "r2" in values
    (0.75, -1.0, False, False)
    """
    t, p = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    assert t.shape == p.shape, f"targets {t.shape}, predictions {p.shape}"
    assert t.shape[1:] == (len(names),), f"targets {t.shape}, {len(names)} names"
    check_finite("targets", t)
    check_finite("predictions", p)
    overall, single = {}, {}
    for key, metric in METRICS.items():
        each = [metric.function(t[:, k], p[:, k]) for k in range(len(names))]
        overall[key] = metric.function(t.ravel(), p.ravel()) if metric.pooled else float(np.mean(each))
        single.update({f"{key}_{name}": value for name, value in zip(names, each, strict=True)})
    for key, joint in JOINT_METRICS.items():
        if joint.num_targets in (None, len(names)):
            options = {"threshold": accuracy_threshold} if key == "accuracy" else {}
            overall[key] = joint.function(t, p, **options)
    return defined(overall | single)
