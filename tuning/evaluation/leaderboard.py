"""The leaderboard of a search: as rows, as CSV and Markdown files, and as the table that is printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from tuning.config.distributions import plain, short_names
from tuning.config.schema import COSTS
from tuning.config.space import Space
from tuning.config.terminal import visible
from tuning.evaluation.score_notes import search_notes
from tuning.evaluation.table import make_console, make_table
from tuning.experiment.directory import DAMAGED, SearchFolder, TrialRecord, write_table, write_text
from tuning.experiment.ranking import kept_epoch, rank
from tuning.experiment.reading import DamagedFileError, read_json, read_metrics, understood
from tuning.experiment.recorded import space_of
from tuning.training.ranking import Mode, check_metric

PRINTED = 10  # trials that are printed; the files have all
# Metrics that are printed in addition to the ranking one, as far as the task has them.
SHOWN = ("val_loss", "val_rmse", "val_r2", "val_uar", "val_f1")


def second_metric(records: Sequence[TrialRecord]) -> str | None:
    """The cost that the trials of a search have as a second metric, if any."""
    return next((name for record in records for name in COSTS if name in record.metrics), None)


def pareto_front(records: Sequence[TrialRecord], metric: str, mode: Mode, second: str) -> set[int]:
    """The numbers of the trials on the Pareto front: no other trial is better in one metric and as good in the other.

    Trials that failed, or lack inner folds, are left out. Equal trials are on the front together.
    """
    sign = 1 if mode == "min" else -1
    points = sorted(
        (record.metrics[second], sign * record.metrics[metric], record.number)
        for record in records
        if record.status != "failed" and record.is_whole and metric in record.metrics and second in record.metrics
    )
    front: set[int] = set()
    last, best = None, float("inf")
    for cost, value, number in points:
        if value < best or (cost, value) == last:
            front.add(number)
            last, best = (cost, value), value
    return front


def as_rows(records: list[TrialRecord], metric: str, mode: Mode) -> list[dict[str, Any]]:
    """The rows of the leaderboard, best trial first; None stands for what was not measured.

    The columns are the same in every row.
    """
    found = sorted({name for record in records for name in record.metrics})
    metrics = dict.fromkeys([metric, *(name for name in found if name == f"{metric}_std"), *found])
    paths = dict.fromkeys(path for record in records for path in record.params)
    second = second_metric(records)
    front = pareto_front(records, metric, mode, second) if second else set()
    rows = []
    for position, record in enumerate(rank(records, metric, mode), start=1):
        row: dict[str, Any] = {
            "rank": position,
            "trial": record.number,
            "status": record.status,
            "reason": record.reason,
            "best_epoch": record.best_epoch,
            "epochs": record.epochs,
        }
        if second:
            row["pareto"] = "yes" if record.number in front else ""
        row |= {name: record.metrics.get(name) for name in metrics}
        row["seconds"] = None if record.seconds is None else round(record.seconds, 2)
        row |= {path: record.params.get(path) for path in paths}
        rows.append(row)
    return rows


def write_leaderboard(folder: SearchFolder, metric: str, mode: Mode, baseline: dict[str, float]) -> list[TrialRecord]:
    """Write `leaderboard.csv` and `leaderboard.md`; return the trials in order of rank."""
    records = folder.records()
    rows = as_rows(records, metric, mode)
    if rows:
        values = [[_as_csv(value) for value in row.values()] for row in rows]
        write_table(folder.path / "leaderboard.csv", list(rows[0]), values)
    else:
        write_text(folder.path / "leaderboard.csv", "")
    folds, ranked = next((record.folds for record in records if record.folds), None), rank(records, metric, mode)
    kept = kept_epoch(space_of(folder).values("training.keep") if folder.exists else ["best"])
    notes = search_notes(folder, ranked, baseline, metric, mode)
    write_text(folder.path / "leaderboard.md", _markdown(folder.name, rows, metric, mode, baseline, folds, kept, notes))
    return ranked


def _as_csv(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict, bool)) else value


def _markdown(
    name: str,
    rows: list[dict[str, Any]],
    metric: str,
    mode: Mode,
    baseline: dict[str, float],
    folds: int | None,
    kept: str,
    notes: Sequence[str],
) -> str:
    direction = "lower" if mode == "min" else "higher"
    measured, clips = f"of each trial's {kept}", "split"
    if folds is not None:
        measured = f"as the mean over {folds} inner folds (`epochs`: folds done; with fewer, after the others)"
        clips = "folds"
    lines = [f"# {name}", "", f"Ranked by `{metric}` {measured}; {direction} is better.", ""]
    lines += [f"Constant predictor on the same validation {clips}: {describe_baseline(baseline, metric)}.", ""]
    lines += [f"- Note: {note}." for note in notes] + [""] * bool(notes)
    if rows:
        lines.append("| " + " | ".join(rows[0]) + " |")
        lines.append("|" + " --- |" * len(rows[0]))
        for row in rows:
            texts = ("" if value is None else plain(value).replace("|", "\\|") for value in row.values())
            lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def read_baseline(folder: SearchFolder) -> dict[str, float]:
    """The metrics of the constant predictor; none, with a note, if their file is damaged."""
    file = folder.path / "baseline.json"
    try:
        with understood(file, "metrics by name"):
            return read_metrics(read_json(file, dict))
    except DamagedFileError as error:
        print(f"note      {error}")
        return {}


def describe_baseline(baseline: dict[str, float], metric: str) -> str:
    """The constant predictor's metrics in words, the ranking metric first."""
    names = dict.fromkeys([metric, *SHOWN])
    return ", ".join(f"{name} {baseline[name]:.4f}" for name in names if name in baseline) or "not recorded"


def print_leaderboard(
    ranked: list[TrialRecord], metric: str, baseline: dict[str, float], notes: Sequence[str] = ()
) -> None:
    """Print the best trials as a table, each failed trial in one line, and the notes of the scores."""
    console = make_console()
    shown = [record for record in ranked if record.status not in ("failed", DAMAGED)][:PRINTED]
    paths = list(dict.fromkeys(path for record in ranked for path in record.params))
    table = _table(shown, metric, baseline, paths)
    unbounded = console.options.update_width(10_000)
    if console.measure(table, options=unbounded).maximum > console.width:  # columns would be too narrow to read
        console.print(_table(shown, metric, baseline, []))
        for record in shown[:1]:
            settings = "  ".join(f"{path}={plain(value)}" for path, value in record.params.items())
            console.print(Text(visible(f"trial {record.number}: {settings}")), style="bold")
    else:
        console.print(table)
    failed = [record for record in ranked if record.status in ("failed", DAMAGED)]
    for record in failed[:PRINTED]:
        console.print(Text(visible(f"trial {record.number} {record.status}: {record.reason}")), style="red")
    hidden = len(ranked) - len(shown) - len(failed[:PRINTED])
    if hidden > 0:
        console.print(f"and {hidden} more in leaderboard.csv", style="dim")
    for note in notes:
        print(f"note      {note}")


def _table(shown: list[TrialRecord], metric: str, baseline: dict[str, float], paths: list[str]) -> Table:
    spread = [name for name in (f"{metric}_std",) if any(name in record.metrics for record in shown)]
    costs = [name for name in (second_metric(shown),) if name]
    metrics = [metric, *spread, *costs, *(name for name in SHOWN if name != metric and name in baseline)]
    headings = ["rank", "trial", "status", "folds" if any(record.folds for record in shown) else "epoch"]
    # Headings of two lines leave room for more columns on a terminal.
    headings += [name.replace("_", "_\n", 1) for name in [*metrics, *short_names(paths).values()]]
    constant = [f"{baseline[name]:.4f}" if name in baseline else "" for name in metrics]
    rows = [["", "", "constant", "", *constant, *[""] * len(paths)]]
    for position, record in enumerate(shown, start=1):
        values = [_formatted(name, record.metrics[name]) if name in record.metrics else "" for name in metrics]
        params = [plain(record.params[path]) if path in record.params else "" for path in paths]
        epoch = f"{record.best_epoch}/{record.folds or record.epochs}" if record.best_epoch else ""
        rows.append([str(position), str(record.number), record.status, epoch, *values, *params])
    return make_table(headings, rows, left=[headings.index("status")], styles={0: "dim"})


def _formatted(name: str, value: float) -> str:
    return f"{value:.6g}" if name in COSTS else f"{value:.4f}"


def with_results(folder: SearchFolder, space: Space) -> list[TrialRecord]:
    """The trials that have a value of the ranking metric, best first."""
    shared = space.fixed()
    metric = shared.search.metric
    ranked = rank(folder.records(), metric, check_metric(space, shared))
    for record in ranked:
        if record.status == DAMAGED:
            print(f"note      trial {record.number} is left out: {record.reason}")
    return [record for record in ranked if record.value(metric) is not None]
