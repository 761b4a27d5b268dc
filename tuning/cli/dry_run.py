"""Print what a search would run: its trials or distributions, its resources and, on request, a measured estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuning import api
from tuning.config.distributions import counted, plain
from tuning.config.schema import Config
from tuning.data.generated_clips import SYNTHETIC_SHARE
from tuning.data.keys import data_variants, describe_bank
from tuning.data.plan import (
    Plan,
    planned_points,
    print_augmentation,
    read_corpus,
    training_clips,
    with_augmentation,
)
from tuning.datasets import is_demo
from tuning.search.backend import LEAST_SECONDS, choose_backend, depends_on_time
from tuning.search.cluster import cluster_address
from tuning.search.resources import cluster_resources, local_machine, plan_resources, start_ray
from tuning.training.cross_validation import describe_parts

if TYPE_CHECKING:
    from tuning.search.estimate import Estimate


def preview(plan: Plan) -> None:
    """Print what the search would run. Runs nothing, or with `probe=true` a few steps.

    Raises:
        UserError: the corpus or the resources do not allow it.
    """
    # Only the search itself makes a demo corpus.
    known = None if is_demo(plan.config.data.corpus) else read_corpus(plan.config)
    plan = with_augmentation(plan, len(training_clips(known[1], plan.config)) if known else None)
    config, folds = plan.config, plan.config.split.inner_folds
    direction = "lower" if plan.mode == "min" else "higher"
    print(
        f"search    {plan.name}: {plan.total} trials ({config.search.algorithm}, scheduler {config.search.scheduler})"
    )
    longest = plan.space.largest("training.epochs")
    print(f"          ranked by {config.search.metric} ({direction} is better), at most {counted(longest, 'epoch')}")
    print_augmentation(plan)
    if found := describe_bank(plan.space, known and len(training_clips(known[1], config))):
        print(f"          {found}")
    if most := plan.space.largest(SYNTHETIC_SHARE):
        count = len({key.generated for key in data_variants(plan.space)})
        what = "a GAN" if count == 1 else f"{count} GANs"
        print(f"          {what}, trained once on the training clips; up to {most:g} of its clips for each real one")
    if folds is not None:
        print(f"          each trial trains {folds} models, one per inner fold: {folds * plan.total} in all")
    if known is None:
        print(f"corpus    {config.data.corpus}, made on the first run")
    else:
        corpus, split = known
        parts = describe_parts(split, folds)
        print(f"corpus    {corpus.name}: {len(corpus.clips)} clips; {parts}; split: {split.method}")
    cpus, gpus = _machine(config)
    resources = plan_resources(config, cpus, gpus)
    print(f"resources {resources} per trial; {resources.concurrent} at once here ({cpus:g} CPUs, {gpus:g} GPUs)")
    if depends_on_time(config, resources):
        print(f"backend   train if the first trial, which is probed, takes {LEAST_SECONDS:.0f} s or more, else direct")
    else:
        chosen, why = choose_backend(config, resources, lambda: None)
        print(f"backend   {chosen.backend}: {why}")
    print("searched")
    for path, distribution in plan.space.distributions.items():
        print(f"  {path}: {distribution}")
    points = planned_points(plan.space, config)
    if points:
        print("trials" if len(points) == plan.total else "tried first")
    for number, point in enumerate(points, start=1):
        print(f"  {number:4d}  " + "  ".join(f"{path}={plain(value)}" for path, value in point.items()))
    if plan.run.probe:
        print_estimate(api.measure(plan))


def _machine(config: Config) -> tuple[float, float]:
    if cluster_address() is not None:
        start_ray(config)
        return cluster_resources()
    return local_machine()


def print_estimate(found: Estimate) -> None:
    """Print an estimate in words."""
    trials = [seconds / found.models for seconds in found.trials(found.longest)]
    epochs = [count // found.models for count in found.longest]
    several = f"its {min(epochs)} to {max(epochs)}" if min(epochs) < max(epochs) else f"all {max(epochs)}"
    of_folds = f" for each of {found.models} models" if found.models > 1 else ""
    parts = [f"start {found.start:.0f} s"]
    if found.preparation:
        parts.insert(0, f"preparation {found.preparation:.0f} s, from a few recordings")
    probed = f"{len(found.probes)} of {len(found.longest)} trials probed, {found.concurrent} at once"
    print(f"estimate  {probed}; {'; '.join(parts)}")
    print(f"          backend {found.backend}")
    print(f"          a trial with {several} epochs: {_range(trials)} s{of_folds}; steps vary by {found.spread:.0%}")
    least, most = found.least, found.most
    print(f"          the search: at most about {_time(most)}", end="")
    if least < 0.95 * most:
        print(f", at least {_time(least)} if every trial is stopped as early as it may be", end="")
    print()
    if found.price is not None:
        machines = f"{found.num_machines} machine{'s' if found.num_machines > 1 else ''}"
        price = f"{machines} at {found.price:g} {found.currency} an hour"
        print(f"cost      at most about {found.cost(most):.2f} {found.currency}: {price}")


def _range(seconds: list[float]) -> str:
    low, high = min(seconds), max(seconds)
    return f"{low:.0f}" if high - low < 1 else f"{low:.0f} to {high:.0f}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
