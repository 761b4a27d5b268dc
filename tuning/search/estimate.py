"""Estimate the time and price of a search: some of its trials train a few steps, whose times are multiplied.

They train in Ray's processes, as many at once as in the search, so that trials that share cores or a GPU count.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch

from tuning.config.errors import UserError
from tuning.config.schema import Config
from tuning.config.space import Space
from tuning.data.data_module import DataModule, fetch
from tuning.data.keys import DataKey, data_key
from tuning.data.plan import Plan, planned_points
from tuning.datasets.corpus import Corpus
from tuning.datasets.splits.split import Split
from tuning.datasets.storage import is_uri
from tuning.search.backend import choose_backend
from tuning.search.compute import assigned_device, assigned_share
from tuning.search.resources import Resources, cluster_resources, plan_resources, start_ray
from tuning.training.early_stopping import earliest_end, first_stop
from tuning.training.encoders import encoder_of, located
from tuning.training.trial import make_trainer

# Trials that are probed: so many, or as many as run at once, up to a most.
PROBED, MOST_PROBED = 8, 16
# Each takes at least so many steps and so many seconds of them.
STEPS, SECONDS = 5, 1.0
# Training clips that are prepared to measure the preparation: at first, and then as many more with everything warm.
FEW = 24
# Random draws that stand for the trials that Optuna will propose.
DRAWN = 100


@dataclass(frozen=True)
class Probe:
    """Measured seconds of one trial."""

    setup: float  # until its first step has ended
    busy: float  # from then on
    epoch: float
    spread: float  # standard deviation of a clip's time over the steps, in parts of its mean


@dataclass(frozen=True)
class Estimate:
    """Seconds that a search will take.

    Args:
        preparation: of features and banks that are not prepared yet.
        start: of Ray, data and processes, once.
        setup: of each model until its first step.
        probes: the measured trials by number.
        concurrent: trials at once.
        models: trained by each trial, one after the other.
        longest: most epochs of each trial, over all its models.
        shortest: epochs of each trial, over all its models, before anything may end it.
        budget: most seconds for the trials, or None.
        num_machines: kept busy by the search.
        price: of a machine for an hour, or None.
        currency: of the price.
        backend: how a trial trains, and why.
    """

    preparation: float
    start: float
    setup: float
    probes: dict[int, Probe]
    concurrent: int
    models: int
    longest: list[int]
    shortest: list[int]
    budget: float | None
    num_machines: int
    price: float | None
    currency: str
    backend: str

    def trials(self, epochs: Sequence[int]) -> list[float]:
        """Seconds of each trial, given its number of epochs; those not probed take the probed ones' mean per epoch."""
        known = {number: probe.epoch for number, probe in self.probes.items()}
        mean = statistics.mean(known.values())
        return [self.models * self.setup + count * known.get(n, mean) for n, count in enumerate(epochs, start=1)]

    def seconds(self, epochs: Sequence[int]) -> float:
        """Seconds of the whole command, given the number of epochs of each trial."""
        running = makespan(self.trials(epochs), self.concurrent)
        return self.preparation + self.start + min(running, math.inf if self.budget is None else self.budget)

    @property
    def most(self) -> float:
        """Seconds if every trial trains all epochs."""
        return self.seconds(self.longest)

    @property
    def least(self) -> float:
        """Seconds if every trial ends as early as early stopping or a scheduler allows."""
        return self.seconds(self.shortest)

    @property
    def spread(self) -> float:
        """How much a step's time varies: its standard deviation, in parts of the mean."""
        return statistics.mean(probe.spread for probe in self.probes.values())

    def cost(self, seconds: float) -> float | None:
        """Price of the machines for some seconds."""
        return None if self.price is None else seconds / 3600 * self.num_machines * self.price


def makespan(seconds: Sequence[float], places: int) -> float:
    """When the last of some jobs ends, if each begins in order as soon as one of the places is free."""
    free = [0.0] * max(1, places)
    for each in seconds:
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)


def fewest_epochs(config: Config) -> int:
    """Epochs, over all models of a trial, before early stopping or a scheduler may end it."""
    folds, stop = config.split.inner_folds, first_stop(config, config.training.epochs)
    fewest = earliest_end(config.training, config.model.unfreezing or [])
    if folds is not None:
        return fewest * (folds if stop is None else stop)
    return fewest if stop is None else min(fewest, stop)


def likely_points(plan: Plan) -> Sequence[dict[str, Any]]:
    """Values of every trial: those that are known, and random draws for those that Optuna will propose."""
    known = planned_points(plan.space, plan.config)
    if len(known) == plan.total:
        return known
    drawn = itertools.islice(plan.space.samples(plan.config.seed, known), max(DRAWN, len(known)))
    return list(itertools.islice(itertools.cycle(drawn), plan.total))


def trial_epochs(space: Space, points: Sequence[dict[str, Any]]) -> tuple[list[int], list[int]]:
    """Most epochs of each trial, over all its models, and the fewest before anything may end it.

    Raises:
        UserError: the values of a trial do not go together.
    """
    configs = [space.config(point) for point in points]
    longest = [config.training.epochs * (config.split.inner_folds or 1) for config in configs]
    return longest, [fewest_epochs(config) for config in configs]


def estimate(plan: Plan, corpus: Corpus, split: Split) -> Estimate:
    """Probe some trials, and delete the features of a few clips that are made for it if those of all are missing.

    Raises:
        UserError: the resources do not allow a trial, the recordings can't be used, the values of a trial do not go
            together, or every probed trial failed.
    """
    points, config, began = likely_points(plan), plan.config, time.perf_counter()
    longest, shortest = trial_epochs(plan.space, points)
    start_ray(config)
    resources = plan_resources(config, *cluster_resources())
    # Only the machines that are running now: an estimate must not make a cluster grow.
    alive = ray.cluster_resources()
    here = plan_resources(config, alive.get("CPU", 0.0), alive.get("GPU", 0.0))
    at_once, models = min(here.concurrent, MOST_PROBED), config.split.inner_folds or 1
    start = time.perf_counter() - began
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=_shared_folder(plan), ignore_cleanup_errors=True) as scratch:
        preparation, module = _prepare(plan, corpus, split, scratch, int(alive.get("CPU", 1)))
        began = time.perf_counter()
        data, _ = module.share()
        num_train, num_val = clips_of_a_model(split, models)
        run = ray.remote(num_cpus=here.cpus, num_gpus=here.gpus_per_worker, max_retries=0)(probe)
        tasks: list[Any] = []
        for number, point in enumerate(points[: max(at_once, PROBED)]):
            if number >= at_once:
                ray.wait(tasks, num_returns=number + 1 - at_once)
            trial = module.space.config(point)
            trial = located(trial, encoder_of(trial))
            tasks.append(run.remote(trial, data[data_key(trial)], num_train, num_val))
        found = {number: _result(task) for number, task in enumerate(tasks, start=1)}
        start += time.perf_counter() - began
    probes = {number: each for number, each in found.items() if isinstance(each, Probe)}
    if not probes:
        raise UserError(f"probe: expected trials that train, got {'; '.join(map(str, set(found.values())))}")
    # Later trials take over the process of an ended one; what the first take longer is part of the start.
    setup = min(each.setup for each in probes.values())
    start -= makespan([setup + each.busy for each in probes.values()], at_once)
    first = probes.get(1)
    chosen, why = choose_backend(config, resources, lambda: first.epoch * shortest[0] if first else None)
    machines, minutes = sum(node["Alive"] for node in ray.nodes()), config.search.time_budget_minutes
    return Estimate(
        preparation=preparation,
        start=max(0.0, start),
        setup=setup,
        probes=probes,
        concurrent=resources.concurrent,
        models=models,
        longest=longest,
        shortest=shortest,
        budget=minutes * 60 if minutes else None,
        # As many more machines of the same kind as an autoscaling cluster starts for the search.
        num_machines=max(machines, math.ceil(machines * resources.concurrent / max(1, here.concurrent))),
        price=config.resources.price_per_hour,
        currency=config.resources.currency,
        backend=f"{chosen.backend}: {why}",
    )


def clips_of_a_model(split: Split, models: int) -> tuple[int, int]:
    """Numbers of clips that each of a trial's models trains on and validates; several share all clips as folds."""
    num_train, num_val = len(split.train), len(split.val)
    if models == 1:
        return num_train, num_val
    return (num_train + num_val) * (models - 1) // models, (num_train + num_val) // models


def shortest_trial(plan: Plan, split: Split, data: dict[DataKey, list[Any]], resources: Resources) -> float | None:
    """Probe the first trial: the least seconds that it trains, until anything may end it; None if it fails.

    Args:
        plan: the search.
        split: the clips of its trials.
        data: what `DataModule.share` returned.
        resources: what a trial takes.
    """
    trial = plan.space.config(likely_points(plan)[0])
    trial = located(trial, encoder_of(trial))
    clips = clips_of_a_model(split, trial.split.inner_folds or 1)
    run = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus_per_worker, max_retries=0)(probe)
    found = _result(run.remote(trial, data[data_key(trial)], *clips))
    return found.epoch * fewest_epochs(trial) if isinstance(found, Probe) else None


def _result(task: Any) -> Probe | str:
    try:
        found: Probe = ray.get(task)
        return found
    except ray.exceptions.RayError as error:
        return str(getattr(error, "cause", None) or error).strip().splitlines()[-1]


def _shared_folder(plan: Plan) -> str | None:
    """A folder that all machines of a cluster see; None on one machine."""
    if not os.environ.get("RAY_ADDRESS") or is_uri(plan.run.storage):
        return None
    Path(plan.run.storage).mkdir(parents=True, exist_ok=True)
    return plan.run.storage


class _MissingError(Exception):
    """Something is not prepared."""


def _refuse(done: int, total: int) -> None:
    if done < total:
        raise _MissingError


def _prepare(plan: Plan, corpus: Corpus, split: Split, scratch: str, cpus: int) -> tuple[float, DataModule]:
    """Seconds of the preparation, 0 if all is prepared, and the data of the probed trials: all clips, or a few."""
    space = Space({**plan.space.settings, "split.inner_folds": None}, plan.space.distributions)
    with suppress(_MissingError):
        return 0.0, replace(DataModule(plan.space, corpus, split).prepare(_refuse), space=space)
    space = Space({**space.settings, "data.prepared": f"{scratch}/prepared"}, space.distributions)
    shuffled = [random.Random(0).sample(clips, len(clips)) for clips in (split.train, split.val)]

    def timed(count: int) -> tuple[float, DataModule]:
        train, val = shuffled[0][:count], shuffled[1][: count // 3]
        part = replace(split, train=train, val=val, test=[], folds={})
        module, began = DataModule(space, replace(corpus, clips=[*train, *val]), part), time.perf_counter()
        module.prepare()
        return time.perf_counter() - began, module

    cold, module = timed(FEW)
    warm, more = timed(2 * FEW)
    done = len(module.corpus.clips)
    added = len(more.corpus.clips) - done
    # So few clips are one task, and so on one core.
    each = warm / added / cpus if added else cold / done
    return cold + each * (len(corpus.clips) - done), module


def probe(config: Config, parts: list[Any], num_train: int, num_val: int) -> Probe:
    """Train a few steps of one model of a trial, as one of its workers, validate and save, in this process.

    Args:
        config: the trial's.
        parts: what `DataModule.share` gave for it.
        num_train: clips that each of the trial's models trains on.
        num_val: clips that each validates.
    """
    began = time.perf_counter()
    torch.set_num_threads(config.resources.cpus_per_worker)
    read = fetch(parts)
    of_model = read if config.split.inner_folds is None else read.fold(0)
    with tempfile.TemporaryDirectory() as checkpoints:
        trainer = make_trainer(config, of_model, Path(checkpoints), assigned_device(assigned_share()))
        data: Any = trainer.data
        # The last epochs of a model that is unfrozen in stages take longest.
        trainer.enter_epoch(config.training.epochs)
        batches = itertools.chain.from_iterable(
            data.train_batches(epoch, config.training.batch_size, config.seed, 0, config.resources.workers_per_trial)
            for epoch in itertools.count(1)
        )
        float(trainer.step(next(batches)))
        first_step = started = time.perf_counter()
        steps: list[tuple[float, int]] = []
        while len(steps) < STEPS or started - first_step < SECONDS:
            batch = next(batches)
            float(trainer.step(batch))  # float waits for the GPU
            steps.append((time.perf_counter() - started, batch["num_clips"]))
            started += steps[-1][0]
        trainer.validate()
        validation = time.perf_counter() - started
        trainer.keep({"epoch": 1}, improved=True)
        ended = time.perf_counter()
    clips = num_train * (1 + config.augment.synthetic_share)
    per_clip = [seconds / count for seconds, count in steps]
    mean = sum(seconds for seconds, _ in steps) / sum(count for _, count in steps)
    epoch = clips * mean + validation * num_val / data.num_val + ended - started - validation
    return Probe(first_step - began, ended - first_step, epoch, statistics.pstdev(per_clip) / mean)
