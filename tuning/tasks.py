"""What is predicted: outputs -> loss and metrics, and which metric ranks the trials in which direction.

Torch is imported where it computes, because the check of `search.metric` comes before it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tuning.checks import UserError, nearest
from tuning.config import Config, LossSettings
from tuning.metrics import METRICS, regression_metrics
from tuning.space import Space

if TYPE_CHECKING:
    import numpy as np
    import torch

Mode = Literal["min", "max"]

# Settings that the validation loss contains: trials that differ in one of them have losses on different scales.
IN_VALIDATION_LOSS = ("loss.name", "loss.delta")


@dataclass(frozen=True)
class Regression:
    """Prediction of one number per target.

    Args:
        targets: names of the outputs, in order.
        loss: loss function with its settings.
    """

    targets: list[str]
    loss: LossSettings

    @property
    def num_outputs(self) -> int:
        """Width of the model's output layer."""
        return len(self.targets)

    def loss_per_clip(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The loss as a function of outputs and targets [B, K] -> [B], the mean over outputs."""
        from tuning.losses import LOSSES

        function = LOSSES[self.loss.name]
        return functools.partial(function, delta=self.loss.delta) if self.loss.name == "huber" else function

    def metrics(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Metrics over a whole split; `targets`, `outputs` [N, K]. Undefined ones are left out."""
        return regression_metrics(targets, outputs, self.targets)

    def constant_baseline(self, train_targets: np.ndarray, val_targets: np.ndarray) -> dict[str, float]:
        """Validation metrics of the best constant in the eyes of the training split: its mean, per target."""
        import numpy as np
        import torch

        outputs = np.broadcast_to(train_targets.mean(axis=0), val_targets.shape).astype(np.float64)
        losses = self.loss_per_clip()(
            torch.from_numpy(outputs.copy()), torch.from_numpy(val_targets.astype(np.float64))
        )
        values = {"loss": losses.mean().item(), **self.metrics(val_targets, outputs)}
        return {f"val_{name}": value for name, value in values.items()}


def task_of(config: Config) -> Regression:
    """The task that a configuration names."""
    return Regression(config.task.targets, config.loss)


def ranking_metrics(targets: list[str]) -> dict[str, Mode]:
    """Every validation metric that may rank trials, with its direction."""
    modes: dict[str, Mode] = {"val_loss": "min"}
    for name, metric in METRICS.items():
        modes |= {f"val_{name}{suffix}": metric.mode for suffix in ("", *(f"_{target}" for target in targets))}
    return modes


def check_metric(space: Space, config: Config) -> Mode:
    """The direction of `search.metric`.

    Raises:
        UserError: an unknown metric, or `val_loss` where the trials' losses are not comparable.
    """
    metric = config.search.metric
    modes = ranking_metrics(config.task.targets)
    if metric not in modes:
        raise UserError(f"search.metric: expected a validation metric, got {metric}{nearest(metric, modes)}")
    varied = [path for path in IN_VALIDATION_LOSS if path in space.distributions]
    if metric == "val_loss" and varied:
        raise UserError(
            f"search.metric: expected a metric that is comparable across trials, got val_loss, which contains "
            f"{', '.join(varied)} (searched); use val_rmse or val_ccc"
        )
    return modes[metric]


def better(mode: Mode, value: float, than: float | None) -> bool:
    """Whether a value beats another in a metric's direction."""
    return than is None or (value < than if mode == "min" else value > than)


Row = dict[str, Any]
