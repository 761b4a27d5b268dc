"""The main job: parse, plan, prepare, search, rank, report. `python -m tuning.run --help` says what can be set."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tuning.cli.command import DONE, FAILED, INTERRUPTED, run_command
from tuning.experiment.faults import QuietFile

if TYPE_CHECKING:
    from tuning.data.data_module import DataModule
    from tuning.data.plan import Plan
    from tuning.datasets.store.build import Prepared
    from tuning.experiment.directory import SearchFolder


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input, 130 interrupted, 1 anything else."""
    arguments = sys.argv[1:] if arguments is None else arguments
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run_command(_usage, _main, arguments, resume=_command(arguments))
    finally:
        signal.signal(signal.SIGTERM, before)


def _usage() -> str:
    from tuning.config.help import help_text

    return help_text()


def _main(arguments: list[str]) -> int:
    from tuning.data.plan import make_plan, read_corpus, with_classes

    dry_run = "--dry-run" in arguments
    plan = make_plan([argument for argument in arguments if argument != "--dry-run"])
    if dry_run:
        from tuning.cli.dry_run import preview

        preview(plan)
        return DONE
    _say_what_the_corpus_brings(plan)
    corpus, split = read_corpus(plan.config)
    plan = with_classes(plan, corpus)
    from tuning.data.data_module import DataModule
    from tuning.experiment.bucket_sync import open_folder

    with open_folder(plan.run.storage, plan.name) as folder:
        return _search(plan, folder, DataModule(plan.space, corpus, split), arguments)


def _search(plan: Plan, folder: SearchFolder, data: DataModule, arguments: list[str]) -> int:
    from tuning.search.resources import check_resources

    if plan.run.fresh or not folder.exists:
        check_resources(plan.config)  # before an earlier search is put aside, and before anything is prepared
    if folder.exists and plan.run.fresh:
        print(f"archived  the earlier search is now {folder.archive()}")
    identity = data.identity()
    if folder.exists:
        data.split = folder.split_begun_with(plan.space, identity, data.corpus, data.split)
        if sum(folder.is_written(record) for record in folder.records()) >= plan.total:
            return _report(plan, folder, finished_before=True)
    with _log_to(folder):
        reason = _run_trials(plan, folder, data, identity)
    code = _report(plan, folder)
    if reason:
        print(f"stopped   {reason}: not all trials ended; to go on: {_command(arguments)}")
    return INTERRUPTED if reason == "interrupted" else code


def _run_trials(plan: Plan, folder: SearchFolder, data: DataModule, identity: dict[str, Any]) -> str:
    """Prepare, share, search; empty when every trial ended, else why the search stopped before."""
    from tuning.evaluation.leaderboard import write_leaderboard
    from tuning.experiment.directory import write_json
    from tuning.search.callbacks.generated_clips import show_generated

    _prepare_features(plan, data)
    _say_split(data, plan.config.split.inner_folds)
    _write_quarantine(folder, data)
    _prepare_banks(plan, data)

    from tuning.search.resources import cluster_resources, plan_resources, start_ray
    from tuning.search.tuner import run_search

    start_ray(plan.config)
    resources = plan_resources(plan.config, *cluster_resources())
    generated = _generated(data)
    shared, baseline = data.share()
    # Only now, so that a command that was refused leaves no search that a better one would differ from.
    if not folder.exists:
        folder.create(plan.space, plan.overrides, identity, data.split)
    write_json(folder.path / "baseline.json", baseline)
    show_generated(folder.path, generated)
    done = sum(record.is_final for record in folder.records())
    going_on = f", {done} of them done before" if done else ""
    print(f"search    {plan.name}: {plan.total} trials ({plan.config.search.algorithm}){going_on}; ", end="")
    print(f"{resources} per trial, {resources.concurrent} at once; ranked by {plan.config.search.metric}", flush=True)
    try:
        return run_search(folder, plan, shared, resources)
    finally:
        write_leaderboard(folder, plan.config.search.metric, plan.mode, baseline)


def _say_what_the_corpus_brings(plan: Plan) -> None:
    from tuning.config.distributions import plain
    from tuning.config.space import brought_along

    defaults = plan.space.fields
    brought = brought_along(plan.config.data.corpus, plan.config.model.name, defaults)
    shortened = [
        f"{path} {plain(value)} in place of {plain(defaults[path].get_default())}"
        for path, value in brought.items()
        if path in plan.space.settings and path not in plan.overrides and not path.startswith("data.")
    ]
    if shortened:
        print(f"corpus    the {plan.config.data.corpus} corpus sets {', '.join(shortened)}")


def _prepare_features(plan: Plan, data: DataModule) -> None:
    """Make features of every recording and its lyrics, and say what was done."""
    from tuning.training.encoders import reads_text

    began = time.monotonic()
    what = "features and lyrics of" if reads_text(plan.config) else "features of"
    data.prepare_features(_starting(plan, what))
    kinds = ((data.features, "recordings"), (data.texts, "lyrics"))
    done = [_counted(list(variants.values()), name) for variants, name in kinds if variants]
    if any(variant.num_extracted for variant in data.variants):
        print(f"prepare   {', '.join(done)}, {time.monotonic() - began:.1f} s")
    else:
        print(f"prepare   nothing to prepare: {', '.join(done)}")


def _counted(variants: list[Prepared], name: str) -> str:
    """How many recordings or texts were prepared, and how many were found, in words."""
    made, kept = sum(v.num_extracted for v in variants), sum(v.num_reused for v in variants)
    kinds = f" in {len(variants)} variants" if len(variants) > 1 else ""
    if not made:
        return f"all {kept} {name}{kinds} are reused"
    return f"{made} {name} prepared{kinds}, {kept} reused"


def _prepare_banks(plan: Plan, data: DataModule) -> None:
    """Make the bank of augmented training clips, where the trials draw from one, and say what was done."""
    from tuning.data.keys import searched_effects

    began = time.monotonic()
    data.prepare_banks(_starting(plan, "augmented versions of"))
    made = [variant for bank in data.banks.values() for variant in bank.values()]
    if made:
        versions = sum(variant.num_extracted * (variant.versions or 1) for variant in made)
        kept = sum(variant.num_reused * (variant.versions or 1) for variant in made)
        effects = ", ".join(searched_effects(plan.space))
        print(f"augment   {versions} versions made, {kept} reused ({effects}), {time.monotonic() - began:.1f} s")


def _generated(data: DataModule) -> list[str]:
    """Train the GANs that trials draw from, and say what was done; the folders of their clips."""
    from tuning.data.generated_clips import quality_of

    began = time.monotonic()
    trained: list[int] = []

    def say() -> None:
        if not trained:
            print("prepare   training GANs on the training clips ...", flush=True)
        trained.append(1)

    folders = list(data.prepare_generated(say).values())
    if folders:
        shown = ", ".join(f"{q['score']:.0f} ({q['band']})" for q in map(quality_of, folders))
        what = f"{len(trained)} trained, {len(folders) - len(trained)} reused"
        print(f"gan       {what}; quality of 100: {shown}; {time.monotonic() - began:.1f} s")
    return folders


def _starting(plan: Plan, what: str) -> Callable[[int, int], None]:
    """A progress function that says what begins, and starts Ray, only if something is to do."""
    from tuning.search.lazy_start import when_needed

    def say(missing: int, total: int) -> None:
        print(f"prepare   {what} {missing} of {total} recordings ...", flush=True)

    return when_needed(plan.config, say)


def _say_split(data: DataModule, num_folds: int | None) -> None:
    from tuning.training.cross_validation import describe_parts

    corpus, split = data.corpus, data.split
    groups = {clip.group for clip in corpus.clips if clip.group is not None}
    of_groups = f" of {len(groups)} groups" if groups else ""
    parts = describe_parts(split, num_folds)
    print(f"corpus    {corpus.name}: {len(corpus.clips)} clips{of_groups}; {parts}; split: {split.method}")
    for note in [*corpus.notes, *split.notes]:
        print(f"          note: {note}")


def _write_quarantine(folder: SearchFolder, data: DataModule) -> None:
    from tuning.experiment.directory import write_text

    found = dict(entry for variant in data.variants for entry in variant.quarantine)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["clip", "reason"])
    writer.writerows(found.items())
    write_text(folder.path / "quarantine.csv", stream.getvalue())
    if found:
        print(f"prepare   {len(found)} recordings can't be used and are left out: {folder.path / 'quarantine.csv'}")


@contextmanager
def _log_to(folder: SearchFolder) -> Iterator[None]:
    folder.path.mkdir(parents=True, exist_ok=True)
    stream = QuietFile((folder.path / "search.log").open("a", encoding="utf-8"))
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("tuning")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        stream.close()


def _report(plan: Plan, folder: SearchFolder, finished_before: bool = False) -> int:
    """Print the ranking and where everything is; 1 when no trial came to a result."""
    from tuning.evaluation.leaderboard import pareto_front, print_leaderboard, second_metric, write_leaderboard
    from tuning.evaluation.report import write_or_note

    metric = plan.config.search.metric
    baseline = json.loads((folder.path / "baseline.json").read_text(encoding="utf-8"))
    ranked = write_leaderboard(folder, metric, plan.mode, baseline)
    if finished_before:
        print(f"search    {plan.name}: all {plan.total} trials were done before; this is their ranking")
    print_leaderboard(ranked, metric, baseline)
    if second := second_metric(ranked):
        front = sorted(pareto_front(ranked, metric, plan.mode, second))
        print(f"pareto    best for their {second}: trials {', '.join(map(str, front))}")
    print(f"ranking   {folder.path / 'leaderboard.md'}, {folder.path / 'leaderboard.csv'}")
    report = write_or_note(folder)
    if report is not None:
        print(f"report    {report}")
    print(f"trials    {folder.trials}")
    if folder.remote:
        print(f"storage   {folder.remote}; mirrored in {folder.path}, but for checkpoints")
    print(f"curves    tensorboard --logdir {folder.path}")
    if not any(metric in record.metrics and record.status != "failed" for record in ranked):
        print(f"error: no trial came to a result; why: {folder.trials}/*/error.txt", file=sys.stderr)
        return FAILED
    return DONE


def _command(arguments: list[str]) -> str:
    kept = [argument for argument in arguments if not argument.startswith("fresh=")]
    return f"python -m tuning.run {shlex.join(kept)}"


if __name__ == "__main__":
    # As with -m, also where `ray submit` runs a copy of this file elsewhere: a user's own modules lie here.
    sys.path[0] = os.getcwd()
    sys.exit(main())
