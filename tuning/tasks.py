"""What is predicted: outputs -> loss and metrics, and which metric ranks the trials in which direction.

Torch is imported where it computes, because the check of `search.metric` comes before it.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tuning.checks import UserError, nearest
from tuning.config import Config, LossSettings, flattened
from tuning.metrics import has_both_sides, metric_modes, regression_metrics
from tuning.space import Space

if TYPE_CHECKING:
    import numpy as np
    import torch

Mode = Literal["min", "max"]

# Settings that the validation loss contains: trials that differ in one of them have losses on different scales.
# So far all of the section `loss`; what only training uses would not belong here.
IN_VALIDATION_LOSS = tuple(f"loss.{name}" for name in LossSettings.model_fields)


@dataclass(frozen=True)
class Regression:
    """Prediction of one number per target.

    Args:
        targets: names of the outputs, in order.
        loss: loss function with its settings.
        accuracy_threshold: largest error that `accuracy` counts as right.

    Raises:
        UserError: the loss does not fit the targets.
    """

    targets: list[str]
    loss: LossSettings
    accuracy_threshold: float = 0.5

    def __post_init__(self) -> None:
        _check_weights(self.loss.name, self.loss.weights, self.targets)

    @property
    def num_outputs(self) -> int:
        """Width of the model's output layer."""
        return len(self.targets)

    def loss_per_clip(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The loss as a function of outputs and targets [B, K] -> [B], the mean over outputs."""
        from tuning.losses import LOSSES

        function = LOSSES[self.loss.name]
        names = list(inspect.signature(function).parameters)[2:]
        return functools.partial(function, **{name: getattr(self.loss, name) for name in names})

    def metrics(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Metrics over a whole split; `targets`, `outputs` [N, K]. Undefined ones are left out."""
        return regression_metrics(targets, outputs, self.targets, self.accuracy_threshold)

    def check_labels(self, targets: np.ndarray) -> None:
        """Whether the loss can be used with these labels [N, K].

        Raises:
            UserError: quadrants are asked for, but a target's labels are not centred on 0.
        """
        if self.loss.name != "emotion_aware":
            return
        for name, values, both in zip(self.targets, targets.T, has_both_sides(targets), strict=True):
            if not both:
                raise UserError(
                    f"loss.name: expected labels on both sides of 0 for emotion_aware, got {name} from "
                    f"{values.min():g} to {values.max():g}; data.target_range maps a scale to [-1, 1]"
                )

    def constant_baseline(self, train_targets: np.ndarray, val_targets: np.ndarray) -> dict[str, float]:
        """Validation metrics of the best constant in the eyes of the training split: its mean, per target.

        Raises:
            UserError: the loss can't be used with these labels.
        """
        import numpy as np
        import torch

        self.check_labels(train_targets)
        outputs = np.broadcast_to(train_targets.mean(axis=0), val_targets.shape).astype(np.float64)
        losses = self.loss_per_clip()(
            torch.from_numpy(outputs.copy()), torch.from_numpy(val_targets.astype(np.float64))
        )
        values = {"loss": losses.mean().item(), **self.metrics(val_targets, outputs)}
        return {f"val_{name}": value for name, value in values.items()}


def task_of(config: Config) -> Regression:
    """The task that a configuration names."""
    return Regression(config.task.targets, config.loss, config.task.accuracy_threshold)


def ranking_metrics(targets: list[str]) -> dict[str, Mode]:
    """Every validation metric that may rank trials, with its direction."""
    modes: dict[str, Mode] = {"val_loss": "min"}
    return modes | {f"val_{name}": mode for name, mode in metric_modes(targets).items()}


def check_metric(space: Space, config: Config) -> Mode:
    """The direction of `search.metric`.

    Raises:
        UserError: a loss that does not fit the targets, an unknown metric, or `val_loss` where the trials' losses
            are not comparable.
    """
    losses, weights = (_values_of(space, config, path) for path in ("loss.name", "loss.weights"))
    for loss, each in itertools.product(losses, weights):
        _check_weights(loss, each, config.task.targets)
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


def _values_of(space: Space, config: Config, path: str) -> Sequence[Any]:
    """What a listed setting may be in a trial."""
    searched = space.distributions.get(path)
    return searched.values if searched else [flattened(config.model_dump())[path]]


def _check_weights(loss: str, weights: list[float], targets: list[str]) -> None:
    if loss == "weighted_mse" and len(weights) != len(targets):
        raise UserError(f"loss.weights: expected one weight per target ({len(targets)}), got {len(weights)}")


def better(mode: Mode, value: float, than: float | None) -> bool:
    """Whether a value beats another in a metric's direction."""
    return than is None or (value < than if mode == "min" else value > than)
