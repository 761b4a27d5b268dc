"""Run a search in Ray Tune: from a checked space to the folders of its trials."""

from __future__ import annotations

import functools
import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.stopper import Stopper

from tuning.config.schema import Config
from tuning.config.space import Space
from tuning.data.plan import Plan
from tuning.experiment.directory import SearchFolder, put_aside_damaged
from tuning.experiment.exploits import current_params
from tuning.experiment.faults import QuietFile, StorageError, storage_fault
from tuning.experiment.trial_spec import TrialSpec
from tuning.search import ray_watch
from tuning.search.callbacks.mlflow import Tracking
from tuning.search.callbacks.progress import View
from tuning.search.callbacks.progress_table import Standing
from tuning.search.callbacks.results import Recorder, settle
from tuning.search.callbacks.tensorboard import write_experiment
from tuning.search.fault_tolerance import Failures
from tuning.search.population_based_training import Population
from tuning.search.ray_internals import lost_workers_handled
from tuning.search.resources import Resources
from tuning.search.schedulers import make_scheduler, recorded_curves
from tuning.search.searcher import StudySearcher, name_values, open_study, reconcile
from tuning.search.trainable import run_trial
from tuning.search.worker_groups import orphans_released
from tuning.training.encoders import encoder_of
from tuning.training.ranking import ranking_metrics

log = logging.getLogger("tuning.search")

INTERRUPTED, OUT_OF_TIME = "interrupted", "time budget"


@dataclass
class StopRequest(Stopper):
    """Ask Tune to end the whole search: on a signal, when its time is up, or when results can't be written.

    Args:
        seconds: time budget; None: no limit.
    """

    seconds: float | None = None
    reason: str = ""
    fault: str = ""

    def __post_init__(self) -> None:
        self.began = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def for_fault(self, fault: str) -> None:
        """End the search, because results can't be written."""
        self.fault = self.reason = fault

    def stop_all(self) -> bool:
        """Say whether the search ends now."""
        if not self.reason and self.seconds is not None and time.monotonic() - self.began > self.seconds:
            self.reason = OUT_OF_TIME
        return bool(self.reason)


@contextmanager
def on_signals(request: StopRequest, say: Callable[[str], None]) -> Iterator[None]:
    """End the search in good order on Ctrl-C or SIGTERM, and at once on a second one."""

    def stop(number: int, frame: Any) -> None:
        if request.reason == INTERRUPTED:
            raise KeyboardInterrupt
        request.reason = INTERRUPTED
        ray_watch.ending.set()
        say("stopping: the running trials keep their last checkpoint (again to stop at once)")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        ray_watch.ending.clear()


def run_search(
    folder: SearchFolder,
    plan: Plan,
    data: Any,
    resources: Resources,
    trainable: Callable[..., None] = run_trial,
) -> str:
    """Run the trials of a search that have not ended yet.

    Args:
        folder: the search's folder.
        plan: the checked search.
        data: references into Ray's object store, given to every trial.
        resources: what a trial takes, and how many run at once.
        trainable: `trainable(spec, data)`, the spec as plain values; tests use a formula in place of training.

    Returns:
        Why the search stopped early; empty when every trial ended.

    Raises:
        StorageError: results can't be written any more. What was written is whole, and the search can be resumed.
    """
    space, config, mode, total = plan.space, plan.config, plan.mode, plan.total
    metric = config.search.metric
    for line in put_aside_damaged(folder):
        print(f"note      {line}", flush=True)
    records = folder.records()
    second = config.search.second_metric
    study = open_study(folder.path / "study.journal", folder.name, mode, second)
    name_values(study, [metric, *([second] if second else [])])
    settle(folder, records)
    reconcile(study, folder, records, metric, second)
    ended = {record.number for record in records if record.is_final}
    _declare_columns(folder, space, metric, config)
    scratch = folder.path / ".ray"
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    if len(ended) >= total:
        return ""

    make_spec = functools.partial(_spec, folder, space, resources)
    scheduler: Any
    if config.search.scheduler == "pbt":
        scheduler = Population(space, config, mode, folder, records, total, resources.concurrent, make_spec)
    else:
        scheduler = make_scheduler(space, config, mode, recorded_curves(folder, records, metric))
    limit, waiting = resources.concurrent + _look_ahead(config, resources), getattr(scheduler, "num_waiting", lambda: 0)
    searcher = StudySearcher(space, config, study, total, ended, make_spec, limit, waiting)
    minutes = config.search.time_budget_minutes
    request = StopRequest(seconds=minutes * 60 if minutes else None)
    words = f"{resources} per trial, {resources.concurrent} at once"
    if (loading := space.settings.get("data.loading", "auto")) != "auto":
        words += f"; clips {loading}"
    folder.begin_run(total, len(ended), words)
    known = {record.number: record for record in records}
    longest = int(space.largest("training.epochs"))
    with View(Standing(folder.name, total, metric, mode, longest, words, known, len(ended))) as view:
        recorder = Recorder(folder, metric, mode, view.update, getattr(scheduler, "stopping", ()))
        failures = Failures(resources, config.resources.max_restarts, request.for_fault, view.say)
        tune_config = tune.TuneConfig(
            metric=f"{metric}_best",
            mode=mode,
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=total - len(ended),
            # Actors of TorchTrainer drivers can't be used again (2 of 6 trials failed when tried).
            reuse_actors=resources.backend == "direct",
            trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}",
        )
        run_config = tune.RunConfig(
            name="tune",
            storage_path=str(scratch.resolve()),
            stop=request,
            callbacks=[failures, recorder],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=config.resources.max_restarts),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        )
        function = tune.with_resources(tune.with_parameters(trainable, data=data), _tune_resources(resources))
        tuner = tune.Tuner(function, tune_config=tune_config, run_config=run_config)
        groups = orphans_released() if resources.backend == "train" else nullcontext()
        with Tracking(plan.run.mlflow, folder, view.say), on_signals(request, view.say), groups:
            _fit(tuner, folder, request)
        _cut_off(recorder, folder, request)
    # Ray's own records: a search is resumed from the trials' folders and the study, not from them.
    shutil.rmtree(scratch, ignore_errors=True)
    log.info("search ended: %s", request.reason or "all trials")
    return request.reason


def _spec(folder: SearchFolder, space: Space, resources: Resources, number: int, params: dict[str, Any]) -> TrialSpec:
    """Describe a trial for the process that trains it; settings that it took over in a population count."""
    params = current_params(folder.trial(number)) or params
    config = space.config(params)
    return TrialSpec(
        number=number,
        params=params,
        config=config.model_dump(mode="json"),
        encoder=encoder_of(config),
        directory=str(folder.trial(number).resolve()),
        search=folder.name,
        remote=folder.remote_checkpoints(number),
        scratch=folder.scratch,
        gpus_per_worker=resources.gpus_per_worker,
        backend=resources.backend,
    )


def _fit(tuner: tune.Tuner, folder: SearchFolder, request: StopRequest) -> None:
    """Run the trials. An error of the disk, here or in a trial, ends the search in good order."""
    try:
        with _ray_speaks_to(folder.path / "search.log"), lost_workers_handled():
            tuner.fit()
    except Exception as error:  # of Tune, which wraps what its callbacks raise
        fault = storage_fault(error)
        if not fault:
            raise
        request.for_fault(fault)


def _cut_off(recorder: Recorder, folder: SearchFolder, request: StopRequest) -> None:
    """Record that the running trials were cut off, as far as the disk takes it."""
    try:
        recorder.cut_off(request.reason or "ended with the search")
    except OSError as error:
        request.for_fault(request.fault or storage_fault(error) or str(error))
    if request.fault:
        raise StorageError(f"{folder.path}: the search stopped, since results can't be written ({request.fault})")


def _look_ahead(config: Config, resources: Resources) -> int:
    """Return how many trials are proposed before there is room for them, so that the next one starts at once.

    0 where proposals depend on results, and where something else than resources limits what runs: the user's
    `max_concurrent`, or worker groups, whose drivers hold no CPU.
    """
    search = config.search
    bounded = search.max_concurrent is not None or resources.backend == "train"
    return 0 if search.algorithm == "optuna" or bounded else 1


@contextmanager
def _ray_speaks_to(file: Path) -> Iterator[None]:
    """Write to a file what Tune prints even when told to be silent: its table and failed trials' tracebacks."""
    logger = logging.getLogger("ray")
    before = logger.handlers[:]
    stream = QuietFile(file.open("a", encoding="utf-8"))
    logger.handlers = [logging.StreamHandler(stream)]
    try:
        with redirect_stdout(stream):
            yield
    finally:
        logger.handlers = before
        stream.close()


def _tune_resources(resources: Resources) -> dict[str, float]:
    if resources.backend == "train":
        # The driver of a worker group computes nothing; a CPU of its own could starve the group for ever.
        return {"node:__internal_head__": 0.001}
    gpus = {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    return {"CPU": float(resources.cpus), **gpus}


def _declare_columns(folder: SearchFolder, space: Space, metric: str, config: Config) -> None:
    if any(folder.path.glob("events.out.tfevents.*")):
        return
    known = ranking_metrics(config.task)
    shown = dict.fromkeys(
        [metric, *(name for name in ("val_loss", "val_rmse", "val_r2", "val_ccc", "val_uar") if name in known)]
    )
    costs = [config.search.second_metric] if config.search.second_metric else []
    write_experiment(folder.path, space.distributions, [*shown, *costs])
