"""`--dry-run`: the trials or distributions, their number, what each takes, and on request a measured estimate."""

from __future__ import annotations

import os
import time
from typing import Any

from tuning.config import Config
from tuning.distributions import plain
from tuning.folds import describe_parts
from tuning.plan import Plan, planned_points, read_corpus, with_classes
from tuning.search.resources import Resources, cluster_resources, local_machine, plan_resources, start_ray
from tuning.stages import searched_effects

# Configurations and steps that a probe measures.
PROBED, PROBE_STEPS = 4, 5


def preview(plan: Plan) -> None:
    """Print what the search would run; runs nothing but, with `probe=true`, a few steps.

    Raises:
        UserError: the corpus or the resources do not allow it.
    """
    config, folds = plan.config, plan.config.split.inner_folds
    direction = "lower" if plan.mode == "min" else "higher"
    print(
        f"search    {plan.name}: {plan.total} trials ({config.search.algorithm}, scheduler {config.search.scheduler})"
    )
    print(
        f"          ranked by {config.search.metric} ({direction} is better), at most {config.training.epochs} epochs"
    )
    if effects := searched_effects(plan.space):
        print(f"          a bank of {config.augment.versions} versions of each training clip by {', '.join(effects)}")
    if folds is not None:
        print(f"          each trial trains {folds} models, one per inner fold: {folds * plan.total} in all")
    if config.data.corpus in ("demo", "demo_speech"):
        print(f"corpus    {config.data.corpus}, made on the first run")
    else:
        corpus, split = read_corpus(config)
        parts = describe_parts(split, folds)
        print(f"corpus    {corpus.name}: {len(corpus.clips)} clips; {parts}; split: {split.method}")
    cpus, gpus = _machine(config)
    resources = plan_resources(config, cpus, gpus)
    print(f"resources {resources} per trial; {resources.concurrent} at once here ({cpus:g} CPUs, {gpus:g} GPUs)")
    print("searched")
    for path, distribution in plan.space.distributions.items():
        print(f"  {path}: {distribution}")
    points = planned_points(plan.space, config)
    if points:
        print("trials" if len(points) == plan.total else "tried first")
    for number, point in enumerate(points, start=1):
        print(f"  {number:4d}  " + "  ".join(f"{path}={plain(value)}" for path, value in point.items()))
    if plan.run.probe:
        _probe(plan, resources)


def _machine(config: Config) -> tuple[float, float]:
    if os.environ.get("RAY_ADDRESS"):
        start_ray(config)
        return cluster_resources()
    return local_machine()


def _probe(plan: Plan, resources: Resources) -> None:
    """Time a few steps of a few trials, one after the other, and extend to all epochs of all trials."""
    import ray

    from tuning.stages import data_key, prepare_banks, prepare_features, share_data, usable_split

    corpus, split = read_corpus(plan.config)
    plan = with_classes(plan, corpus)
    start_ray(plan.config)
    prepared = prepare_features(plan.space, plan.config, corpus, split, lambda done, total: None)
    split = usable_split(split, prepared)
    banks = prepare_banks(plan.space, plan.config, corpus, split, lambda done, total: None)
    data, _ = share_data(prepared, banks, split, plan.space, plan.config)
    points = planned_points(plan.space, plan.config) or [
        {path: d.at(fraction) for path, d in plan.space.distributions.items()} for fraction in (0.1, 0.4, 0.6, 0.9)
    ]
    chosen = points[:: max(1, len(points) // PROBED)][:PROBED]
    seconds = []
    for point in chosen:
        config = plan.space.config(point)
        some, models = ray.get(data[data_key(config)]), config.split.inner_folds or 1
        if config.split.inner_folds is not None:
            some = some.fold(0)
        seconds.append(_epoch_seconds(config, some) * config.training.epochs * models)
    mean = sum(seconds) / len(seconds)
    total = mean * plan.total / resources.concurrent
    print(f"estimate  {mean:.0f} s per trial ({min(seconds):.0f} to {max(seconds):.0f} s, {len(chosen)} probed),")
    print(f"          at most {total / 60:.1f} minutes for the search; early stopping and schedulers end sooner")


def _epoch_seconds(config: Config, data: Any) -> float:
    import torch

    from datasets.augmented import augment_data
    from tuning.tasks import ranking_metrics, task_of
    from tuning.training import Training
    from tuning.trial import build_model

    torch.set_num_threads(config.resources.cpus_per_worker)
    cropped = augment_data(data.crop(config.features.num_frames), config.features, config.augment)
    mode = ranking_metrics(config.task)[config.search.metric]
    training = Training(build_model(config, cropped.num_features), cropped, task_of(config), config, mode)
    batches = cropped.train_batches(1, config.training.batch_size, config.seed)
    steps = []
    for batch in batches:
        began = time.perf_counter()
        training.step(batch)
        steps.append(time.perf_counter() - began)
        if len(steps) > PROBE_STEPS:
            break
    began = time.perf_counter()
    training.validate()
    validation = time.perf_counter() - began
    per_epoch = cropped.num_batches(config.training.batch_size)
    steady = sorted(steps[1:] or steps)
    return steady[len(steady) // 2] * per_epoch + validation
