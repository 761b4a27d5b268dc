"""What a search will take: a small search of a few steps is run and measured, and its parts are added up.

The small search goes through the same code as the real one, with as many trials at once, so that starting processes,
reporting epochs, writing checkpoints and cores that share memory are in its figures.
"""

from __future__ import annotations

import heapq
import io
import itertools
import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning.config.schema import Config
from tuning.config.space import Space
from tuning.data.plan import Plan, planned_points
from tuning.datasets.loaders.generated import steps_per_epoch
from tuning.training.early_stopping import earliest_end, first_stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tuning.data.data_module import DataModule
    from tuning.datasets.corpus import Clip, Corpus
    from tuning.datasets.splits.split import Split
    from tuning.search.resources import Resources

# Trials that are probed, unless more run at once; and no more than that many at once.
PROBED, MOST_AT_ONCE = 8, 16
# Each takes at least so many steps and so many seconds of them, and reports so many epochs.
STEPS, SECONDS, REPORTS = 5, 1.0, 3
# Clips that are prepared to measure it, for training and validation, and then as many more with everything warm.
FEW_TRAIN, FEW_VAL, MORE = 24, 8, 64
# Ends of the measured times of a trial's process, beside those that are averaged.
BEGAN, ENDED = "val_probe_began", "val_probe_ended"


@dataclass(frozen=True)
class Probe:
    """One trial, measured: seconds."""

    number: int
    setup: float  # until its first step ended, in a process that ran a trial before; once a model
    step: float
    validation: float  # of the whole validation split
    report: float  # an epoch's checkpoint and its way to the driver
    num_steps: float  # of an epoch; with inner folds their mean

    @property
    def epoch(self) -> float:
        """Seconds of an epoch."""
        return self.num_steps * self.step + self.validation + self.report


@dataclass(frozen=True)
class Estimate:
    """What a search will take, in seconds.

    Args:
        preparation: of features and banks that are not there yet.
        start: until the first trial trains: Ray, data, processes.
        gap: between two trials that follow each other in one place.
        end: after the last trial.
        probes: the trials that were measured.
        concurrent: trials at once.
        models: that a trial trains, one after the other.
        longest: most epochs of each trial of the search, over all its models.
        shortest: epochs of each trial, over all its models, before anything may end it.
        budget: most seconds for the trials, or None.
        num_machines: that the search keeps busy.
        price: of a machine for an hour, or None.
        currency: of the price.
    """

    preparation: float
    start: float
    gap: float
    end: float
    probes: list[Probe]
    concurrent: int
    models: int
    longest: list[int]
    shortest: list[int]
    budget: float | None
    num_machines: int
    price: float | None
    currency: str

    def trials(self, epochs: Sequence[int]) -> list[float]:
        """Seconds of each trial that trains so many epochs, over all its models; the probes stand for the others."""
        mean_epoch = statistics.mean(probe.epoch for probe in self.probes)
        mean_setup = statistics.mean(probe.setup for probe in self.probes)
        known = {probe.number: probe for probe in self.probes}
        found = []
        for number, count in enumerate(epochs, start=1):
            probe = known.get(number)
            setup, epoch = (probe.setup, probe.epoch) if probe else (mean_setup, mean_epoch)
            found.append(self.models * setup + count * epoch)
        return found

    def seconds(self, epochs: Sequence[int]) -> float:
        """The whole command, if the trials train so many epochs, over all their models."""
        running = makespan([seconds + self.gap for seconds in self.trials(epochs)], self.concurrent)
        if self.budget is not None:
            running = min(running, self.budget)
        return self.preparation + self.start + running + self.end

    @property
    def most(self) -> float:
        """If every trial trains all epochs."""
        return self.seconds(self.longest)

    @property
    def least(self) -> float:
        """If every trial ends as early as anything may end it."""
        return self.seconds(self.shortest)

    def cost(self, seconds: float) -> float | None:
        """The machines' price for so long."""
        return None if self.price is None else seconds / 3600 * self.num_machines * self.price


def makespan(seconds: Sequence[float], places: int) -> float:
    """When the last of these ends, each beginning in order as soon as one of the places is free."""
    free = [0.0] * max(1, places)
    for each in seconds:
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)


def fewest_epochs(config: Config) -> int:
    """Epochs, over all models of a trial, before early stopping or a scheduler may end it."""
    folds, stop = config.split.inner_folds, first_stop(config, config.training.epochs)
    fewest = earliest_end(config.training, getattr(config.model, "unfreeze_epochs", []))
    if folds is not None:
        return fewest * (folds if stop is None else stop)
    return fewest if stop is None else min(fewest, stop)


def trial_epochs(space: Space, config: Config, total: int) -> tuple[list[int], list[int]]:
    """Most epochs of each trial of a search, over all its models, and the fewest before anything may end it.

    Those of a trial that is not known before are the most and the fewest of any.

    Raises:
        UserError: the values of a trial that is known before do not go together.
    """
    bounds = [_bounds(space, point) for point in planned_points(space, config)]
    bounds += [_bounds(space, {})] * (total - len(bounds))
    return [most for most, _ in bounds], [fewest for _, fewest in bounds]


def _bounds(space: Space, point: dict[str, Any]) -> tuple[int, int]:
    """Most and fewest epochs of the trials that have a point's values, which may leave some to be drawn."""
    left = {path: d for path, d in space.distributions.items() if path not in point}
    if not any(space.is_active(path, point) for path in left):
        config = space.config(point)
        return config.training.epochs * (config.split.inner_folds or 1), fewest_epochs(config)
    config, space = space.fixed(), Space({**space.settings, **point}, left)
    # Each of them at its smallest gives the fewest: none of the rules ends a training earlier for a larger one.
    patience = min(space.values("training.patience"), key=lambda epochs: math.inf if epochs is None else epochs)
    update = {"epochs": min(space.values("training.epochs")), "patience": patience}
    shortest = config.model_copy(update={"training": config.training.model_copy(update=update)})
    if hasattr(config.model, "unfreeze_epochs"):
        stages = min(space.values("model.unfreeze_epochs"), key=lambda epochs: max(epochs, default=1))
        shortest.model = config.model.model_copy(update={"unfreeze_epochs": stages})
    return int(space.largest("training.epochs")) * (config.split.inner_folds or 1), fewest_epochs(shortest)


def estimate(plan: Plan, corpus: Corpus, split: Split) -> Estimate:
    """Run the small search, and delete what it leaves: a few trials' folders and, where features are missing, some.

    Raises:
        UserError: the resources do not allow a trial, the recordings can't be used, the values of a trial do not go
            together, or no probed trial came to a step.
    """
    import ray

    from tuning.config.errors import UserError
    from tuning.search.resources import cluster_resources, plan_resources, start_ray

    longest, shortest = trial_epochs(plan.space, plan.config, plan.total)
    began = time.perf_counter()
    start_ray(plan.config)
    from tuning.search.tuner import run_search  # timed with the rest, as the real search imports it, too

    resources = plan_resources(plan.config, *cluster_resources())
    # Machines that are here: a look should not make a cluster grow.
    alive = ray.cluster_resources()
    here = plan_resources(plan.config, *(alive.get(name, 0.0) for name in ("CPU", "GPU")))
    at_once = min(here.concurrent, MOST_AT_ONCE)
    with _scratch(plan) as scratch:
        small, num_train, num_val = _probing(plan, split, at_once, scratch)
        waiting = time.perf_counter() - began
        preparation, module = _prepared(plan, small, corpus, split, scratch, int(alive.get("CPU", 1)))
        began = time.perf_counter()
        data, _ = module.share()
        # What this process computed before it came here are its imports.
        start = waiting + time.perf_counter() - began + time.process_time() * 0.5
        from tuning.experiment.directory import SearchFolder

        folder = SearchFolder(scratch, "probe")
        folder.create(small.space, {}, {"corpus": "probe", "num_clips": 0})
        began_at = time.time()
        spare = {"data": data, "num_train": num_train, "num_val": num_val, "workers": plan.config.resources}
        with redirect_stdout(io.StringIO()):
            run_search(folder, small, spare, replace(here, workers=1, concurrent=at_once), probe_trial)
        took = time.time() - began_at
        records = [record for record in folder.records() if record.status == "done"]
        if not records:
            reasons = {record.reason for record in folder.records()}
            raise UserError(f"probe: expected trials that train, got {'; '.join(reasons)}")
    groups = plan.config.resources.workers_per_trial > 1
    probes, first, gap, last = _timeline([record.metrics for record in records], at_once, began_at, took, groups)
    config, minutes = plan.config, plan.config.search.time_budget_minutes
    return Estimate(
        preparation,
        start + first,
        gap,
        last,
        [replace(probe, number=record.number) for probe, record in zip(probes, records, strict=True)],
        resources.concurrent,
        config.split.inner_folds or 1,
        longest,
        shortest,
        minutes * 60 if minutes else None,
        _num_machines(resources, here),
        config.resources.price_per_hour,
        config.resources.currency,
    )


def _timeline(
    measured: list[dict[str, float]], places: int, began_at: float, took: float, fresh: bool
) -> tuple[list[Probe], float, float, float]:
    """The probed trials, the time until the first ones train, between two in one place, and after the last.

    The first trial in a place starts a process, which loads torch; later ones take it over, unless each trial has
    fresh ones (groups of workers).
    """
    order = sorted(range(len(measured)), key=lambda index: measured[index][BEGAN])
    cold, warm = order[:places], order[places:]
    ends = sorted(values[ENDED] for values in measured)
    gaps = [measured[index][BEGAN] - end for index, end in zip(warm, ends, strict=False)]
    start = statistics.mean(measured[index][BEGAN] for index in cold) - began_at
    setup_cold = statistics.mean(measured[index]["val_probe_setup"] for index in cold)
    setup = statistics.mean(measured[index]["val_probe_setup"] for index in warm) if warm else 0.0
    if fresh:
        setup = setup_cold
    probes = [
        Probe(
            number=0,
            setup=setup,
            step=values["val_probe_step"],
            validation=values["val_probe_validation"],
            report=values["val_probe_report"],
            num_steps=values["val_probe_steps"],
        )
        for values in measured
    ]
    gap = max(0.0, statistics.median(gaps)) if gaps else 0.0
    return probes, max(0.0, start) + max(0.0, setup_cold - setup), gap, max(0.0, began_at + took - ends[-1])


def _num_machines(resources: Resources, here: Resources) -> int:
    """Machines at full size: those that are there, and as many more of their kind as the search makes grow."""
    import ray

    alive = sum(node["Alive"] for node in ray.nodes())
    return max(alive, math.ceil(alive * resources.concurrent / max(1, here.concurrent)))


@contextmanager
def _scratch(plan: Plan) -> Iterator[Path]:
    """A folder that all machines of the search see, gone afterwards."""
    from tuning.datasets.storage import is_uri

    shared = bool(os.environ.get("RAY_ADDRESS")) and not is_uri(plan.run.storage)
    if shared:
        Path(plan.run.storage).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".probe-", dir=plan.run.storage if shared else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _probing(plan: Plan, split: Split, at_once: int, scratch: Path) -> tuple[Plan, list[int], float]:
    """The small search: some of the real one's trials, one model each; and clips that a trial's models are trained on.

    The last is how many a model validates, the mean over the models. Known trials come from the front of the list,
    where the real search begins.
    """
    from tuning.datasets.splits.split import inner_folds

    count = min(plan.total, max(at_once, at_once * math.ceil(PROBED / at_once)))
    known = planned_points(plan.space, plan.config)
    drawn = known if len(known) >= count else list(_drawn(plan.space, plan.config.seed, known, count))
    settings = plan.config.split
    models = [(split.train, split.val)]
    if settings.inner_folds is not None:
        models = inner_folds(split, settings).inner_parts()
    num_train, num_val = [len(train) for train, _ in models], statistics.mean(len(val) for _, val in models)
    changed: dict[str, Any] = {
        "split.inner_folds": None,
        "search.algorithm": "random",
        "search.scheduler": "none",
        "search.num_trials": len(drawn[:count]),
        "search.points_to_evaluate": drawn[:count],
        "search.time_budget_minutes": None,
        "resources.workers_per_trial": 1,
    }
    space = Space({**plan.space.settings, **changed}, plan.space.distributions)
    run = plan.run.model_copy(update={"name": "probe", "storage": str(scratch)})
    return replace(plan, run=run, space=space, config=space.fixed(), total=len(drawn[:count])), num_train, num_val


def _drawn(space: Space, seed: int, first: list[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    return itertools.islice(space.samples(seed, first), count)


class _MissingError(Exception):
    """Something is not prepared."""


def _refuse(done: int, total: int) -> None:
    if done < total:
        raise _MissingError


def _prepared(
    plan: Plan, small: Plan, corpus: Corpus, split: Split, scratch: Path, cpus: int
) -> tuple[float, DataModule]:
    """Seconds of what is still to be prepared, and what the small search reads: all that is there, or a few clips."""
    from tuning.data.data_module import DataModule

    whole, features_are_there = DataModule(plan.space, corpus, split), False
    with suppress(_MissingError):
        whole.prepare_features(_refuse)
        features_are_there = True
        whole.prepare_banks(_refuse)
        return 0.0, replace(whole, space=small.space)
    few, more = _some(split, FEW_TRAIN, FEW_VAL), _some(split, FEW_TRAIN + MORE, FEW_VAL)
    space = replace(small.space, settings={**small.space.settings, "data.prepared": str(scratch / "prepared")})

    def features_of(part: Split) -> DataModule:
        module = DataModule(space, replace(corpus, clips=_clips(part)), part)
        module.prepare_features(lambda done, total: None)
        return module

    def banks_of(part: Split) -> Any:
        module = DataModule(space, replace(corpus, clips=_clips(part)), part)
        module.prepare_banks(lambda done, total: None)
        return module.banks

    seconds, found = _extended(features_of, few, more, len(corpus.clips), cpus)
    if features_are_there:
        seconds = 0.0
    trained = len(split.train) + (len(split.val) if plan.config.split.inner_folds is not None else 0)
    of_banks, found.banks = _extended(banks_of, few, _some(split, FEW_TRAIN + MORE // 4, FEW_VAL), trained, cpus)
    return seconds + of_banks, found


def _extended(work: Callable[[Split], Any], few: Split, more: Split, total: int, cpus: int) -> tuple[float, Any]:
    """Seconds for all clips from those for a few, with everything cold, and for some more; what is made of the few."""
    began = time.perf_counter()
    found = work(few)
    cold = time.perf_counter() - began
    if not found:  # no bank
        return 0.0, found
    done, added = len(_clips(few)), len(_clips(more)) - len(_clips(few))
    if total <= done or added <= 0:
        return cold * total / done, found
    began = time.perf_counter()
    work(more)
    # One shard of clips is one task, so these few were made by one core.
    each = (time.perf_counter() - began) / added
    return cold + each * (total - done) / cpus, found


def _some(split: Split, num_train: int, num_val: int) -> Split:
    """Clips from all over a split, of each class some; none of the test."""
    return replace(split, train=_spread(split.train, num_train), val=_spread(split.val, num_val), test=[], folds={})


def _spread(clips: list[Clip], count: int) -> list[Clip]:
    """The first `count` clips in an order that goes round the classes, so that a larger count adds to a smaller."""
    by_class: dict[Any, list[Clip]] = {}
    for clip in clips:
        by_class.setdefault(clip.label, []).append(clip)
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*by_class.values()))
    return list(itertools.islice((clip for clip in rounds if clip is not None), count))


def _clips(split: Split) -> list[Clip]:
    return [*split.train, *split.val, *split.test]


def probe_trial(given: dict[str, Any], data: dict[str, Any]) -> None:
    """A Tune trial that trains a few steps and reports what they took.

    Args:
        given: as for `run_trial`.
        data: references by `data_key` (`data`), clips that each model of the real trial is trained on (`num_train`),
            how many a model validates (`num_val`), and the real `resources` (`workers`).
    """
    began_at, began = time.time(), time.perf_counter()
    import ray
    import torch
    from ray import tune

    from tuning.config.schema import parse_config
    from tuning.data.data_module import fetch
    from tuning.data.keys import data_key
    from tuning.experiment.trial_spec import TrialSpec
    from tuning.training.encoders import located
    from tuning.training.trial import make_training

    spec = TrialSpec.from_dict(given)
    config = parse_config(spec.config)
    torch.set_num_threads(config.resources.cpus_per_worker)
    device = torch.device("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")
    assert spec.directory is not None
    checkpoints = Path(spec.directory) / "checkpoints"
    read = fetch(data["data"][data_key(config)])
    training = make_training(located(config, spec.encoder), read, checkpoints, device)
    # The last epochs of a model that is unfrozen in stages take longest.
    training.enter_epoch(config.training.epochs)
    # Each worker of a group takes its part of a batch.
    clips = max(1, config.training.batch_size // data["workers"].workers_per_trial)
    batches = _endless(training, clips, config.seed)
    float(training.step(next(batches)))
    setup = time.perf_counter() - began

    steps: list[float] = []
    stepping = time.perf_counter()
    while len(steps) < STEPS or time.perf_counter() - stepping < SECONDS:
        started = time.perf_counter()
        float(training.step(next(batches)))  # float waits for the GPU
        steps.append(time.perf_counter() - started)
    started = time.perf_counter()
    training.validate()
    seen: Any = training.data
    validation = (time.perf_counter() - started) * data["num_val"] / seen.num_val
    metric = config.search.metric
    reports: list[float] = []
    for epoch in range(1, REPORTS + 1):
        started = time.perf_counter()
        row = {"epoch": epoch, "best_epoch": epoch, "seconds": 0.0, metric: 0.0, f"{metric}_best": 0.0, "finished": ""}
        training.keep(row, improved=epoch == 1)
        if epoch == REPORTS:
            found = {"setup": setup, "step": statistics.mean(steps), "validation": validation}
            workers = data["workers"].workers_per_trial
            num_steps = statistics.mean(
                steps_per_epoch(count, config.training.batch_size, config.augment.synthetic_share, workers)
                for count in data["num_train"]
            )
            found |= {"report": statistics.mean(reports), "steps": num_steps}
            row |= {f"val_probe_{name}": value for name, value in found.items()}
            row |= {BEGAN: began_at, ENDED: time.time(), "finished": "probed"}
        tune.report(row)
        reports.append(time.perf_counter() - started)


def _endless(training: Any, clips: int, seed: int) -> Iterator[dict[str, Any]]:
    """Training batches of so many clips, epoch after epoch, those of too few clips filled up with their own."""
    import torch

    for epoch in itertools.count(1):
        for batch in training.data.train_batches(epoch, clips, seed):
            have = len(batch["features"])
            if have < clips:
                index = torch.arange(clips) % have
                whole = {name: torch.is_tensor(v) and v.ndim and len(v) == have for name, v in batch.items()}
                batch = {name: v[index] if whole[name] else v for name, v in batch.items()} | {"num_clips": clips}
            yield batch
