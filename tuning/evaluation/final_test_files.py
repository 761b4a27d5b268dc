"""Write the files of best/: the retrained model, its metrics, and its predictions for the test clips.

config.yaml model.safetensors labels.json features.json metrics.json history.png test_predictions.csv
classification: confusion.csv confusion.png errors.csv; regression: scatter.png
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from torch import nn

from tuning.config.schema import Config
from tuning.datasets.store.reader import FeatureStatistics
from tuning.evaluation import plots
from tuning.evaluation.greedy_selection import Selection
from tuning.evaluation.intervals import CONFIDENCE, basis
from tuning.evaluation.saved_model import HEARD_BY, write_weights
from tuning.evaluation.table import make_console, make_table
from tuning.experiment.directory import TrialRecord, read_progress, write_json, write_table, write_text
from tuning.experiment.ranking import kept_epoch
from tuning.training.class_metrics import confusion, softmax
from tuning.training.encoders import located, save_encoder

NUM_TRIALS = "num_trials"  # in metrics.json: that had ended when the models were chosen

# Metrics that are printed: prefixes for regression, whole names for classification. metrics.json has all.
PRINTED = {
    "regression": ("rmse", "r2", "ccc", "pearson"),
    "classification": ("uar", "accuracy", "f1", "calibration_error"),
}


@dataclass(frozen=True)
class Tested:
    """The result of a test on N clips: labels [N, targets], outputs [N, K], metrics named `test_<name>`."""

    ids: list[str]
    groups: list[str | None]
    targets: np.ndarray
    outputs: np.ndarray
    metrics: dict[str, float]
    constant: dict[str, float]
    trials: list[int]  # of the models that predict together, the winner first
    winner_alone: dict[str, float]
    intervals: dict[str, tuple[float, float]]  # 95 %, by bootstrap over groups; empty if these are few
    num_groups: int
    cautions: list[str]  # what has to be known with the scores


def write_model(
    best: Path,
    config: Config,
    encoder: str,
    model: nn.Module,
    statistics: FeatureStatistics,
    prepared_frames: int,
    heard_by: str = "",
) -> None:
    """Write all that prediction needs: settings, weights, the names of the outputs, the normalisation.

    `encoder` is the location of its pretrained encoder as this process finds it, or empty. `prepared_frames` is the
    length of prepared features, of which the model takes a part. `heard_by` identifies the encoder that computed them.
    """
    best.mkdir(parents=True, exist_ok=True)
    write_text(best / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json"))))
    save_encoder(located(config, encoder), best)
    if config.task.name == "classification":
        write_json(best / "labels.json", {"classes": config.task.classes})
    else:
        write_json(best / "labels.json", {"targets": config.task.targets, "target_range": config.data.target_range})
    normalisation = {
        "prepared_frames": prepared_frames,
        "mean": statistics.mean.tolist(),
        "std": statistics.std.tolist(),
    } | ({HEARD_BY: heard_by} if heard_by else {})
    write_json(best / "features.json", config.features.model_dump(mode="json") | normalisation)
    write_weights(best, {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()})


def write_test(
    best: Path,
    config: Config,
    winner: TrialRecord,
    trained: list[dict[str, Any]],
    tested: Tested,
    repeated: dict[str, Any] | None = None,
    selection: Selection | None = None,
    num_trials: int | None = None,
) -> None:
    """Write metrics and a line for each test clip; for classification also the confusion matrix and the errors.

    Args:
        best: the folder to write to.
        config: of the winner.
        winner: its record in the search.
        trained: trial, seed and epochs of each retrained model, the winner first.
        tested: the result of the test.
        repeated: the scores of the best trials with other seeds, if they were repeated.
        selection: how the models of an ensemble were chosen, if not as the best.
        num_trials: that had ended when the models were chosen.
    """
    figures: dict[str, Any] = {**trained[0], "validation": winner.metrics}
    if num_trials is not None:
        figures |= {NUM_TRIALS: num_trials}
    if len(tested.trials) > 1:
        figures |= {"ensemble": tested.trials, "members": trained, "winner_alone": tested.winner_alone}
    if repeated is not None:
        figures |= {"repeated": repeated}
    if selection is not None:
        figures |= {"selection": selection.record()}
    bootstrap = {
        "groups": tested.num_groups,
        "confidence": CONFIDENCE,
        "intervals": tested.intervals,
        "basis": basis(tested.groups),
    }
    figures |= {"test": tested.metrics, "bootstrap": bootstrap, "constant": tested.constant}
    write_json(best / "metrics.json", figures)
    if config.task.name == "regression":
        targets = config.task.targets
        header = ["clip", "group", *targets, *(f"predicted_{target}" for target in targets)]
        values = zip(tested.ids, tested.groups, tested.targets.tolist(), tested.outputs.tolist(), strict=True)
        write_table(best / "test_predictions.csv", header, [[clip, group, *t, *o] for clip, group, t, o in values])
        return
    classes = config.task.classes or []
    header = ["clip", "group", "label", "predicted", "confidence"]
    rows = class_rows(tested, classes)
    write_table(best / "test_predictions.csv", [*header, *(f"p_{name}" for name in classes)], rows)
    wrong = sorted((row[: len(header)] for row in rows if row[2] != row[3]), key=lambda row: -row[4])
    write_table(best / "errors.csv", header, wrong)
    table = confusions(tested, len(classes)).tolist()
    write_table(best / "confusion.csv", ["true", *classes], [[c, *row] for c, row in zip(classes, table, strict=True)])


def class_rows(tested: Tested, classes: Sequence[str]) -> list[list[Any]]:
    """A row for each clip: id, group, label, predicted class, its probability, and the probability of each class."""
    rows: list[list[Any]] = []
    probabilities = softmax(tested.outputs)
    for clip, group, label, found, each in zip(
        tested.ids, tested.groups, tested.targets[:, 0], tested.outputs.argmax(axis=1), probabilities, strict=True
    ):
        rows.append([clip, group, classes[int(label)], classes[int(found)], float(each[found]), *each.tolist()])
    return rows


def confusions(tested: Tested, num_classes: int) -> np.ndarray:
    """The number of clips by true class (rows) and predicted class (columns)."""
    return confusion(tested.targets[:, 0], tested.outputs.argmax(axis=1), num_classes)


def draw(best: Path, config: Config, winner: TrialRecord, trial: Path, tested: Tested) -> None:
    """Draw the winner's learning curves, and its confusion matrix or its true against its predicted values."""
    clips = f"{len(tested.ids)} test clips"
    title, kept = f"trial {winner.number} in the search", kept_epoch([config.training.keep])
    plots.draw_history(best / "history.png", read_progress(trial), config.search.metric, winner.best_epoch, title, kept)
    if config.task.name == "classification":
        classes = config.task.classes or []
        table = confusions(tested, len(classes))
        plots.draw_confusion(best / "confusion.png", table, classes, tested.metrics["test_uar"], clips)
    else:
        names = config.task.targets
        plots.draw_scatter(best / "scatter.png", tested.targets, tested.outputs, names, tested.metrics, clips)


def print_scores(config: Config, winner: TrialRecord, tested: Tested) -> None:
    """Print the task's metrics on validation and test clips, with those of a constant predictor on the test."""
    printed = PRINTED[config.task.name]
    is_whole = config.task.name == "classification"  # f1, but not f1_happy
    names = [name.removeprefix("test_") for name in tested.metrics]
    if len(tested.trials) > 1:
        print(f"ensemble  trials {', '.join(map(str, tested.trials))} predict together")
    rows = []
    together = len(tested.trials) > 1
    columns = ["validation", *(["test, winner"] if together else []), "test", "95 % interval", "constant"]
    for name in names:
        if (name if is_whole else name.split("_")[0]) in printed:
            cells = (
                winner.metrics.get(f"val_{name}"),
                *([tested.winner_alone.get(f"test_{name}")] if together else []),
                tested.metrics[f"test_{name}"],
            )
            low_high = tested.intervals.get(f"test_{name}")
            constant = tested.constant.get(f"test_{name}")
            shown = ["" if cell is None else f"{cell:.4f}" for cell in cells]
            shown += [f"{low_high[0]:.4f} to {low_high[1]:.4f}" if low_high else ""]
            rows.append([name, *shown, "" if constant is None else f"{constant:.4f}"])
    console = make_console()
    console.width = max(console.width, 100)  # a terminal wraps lines, but figures are not cut
    console.print(make_table(["metric", *columns], rows))
    print(basis(tested.groups))
