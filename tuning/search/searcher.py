"""Who proposes the trials: a grid, random draws, or Optuna's samplers. Every trial is recorded in an Optuna study.

A grid and random draws are lists known beforehand; known-good points stand at the head of any of them. Optuna is
asked when the list is used up. So there is one searcher, and every search leaves a study that Optuna's tools open.
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
from tuning.experiment.trial_spec import TrialSpec
from tuning.training.tasks import Mode


def optuna_distribution(distribution: Distribution) -> BaseDistribution:
    """The same distribution in Optuna's terms; values that are no scalars travel as JSON text."""
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
    """Optuna's sampler by name."""
    samplers = optuna.samplers
    makers: dict[str, Callable[..., optuna.samplers.BaseSampler]] = {
        "tpe": functools.partial(samplers.TPESampler, multivariate=True, group=True, constant_liar=True),
        "gp": samplers.GPSampler,
        "qmc": samplers.QMCSampler,
        "random": samplers.RandomSampler,
        "cmaes": samplers.CmaEsSampler,
    }
    with warnings.catch_warnings():  # several of them, and TPE's groups, count as experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return makers[name](seed=seed)


def name_values(study: optuna.Study, names: list[str]) -> None:
    """Call the study's values by their metrics, as Optuna's pages show them."""
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(names)


def open_study(journal: Path, name: str, mode: Mode, second: str | None = None) -> optuna.Study:
    """The search's study, kept in a journal file beside its trials; only for a process that holds the search's lock.

    With a second metric, which is to be small, it has two objectives. What a kill left of a line is cut off, and the
    lock of the killed process removed: nobody else may hold one.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("optuna").setLevel(logging.ERROR)
    cut_to_lines(journal)
    for stale in journal.parent.glob(f"{journal.name}.lock*"):
        stale.unlink(missing_ok=True)
    backend = JournalFileBackend(str(journal))
    return optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name=name,
        directions=["minimize" if goal == "min" else "maximize" for goal in (mode, *(["min"] if second else []))],
        sampler=optuna.samplers.RandomSampler(),  # proposes nothing: see StudySearcher
        load_if_exists=True,
    )


def reconcile(
    study: optuna.Study, folder: SearchFolder, records: list[TrialRecord], metric: str, second: str | None = None
) -> None:
    """Tell the study what ended after it was last told: the trials' folders are the truth."""
    frozen = study.get_trials(deepcopy=False)
    for record in records:
        if not record.is_final or record.number > len(frozen) or frozen[record.number - 1].state.is_finished():
            continue
        trial = _trial_again(study, frozen[record.number - 1])
        for row in read_progress(folder.trial(record.number)):
            if second is None and int(row["epoch"]) not in frozen[record.number - 1].intermediate_values:
                trial.report(float(row[metric]), int(row["epoch"]))
        if record.status == "done":
            study.tell(trial, [record.metrics[name] for name in (metric, second) if name])
        else:
            study.tell(trial, state=TrialState.PRUNED if record.status == "stopped" else TrialState.FAIL)


def _trial_again(study: optuna.Study, frozen: FrozenTrial) -> optuna.Trial:
    """A trial of the study that an earlier process asked for, without a new proposal for it."""
    sampler = study.sampler
    study.sampler = optuna.samplers.RandomSampler()  # others propose when a trial object is made
    try:
        return optuna.Trial(study, frozen._trial_id)
    finally:
        study.sampler = sampler


def _sampler_seed(seed: int, number: int) -> int:
    return int(fraction(seed, number, 0, "search.sampler") * 2**32)


class StudySearcher(Searcher):
    """Ray Tune's searcher over an Optuna study.

    Args:
        space: what is searched.
        config: plain settings of the search.
        study: where trials are asked for and told.
        total: number of trials of the whole search.
        ended: numbers of the trials that an earlier run brought to their end; others that it began come first.
        make_spec: number and parameters -> the trial.
        limit: most trials proposed and not yet ended.
        waiting: how many of them wait for others, and so do not count.
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
        self.told: dict[str, set[int]] = {}  # epochs by trial: one that was cut off says its last epoch again

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Metric and mode are the search's own; Tune may not set a space."""
        self._metric, self._mode = metric, mode
        return not config

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's specification, None while enough are running, FINISHED at the end."""
        if len(self.live) - self.waiting() >= self.limit:
            return None
        if self.unfinished:
            return self._again(trial_id, self.unfinished.pop(0))
        if self.begun >= self.total:
            return Searcher.FINISHED
        if self.begun < len(self.points):
            point = self.points[self.begun]
            self.study.enqueue_trial({path: _encode(value) for path, value in point.items()})
        self._take_sampler(self.begun + 1)
        trial = self.live[trial_id] = self.study.ask()
        self.told[trial_id] = set()
        self.begun += 1
        return self.make_spec(self.begun, self._draw(trial)).as_dict()

    def _again(self, trial_id: str, number: int) -> dict[str, Any]:
        """A trial that an earlier run began; it may have been killed while its settings were drawn."""
        frozen = self.study.get_trials(deepcopy=False)[number - 1]
        self.told[trial_id] = set(frozen.intermediate_values)
        params = {path: self._decode(path, frozen.params[path]) for path in self.order if path in frozen.params}
        # A trial that was told but not recorded runs again, and is not told twice.
        self.live[trial_id] = None
        if not frozen.state.is_finished():
            whole = all(path in params or not self.space.is_active(path, params) for path in self.order)
            if whole and frozen.state == TrialState.RUNNING:
                self.live[trial_id] = _trial_again(self.study, frozen)
            else:  # what was drawn before the kill stays, also where a point was waiting to be asked for
                self._take_sampler(number)
                waits = frozen.state == TrialState.WAITING
                trial = self.study.ask() if waits else optuna.Trial(self.study, frozen._trial_id)
                assert trial.number == number - 1, "points are enqueued one at a time"
                self.live[trial_id], params = trial, self._draw(trial)
        return self.make_spec(number, params).as_dict()

    def _take_sampler(self, number: int) -> None:
        """A sampler for this trial alone: one that lived on would begin its random numbers anew after a kill."""
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
        """Tell the study each epoch's value, unless it has two objectives, which Optuna knows no epochs of."""
        trial = self.live.get(trial_id)
        if trial is not None and self.search.second_metric is None and result["epoch"] not in self.told[trial_id]:
            self.told[trial_id].add(result["epoch"])
            trial.report(result[self.search.metric], result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study the best epoch's value; a trial that the scheduler stopped counts as pruned."""
        row = result or {}
        if row and not error:
            self.on_trial_result(trial_id, row)  # the row after which a trial is stopped comes here alone
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
        """Nothing, for Tune's own snapshot: a search goes on from the study's journal."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study's journal is the state."""
