"""Who stops poor trials early, by name."""

from __future__ import annotations

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from tuning.config import Config


def make_scheduler(config: Config) -> TrialScheduler:
    """The search's scheduler, which compares running bests at equal epochs, or with inner folds means at equal folds.

    A full-length trial ends by itself in either case: a scheduler that stopped it at its last epoch would make a
    finished trial look stopped.
    """
    search, folds = config.search, config.split.inner_folds
    unit, longest, grace = "epoch", config.training.epochs, min(search.grace_epochs, config.training.epochs)
    if folds is not None:
        unit, longest, grace = "fold", folds, 1
    if search.scheduler == "asha":
        return ASHAScheduler(
            time_attr=unit,
            max_t=longest,
            grace_period=grace,
            reduction_factor=search.reduction_factor,
            stop_last_trials=False,
        )
    if search.scheduler == "median":
        return MedianStoppingRule(time_attr=unit, grace_period=grace, min_samples_required=3)
    return FIFOScheduler()
