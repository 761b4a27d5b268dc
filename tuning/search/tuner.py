"""One search under Ray Tune, from a checked space to the trials' folders."""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.stopper import Stopper

from tuning.config import Config
from tuning.plan import Plan
from tuning.search.events import write_experiment
from tuning.search.folder import SearchFolder
from tuning.search.recorder import Recorder
from tuning.search.resources import Resources
from tuning.search.schedulers import make_scheduler
from tuning.search.searchers import StudySearcher, make_sampler, open_study, reconcile
from tuning.search.view import View
from tuning.space import Space
from tuning.tasks import ranking_metrics
from tuning.trial import run_trial

log = logging.getLogger("tuning.search")

INTERRUPTED, OUT_OF_TIME = "interrupted", "time budget"


@dataclass
class StopRequest(Stopper):
    """Ends the whole search on a signal or when its time is up.

    Args:
        seconds: time budget, or None.
    """

    seconds: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        self.began = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stops a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether the search should end now."""
        if not self.reason and self.seconds is not None and time.monotonic() - self.began > self.seconds:
            self.reason = OUT_OF_TIME
        return bool(self.reason)


@contextmanager
def on_signals(request: StopRequest, say: Callable[[str], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the search in good order; a second one at once."""

    def stop(number: int, frame: Any) -> None:
        if request.reason == INTERRUPTED:
            raise KeyboardInterrupt
        request.reason = INTERRUPTED
        say("stopping: the running trials keep their last checkpoint (again to stop at once)")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_search(
    folder: SearchFolder,
    plan: Plan,
    data: dict[str, Any],
    resources: Resources,
    trainable: Callable[..., None] = run_trial,
) -> str:
    """Run what of the search has not been run.

    Args:
        folder: where it is written; its finished trials are not run again.
        plan: the checked search.
        data: passed on to every trial: references into Ray's object store.
        resources: of a trial, and how many at once.
        trainable: `trainable(spec, data)`; tests put a formula in the model's place.

    Returns:
        Empty when every trial ended, else why the search stopped before.
    """
    space, config, mode, total = plan.space, plan.config, plan.mode, plan.total
    metric = config.search.metric
    records = folder.records()
    ended = {record.number for record in records if record.is_final}
    sampler = make_sampler(config.search.sampler, config.seed) if config.search.algorithm == "optuna" else None
    study = open_study(folder.path / "study.journal", folder.name, mode, sampler)
    reconcile(study, records, metric)

    scratch = folder.path / ".ray"
    searcher = StudySearcher(
        space,
        config,
        study,
        total,
        ended,
        make_spec=lambda number, params: {
            "number": number,
            "params": params,
            "config": space.config(params).model_dump(mode="json"),
            "directory": str(folder.trial(number).resolve()),
            "search": folder.name,
            "scratch": str(scratch.resolve()),
            "gpus_per_worker": resources.gpus_per_worker,
        },
        limit=resources.concurrent + _look_ahead(config),
    )
    _declare_columns(folder, space, metric, config)
    minutes = config.search.time_budget_minutes
    request = StopRequest(seconds=minutes * 60 if minutes else None)
    words = f"{resources} per trial, {resources.concurrent} at once"
    with View(total, metric, mode, config.training.epochs, words, records) as view:
        recorder = Recorder(folder, metric, mode, view.update)
        with on_signals(request, view.say):
            tuner = tune.Tuner(
                tune.with_resources(tune.with_parameters(trainable, data=data), _tune_resources(resources)),
                tune_config=tune.TuneConfig(
                    metric=f"{metric}_best",
                    mode=mode,
                    search_alg=searcher,
                    scheduler=make_scheduler(config),
                    num_samples=total - len(ended),
                    # Actors of TorchTrainer drivers can't be used again (2 of 6 trials failed when tried).
                    reuse_actors=resources.workers == 1,
                    trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}",
                ),
                run_config=tune.RunConfig(
                    name="tune",
                    storage_path=str(scratch.resolve()),
                    stop=request,
                    callbacks=[recorder],
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=0),
                    checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
                ),
            )
            with _ray_speaks_to(folder.path / "search.log"):
                tuner.fit()
        recorder.cut_off(request.reason or "ended with the search")
    # Ray's own bookkeeping: a search goes on from the trials' folders and the study, not from it.
    shutil.rmtree(scratch, ignore_errors=True)
    log.info("search ended: %s", request.reason or "all trials")
    return request.reason


def _look_ahead(config: Config) -> int:
    """Trials proposed beyond those that run, so that the next starts at once on what the last leaves free.

    None where proposals depend on results, or where not the resources alone bound what runs: by the user's wish,
    or because the drivers of worker groups hold no CPU.
    """
    search = config.search
    bounded = search.max_concurrent is not None or config.resources.workers_per_trial > 1
    return 0 if search.algorithm == "optuna" or bounded else 1


@contextmanager
def _ray_speaks_to(file: Path) -> Iterator[None]:
    """Into a file goes what Tune prints even when told to be silent: its table, each failed trial's traceback."""
    logger = logging.getLogger("ray")
    before = logger.handlers[:]
    handler = logging.FileHandler(file, encoding="utf-8")
    logger.handlers = [handler]
    try:
        with file.open("a", encoding="utf-8") as stream, redirect_stdout(stream):
            yield
    finally:
        logger.handlers = before
        handler.close()


def _tune_resources(resources: Resources) -> dict[str, float]:
    if resources.workers > 1:
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
    write_experiment(folder.path, space.distributions, list(shown))
