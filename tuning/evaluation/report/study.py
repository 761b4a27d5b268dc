"""Make an Optuna study in memory from the trials' records, for Optuna's plots and importance.

The study in the search's folder is not used: there a stopped trial has its last value, which does not rank it, and
trials are numbered from 0. Here values and numbers are those of the leaderboard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuning.config.distributions import LISTED, Distribution, plain, short_names
from tuning.experiment.directory import TrialRecord
from tuning.training.ranking import Mode


def distribution_of(searched: Distribution | None, values: list[Any]) -> BaseDistribution:
    """Optuna's distribution of a setting, wide enough for all `values` that trials had.

    Values that are neither numbers nor words become text. A population may leave the range of its first settings.
    """
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if searched is None or searched.kind in LISTED or len(numbers) < len(values):
        listed = [] if searched is None else searched.values
        return CategoricalDistribution(list(dict.fromkeys(_choice(value) for value in [*listed, *values])))
    low, high = min([searched.values[0], *numbers]), max([searched.values[1], *numbers])
    log = searched.kind.startswith("log") and low > 0
    if searched.kind in ("int", "logint") and all(isinstance(value, int) for value in numbers):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _choice(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else plain(value)


def make_study(
    records: list[TrialRecord],
    value: Callable[[TrialRecord], float | None],
    mode: Mode,
    searched: dict[str, Distribution],
    in_order: bool = False,
) -> optuna.Study:
    """A study of the trials that have a finite value, each under its own number, its settings under short names.

    `in_order`: keep the records' order in place of their numbers, which says what is drawn first.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names = short_names([*searched, *(path for record in records for path in record.params)])
    drawn = {
        path: distribution_of(searched.get(path), [record.params[path] for record in records if path in record.params])
        for path in dict.fromkeys(path for record in records for path in record.params)
    }
    found = {}
    for place, record in enumerate(records):
        score = value(record)
        if score is None or not math.isfinite(score):
            continue
        found[place if in_order else record.number] = create_trial(
            state=TrialState.COMPLETE,
            value=score,
            params={names[path]: _param(drawn[path], setting) for path, setting in record.params.items()},
            distributions={names[path]: drawn[path] for path in record.params},
        )
    study = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
    # Failed ones, which no plot shows, stand in the gaps: Optuna counts from 0, and by place.
    gap = create_trial(state=TrialState.FAIL)
    study.add_trials([found.get(number, gap) for number in range(max(found, default=-1) + 1)])
    return study


class Drawn(optuna.Study):
    """A study of which some trials count, perhaps several times."""

    def __init__(self, study: optuna.Study, trials: list[FrozenTrial]) -> None:
        super().__init__(study.study_name, study._storage)
        self.drawn = trials

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """The trials that were drawn; all of them are complete."""
        return self.drawn


def _param(distribution: BaseDistribution, value: Any) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return _choice(value)
    return int(value) if isinstance(distribution, IntDistribution) else float(value)
