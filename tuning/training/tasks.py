"""What is predicted, numbers or a class: the loss and the metrics of a model's outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tuning.config.errors import UserError
from tuning.config.own_functions import chosen, options
from tuning.config.schema import Config, LossSettings
from tuning.datasets.dotted_path import imported
from tuning.training.class_metrics import classification_metrics, softmax
from tuning.training.losses import LOSSES, cross_entropy
from tuning.training.metrics import has_both_sides, regression_metrics
from tuning.training.ranking import check_weights

LossPerClip = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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
        check_weights(self.loss.name, self.loss.weights, self.targets)

    @property
    def num_outputs(self) -> int:
        """Width of the model's output layer."""
        return len(self.targets)

    def training_loss(self, train_targets: np.ndarray) -> LossPerClip:
        """Return what training minimises: the loss itself."""
        return self.loss_per_clip()

    def loss_per_clip(self) -> LossPerClip:
        """Return the loss as a function of outputs and targets [B, K] -> [B], the mean over outputs."""
        return _with_settings(chosen("loss.name", self.loss.name, LOSSES), self.loss)

    def metrics(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Return the metrics of a whole split; `targets`, `outputs` [N, K]. Undefined ones are left out."""
        return regression_metrics(targets, outputs, self.targets, self.accuracy_threshold)

    def mean_outputs(self, members: Sequence[np.ndarray]) -> np.ndarray:
        """Return what several models predict together: the mean of their outputs [N, K]."""
        found: np.ndarray = np.mean(members, axis=0)
        return found

    def check_labels(self, targets: np.ndarray) -> None:
        """Check that the loss can be used with these labels [N, K].

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
        """Return validation metrics of a constant prediction: the mean of the training labels, per target.

        Raises:
            UserError: the loss can't be used with these labels.
        """
        self.check_labels(train_targets)
        outputs = np.broadcast_to(train_targets.mean(axis=0), val_targets.shape).astype(np.float64)
        return validation_metrics(self, val_targets.astype(np.float64), outputs.copy())


@dataclass(frozen=True)
class Classification:
    """Prediction of one class of several; outputs are logits, targets the class's index.

    Args:
        classes: their names, in order.
        loss: label smoothing and class weights, which act in training alone: the validation loss is the plain
            cross-entropy, comparable between trials that differ in them.
    """

    classes: list[str]
    loss: LossSettings

    @property
    def num_outputs(self) -> int:
        """Width of the model's output layer."""
        return len(self.classes)

    def training_loss(self, train_targets: np.ndarray) -> LossPerClip:
        """Return what training minimises, as a function of logits [B, K] and class indices [B, 1] -> [B]."""
        if self.loss.name != "cross_entropy":
            return _with_settings(imported("loss.name", self.loss.name), self.loss)
        smoothing, inverse = self.loss.label_smoothing, self.loss.class_weights == "inverse"
        weights = torch.from_numpy(self.class_weights(train_targets)) if inverse else None

        def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            on_device = None if weights is None else weights.to(outputs)
            return cross_entropy(outputs, targets, label_smoothing=smoothing, class_weights=on_device)

        return loss

    def class_weights(self, train_targets: np.ndarray) -> np.ndarray:
        """Return inverse frequencies [K] whose mean over the training clips is 1; 0 for a class without clips."""
        counts = np.bincount(train_targets[:, 0].astype(np.int64), minlength=len(self.classes)).astype(np.float64)
        present = counts > 0
        found: np.ndarray = np.divide(counts.sum() / present.sum(), counts, out=np.zeros_like(counts), where=present)
        return found

    def loss_per_clip(self) -> LossPerClip:
        """Return the plain cross-entropy as a function of logits [B, K] and class indices [B, 1] -> [B]."""
        return cross_entropy

    def metrics(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Return the metrics of a whole split; `targets` [N, 1], `outputs` [N, K]. Undefined ones are left out."""
        return classification_metrics(targets[:, 0], outputs, self.classes)

    def mean_outputs(self, members: Sequence[np.ndarray]) -> np.ndarray:
        """Return what several models predict together: the logarithm of their mean probability, from logits [N, K]."""
        probabilities = np.mean([softmax(logits) for logits in members], axis=0)
        found: np.ndarray = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
        return found

    def check_labels(self, targets: np.ndarray) -> None:
        """Assert that every label is a class: the corpus was checked before."""
        assert targets.min() >= 0 and targets.max() < len(self.classes), "labels beyond the classes"

    def constant_baseline(self, train_targets: np.ndarray, val_targets: np.ndarray) -> dict[str, float]:
        """Return validation metrics of a constant prediction: the class frequencies of the training labels."""
        counts = np.bincount(train_targets[:, 0].astype(np.int64), minlength=len(self.classes))
        # A class that training lacks gets half a clip, so that its logit is finite.
        logits = np.log(np.maximum(counts, 0.5) / counts.sum())
        outputs = np.broadcast_to(logits, (len(val_targets), len(self.classes))).copy()
        return validation_metrics(self, val_targets, outputs)


Task = Regression | Classification


def validation_metrics(task: Task, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
    """Return the loss and the metrics of outputs [N, K] for labels [N, targets], as a trial reports them: `val_...`."""
    losses = task.loss_per_clip()(torch.from_numpy(outputs), torch.from_numpy(targets))
    values = {"loss": losses.double().mean().item(), **task.metrics(targets, outputs)}
    return {f"val_{name}": value for name, value in values.items()}


def task_of(config: Config) -> Task:
    """Return the task that a configuration names."""
    if config.task.name == "classification":
        assert config.task.classes is not None, "the classes are known once the corpus was read"
        return Classification(config.task.classes, config.loss)
    return Regression(config.task.targets, config.loss, config.task.accuracy_threshold)


def _with_settings(function: Callable[..., torch.Tensor], settings: LossSettings) -> LossPerClip:
    """A loss with its keyword-only parameters at the settings of the same names.

    A user's own is checked at every call, since nothing else looks at what it gives.
    """
    loss = functools.partial(function, **options(function, settings.model_dump()))
    if ":" not in settings.name:
        return loss

    def checked(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = loss(outputs, targets)
        if losses.shape != outputs.shape[:1]:
            expected = f"one value per clip from {settings.name}, shape {list(outputs.shape[:1])}"
            raise UserError(f"loss.name: expected {expected}, got {list(losses.shape)}")
        return losses

    return checked
