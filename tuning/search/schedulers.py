"""Who stops poor trials early, by name; each knows what earlier runs of the search recorded.

Ray does not keep what its schedulers learnt. Here it is rebuilt from the trials' `progress.csv`, so that a search that
was killed, or is extended, judges its next trial as if it had never ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from tuning.config.distributions import fraction
from tuning.config.schema import Config
from tuning.config.space import Space
from tuning.experiment.directory import SearchFolder, TrialRecord, read_progress
from tuning.training.early_stopping import first_stop


@dataclass(frozen=True)
class Member:
    """A trial as a scheduler knows it: by its number, which outlives Tune's own identifiers."""

    trial_id: str

    @classmethod
    def of(cls, number: int) -> Member:
        """The trial with that number."""
        return cls(f"{number:04d}")


# What trials reported in earlier runs: by number, rows with the unit of time and the metric that is compared.
Past = dict[int, list[dict[str, float]]]


def recorded_rows(folder: SearchFolder, records: list[TrialRecord], config: Config) -> Past:
    """The rows of every recorded trial as the schedulers were given them.

    The running best is no column of `progress.csv`; it is the metric in the row that `best_epoch` names.
    """
    metric, past = config.search.metric, {}
    for record in records:
        rows = read_progress(folder.trial(record.number))
        values = {int(row["epoch"]): float(row[metric]) for row in rows}
        past[record.number] = [
            {record.unit: int(row["epoch"]), f"{metric}_best": values[int(row["best_epoch"])]} for row in rows
        ]
    return past


class Recalling(TrialScheduler):
    """What the schedulers below add to Ray's: their memory, and which trials they are about to stop.

    Args:
        unit: what counts a trial's time, `epoch` or `fold`.
        past: what earlier runs recorded.
        seed: of the search.
        settings: of Ray's scheduler.
    """

    def __init__(self, unit: str, past: Past, seed: int, **settings: Any) -> None:
        super().__init__(time_attr=unit, **settings)
        self.unit, self.past, self.seed = unit, past, seed
        self.reported = {number: int(rows[-1][unit]) for number, rows in past.items() if rows}
        # A trial that is named here ends with the row that it has just reported.
        self.stopping: set[int] = set()

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Take the metric, and then what was recorded: it is compared by that metric."""
        taken = super().set_search_properties(metric, mode, **spec)
        for number, rows in self.past.items():
            self.recall(number, rows)
        self.past = {}
        return taken

    def recall(self, number: int, rows: list[dict[str, float]]) -> None:
        """Take a trial's rows of an earlier run; what was decided then is decided."""
        raise NotImplementedError

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial is to run."""
        super().on_trial_add(tune_controller, Member.of(trial.config["number"]))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge a row once: a trial that was cut off says its last one again, and one that ended, too."""
        number = trial.config["number"]
        if result[self.unit] <= self.reported.get(number, 0):
            return TrialScheduler.CONTINUE
        self.reported[number] = result[self.unit]
        decision = super().on_trial_result(tune_controller, Member.of(number), result)
        if decision != TrialScheduler.STOP or result.get("finished"):  # a trial at its end is not stopped
            return TrialScheduler.CONTINUE
        self.stopping.add(number)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial ended; its last row was judged."""
        super().on_trial_complete(tune_controller, Member.of(trial.config["number"]), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A trial ended before it ran."""
        super().on_trial_remove(tune_controller, Member.of(trial.config["number"]))


class Halving(Recalling, AsyncHyperBandScheduler):
    """ASHA, and with several brackets asynchronous HyperBand; rungs and brackets outlive the process.

    Source: Li et al. 2020, 'A system for massively parallel hyperparameter tuning'. Ray draws a trial's bracket from
    numpy's global generator; here search and trial number decide, with Ray's probabilities: a longer bracket is e
    times as likely as the next.
    """

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Put a trial into its bracket."""
        self._trial_info[Member.of(trial.config["number"]).trial_id] = self._bracket(trial.config["number"])

    def recall(self, number: int, rows: list[dict[str, float]]) -> None:
        """Enter the rows on the rungs. Their order among trials does not matter: a rung is a set of values."""
        bracket, member = self._bracket(number), Member.of(number)
        for row in rows:
            bracket.on_result(member, row[self.unit], self._metric_op * row[self._metric])

    def _bracket(self, number: int) -> Any:
        weights = [math.exp(len(bracket._rungs)) for bracket in self._brackets]
        drawn = fraction(self.seed, number, 0, "search.brackets") * sum(weights)
        for bracket, weight in zip(self._brackets, weights, strict=True):
            drawn -= weight
            if drawn < 0:
                return bracket
        return self._brackets[-1]


class Median(Recalling, MedianStoppingRule):
    """Median stopping; the curves outlive the process."""

    def recall(self, number: int, rows: list[dict[str, float]]) -> None:
        """Take over a curve."""
        if rows:
            self._results[Member.of(number)] = list(rows)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: Ray adds the last row a second time here, which would count twice in the mean of the curve."""


def make_scheduler(space: Space, config: Config, past: Past) -> TrialScheduler:
    """The search's scheduler, which compares running bests at equal epochs, or with inner folds means at equal folds.

    A full-length trial ends by itself: a scheduler that stopped it at its last epoch would make a finished trial look
    stopped. Where the number of epochs is searched, rungs reach the largest; a trial with fewer ends by itself, too.
    `pbt` is not made here, since it acts on the trials' folders.

    Args:
        space: what is searched.
        config: of the search.
        past: what earlier runs recorded.
    """
    search, folds = config.search, config.split.inner_folds
    unit, longest = ("epoch", int(space.largest("training.epochs"))) if folds is None else ("fold", folds)
    grace = first_stop(config, longest)
    if grace is None:
        return FIFOScheduler()
    if search.scheduler in ("asha", "hyperband"):
        fitting = int(math.log(longest / grace) / math.log(search.reduction_factor)) + 1  # as Ray counts rungs
        return Halving(
            unit,
            past,
            config.seed,
            max_t=longest,
            grace_period=grace,
            reduction_factor=search.reduction_factor,
            brackets=min(search.brackets, fitting) if search.scheduler == "hyperband" else 1,
            stop_last_trials=False,
        )
    # Without a time slice no trial is paused for want of others to compare with: it would begin again each time.
    return Median(unit, past, config.seed, grace_period=grace, min_samples_required=3, min_time_slice=math.inf)
