"""Write each trial's folder while the search runs: parameters, progress, result, error and TensorBoard events."""

from __future__ import annotations

import csv
import json
import logging
import re
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.result import AUTO_RESULT_KEYS, DONE, EXPERIMENT_TAG, RESULT_DUPLICATE, SHOULD_CHECKPOINT, TRIAL_ID

from tuning.experiment import timeline
from tuning.experiment.directory import (
    STOPPED,
    SearchFolder,
    TrialRecord,
    cut_to_lines,
    is_metric,
    read_progress,
    read_record,
    repair_progress,
    write_json,
    write_text,
)
from tuning.experiment.faults import faults_name, whole_or_absent
from tuning.search.callbacks.tensorboard import TrialEvents
from tuning.training.ranking import Mode, better

log = logging.getLogger("tuning.search")

# The first columns of progress.csv, as far as they are reported; metrics follow, then whatever else is reported.
LEADING = (
    "epoch",
    "fold",
    "train_loss",
    "penalty",
    "learning_rate",
    "seconds",
    "best_epoch",
    "fold_epochs",
    "finished",
)
# Prefix of the learning rates of layers that are unfrozen in stages; these columns come after the leading ones.
STAGE_RATES = "learning_rate_"
# What Tune adds to a report, which is not recorded. Nor is the running best of the ranking metric: it is the metric in
# the row of `best_epoch`.
ADDED_BY_TUNE = frozenset((*AUTO_RESULT_KEYS, DONE, EXPERIMENT_TAG, RESULT_DUPLICATE, SHOULD_CHECKPOINT, TRIAL_ID))
# Leading columns that are no curves in TensorBoard.
NO_CURVES = ("fold", "finished")


def settle(folder: SearchFolder, records: list[TrialRecord]) -> None:
    """Write `result.json` of trials that were killed after their last row and before their result was written."""
    for record in records:
        if record.is_final and not folder.is_written(record):
            path = folder.trial(record.number)
            write_json(path / "result.json", record.written())
            TrialEvents(path, record).close(record.status)
            log.info("trial %d %s (%s), according to its last row", record.number, record.status, record.reason)


class Recorder(Callback):
    """A callback of Tune that writes its events into the search's folder.

    Args:
        folder: the search's folder.
        metric: that ranks the trials.
        mode: its direction.
        on_change: called after every event with the trial's record and the event, "began", "epoch" or "ended".
        stopping: numbers of the trials that the scheduler stops after the row that they have just reported.
    """

    def __init__(
        self,
        folder: SearchFolder,
        metric: str,
        mode: Mode,
        on_change: Callable[[TrialRecord, str], None],
        stopping: Collection[int] = (),
    ) -> None:
        self.folder, self.metric, self.mode, self.on_change = folder, metric, mode, on_change
        self.stopping = stopping
        self.records: dict[str, TrialRecord] = {}
        self.began: dict[str, float] = {}
        self.events: dict[str, TrialEvents] = {}
        self.columns: dict[str, list[str]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Keep nothing in Tune's own snapshot: a search resumes from the trials' folders."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Write the parameters and open the event file."""
        if trial.trial_id in self.records:  # it was paused, and may resume with other settings
            timeline.note(self.folder.trial(trial.config["number"]), timeline.BEGAN)
            return
        spec = trial.config
        path = self.folder.trial(spec["number"])
        write_json(path / "params.json", {"searched": spec["params"], "config": spec["config"]})
        for name in ("result.json", "error.txt"):
            (path / name).unlink(missing_ok=True)
        self.columns[trial.trial_id] = repair_progress(path)
        cut_to_lines(path / timeline.FILE)
        timeline.note(path, timeline.BEGAN)
        record = read_record(path)
        self.records[trial.trial_id], self.began[trial.trial_id] = record, time.monotonic()
        self.events[trial.trial_id] = TrialEvents(path, record)
        log.info("trial %d began: %s", record.number, json.dumps(spec["params"]))
        self.on_change(record, "began")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Append the row of an epoch, or of an inner fold, which holds means over the folds so far."""
        record = self.records[trial.trial_id]
        if result["epoch"] <= record.epochs:  # a trial that was cut off reports its last epoch again
            return
        left_out = {*ADDED_BY_TUNE, f"{self.metric}_best"}
        reported = {name: value for name, value in result.items() if name not in left_out}
        metrics = {name: value for name, value in reported.items() if is_metric(name)}
        # The last row says why it is the last, because a kill may come before the result is written.
        end = reported.get("finished") or (STOPPED if record.number in self.stopping else "")
        rates = {name: value for name, value in reported.items() if name.startswith(STAGE_RATES)}
        row = {name: reported[name] for name in LEADING if name in reported} | {"finished": end} | rates | metrics
        row |= {name: value for name, value in reported.items() if name not in row}
        self._append(trial.trial_id, record, row)
        timeline.note(self.folder.trial(record.number), timeline.ROW, str(result.get("hostname", "")))
        # With `training.keep=last` the last epoch counts as the best one, whether or not it is better.
        is_kept = record.folds is not None or result.get("best_epoch") == result["epoch"]
        improved = is_kept or better(self.mode, row[self.metric], record.metrics.get(self.metric))
        if improved:
            record.metrics, record.best_epoch, record.params = metrics, result["epoch"], trial.config["params"]
        record.epochs = result["epoch"]
        shown = {name: value for name, value in row.items() if name not in NO_CURVES and not isinstance(value, str)}
        self.events[trial.trial_id].epoch(shown, metrics if improved else {})
        self.on_change(record, "epoch")

    def _append(self, trial_id: str, record: TrialRecord, row: dict[str, Any]) -> None:
        """Add a row to `progress.csv`; if it has a new column, rewrite the file, whole or not at all.

        A new column comes when a metric was undefined in the first epochs.
        """
        path = self.folder.trial(record.number)
        file, known = path / "progress.csv", self.columns[trial_id]
        columns = [*known, *(name for name in row if name not in known)]
        if columns == known:
            with faults_name(file), file.open("a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, columns, restval="").writerow(row)
            return
        with whole_or_absent(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns, restval="")
            writer.writeheader()
            writer.writerows([*read_progress(path), row])
        self.columns[trial_id] = columns

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Write the result: done if the training ended by itself, else stopped by the scheduler."""
        reason = (trial.last_result or {}).get("finished", "")
        if self.records[trial.trial_id].epochs == 0:
            self._finish(trial.trial_id, "failed", "ended without a result")
        else:
            self._finish(trial.trial_id, "done" if reason else "stopped", reason or STOPPED)
        _forget(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Write the traceback, and its last line as the reason of the failure."""
        if trial.trial_id not in self.records:
            self.on_trial_start(iteration, trials, trial)
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else "no traceback\n"
        text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # Ray colours the process's name
        write_text(self.folder.trial(self.records[trial.trial_id].number) / "error.txt", text)
        reason = getattr(trial, "why_failed", "") or text.strip().splitlines()[-1]
        self._finish(trial.trial_id, "failed", reason)
        _forget(trial)

    def cut_off(self, reason: str) -> None:
        """Record that the search ended before the running trials."""
        for trial_id in [trial_id for trial_id in self.events if not self.records[trial_id].is_final]:
            self._finish(trial_id, "running", reason)

    def _finish(self, trial_id: str, status: str, reason: str) -> None:
        record = self.records[trial_id]
        record.status, record.reason = status, reason
        record.seconds = (record.seconds or 0.0) + time.monotonic() - self.began.pop(trial_id)
        timeline.note(self.folder.trial(record.number), timeline.ENDED)
        write_json(self.folder.trial(record.number) / "result.json", record.written())
        self.events.pop(trial_id).close(status)
        log.info("trial %d %s (%s)", record.number, status, reason)
        self.on_change(record, "ended")


def _forget(trial: Any) -> None:
    """Free what Tune keeps of an ended trial for its own tables, which are not shown: 60 kB each."""
    trial.config = {"number": trial.config["number"]}
    trial.evaluated_params, trial.experiment_tag = {}, ""
    known = trial.run_metadata
    known.last_result, known.metric_analysis, known.metric_n_steps = {}, {}, {}
