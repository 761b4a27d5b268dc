"""Make the rows and cells of the page's tables as plain text and numbers, which the template escapes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tuning.config.distributions import plain
from tuning.config.schema import COSTS
from tuning.evaluation.leaderboard import SHOWN, as_rows, describe_baseline
from tuning.evaluation.report.gather import Gathered
from tuning.evaluation.report.style import wrapped
from tuning.experiment.directory import DAMAGED


@dataclass(frozen=True)
class Cell:
    """A cell: the text that is shown, and the whole value if that says more; columns are sorted by it."""

    text: str
    value: str = ""

    @classmethod
    def of(cls, value: Any, digits: str = "") -> Cell:
        """Make the cell of a value; `digits` is the format of a number."""
        if value is None:
            return cls("")
        if isinstance(value, float):
            text = format(value, digits or ".4g")
            return cls(text, repr(value) if text != repr(value) else "")
        return cls(plain(value))


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard: its name, the lines of its heading, whether it is hidden at first, and text."""

    name: str
    lines: list[str]
    is_extra: bool = False
    is_text: bool = False


def leaderboard(search: Gathered) -> tuple[list[Column], list[list[Cell]]]:
    """The columns and rows of leaderboard.csv, with the reason as the last column."""
    rows = as_rows(search.ranked, search.metric, search.mode)
    if not rows:
        return [], []
    names = [*(name for name in rows[0] if name != "reason"), "reason"]
    paths = {path for record in search.ranked for path in record.params}
    first = {search.metric, f"{search.metric}_std", *SHOWN}
    columns = []
    for name in names:
        is_metric = name.startswith("val_")
        values = [row[name] for row in rows if row[name] is not None]
        is_text = not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        columns.append(Column(name, wrapped(name, 14).split("<br>"), is_metric and name not in first, is_text))
    cells = []
    for row in rows:
        digits = {name: ".4f" for name in names if name.startswith("val_")} | {"seconds": ".1f"}
        digits |= dict.fromkeys(COSTS, ".7g")
        cells.append([Cell.of(row[name], "" if name in paths else digits.get(name, "")) for name in names])
    return columns, cells


def summary(search: Gathered) -> list[tuple[str, str]]:
    """Summarise the search: number of trials, the best one, the constant predictor, corpus and time."""
    counts = Counter(record.status for record in search.ranked)
    shown = ", ".join(
        f"{counts[status]} {status}" for status in ("done", "stopped", "failed", "running", DAMAGED) if counts[status]
    )
    direction = "lower" if search.mode == "min" else "higher"
    measured = f"mean over {search.config.split.inner_folds} inner folds" if search.unit == "folds" else search.kept
    lines = [("Trials", f"{len(search.ranked)} ({shown})" if shown else "none has started")]
    lines.append(("Ranked by", f"{search.metric}, {direction} is better; {measured} on validation clips"))
    if search.scored:
        best = search.scored[0]
        of = f"{best.epochs} of {best.folds} folds" if best.folds else f"epoch {best.best_epoch} of {best.epochs}"
        lines.append(("Best", f"{search.metric} {search.value(best):.4f}: trial {best.number}, {of}"))
    if search.baseline:
        lines.append(("Constant predictor", describe_baseline(search.baseline, search.metric)))
    lines += [("Note", note) for note in search.notes]
    settings = search.config.search
    lines.append(("Search", f"{settings.algorithm}, scheduler {settings.scheduler}, seed {search.config.seed}"))
    clips = search.fingerprint.get("num_clips")
    corpus = f"{search.config.data.corpus}, {clips} clips" if clips else search.config.data.corpus
    lines.append(("Corpus", f"{corpus}; {search.config.task.name}"))
    spent = sum(record.seconds or 0.0 for record in search.ranked)
    lines.append(("Time in trials", _duration(spent)))
    return lines


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return (
        f"{hours} h {rest // 60} min"
        if hours
        else f"{rest // 60} min {rest % 60} s"
        if rest >= 60
        else f"{seconds:.1f} s"
    )


def test_table(search: Gathered) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the test, which has a row for each metric; of an ensemble also its winner alone.

    There are no rows before the test.
    """
    if search.test is None:
        return [], []
    intervals, constant = search.test.get("bootstrap", {}).get("intervals", {}), search.test.get("constant", {})
    validation, alone = search.test.get("validation", {}), search.test.get("winner_alone")
    heading = ["metric", "validation", *(["winner alone"] if alone else []), "test", "95 % interval", "constant"]
    rows = []
    for name, value in search.test["test"].items():
        short = name.removeprefix("test_")
        interval = intervals.get(name)
        rows.append(
            [
                short,
                _figure(validation.get(f"val_{short}")),
                *([_figure(alone.get(name))] if alone else []),
                _figure(value),
                f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else "",
                _figure(constant.get(name)),
            ]
        )
    return heading, rows


@dataclass(frozen=True)
class Confused:
    """The clips of one class that were taken for each class: counts as text, and their shares of the row."""

    name: str
    counts: list[tuple[str, float]]
    total: int


def confusion_table(search: Gathered) -> tuple[list[str], list[Confused]]:
    """Names of the predicted classes, and a row for each true one; empty without classes."""
    if len(search.confusion) < 2:
        return [], []
    (_, *classes), *rows = search.confusion
    found = []
    for name, *counts in rows:
        total = sum(map(int, counts))
        found.append(Confused(name, [(count, int(count) / total if total else 0.0) for count in counts], total))
    return classes, found


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def environment(search: Gathered) -> list[tuple[str, str]]:
    """Versions and machine, line by line."""
    found = dict(search.environment)
    packages = found.pop("packages", {})
    rows = [(name, plain(value)) for name, value in {**found, **packages}.items()]
    return rows + [
        (f"fingerprint: {name}", plain(value)) for name, value in search.fingerprint.items() if name != "clips"
    ]
