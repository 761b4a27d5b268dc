"""Before a search: how the classes lie in the parts of the split. `tuning balance data.corpus=...`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tuning.cli.command import run_command

if TYPE_CHECKING:
    from tuning.config.schema import Config
    from tuning.datasets.corpus import Clip
    from tuning.datasets.splits.class_balance import ClassCount
    from tuning.datasets.splits.split import Split

USAGE = """\
tuning balance [key=value ...]

Counts clips and speakers of each class in training, validation and test, with the settings of python -m tuning.run
(the same command line); of regression those in each quadrant of the first two targets. Trains nothing and writes
nothing, but for a demo corpus that is not there yet.
"""
UNEVEN_ABOVE = 1.5  # largest class over smallest
PARTS = {"train": "training", "val": "validation", "test": "test"}


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input, 1 anything else."""
    return run_command(lambda: USAGE, _main, arguments)


def _main(arguments: list[str]) -> None:
    from tuning.data.plan import make_plan, read_corpus, with_classes
    from tuning.datasets.splits.class_balance import class_balance

    plan = make_plan([argument for argument in arguments if argument != "--dry-run"])
    corpus, split = read_corpus(plan.config)
    config = with_classes(plan, corpus).config
    classes = config.task.name == "classification"
    parts = split.parts() if classes else _by_quadrant(split, config)
    rows = class_balance(parts)
    print(f"corpus    {corpus.name}: {len(corpus.clips)} clips; split: {split.method}")
    for note in [*corpus.notes, *split.notes]:
        print(f"          note: {note}")
    _print(rows, parts, "class" if classes else "quadrant", "speakers" if classes else "groups")
    for hint in hints(rows, parts, config):
        print(f"hint      {hint}")


def _by_quadrant(split: Split, config: Config) -> dict[str, list[Clip]]:
    """The parts, each clip's quadrant in place of its class."""
    from tuning.datasets.splits.stratification import quadrants

    clips = [clip for part in split.parts().values() for clip in part]
    targets = config.task.targets[:2]
    where = "the median" if config.split.quadrants == "median" else "0"
    names = [
        ", ".join(f"{target} {'above' if quadrant >> bit & 1 else 'below'}" for bit, target in enumerate(targets))
        for quadrant in range(2 ** len(targets))
    ]
    print(f"quadrants {' and '.join(targets)}: above or below {where} (split.quadrants)")
    name_of = {clip.id: names[q] for clip, q in zip(clips, quadrants(clips, config.split.quadrants), strict=True)}
    return {name: [replace(clip, label=name_of[clip.id]) for clip in part] for name, part in split.parts().items()}


def hints(rows: Sequence[ClassCount], parts: Mapping[str, Sequence[Clip]], config: Config) -> list[str]:
    """What to look after, a sentence each: uneven classes, classes that are missing, parts of a single speaker."""
    found = []
    classes = config.task.name == "classification"
    train = sorted((row for row in rows if row.part == "train" and row.num_clips), key=lambda row: row.num_clips)
    ratio = train[-1].num_clips / train[0].num_clips
    if ratio > UNEVEN_ABOVE and classes:
        if config.loss.class_weights == "inverse":
            advice = "loss.class_weights=inverse, as it is set, lets classes count alike"
        else:
            advice = "loss.class_weights=inverse lets classes count alike"
        found.append(f"classes are uneven in training, {ratio:.1f} to 1; {advice}, and val_uar ranks by all of them")
    for part, name in PARTS.items():
        missing = [row.name for row in rows if row.part == part and not row.num_clips]
        if missing and classes:
            found.append(
                f"{name} has no clips of {', '.join(missing)}: recall and F1 of that are unknown there, and UAR is "
                "the mean over the others; choose other folds or another split.seed"
            )
        elif missing:
            found.append(f"{name} has no clips in the quadrant {'; '.join(missing)}")
        groups = {clip.group for clip in parts[part] if clip.group is not None}
        if len(groups) == 1:
            found.append(f"{name} has one speaker or artist, '{groups.pop()}': figures on it hold for that one alone")
    return found


def _print(rows: Sequence[ClassCount], parts: Mapping[str, Sequence[Clip]], heading: str, groups: str) -> None:
    from rich.console import Console
    from rich.table import Table

    filled = {part: clips for part, clips in parts.items() if clips}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(heading)
    for part in filled:
        for column in (f"{PARTS[part]}\nclips", "\nshare", f"\n{groups}"):
            table.add_column(column, justify="right", no_wrap=True)
    cell = {(row.name, row.part): row for row in rows}
    for name in dict.fromkeys(row.name for row in rows):
        cells: list[str] = []
        for part in filled:
            row = cell[name, part]
            cells += [str(row.num_clips), f"{row.share:.1%}", "" if row.num_groups is None else str(row.num_groups)]
        table.add_row(name, *cells)
    table.add_section()
    totals: list[str] = []
    for clips in filled.values():
        known = {clip.group for clip in clips if clip.group is not None}
        totals += [str(len(clips)), "", str(len(known)) if known else ""]
    table.add_row("all", *totals, style="bold")
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140, highlight=False).print(table)
    train = sorted((row for row in rows if row.part == "train" and row.num_clips), key=lambda row: row.num_clips)
    small, large = train[0], train[-1]
    print(
        f"training  largest to smallest {heading}: {large.num_clips / small.num_clips:.2f} "
        f"({large.num_clips} of {large.name}; {small.num_clips} of {small.name})"
    )
