"""Schedulers by name: which trial is stopped early, as a function of what all trials have reported.

A new one is one function and one line in `SCHEDULERS`. It gets the curves of all trials and the number of the one that
has just reported, and says whether that one is stopped. Its keyword-only parameters are settings of the section
`search`; with inner folds `grace_epochs` counts folds. `make_scheduler` gives two more: `longest`, the epoch or fold
after which a trial ends by itself, and `seed`, the search's.

Nothing is remembered but the curves, which are read from the trials' `progress.csv`. So a search that was killed, or is
extended, judges its next row as if it had never ended.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tuning.config.distributions import fraction
from tuning.config.own_functions import chosen, options
from tuning.config.schema import Config
from tuning.config.space import Space
from tuning.experiment.directory import SearchFolder, TrialRecord, read_progress
from tuning.experiment.reading import DamagedFileError
from tuning.training.early_stopping import first_stop
from tuning.training.ranking import Mode

log = logging.getLogger("tuning.search")

# By trial number its best metric up to each epoch (with inner folds its mean up to each fold), from the first on;
# the larger the better.
Curves = Mapping[int, Sequence[float]]

# Fewest other trials whose curves make a median.
MIN_OTHERS = 3


def asha(curves: Curves, number: int, *, grace_epochs: int, longest: int, reduction_factor: float = 3.0) -> bool:
    """Stop a trial that is not among the best of those that came as far as a rung, as asynchronous halving does.

    Rungs are `grace_epochs` times powers of `reduction_factor`, up to `longest`. One trial in `reduction_factor` is
    among the best; the limit between them and the others is interpolated, as Ray does it. Source: Li et al. 2020, 'A
    system for massively parallel hyperparameter tuning'.

    >>> curves = {1: [0.4], 2: [0.3], 3: [0.2], 4: [0.35]}
    >>> [number for number in curves if asha(curves, number, grace_epochs=1, longest=9)]
    [2, 3, 4]
    """
    return _stopped_at_rung(curves, number, _rungs(grace_epochs, longest, reduction_factor), reduction_factor)


def hyperband(
    curves: Curves,
    number: int,
    *,
    grace_epochs: int,
    longest: int,
    seed: int,
    reduction_factor: float = 3.0,
    brackets: int = 3,
) -> bool:
    """Deal the trials into brackets, each of which is an `asha` that begins one rung later; an asynchronous HyperBand.

    Seed and number decide the bracket, with Ray's probabilities: one is e times as likely as the next, which has a rung
    less. Source: as `asha`, and Li et al. 2018, 'Hyperband'.
    """
    rungs = _rungs(grace_epochs, longest, reduction_factor)
    starts = range(min(brackets, len(rungs)))
    mine = bracket_of(number, seed, len(rungs), len(starts))
    same = {n: curve for n, curve in curves.items() if bracket_of(n, seed, len(rungs), len(starts)) == mine}
    return _stopped_at_rung(same, number, rungs[mine:], reduction_factor)


def median(curves: Curves, number: int, *, grace_epochs: int, longest: int) -> bool:
    """Stop a trial whose best is below the median of the others' means, each from `grace_epochs` up to the same epoch.

    Three others must have come as far. Source: Golovin et al. 2017, 'Google Vizier', section 3.2.1.
    """
    epoch = len(curves[number])
    if epoch < grace_epochs:
        return False
    others = [curve for n, curve in curves.items() if n != number and len(curve) >= epoch]
    means = [float(np.mean(curve[grace_epochs - 1 : epoch])) for curve in others]
    return len(means) >= MIN_OTHERS and max(curves[number]) < float(np.median(means))


SCHEDULERS: dict[str, Callable[..., bool]] = {"asha": asha, "hyperband": hyperband, "median": median}


def _rungs(first: int, longest: int, factor: float) -> list[int]:
    """The epochs of the rungs, in order; of two that fall into one epoch the later one counts."""
    count = int(math.log(longest / first) / math.log(factor)) + 1  # as Ray counts them
    return [math.ceil(first * factor**k) for k in range(count)]


def _stopped_at_rung(curves: Curves, number: int, rungs: Sequence[int], factor: float) -> bool:
    epoch = len(curves[number])
    if epoch not in rungs:
        return False
    others = [curve[epoch - 1] for n, curve in curves.items() if n != number and len(curve) >= epoch]
    return bool(others) and curves[number][-1] < float(np.percentile(others, (1 - 1 / factor) * 100))


@functools.cache
def bracket_of(number: int, seed: int, num_rungs: int, num_brackets: int) -> int:
    """The bracket, from 0, that a trial of HyperBand is dealt into."""
    weights = [math.exp(num_rungs - start) for start in range(num_brackets)]
    drawn = fraction(seed, number, 0, "search.brackets") * sum(weights)
    passed = itertools.accumulate(weights)
    return next((start for start, limit in enumerate(passed) if drawn < limit), num_brackets - 1)


class CurveScheduler(FIFOScheduler):
    """Tune's scheduler that asks a function of the curves.

    Args:
        stops: curves and a number -> whether that trial is stopped.
        unit: the column of a row that counts epochs, or folds.
        metric: the ranking metric.
        mode: its direction.
        curves: what earlier runs recorded.
    """

    def __init__(
        self,
        stops: Callable[[Curves, int], bool],
        unit: str,
        metric: str,
        mode: Mode,
        curves: Curves,
    ) -> None:
        super().__init__()
        self.stops, self.unit, self.column = stops, unit, f"{metric}_best"
        self.sign = 1 if mode == "max" else -1
        self.curves = {number: [self.sign * value for value in curve] for number, curve in curves.items()}
        # A trial that is named here ends with the row that it has just reported.
        self.stopping: set[int] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge a row once: a trial that was cut off reports its last one again, and so does one that ended."""
        number = trial.config["number"]
        curve = self.curves.setdefault(number, [])
        if result[self.unit] <= len(curve):
            return TrialScheduler.CONTINUE
        # Rows that a restored folder lacks count as the next one.
        curve += [self.sign * result[self.column]] * (result[self.unit] - len(curve))
        # A trial at its end is not stopped: it would look as if it had not ended by itself.
        if result.get("finished") or not self.stops(self.curves, number):
            return TrialScheduler.CONTINUE
        self.stopping.add(number)
        return TrialScheduler.STOP


def recorded_curves(folder: SearchFolder, records: list[TrialRecord], metric: str) -> dict[int, list[float]]:
    """The best metric of every recorded trial up to each of its rows.

    `progress.csv` has no column for it: it is the metric in the row that `best_epoch` names.
    """
    curves = {}
    for record in records:
        try:
            rows = read_progress(folder.trial(record.number))
        except DamagedFileError as error:  # the others are compared without it
            log.warning("%s", error)
            continue
        values = {int(row["epoch"]): float(row[metric]) for row in rows}
        curves[record.number] = [values[int(row["best_epoch"])] for row in rows]
    return curves


def make_scheduler(space: Space, config: Config, mode: Mode, curves: Curves) -> FIFOScheduler:
    """The search's scheduler, which compares trials at equal epochs, or with inner folds at equal folds.

    Where the number of epochs is searched, rungs reach the largest. `pbt` is not made here, since it acts on the
    trials' folders.

    Args:
        space: what is searched.
        config: of the search.
        mode: direction of the ranking metric.
        curves: by trial number what earlier runs recorded, as `recorded_curves` gives it.

    Raises:
        UserError: the scheduler is a function of the user's own that does not exist.
    """
    search, folds = config.search, config.split.inner_folds
    unit, longest = ("epoch", int(space.largest("training.epochs"))) if folds is None else ("fold", folds)
    first = first_stop(config, longest)
    if first is None:
        return FIFOScheduler()
    function = chosen("search.scheduler", search.scheduler, SCHEDULERS)
    given = {"grace_epochs": first, "longest": longest, "seed": config.seed}
    stops = functools.partial(function, **options(function, search.model_dump() | given))
    return CurveScheduler(stops, unit, search.metric, mode, curves)
