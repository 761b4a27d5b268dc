"""Who stops poor trials early, by name."""

from __future__ import annotations

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from tuning.config import Config


def make_scheduler(config: Config) -> TrialScheduler:
    """The search's scheduler, which compares running bests at equal epochs.

    A full-length trial ends by itself in either case: a scheduler that stopped it at its last epoch would make a
    finished trial look stopped.
    """
    search = config.search
    if search.scheduler == "asha":
        return ASHAScheduler(
            time_attr="epoch",
            max_t=config.training.epochs,
            grace_period=min(search.grace_epochs, config.training.epochs),
            reduction_factor=search.reduction_factor,
            stop_last_trials=False,
        )
    if search.scheduler == "median":
        return MedianStoppingRule(time_attr="epoch", grace_period=search.grace_epochs, min_samples_required=3)
    return FIFOScheduler()
