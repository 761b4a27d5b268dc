"""Prepare the features, texts and clips that trials read, and print what is done."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from tuning.config.schema import Config
from tuning.config.terminal import visible
from tuning.data.data_module import DataModule
from tuning.data.generated_clips import quality_of
from tuning.data.keys import describe_bank
from tuning.datasets.corpus import Corpus
from tuning.datasets.splits.split import Split
from tuning.datasets.store.build import Prepared
from tuning.experiment.directory import SearchFolder, write_table
from tuning.search.lazy_start import when_needed
from tuning.training.cross_validation import describe_parts
from tuning.training.encoders import reads_text

EVERY_SECONDS = 10.0  # between two lines of a preparation, where there is no terminal


def prepare(folder: SearchFolder, data: DataModule) -> None:
    """Make missing features, texts and augmented clips; list unusable recordings in the search's folder."""
    say_split(data.corpus, data.split, data.config)
    known = set(data.split.notes)
    _prepare_features(data)
    _write_quarantine(folder, data)
    for note in data.split.notes:
        if note not in known:
            print(f"note      {visible(note)}")
    _prepare_banks(data)


def _prepare_features(data: DataModule) -> None:
    """Make missing features and texts, and print how many."""
    began = time.monotonic()
    what = "features and lyrics of" if reads_text(data.config) else "features of"
    with Moving(what) as moving:
        data.prepare_features(_starting(data, what, moving))
    kinds = ((data.features, "recordings"), (data.texts, "lyrics"))
    done = [_counted(list(variants.values()), name) for variants, name in kinds if variants]
    if any(variant.num_extracted for variant in data.variants):
        print(f"prepare   {', '.join(done)}, {time.monotonic() - began:.1f} s")
    elif moving.moved:  # clips of two parts never share a shard
        print(f"prepare   sorted anew by this split: {', '.join(done)}, {time.monotonic() - began:.1f} s")
    else:
        print(f"prepare   nothing to prepare: {', '.join(done)}")


def _counted(variants: list[Prepared], name: str) -> str:
    """Say how many recordings or texts were prepared and how many were reused."""
    made, kept = sum(v.num_extracted for v in variants), sum(v.num_reused for v in variants)
    kinds = f" in {len(variants)} variants" if len(variants) > 1 else ""
    if not made:
        return f"all {kept} {name}{kinds} are reused"
    return f"{made} {name} prepared{kinds}, {kept} reused"


def _prepare_banks(data: DataModule) -> None:
    """Make missing augmented training clips, if trials use any, and print how many."""
    began = time.monotonic()
    if found := describe_bank(data.space, len(data.training_clips)):
        print(f"augment   {found}", flush=True)
    with Moving("augmented versions of") as moving:
        data.prepare_banks(_starting(data, "augmented versions of", moving))
    made = [variant for bank in data.banks.values() for variant in bank.values()]
    if made:
        versions = sum(variant.num_extracted * (variant.versions or 1) for variant in made)
        kept = sum(variant.num_reused * (variant.versions or 1) for variant in made)
        print(f"augment   {versions} versions made, {kept} reused, {time.monotonic() - began:.1f} s")


def prepare_generated(data: DataModule) -> list[str]:
    """Train missing GANs, print how many, and return the folders of their clips."""
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


class Moving:
    """Show how far a preparation is while it runs: a line that changes on a terminal, else a line every so often.

    Called with the recordings that are done and their total. Lines are also printed while nothing is done, so that a
    slow encoder or a machine that is still starting can be told from a preparation that hangs.

    Args:
        what: is made, before the numbers.
        out: where it is shown; standard output unless given.
        every_seconds: between two lines where there is no terminal.
    """

    def __init__(self, what: str, out: TextIO | None = None, every_seconds: float = EVERY_SECONDS) -> None:
        self.what, self.every_seconds = what, every_seconds
        self.out = out or sys.stdout
        self.done = self.total = self.first = 0
        self.moved = False  # whether there was something to do
        self.began = time.monotonic()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._print_lines, daemon=True)
        console = Console(file=self.out, highlight=False)
        shown: list[ProgressColumn] = [TextColumn("prepare   {task.description}"), BarColumn(), MofNCompleteColumn()]
        shown += [TextColumn("{task.fields[speed]}"), TimeRemainingColumn()]
        self.bar = Progress(*shown, console=console, transient=True) if console.is_terminal else None
        self.task: TaskID | None = None

    def __enter__(self) -> Moving:
        if self.bar is None:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        if self.bar is None:
            self.thread.join()
        elif self.task is not None:
            self.bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Take the number of recordings that are done."""
        if done < self.done or not self.total:  # another variant
            self.first, self.began = done, time.monotonic()
        self.done, self.total = done, total
        self.moved |= done < total
        if self.bar is None or (done >= total and self.task is None):
            return
        if self.task is None:
            self.bar.start()
            self.task = self.bar.add_task(self.what, total=total, speed="")
        self.bar.update(self.task, completed=done, total=total, speed=_per_second(self._speed()))

    def _print_lines(self) -> None:
        while not self.ended.wait(self.every_seconds):
            if self.done < self.total:
                print(f"prepare   {self._line()}", file=self.out, flush=True)

    def _line(self) -> str:
        done, total, seconds, speed = self.done, self.total, time.monotonic() - self.began, self._speed()
        words = f"{self.what} {done} of {total} recordings, {seconds:.0f} s"
        return f"{words}, {_per_second(speed)}, about {(total - done) / speed:.0f} s left" if speed else words

    def _speed(self) -> float:
        """Recordings a second of this variant so far, 0 while none is made."""
        seconds = time.monotonic() - self.began
        return (self.done - self.first) / seconds if seconds > 0 else 0.0


def _per_second(speed: float) -> str:
    return f"{speed:.3g} a second" if speed else ""


def _starting(data: DataModule, what: str, moving: Moving) -> Callable[[int, int], None]:
    """Return a progress function that prints what begins and starts Ray, once there is something to do."""

    def say(missing: int, total: int) -> None:
        print(f"prepare   {what} {missing} of {total} recordings ...", flush=True)

    start = when_needed(data.config, say)

    def on_progress(done: int, total: int) -> None:
        moving(done, total)  # also while Ray starts
        start(done, total)

    return on_progress


def say_split(corpus: Corpus, split: Split, config: Config) -> None:
    """Print how many clips of how many groups are in each part, and the notes and cautions on corpus and split."""
    groups = {clip.group for clip in corpus.clips if clip.group is not None}
    of_groups = f" of {len(groups)} groups" if groups else ""
    parts = describe_parts(split, config.split.inner_folds)
    print(f"corpus    {corpus.name}: {len(corpus.clips)} clips{of_groups}; {parts}; split: {split.method}")
    for note in dict.fromkeys([*corpus.notes, *split.notes, *split.cautions()]):
        print(f"          note: {visible(note)}", flush=True)


def _write_quarantine(folder: SearchFolder, data: DataModule) -> None:
    found = dict(entry for variant in data.variants for entry in variant.quarantine)
    write_table(folder.path / "quarantine.csv", ["clip", "reason"], found.items())
    if found:
        left = describe_parts(data.split, data.config.split.inner_folds)
        where = folder.path / "quarantine.csv"
        print(f"prepare   {len(found)} recordings can't be used and are left out: {where}; {left}")
