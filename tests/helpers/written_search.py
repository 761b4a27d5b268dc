"""A search's folder written without a search: settings drawn, curves by a formula, every status, two machines."""

import csv
import datetime

import numpy as np

from tuning.data.plan import make_plan
from tuning.experiment.directory import SearchFolder, TrialRecord, is_metric, write_json, write_text
from tuning.training.ranking import better

BEGAN = datetime.datetime(2026, 3, 1, 8, 0, tzinfo=datetime.UTC)
SLOTS = [("node-a", 0), ("node-a", 1), ("node-b", 0), ("node-b", 1)]


def status_of(number, count):
    """Every eleventh failed, every third stopped, the last one still running."""
    if number == count and count > 1:
        return "running"
    return "failed" if number % 11 == 0 else "stopped" if number % 3 == 0 else "done"


def write_search(storage, *arguments, count=12, name="written", epochs=8, timed=True):
    """Write `count` trials of the search that the arguments ask for; its folder and the records."""
    plan = make_plan(list(arguments))
    config, mode, metric = plan.config, plan.mode, plan.config.search.metric
    folder = SearchFolder(storage, name)
    folder.create(plan.space, plan.overrides, {"corpus": "0123", "num_clips": 96})
    write_json(folder.path / "baseline.json", {metric: 0.2 if mode == "max" else 1.2})
    write_text(folder.path / "quarantine.csv", "clip,reason\nbad.wav,silent throughout\n")
    rng = np.random.default_rng(0)
    free = dict.fromkeys(SLOTS, BEGAN)
    folds, records = config.split.inner_folds, []
    for number in range(1, count + 1):
        params = {}
        for path in plan.space.in_order():
            if plan.space.is_active(path, params):
                params[path] = plan.space.distributions[path].at(rng.random())
        status = status_of(number, count)
        written = plan.space.config(params).model_dump(mode="json")
        path = folder.trial(number)
        write_json(path / "params.json", {"searched": params, "config": written})
        rows = rows_of(params, metric, mode, folds or epochs, status, rng)
        record = TrialRecord(number, params, status, "formula ended", seconds=2.5 * len(rows), folds=folds)
        best = None
        for row in rows:
            if second := config.search.second_metric:
                row[second] = float(10_000 * (1 + number * 7 % 5))
            if folds or better(mode, row[metric], best):
                best, record.best_epoch = row[metric], row["epoch"]
                record.metrics = {key: value for key, value in row.items() if is_metric(key)}
            row["best_epoch"] = record.best_epoch
        record.epochs = len(rows)
        if rows:
            write_rows(path / "progress.csv", rows)
        if status == "failed":
            record.reason = "ValueError: <b>too</b> large"
            write_text(path / "error.txt", "Traceback\nValueError: <b>too</b> large\n")
        if status != "running":
            write_json(path / "result.json", record.written())
        if timed:
            write_times(path, free, len(rows), status)
        records.append(record)
    return folder, records


def rows_of(params, metric, mode, most, status, rng):
    rate = params.get("optim.learning_rate", 0.001)
    level = 0.3 + 0.2 * abs(np.log10(rate) + 3) + 0.05 * rng.random()
    length = {"failed": 0, "stopped": max(1, most // 3), "running": max(1, most // 2)}.get(status, most)
    rows = []
    for epoch in range(1, length + 1):
        loss = float(level + np.exp(-epoch / 3) + 0.02 * rng.standard_normal())
        value = loss if mode == "min" else 1 - loss / 2
        rows.append({"epoch": epoch, "seconds": 2.5, "finished": "", metric: value, f"{metric}_std": 0.05})
    if status == "stopped":
        rows[-1]["finished"] = "scheduler"
    return rows


def write_rows(file, rows):
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_times(path, free, num_rows, status):
    """The next free place on a machine; every trial whose rows are many was cut off once."""
    machine = min(free, key=free.get)
    now, lines = free[machine], ["time,event,worker"]

    def add(event, seconds, worker=machine[0]):
        nonlocal now
        now += datetime.timedelta(seconds=seconds)
        lines.append(f"{now.isoformat(timespec='milliseconds')},{event},{worker}")

    add("began", 0.5, "")
    for row in range(num_rows):
        if row == 6:
            add("began", 10, "")
        add("row", 2.5)
    if status != "running":
        add("ended", 0.2, "")
    write_text(path / "times.csv", "\n".join(lines) + "\n")
    free[machine] = now
