"""Metrics over a whole split, in float64. A new metric is one function and one line in `METRICS`.

A metric that its data do not define (a correlation with a constant) is NaN; tables leave its cell empty.
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


def regression_metrics(targets: ArrayLike, predictions: ArrayLike, names: list[str]) -> dict[str, float]:
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
    return {key: value for key, value in (overall | single).items() if not np.isnan(value)}
