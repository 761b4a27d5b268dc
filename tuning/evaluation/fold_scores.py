"""Put the tests of all folds of a corpus together: pooled scores with an interval, mean and spread over the folds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuning.config.errors import UserError
from tuning.config.schema import Config
from tuning.evaluation.final_test_files import PRINTED
from tuning.evaluation.intervals import basis, group_intervals
from tuning.evaluation.score_notes import tested_notes
from tuning.experiment.reading import read_json, read_rows
from tuning.training.ranking import Mode
from tuning.training.tasks import Task, task_of

SEARCH, ALONE, SVM, CONSTANT = "search", "winner alone", "SVM", "constant"


@dataclass(frozen=True)
class Fold:
    """The test of one fold.

    Args:
        name: of the fold.
        ids: of its N test clips.
        groups: of each clip; None where none is known.
        targets: labels [N, targets]; of classes their index [N, 1].
        outputs: of the model [N, K]; of classes logarithms of probabilities.
        metrics: what `finalize` wrote as metrics.json.
        svm: predictions of the SVM [N, targets], of classes their index [N, 1]; None where none was fitted.
        cautions: what has to be known with the scores.
    """

    name: str
    ids: list[str]
    groups: list[str | None]
    targets: np.ndarray
    outputs: np.ndarray
    metrics: Mapping[str, Any]
    svm: np.ndarray | None = None
    cautions: Sequence[str] = ()


@dataclass(frozen=True)
class Score:
    """One metric of one predictor: over all test clips together with its 95 % interval, and by fold."""

    metric: str
    predictor: str
    pooled: float | None
    interval: tuple[float, float] | None
    by_fold: list[float | None]

    @property
    def mean(self) -> float | None:
        """The mean over folds; None where a fold has no value."""
        return None if None in self.by_fold else float(np.mean(np.array(self.by_fold, dtype=float)))

    @property
    def spread(self) -> float | None:
        """The standard deviation over folds (population); None where a fold has no value."""
        return None if None in self.by_fold else float(np.std(np.array(self.by_fold, dtype=float)))


def read_fold(name: str, best: Path, config: Config) -> Fold:
    """Read the test of a fold from the folder that `finalize` wrote.

    Raises:
        UserError: a file of it is missing or damaged.
    """
    try:
        rows = read_rows(best / "test_predictions.csv", ("clip", "group"))
        metrics = read_json(best / "metrics.json", dict)
        if config.task.name == "classification":
            classes = config.task.classes or []
            targets = np.array([[classes.index(row["label"])] for row in rows], dtype=np.float64)
            shares = np.array([[float(row[f"p_{name}"]) for name in classes] for row in rows])
            outputs = np.log(np.maximum(shares, np.finfo(np.float64).tiny))
        else:
            names = config.task.targets
            targets = np.array([[float(row[name]) for name in names] for row in rows])
            outputs = np.array([[float(row[f"predicted_{name}"]) for name in names] for row in rows])
        groups = [row["group"] or None for row in rows]
        return Fold(name, [row["clip"] for row in rows], groups, targets, outputs, metrics)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{best}: expected the test that tuning finalize wrote, got: {what}") from None


def scores(folds: Sequence[Fold], config: Config) -> list[Score]:
    """The printed metrics of every predictor. Pooled ones are measured on the test clips of all folds together.

    Intervals are by bootstrap over the groups of all folds (`group_intervals`): how much the scores depend on who is in
    the corpus, not on the luck of a training.
    """
    task = task_of(config)
    targets = np.concatenate([fold.targets for fold in folds])
    groups = [group for fold in folds for group in fold.groups]
    predictions = {SEARCH: [fold.outputs for fold in folds]}
    if all(fold.svm is not None for fold in folds):
        predictions[SVM] = [_as_outputs(fold.svm, task) for fold in folds if fold.svm is not None]
    found: dict[str, list[Score]] = {}
    for predictor, outputs in predictions.items():
        together = np.concatenate(outputs)
        pooled = task.metrics(targets, together)
        intervals, _ = group_intervals(targets, together, groups, task.metrics, config.seed)
        each = [task.metrics(fold.targets, of_fold) for fold, of_fold in zip(folds, outputs, strict=True)]
        for name, value in pooled.items():
            # Of an SVM only the class is known, no probability.
            if _is_shown(name, config) and not (predictor == SVM and name == "calibration_error"):
                by_fold = [metrics.get(name) for metrics in each]
                found.setdefault(name, []).append(Score(name, predictor, value, intervals.get(name), by_fold))
    recorded = {CONSTANT: [fold.metrics.get("constant", {}) for fold in folds]}
    if any("winner_alone" in fold.metrics for fold in folds):
        # Where greedy selection chose one trial, its test is that of the fold.
        alone = [fold.metrics.get("winner_alone", fold.metrics.get("test", {})) for fold in folds]
        recorded = {ALONE: alone, **recorded}
    for predictor, of_folds in recorded.items():
        for name, list_of_metric in found.items():
            by_fold = [metrics.get(f"test_{name}") for metrics in of_folds]
            if any(value is not None for value in by_fold):
                list_of_metric.append(Score(name, predictor, None, None, by_fold))
    return [score for of_metric in found.values() for score in of_metric]


def _as_outputs(svm: np.ndarray, task: Task) -> np.ndarray:
    """The SVM's predictions in the form of a model's outputs: of classes, one logit above the others."""
    if task.num_outputs == svm.shape[1]:
        return svm
    return np.asarray(np.eye(task.num_outputs)[svm[:, 0].astype(int)])


def _is_shown(name: str, config: Config) -> bool:
    kind = name if config.task.name == "classification" else name.split("_")[0]
    return kind in PRINTED[config.task.name] or f"val_{name}" == config.search.metric


HEADINGS = ["metric", "predictor", "pooled", "95 % interval", "mean of folds", "sd"]


def score_rows(found: Sequence[Score]) -> list[list[str]]:
    """The cells of a table of scores, under `HEADINGS`."""
    rows = []
    for score in found:
        low_high = f"{score.interval[0]:.3f} to {score.interval[1]:.3f}" if score.interval else ""
        figures = [_figure(score.pooled), low_high, _figure(score.mean), _figure(score.spread)]
        rows.append([score.metric, score.predictor, *figures])
    return rows


def fold_rows(folds: Sequence[Fold], found: Sequence[Score], metric: str) -> tuple[list[str], list[list[str]]]:
    """Heading and cells of a table with a row for each fold: clips, speakers, the winner, and one metric."""
    shown = [score for score in found if score.metric == metric]
    heading = ["fold", "clips", "groups", "trial", *(f"{metric}, {score.predictor}" for score in shown)]
    rows = []
    for place, fold in enumerate(folds):
        groups = len({group for group in fold.groups if group is not None})
        values = [_figure(score.by_fold[place]) for score in shown]
        rows.append([fold.name, str(len(fold.ids)), str(groups or ""), str(fold.metrics.get("trial", "")), *values])
    return heading, rows


def fold_notes(folds: Sequence[Fold], metric: str, mode: Mode) -> list[str]:
    """What has to be known with the scores: over what intervals are drawn, and what holds of some or all folds.

    Args:
        folds: all of them.
        metric: by which a fold is compared with the constant predictor.
        mode: its direction.
    """
    groups = [group for fold in folds for group in fold.groups]
    notes = [basis(groups).replace("of the test", "of all folds").replace("in the test", "in all folds")]
    # That the test of a fold has few speakers is no matter where all folds are pooled.
    relevant = [[caution for caution in fold.cautions if not caution.startswith("test ")] for fold in folds]
    counts: dict[str, int] = {}
    for caution in (each.partition(",")[0].partition(":")[0] for found in relevant for each in found):
        counts[caution] = counts.get(caution, 0) + 1
    everywhere = list(dict.fromkeys(c for found in relevant for c in found if all(c in other for other in relevant)))
    notes += everywhere
    said = {caution.partition(",")[0].partition(":")[0] for caution in everywhere}
    notes += [f"in {n} of {len(folds)} folds {caution}" for caution, n in counts.items() if caution not in said]
    poor = [
        fold.name
        for fold in folds
        if tested_notes(fold.metrics.get("test", {}), fold.metrics.get("constant", {}), metric, mode)
    ]
    if poor:
        few = ", ".join(poor[:8]) + (f" and {len(poor) - 8} more" if len(poor) > 8 else "")
        notes.append(f"in {len(poor)} of {len(folds)} folds the model is no better than the constant predictor: {few}")
    return notes


def predictions_table(folds: Sequence[Fold], config: Config) -> str:
    """Every test clip with its fold, its label and what was predicted, as CSV."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    is_classes, with_svm = config.task.name == "classification", all(fold.svm is not None for fold in folds)
    names = ["label"] if is_classes else config.task.targets
    predicted = ["predicted"] if is_classes else [f"predicted_{name}" for name in names]
    svm = [name.replace("predicted", "svm", 1) for name in predicted] if with_svm else []
    writer.writerow(["fold", "clip", "group", *names, *predicted, *svm])
    classes = config.task.classes or []

    def written(values: np.ndarray) -> list[Any]:
        return [classes[int(value)] for value in values] if is_classes else values.tolist()

    for fold in folds:
        for row, clip in enumerate(fold.ids):
            found = fold.outputs[row].argmax(keepdims=True) if is_classes else fold.outputs[row]
            others = written(fold.svm[row]) if fold.svm is not None and with_svm else []
            writer.writerow([fold.name, clip, fold.groups[row], *written(fold.targets[row]), *written(found), *others])
    return table.getvalue()


def markdown(heading: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; its first `left` columns are aligned left, others right."""
    alignment = [":--"] * left + ["--:"] * (len(heading) - left)
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [heading, alignment, *cells])


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
