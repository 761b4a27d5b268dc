"""Settings that may change while a model trains, for population-based training."""

from __future__ import annotations

from tuning.config.errors import UserError
from tuning.config.schema import PREPARED, Config
from tuning.config.space import Space

# Settings that the optimiser and the training loss read again when a training is resumed. The network's shape, its
# data, the optimiser itself and the length of its schedule must be the same in all trials.
CHANGING = (
    "optim.learning_rate", "optim.weight_decay", "optim.momentum", "optim.beta_1", "optim.beta_2", "optim.rho",
    "optim.epsilon", "optim.clip_norm", "loss.label_smoothing", "loss.quadrant_penalty", "loss.delta",
)  # fmt: skip

# The only setting of augmentation that changes the number of steps of an epoch, by which schedules count.
STEPS = "augment.synthetic_share"


def may_change(path: str) -> bool:
    """Say whether a setting may change between two epochs of a training."""
    section, _, leaf = path.partition(".")
    if section == "model":
        return ("dropout" in leaf and leaf != "dropout_kind") or leaf.endswith(("_l1", "_l2"))
    return path in CHANGING or (section == "augment" and not path.startswith((*PREPARED, STEPS)))


def check_population(space: Space, config: Config) -> None:
    """Check that population-based training can search a space.

    Raises:
        UserError: a setting that differs between trials and can't change while a model trains, nothing searched, one
            trial, inner folds, several workers, or no epoch left to take over in.
    """
    search, training = config.search, config.training
    if not space.distributions:
        raise UserError("search.scheduler: expected a space that searches something, for pbt to change, got none")
    for path, searched in space.varied().items():
        if not may_change(path):
            got = "" if path in searched else f", got one that depends on {', '.join(searched)}"
            raise UserError(
                f"{path}: expected one value for scheduler pbt, whose trials take over each other's weights; it may "
                f"search dropout, penalties, augmentation drawn per batch, {', '.join(CHANGING)}{got}"
            )
    if search.num_trials is not None and search.num_trials < 2:
        raise UserError(f"search.num_trials: expected at least 2 for scheduler pbt, got {search.num_trials}")
    if search.perturb_epochs >= training.epochs:
        raise UserError(
            f"search.perturb_epochs: expected below training.epochs ({training.epochs}), got {search.perturb_epochs}"
        )
    if config.split.inner_folds is not None:
        raise UserError(f"split.inner_folds: expected null for scheduler pbt, got {config.split.inner_folds}")
    if config.resources.backend == "train":
        raise UserError("resources.backend: expected auto or direct for scheduler pbt, got train")
    if config.resources.workers_per_trial > 1:
        workers = config.resources.workers_per_trial
        raise UserError(f"resources.workers_per_trial: expected 1 for scheduler pbt, got {workers}")
