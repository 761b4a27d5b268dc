"""Draw learning curves: `history.png` of a trial, in its folder, and of a search's best trials, in the search's."""

from __future__ import annotations

from pathlib import Path

from tuning.evaluation.plots import draw_curves, draw_history
from tuning.evaluation.reproduce import recorded_rows
from tuning.experiment.directory import SearchFolder, TrialRecord, read_progress
from tuning.experiment.ranking import kept_epoch, rank
from tuning.experiment.recorded import config_of
from tuning.training.ranking import Mode

FILE = "history.png"
SHOWN = 5  # best trials in the search's picture; more lines could not be told apart


def write_history(folder: SearchFolder, record: TrialRecord, metric: str) -> Path:
    """Draw the losses and the ranking metric of a trial so far, and return the picture's path.

    Raises:
        UserError: the trial has no finished epoch.
    """
    file = folder.trial(record.number) / FILE
    kept = kept_epoch([config_of(folder, record.number).training.keep])
    draw_history(file, recorded_rows(folder, record), metric, record.best_epoch, f"trial {record.number}", kept)
    return file


def write_best(folder: SearchFolder, metric: str, mode: Mode) -> Path | None:
    """Draw the ranking metric of the best trials over their epochs; None where no trial has a result."""
    best = [each for each in rank(folder.records(), metric, mode) if each.value(metric) is not None][:SHOWN]
    if not best:
        return None
    curves = {f"trial {each.number}": read_progress(folder.trial(each.number)) for each in best}
    draw_curves(folder.path / FILE, curves, metric, {f"trial {each.number}": each.best_epoch for each in best})
    return folder.path / FILE
