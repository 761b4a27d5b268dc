"""Say what has to be known with the scores of a search, in the same words wherever they are shown.

The leaderboard, the report, the log and the model card all show what `score_notes` returns.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence

from tuning.config.schema import Config
from tuning.datasets.splits.split import Split
from tuning.experiment.directory import SearchFolder, TrialRecord, write_json
from tuning.training.ranking import Mode, better

FILE = "notes.json"


def score_notes(
    cautions: Sequence[str], best: TrialRecord | None, baseline: Mapping[str, float], metric: str, mode: Mode
) -> list[str]:
    """The cautions of a split (`Split.cautions`), and whether the best trial is no better than the constant predictor.

    Args:
        cautions: as recorded with the search.
        best: the best trial; None if none has a result.
        baseline: the constant predictor's metrics; without the ranking one nothing is compared.
        metric: that ranks the trials.
        mode: its direction.
    """
    value, constant = best.value(metric) if best else None, baseline.get(metric)
    if value is None or constant is None or better(mode, value, constant):
        return list(cautions)
    figures = f"({metric} {value:.4f}, constant {constant:.4f})"
    told = f"the best trial is no better than the constant predictor {figures}: it has learned nothing that helps on "
    return [*cautions, f"{told}these clips"]


def search_notes(
    folder: SearchFolder, ranked: Sequence[TrialRecord], baseline: Mapping[str, float], metric: str, mode: Mode
) -> list[str]:
    """`score_notes` of a search in its folder, of which `ranked` are the trials, best first."""
    best = next((record for record in ranked if record.value(metric) is not None), None)
    return score_notes(_read_cautions(folder), best, baseline, metric, mode)


def tested_notes(metrics: Mapping[str, float], constant: Mapping[str, float], metric: str, mode: Mode) -> list[str]:
    """Whether a tested model is no better than the constant predictor, by `metric` without its `val_`."""
    name = f"test_{metric.removeprefix('val_')}"
    value, least = metrics.get(name), constant.get(name)
    if value is None or least is None or better(mode, value, least):
        return []
    short = name.removeprefix("test_")
    return [f"{short} {value:.4f} is no better than the constant predictor's {least:.4f} on the test"]


def metric_of_test(config: Config, mode: Mode) -> tuple[str, Mode]:
    """The metric by which a test is judged, with its direction: the ranking one, or in place of the loss its own."""
    if config.search.metric != "val_loss":
        return config.search.metric, mode
    return ("val_uar", "max") if config.task.name == "classification" else ("val_rmse", "min")


def write_cautions(folder: SearchFolder, split: Split) -> None:
    """Record the cautions of a search's split, for all who show its scores later."""
    write_json(folder.path / FILE, split.cautions())


def log_scores(
    folder: SearchFolder, ranked: Sequence[TrialRecord], metric: str, mode: Mode, baseline: Mapping[str, float]
) -> None:
    """Write the best trial's score with its notes into the search's log."""
    logger = logging.getLogger("tuning.search")
    best = next((record for record in ranked if record.value(metric) is not None), None)
    if best is not None:
        logger.info("best trial %d: %s %.4f", best.number, metric, best.value(metric))
    for note in search_notes(folder, ranked, baseline, metric, mode):
        logger.info("note: %s", note)


def _read_cautions(folder: SearchFolder) -> list[str]:
    """The recorded cautions; none of a search of an earlier version."""
    file = folder.path / FILE
    if not file.exists():
        return []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        found = None
    if isinstance(found, list):
        return [str(caution) for caution in found]
    return [
        f"{FILE} can't be read, and what it says of these scores is missing; the search's command, typed again with "
        "more trials, has it written again"
    ]
