"""Metrics of classification over a whole split, in float64.

A class without a clip in the split has no recall and no F1: both are NaN. Means are over the other classes, as in
scikit-learn's `balanced_accuracy_score`, and `tuning.training.metrics.defined` leaves such values out of records.

scikit-learn gives the same numbers to the last bit, but its import takes a second and 116 MB in every process that
trains, and a call a millisecond in every epoch.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tuning.training.metrics import check_finite, defined

NUM_BINS = 15  # of confidence, as in Guo et al. 2017


def confusion(targets: ArrayLike, predictions: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Count clips by true class (rows) and predicted class (columns): class indices [N], [N] -> [K, K].

    >>> confusion([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    t, p = np.asarray(targets, dtype=np.int64), np.asarray(predictions, dtype=np.int64)
    assert t.shape == p.shape, f"targets {t.shape}, predictions {p.shape}"
    if len(t) == 0:
        raise ValueError("metrics: expected at least one sample, got none")
    table = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(table, (t, p), 1)
    return table


def recalls(table: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of each class's clips that are predicted as that class [K]; NaN for a class without clips."""
    total = table.sum(axis=1)
    found: np.ndarray = np.divide(np.diag(table), total, out=np.full(len(table), np.nan), where=total > 0)
    return found


def f1_scores(table: NDArray[np.int64]) -> NDArray[np.float64]:
    """2 tp / (2 tp + fp + fn) of each class [K]; NaN for a class without clips."""
    total = table.sum(axis=1)
    denominator = total + table.sum(axis=0)
    found: np.ndarray = np.divide(2 * np.diag(table), denominator, out=np.full(len(table), np.nan), where=total > 0)
    return found


def uar(table: NDArray[np.int64]) -> float:
    """Unweighted average recall: the mean of `recalls` over the classes that have clips.

    Range: [0, 1], 1 is best; predicting one class always gives 1/K. Always defined.

    >>> uar(confusion([0, 0, 0, 1], [0, 0, 0, 0], 2))
    0.5
    """
    return float(np.nanmean(recalls(table)))


def calibration_error(targets: ArrayLike, probabilities: ArrayLike) -> float:
    """Expected calibration error of class indices [N] and probabilities [N, K].

    The sum over 15 equal bins of confidence (the largest probability) of the bin's share of clips times its |accuracy
    - mean confidence|. Range: [0, 1], 0 is best. Always defined. Source: Guo et al. 2017, equation 3.

    >>> round(calibration_error([0, 1], [[0.9, 0.1], [0.8, 0.2]]), 3)
    0.45
    """
    t, q = np.asarray(targets, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    confidence, right = q.max(axis=1), q.argmax(axis=1) == t
    # Bins are closed above, (0, 1/15], (1/15, 2/15], ...
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    gaps = np.bincount(bins, weights=right.astype(np.float64) - confidence, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(t))


def softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Probabilities [N, K] of logits [N, K]."""
    values = np.asarray(logits, dtype=np.float64)
    values = np.exp(values - values.max(axis=1, keepdims=True))
    found: np.ndarray = values / values.sum(axis=1, keepdims=True)
    return found


def class_metric_modes(classes: Sequence[str]) -> dict[str, Literal["min", "max"]]:
    """The direction of every metric that `classification_metrics` may give for these classes."""
    modes: dict[str, Literal["min", "max"]] = {"uar": "max", "accuracy": "max", "f1": "max", "calibration_error": "min"}
    return modes | {f"{key}_{name}": "max" for key in ("recall", "f1") for name in classes}


def classification_metrics(targets: ArrayLike, logits: ArrayLike, classes: Sequence[str]) -> dict[str, float]:
    """All metrics of a split: class indices [N], logits [N, K], K names.

    `uar`, `accuracy`, `f1` (the mean over classes that have clips), `calibration_error`, and `recall_<class>` and
    `f1_<class>` for those classes. Raises ValueError where a logit is not finite.
    """
    t, values = np.asarray(targets).astype(np.int64), np.asarray(logits, dtype=np.float64)
    assert values.shape == (len(t), len(classes)), f"targets {t.shape}, logits {values.shape}, {len(classes)} classes"
    check_finite("predictions", values)
    table = confusion(t, values.argmax(axis=1), len(classes))
    each = {"recall": recalls(table), "f1": f1_scores(table)}
    found = {
        "uar": uar(table),
        "accuracy": float(np.trace(table) / len(t)),
        "f1": float(np.nanmean(each["f1"])),
        "calibration_error": calibration_error(t, softmax(values)),
    }
    found |= {f"{key}_{name}": float(v) for key, row in each.items() for name, v in zip(classes, row, strict=True)}
    return defined(found)
