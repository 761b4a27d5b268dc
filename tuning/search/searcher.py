"""Propose trials from a grid, random draws, or Optuna's samplers, and record them in an Optuna study.

A grid and random draws are lists that are known beforehand, and known-good points come first in any of them. When the
list is used up, Optuna's sampler is asked. So one searcher serves all algorithms, and Optuna's tools can open the study
of every search. Optuna's `BruteForceSampler` is not used for a grid: its order is random, and another one after a kill.
"""

from __future__ import annotations

import functools
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from tuning.config.distributions import LISTED, Distribution, fraction
from tuning.config.schema import Config
from tuning.config.space import Space
from tuning.data.plan import planned_points
from tuning.experiment.directory import SearchFolder, TrialRecord, cut_to_lines, read_progress
from tuning.experiment.reading import DamagedFileError
from tuning.experiment.trial_spec import TrialSpec
from tuning.training.ranking import Mode


def optuna_distribution(distribution: Distribution) -> BaseDistribution:
    """Convert a distribution to Optuna's; values that are not scalars become JSON text."""
    if distribution.kind in LISTED:
        return CategoricalDistribution([_encode(value) for value in distribution.values])
    low, high = distribution.values
    log = distribution.kind.startswith("log")
    if distribution.kind in ("int", "logint"):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _encode(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, tuple, dict)) else value


def _suggest(trial: optuna.Trial, path: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(path, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(path, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(path, distribution.low, distribution.high, log=distribution.log)


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """Make Optuna's sampler of that name."""
    samplers = optuna.samplers
    makers: dict[str, Callable[..., optuna.samplers.BaseSampler]] = {
        "tpe": functools.partial(samplers.TPESampler, multivariate=True, group=True, constant_liar=True),
        "gp": samplers.GPSampler,
        "qmc": samplers.QMCSampler,
        "random": samplers.RandomSampler,
        "cmaes": samplers.CmaEsSampler,
    }
    with warnings.catch_warnings():  # several samplers, and TPE's groups, count as experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return makers[name](seed=seed)


def name_values(study: optuna.Study, names: list[str]) -> None:
    """Set the names of the study's values, which Optuna's dashboard shows."""
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(names)


def open_study(journal: Path, name: str, mode: Mode, second: str | None = None) -> optuna.Study:
    """Open or create the search's study in its journal file, for the process that holds the search's lock.

    With a second metric, which is minimised, the study has two objectives. A line that a kill cut off is removed, and
    so is the journal's lock, which no other process can hold.

    Raises:
        DamagedFileError: the journal can't be read.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("optuna").setLevel(logging.ERROR)
    cut_to_lines(journal)
    for stale in journal.parent.glob(f"{journal.name}.lock*"):
        stale.unlink(missing_ok=True)
    try:
        return optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal))),
            study_name=name,
            directions=["minimize" if goal == "min" else "maximize" for goal in (mode, *(["min"] if second else []))],
            sampler=optuna.samplers.RandomSampler(),  # proposes nothing: see StudySearcher
            load_if_exists=True,
        )
    except OSError:
        raise
    except Exception as error:  # a damaged journal raises whatever Optuna stumbles over
        raise DamagedFileError.of(journal, "the journal of an Optuna study", error) from None


def reconcile(
    study: optuna.Study, folder: SearchFolder, records: list[TrialRecord], metric: str, second: str | None = None
) -> None:
    """Tell the study of trials that ended without its knowledge, from the trials' folders."""
    frozen = study.get_trials(deepcopy=False)
    for record in records:
        if not record.is_final or record.number > len(frozen) or frozen[record.number - 1].state.is_finished():
            continue
        trial = _reopened(study, frozen[record.number - 1])
        for row in read_progress(folder.trial(record.number)):
            if second is None and int(row["epoch"]) not in frozen[record.number - 1].intermediate_values:
                trial.report(float(row[metric]), int(row["epoch"]))
        if record.status == "done":
            study.tell(trial, [record.metrics[name] for name in (metric, second) if name])
        else:
            study.tell(trial, state=TrialState.PRUNED if record.status == "stopped" else TrialState.FAIL)


def _reopened(study: optuna.Study, frozen: FrozenTrial) -> optuna.Trial:
    """The trial object of a trial that an earlier process asked for, without a new proposal."""
    sampler = study.sampler
    study.sampler = optuna.samplers.RandomSampler()  # other samplers propose as soon as a trial object is made
    try:
        return optuna.Trial(study, frozen._trial_id)
    finally:
        study.sampler = sampler


def _sampler_seed(seed: int, number: int) -> int:
    return int(fraction(seed, number, 0, "search.sampler") * 2**32)


class StudySearcher(Searcher):
    """A searcher for Ray Tune that proposes trials of an Optuna study.

    Args:
        space: that is searched.
        config: plain settings of the search.
        study: that records the trials.
        total: number of trials of the whole search.
        ended: numbers of the trials that ended in an earlier run; its unfinished ones are proposed first.
        make_spec: a function of a number and parameters that returns the trial.
        limit: the most trials that are proposed and have not ended.
        waiting: a function that returns how many of these wait for others, and so do not count.
    """

    def __init__(
        self,
        space: Space,
        config: Config,
        study: optuna.Study,
        total: int,
        ended: set[int],
        make_spec: Callable[[int, dict[str, Any]], TrialSpec],
        limit: int,
        waiting: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__()
        self.space, self.search, self.study, self.total = space, config.search, study, total
        self.seed, self.waiting = config.seed, waiting
        self.make_spec, self.limit = make_spec, limit
        self.points = planned_points(space, config)
        self.order = space.in_order()
        self.distributions = {path: optuna_distribution(d) for path, d in space.distributions.items()}
        self.begun = len(study.get_trials(deepcopy=False))
        self.unfinished = [number for number in range(1, min(self.begun, total) + 1) if number not in ended]
        self.live: dict[str, optuna.Trial | None] = {}
        # Epochs that the study has, by trial: a trial that was cut off reports its last epoch again.
        self.reported: dict[str, set[int]] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Take metric and mode; refuse a space of Tune's own."""
        self._metric, self._mode = metric, mode
        return not config

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's specification, None while enough trials run, FINISHED at the end."""
        if len(self.live) - self.waiting() >= self.limit:
            return None
        if self.unfinished:
            return self._resume(trial_id, self.unfinished.pop(0))
        if self.begun >= self.total:
            return Searcher.FINISHED
        if self.begun < len(self.points):
            point = self.points[self.begun]
            self.study.enqueue_trial({path: _encode(value) for path, value in point.items()})
        self._set_sampler(self.begun + 1)
        trial = self.live[trial_id] = self.study.ask()
        self.reported[trial_id] = set()
        self.begun += 1
        return self.make_spec(self.begun, self._draw(trial)).as_dict()

    def _resume(self, trial_id: str, number: int) -> dict[str, Any]:
        """Propose a trial of an earlier run again, which may have been killed while its settings were drawn."""
        frozen = self.study.get_trials(deepcopy=False)[number - 1]
        self.reported[trial_id] = set(frozen.intermediate_values)
        params = {path: self._decode(path, frozen.params[path]) for path in self.order if path in frozen.params}
        # A trial that ended in the study but not in its folder runs again; the study is not told a second time.
        self.live[trial_id] = None
        if not frozen.state.is_finished():
            is_complete = all(path in params or not self.space.is_active(path, params) for path in self.order)
            if is_complete and frozen.state == TrialState.RUNNING:
                self.live[trial_id] = _reopened(self.study, frozen)
            else:  # settings that were drawn before the kill stay, also those of an enqueued point
                self._set_sampler(number)
                is_enqueued = frozen.state == TrialState.WAITING
                trial = self.study.ask() if is_enqueued else optuna.Trial(self.study, frozen._trial_id)
                assert trial.number == number - 1, "points are enqueued one at a time"
                self.live[trial_id], params = trial, self._draw(trial)
        return self.make_spec(number, params).as_dict()

    def _set_sampler(self, number: int) -> None:
        """Give the study a sampler for this trial alone, so that a kill does not restart its random numbers."""
        if self.search.algorithm == "optuna":
            self.study.sampler = make_sampler(self.search.sampler, _sampler_seed(self.seed, number))

    def _draw(self, trial: optuna.Trial) -> dict[str, Any]:
        params: dict[str, Any] = {}
        for path in self.order:
            if not self.space.is_active(path, params):
                continue
            params[path] = self._decode(path, _suggest(trial, path, self.distributions[path]))
        return params

    def _decode(self, path: str, value: Any) -> Any:
        distribution = self.space.distributions[path]
        if distribution.kind in LISTED:
            return next(known for known in distribution.values if _encode(known) == value)
        return value

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell the study an epoch's value, unless it has two objectives: Optuna then takes no intermediate values."""
        trial, epoch = self.live.get(trial_id), result["epoch"]
        if trial is not None and self.search.second_metric is None and epoch not in self.reported[trial_id]:
            self.reported[trial_id].add(epoch)
            trial.report(result[self.search.metric], epoch)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study the value of the best epoch; a trial that the scheduler stopped counts as pruned."""
        row = result or {}
        if row and not error:
            self.on_trial_result(trial_id, row)  # Tune passes the row after which a trial is stopped only here
        trial = self.live.pop(trial_id, None)
        best = row.get(f"{self.search.metric}_best")
        if trial is None:
            return
        if error or best is None:
            self.study.tell(trial, state=TrialState.FAIL)
        elif row.get("finished"):
            second = self.search.second_metric
            self.study.tell(trial, [best, row[second]] if second else best)
        else:
            self.study.tell(trial, state=TrialState.PRUNED)

    def __getstate__(self) -> dict[str, Any]:
        """Keep nothing in Tune's own snapshot: a search resumes from the study's journal."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study's journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the study's journal is the state."""
