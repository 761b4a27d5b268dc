"""Metrics over a whole split, in float64. A new metric is one function and one line in a dict.

`METRICS` take one target at a time; `JOINT_METRICS` need all targets of a clip together. A metric that its data do not
define (a correlation with a constant) is NaN; tables leave its cell empty.
"""

from collections.abc import Callable
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
    t, p = _pair(targets, predictions)
    return float(np.sqrt(np.mean((p - t) ** 2)))


def mae(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Mean absolute error, mean(|p - t|), in units of the target.

    Range: [0, inf), 0 is best. Always defined.

    >>> mae([0, 0, 0, 0], [1, -1, 1, 5])
    2.0
    """
    t, p = _pair(targets, predictions)
    return float(np.mean(np.abs(p - t)))


def r2(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Coefficient of determination, 1 - sum((p - t)²) / sum((t - mean(t))²).

    Range: (-inf, 1], 1 is best, 0 is what predicting the targets' mean gives. NaN where the target is constant.

    >>> r2([1, 2, 3], [1, 2, 4])
    0.5
    >>> r2([1, 1], [1, 1])
    nan
    """
    t, p = _pair(targets, predictions)
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
    t, p = (_centred(values) for values in _pair(targets, predictions))
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
    t, p = _pair(targets, predictions)
    a, b = _centred(t), _centred(p)
    scale = np.mean(a**2) + np.mean(b**2) + (t.mean() - p.mean()) ** 2
    return float(2 * np.mean(a * b) / scale) if scale > 0 else float("nan")


def accuracy(targets: ArrayLike, predictions: ArrayLike, threshold: float = 0.5) -> float:
    """Share of clips that are right in every target, max_k |p - t| <= threshold in units of the target; [N, K].

    Range: [0, 1], 1 is best. Always defined. Source: guide part 8, metrics.

    >>> accuracy([[0, 0], [0, 0], [0, 0]], [[0.5, -0.5], [0.4, 0.6], [0, 0]])
    0.6666666666666666
    """
    t, p = _clips(targets, predictions)
    return float(np.mean((np.abs(p - t) <= threshold).all(axis=1)))


def quadrant_accuracy(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Share of clips in the right quadrant, side(p) = side(t) in every target; [N, 2].

    side(x) is 1 for x >= 0, else -1: a value on an axis is on its positive side. The labels must be centred on 0.
    Range: [0, 1], 1 is best. NaN where all labels of a target are on one side, since then nothing is told apart;
    labels that are not centred look like that.

    >>> quadrant_accuracy([[-1, -1], [1, 1], [0, 1], [-1, 0]], [[-2, -1], [1, -1], [0.1, 2], [-1, 0]])
    0.75
    >>> quadrant_accuracy([[1, 2], [3, 4]], [[1, 2], [3, 4]])
    nan
    """
    t, p = _clips(targets, predictions)
    if not has_both_sides(t).all():
        return float("nan")
    return float(np.mean((_side(t) == _side(p)).all(axis=1)))


def quadrant_penalty(targets: ArrayLike, predictions: ArrayLike) -> float:
    """Mean over clips and targets of (side(p) - side(t))², with `side` as in `quadrant_accuracy`; [N, 2].

    It is 4 times the share of values on the wrong side, and half of the guide's penalty, which sums over its two
    targets. Range: [0, 4], 0 is best. NaN as for `quadrant_accuracy`. Source: guide part 8, loss 3.

    >>> quadrant_penalty([[-1, -1], [1, 1]], [[-1, -1], [-1, 1]])
    1.0
    """
    t, p = _clips(targets, predictions)
    if not has_both_sides(t).all():
        return float("nan")
    return float(np.mean((_side(p) - _side(t)) ** 2))


def has_both_sides(targets: ArrayLike) -> NDArray[np.bool_]:
    """For each target whether its labels lie on both sides of 0: [N, K] -> [K]."""
    t = np.asarray(targets, dtype=np.float64)
    return np.asarray((t >= 0).any(axis=0) & (t < 0).any(axis=0))


def _side(values: Array) -> Array:
    return np.where(values >= 0, 1.0, -1.0)


def _clips(targets: ArrayLike, predictions: ArrayLike) -> tuple[Array, Array]:
    t, p = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    assert t.shape == p.shape, f"targets {t.shape}, predictions {p.shape}"
    if len(t) == 0:
        raise ValueError("metrics: expected at least one sample, got none")
    assert t.ndim == 2, f"expected [samples, targets], got {t.shape}"
    return t, p


def _pair(targets: ArrayLike, predictions: ArrayLike) -> tuple[Array, Array]:
    t, p = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    assert t.shape == p.shape, f"targets {t.shape}, predictions {p.shape}"
    assert t.ndim == 1, f"expected one value per sample, got {t.shape}"
    if len(t) == 0:
        raise ValueError("metrics: expected at least one sample, got none")
    return t, p


def _centred(values: Array) -> Array:
    """Deviations from the mean, exactly zero for a constant (the mean of many 0.1 is not 0.1)."""
    return np.zeros_like(values) if np.ptp(values) == 0 else values - values.mean()


@dataclass(frozen=True)
class Metric:
    """A function of (targets [N], predictions [N]) and which way is better.

    `pooled` says how several targets become one value: all values as if of one target, or the mean over targets.
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
    """A function of (targets [N, K], predictions [N, K]) and which way is better; `num_targets` is K, or any."""

    function: Callable[..., float]
    mode: Literal["min", "max"]
    num_targets: int | None = None


JOINT_METRICS: dict[str, JointMetric] = {
    "accuracy": JointMetric(accuracy, "max"),
    "quadrant_accuracy": JointMetric(quadrant_accuracy, "max", num_targets=2),
    "quadrant_penalty": JointMetric(quadrant_penalty, "min", num_targets=2),
}


def metric_modes(names: list[str]) -> dict[str, Literal["min", "max"]]:
    """Every key that `regression_metrics` may give for these targets, with its direction.

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

    Undefined ones are left out. The mean over targets is undefined when one of them is. ValueError where a value
    is not finite: that is a failed trial, not a metric.

    >>> values = regression_metrics([[0, 1], [1, 1]], [[0, 1], [2, 3]], ["valence", "arousal"])
    >>> values["mae"], values["r2_valence"], "r2_arousal" in values, "r2" in values
    (0.75, -1.0, False, False)
    """
    t, p = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    assert t.shape == p.shape, f"targets {t.shape}, predictions {p.shape}"
    assert t.shape[1:] == (len(names),), f"targets {t.shape}, {len(names)} names"
    for what, values in (("targets", t), ("predictions", p)):
        if not np.isfinite(values).all():
            raise ValueError(f"{what}: expected finite values, got {np.sum(~np.isfinite(values))} that are not")
    overall, single = {}, {}
    for key, metric in METRICS.items():
        each = [metric.function(t[:, k], p[:, k]) for k in range(len(names))]
        overall[key] = metric.function(t.ravel(), p.ravel()) if metric.pooled else float(np.mean(each))
        single.update({f"{key}_{name}": value for name, value in zip(names, each, strict=True)})
    for key, joint in JOINT_METRICS.items():
        if joint.num_targets in (None, len(names)):
            options = {"threshold": accuracy_threshold} if key == "accuracy" else {}
            overall[key] = joint.function(t, p, **options)
    return {key: value for key, value in (overall | single).items() if not np.isnan(value)}
