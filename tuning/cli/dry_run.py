"""Print what a search would run: its trials or distributions, its resources and, on request, a measured estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuning import api
from tuning.config.distributions import counted, plain
from tuning.config.schema import Config
from tuning.config.terminal import visible
from tuning.data.encoder_layers import trained_encoders
from tuning.data.generated_clips import SYNTHETIC_SHARE
from tuning.data.keys import data_variants, describe_bank
from tuning.data.plan import (
    planned_points,
    print_augmentation,
    print_corpus_defaults,
    print_licences,
    print_unread_settings,
    training_clips,
)
from tuning.datasets import is_demo, storage
from tuning.datasets.demo.writer import MANIFEST
from tuning.search.backend import LEAST_SECONDS, choose_backend, depends_on_time
from tuning.search.checks import Checked
from tuning.search.cluster import cluster_address
from tuning.search.preparation import say_split
from tuning.search.resources import cluster_resources, local_machine, plan_resources, start_ray

if TYPE_CHECKING:
    from tuning.search.estimate import Estimate


MOST_LISTED = 1000  # trials


def preview(checked: Checked) -> None:
    """Print what the search would run. Runs nothing, or with `probe=true` a few steps.

    Raises:
        UserError: the resources do not allow it.
    """
    plan, corpus, split = checked.plan, checked.corpus, checked.split
    config, folds = plan.config, plan.config.split.inner_folds
    print_licences(plan)
    print_corpus_defaults(plan)
    print_unread_settings(plan)
    direction = "lower" if plan.mode == "min" else "higher"
    proposed = f"({config.search.algorithm}, scheduler {config.search.scheduler})"
    resumed = "; begun before, and resumed" if checked.begun is not None else ""
    print(f"search    {plan.name}: {counted(plan.total, 'trial')} {proposed}{resumed}")
    longest = plan.space.largest("training.epochs")
    print(f"          ranked by {config.search.metric} ({direction} is better), at most {counted(longest, 'epoch')}")
    if folds is not None:
        print(f"          each trial trains {folds} models, one per inner fold: {folds * plan.total} in all")
    print_augmentation(plan)
    if found := describe_bank(plan.space, len(training_clips(split, config))):
        print(f"augment   {found}")
    if most := plan.space.largest(SYNTHETIC_SHARE):
        count = len({key.generated for key in data_variants(plan.space)})
        what = "a GAN" if count == 1 else f"{count} GANs"
        print(f"gan       {what}, trained once on the training clips; up to {most:g} of its clips for each real one")
    for line in trained_encoders(plan.space):
        print(f"encoder   {line}")
    say_split(corpus, split, config)
    if is_demo(config.data.corpus) and not storage.exists(corpus.root, MANIFEST):
        print("          made on the first run")
    how = "resident if they fit into memory, else streamed" if config.data.loading == "auto" else config.data.loading
    print(f"loading   clips are {how} (data.loading={config.data.loading})")
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
        print(visible(f"  {path}: {distribution}"))
    points = planned_points(plan.space, config)
    if points:
        print("trials" if len(points) == plan.total else "tried first")
    for number, point in enumerate(points[:MOST_LISTED], start=1):
        print(visible(f"  {number:4d}  " + "  ".join(f"{path}={plain(value)}" for path, value in point.items())))
    if len(points) > MOST_LISTED:
        print(f"  and {len(points) - MOST_LISTED:,} more")
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
