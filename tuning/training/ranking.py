"""Which metric ranks the trials, and in which direction. Imports no torch, since a search is checked with it."""

from __future__ import annotations

import itertools
from typing import Literal, NoReturn

from tuning.config.errors import UserError, nearest
from tuning.config.schema import Config, TaskSettings
from tuning.config.space import Space
from tuning.training.class_metrics import class_metric_modes
from tuning.training.metrics import metric_modes

Mode = Literal["min", "max"]


def ranking_metrics(task: TaskSettings) -> dict[str, Mode]:
    """Return every validation metric that may rank trials, with its direction."""
    known = class_metric_modes(task.classes or []) if task.name == "classification" else metric_modes(task.targets)
    modes: dict[str, Mode] = {"val_loss": "min"}
    return modes | {f"val_{name}": mode for name, mode in known.items()}


def check_metric(space: Space, config: Config) -> Mode:
    """Return the direction of `search.metric`.

    Raises:
        UserError: a loss that does not fit the targets, an unknown metric, or `val_loss` where the trials' losses
            are not comparable.
    """
    classes = config.task.name == "classification"
    if not classes:
        losses, weights = (space.values(path) for path in ("loss.name", "loss.weights"))
        for loss, each in itertools.product(losses, weights):
            check_weights(loss, each, config.task.targets)
    metric = config.search.metric
    modes = ranking_metrics(config.task)
    if classes and config.task.classes is None and metric.startswith(("val_recall_", "val_f1_")):
        return "max"  # whether there is such a class is seen when the corpus is read
    if metric not in modes:
        _refuse_metric(metric, config.task)
    # The validation loss of classes is the plain cross-entropy, whatever is trained.
    contained = [] if classes else [path for path in space.fields if path.startswith("loss.")]
    varied = [path for path in contained if space.dependencies(path)]
    if metric == "val_loss" and varied:
        raise UserError(
            f"search.metric: expected a metric that is comparable across trials, got val_loss, which contains "
            f"{', '.join(varied)} (searched); use val_rmse or val_ccc"
        )
    return modes[metric]


def _refuse_metric(metric: str, task: TaskSettings) -> NoReturn:
    """Raise UserError, with the metrics of the task where the metric is one of the other task."""
    modes, kinds = ranking_metrics(task), ("classes", "numbers")
    ours, other = kinds if task.name == "classification" else kinds[::-1]
    of_task = {"classes": class_metric_modes([]), "numbers": metric_modes(task.targets)}
    if metric.removeprefix("val_") in of_task[other]:
        whole = [name for name in modes if not name.endswith(tuple(f"_{each}" for each in task.targets))]
        known = ", ".join([*(name for name in whole if name != "val_loss"), "val_loss"])
        raise UserError(f"search.metric: expected a metric of {ours} ({known}), got {metric}, which is of {other}")
    raise UserError(f"search.metric: expected a validation metric, got {metric}{nearest(metric, modes)}")


def check_weights(loss: str, weights: list[float], targets: list[str]) -> None:
    """Check that a weighted loss has a weight for each target.

    Raises:
        UserError: it has not.
    """
    if loss == "weighted_mse" and len(weights) != len(targets):
        raise UserError(f"loss.weights: expected one weight per target ({len(targets)}), got {len(weights)}")


def better(mode: Mode, value: float, than: float | None) -> bool:
    """Say whether a value beats another in a metric's direction."""
    return than is None or (value < than if mode == "min" else value > than)
