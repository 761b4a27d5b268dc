"""Count clips of each class in each part of a split, before a search: `tuning balance data.corpus=...`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from tuning.cli.command import Parser, run_command
from tuning.config.terminal import visible
from tuning.data.balance import PARTS, Balance, read_balance
from tuning.data.plan import make_plan
from tuning.evaluation.table import make_console, make_table

PARSER = Parser(
    "tuning balance [key=value ...]",
    "Count clips and speakers of each class in training, validation and test, with the settings of\n"
    "python -m tuning.run (the same command line); for regression those in each quadrant of the first two targets.\n"
    "Trains nothing, and writes nothing but a demo corpus that is not there yet.",
    settings=True,
)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input, 1 anything else."""
    return run_command(PARSER, _print_balance, words)


def _print_balance(options: Namespace) -> None:
    balance = read_balance(make_plan(options.settings))
    corpus, split = balance.corpus, balance.split
    print(f"corpus    {corpus.name}: {len(corpus.clips)} clips; split: {split.method}")
    for note in [*corpus.notes, *split.notes]:
        print(f"          note: {visible(note)}")
    if not balance.is_classes:
        where = "the median" if balance.config.split.quadrants == "median" else "0"
        targets = " and ".join(balance.config.task.targets[:2])
        print(f"quadrants {targets}: above or below {where} (split.quadrants)")
    _print_table(balance)
    for hint in balance.hints:
        print(f"hint      {visible(hint)}")


def _print_table(balance: Balance) -> None:
    heading, groups = ("class", "speakers") if balance.is_classes else ("quadrant", "groups")
    filled = {part: clips for part, clips in balance.parts.items() if clips}
    headings = [heading]
    for part in filled:
        headings += [f"{PARTS[part]}\nclips", "\nshare", f"\n{groups}"]
    count_of = {(count.name, count.part): count for count in balance.counts}
    rows = []
    for name in dict.fromkeys(count.name for count in balance.counts):
        row = [name]
        for part in filled:
            count = count_of[name, part]
            row += [
                str(count.num_clips),
                f"{count.share:.1%}",
                "" if count.num_groups is None else str(count.num_groups),
            ]
        rows.append(row)
    totals = ["all"]
    for clips in filled.values():
        num_groups = len({clip.group for clip in clips if clip.group is not None})
        totals += [str(len(clips)), "", str(num_groups or "")]
    make_console().print(make_table(headings, [*rows, totals], wrapped=[0], styles={-1: "bold"}))
    small, large = balance.trained[0], balance.trained[-1]
    counts = f"{large.num_clips} of {large.name}; {small.num_clips} of {small.name}"
    print(f"training  largest to smallest {heading}: {large.num_clips / small.num_clips:.2f} ({visible(counts)})")
