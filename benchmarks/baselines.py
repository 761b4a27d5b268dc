"""Compare a search's best trial with the constant predictor and an untuned SVR or SVC, on its validation clips.

`python -m benchmarks.baselines results/NAME` in the folder where the search ran. No test clip is read. The support
vector machine, for numbers or for classes, gets statistics over the frames of a clip.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray import cloudpickle

from benchmarks.report import publish, table
from tuning.cli.command import DONE, USER_ERROR
from tuning.config.errors import UserError
from tuning.config.schema import Config
from tuning.config.space import Space
from tuning.data.data_module import DataModule
from tuning.data.keys import features_key, stored_features_of
from tuning.datasets.dotted_path import allowing
from tuning.datasets.splits.split import Split
from tuning.datasets.store.build import Prepared
from tuning.evaluation.leaderboard import with_results
from tuning.evaluation.score_notes import search_notes
from tuning.evaluation.svm import SVM_C, SVR_EPSILON, Part, part_of, statistics_of, svm_classes, svr_outputs
from tuning.experiment.directory import SearchFolder, TrialRecord
from tuning.experiment.reading import read_json
from tuning.experiment.recorded import config_of, space_of
from tuning.search.compute import compute
from tuning.search.lazy_start import when_needed
from tuning.training.metrics import METRICS
from tuning.training.tasks import task_of

CLASS_METRICS = ("uar", "accuracy", "f1", "recall")


@dataclass(frozen=True)
class Search:
    """A search's folder, its space, and its best trial with that trial's configuration."""

    folder: SearchFolder
    space: Space
    best: TrialRecord
    config: Config


def read_search(place: str, storage: str) -> Search:
    """Read the search in the folder `place`, or of that name in `storage`.

    Raises:
        UserError: no such search, or none of its trials has a result.
    """
    path = Path(place)
    if not (path / "config.yaml").exists():
        path = Path(storage) / place
    folder = SearchFolder(path.parent, path.name)
    if not folder.exists:
        raise UserError(f"expected the folder of a search, with its config.yaml, got '{place}'")
    space = space_of(folder)
    ranked = with_results(folder, space)
    if not ranked:
        raise UserError(f"expected a search with a ranked trial, got '{path}'")
    return Search(folder, space, ranked[0], config_of(folder, ranked[0].number))


def read_and_fit(search: Search) -> tuple[Part, Part, np.ndarray]:
    """Training and validation clips with the features of the best trial, and an SVM's outputs for the latter.

    On a cluster they are read, and the SVM is fitted, where trials run.

    Raises:
        UserError: the corpus has changed.
        SealedError: a shard that would be opened holds a test clip.
    """
    config = search.space.fixed()
    data = DataModule.of_search(search.folder, search.space)
    data.prepare_features(when_needed(config))
    prepared = data.features[features_key(stored_features_of(search.config))]
    # The machines of a cluster have the installed package, and not this folder.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return compute(config, _read_and_fit, search.config, prepared, data.split)


def _read_and_fit(config: Config, prepared: Prepared, split: Split) -> tuple[Part, Part, np.ndarray]:
    sealed = {clip.id for clip in split.test}
    found = statistics_of(prepared, [*split.train, *split.val], config.features, sealed)
    train, val = part_of(found, split.train), part_of(found, split.val)
    return train, val, svm_outputs(config, train, val[0])


def svm_outputs(config: Config, train: Part, val_statistics: np.ndarray) -> np.ndarray:
    """Predictions for validation clips: numbers [clips, targets], or logits [clips, classes] of the class alone."""
    if config.task.name == "regression":
        return svr_outputs(train, val_statistics)
    return np.eye(len(config.task.classes or []))[svm_classes(train, val_statistics)[:, 0]]


def compare(search: Search, train: Part, val: Part, outputs: np.ndarray) -> dict[str, dict[str, float]]:
    """Validation metrics such as `val_rmse` by predictor, without undefined ones."""
    task = task_of(search.config)
    svm = task.metrics(val[1], outputs)
    trial = f"best trial ({search.best.number}, epoch {search.best.best_epoch})"
    return {
        trial: search.best.metrics,
        "constant": task.constant_baseline(train[1], val[1]),
        name_of_svm(search.config): {f"val_{name}": value for name, value in svm.items()},
    }


def name_of_svm(config: Config) -> str:
    """The support vector machine of a task."""
    return "SVR" if config.task.name == "regression" else "SVC"


def check_split(search: Search, constant: dict[str, float]) -> None:
    """Raise UserError if the constant predictor differs from that of the search, which shows that the clips differ."""
    recorded = read_json(search.folder.path / "baseline.json", dict)
    for name, value in recorded.items():
        # The loss may have been searched.
        if name != "val_loss" and not math.isclose(value, constant.get(name, math.nan), rel_tol=1e-6, abs_tol=1e-9):
            raise UserError(
                f"split: expected the constant predictor's {name} that the search recorded ({value}), "
                f"got {constant.get(name)}: the clips are not the same"
            )


def describe(search: Search, found: dict[str, dict[str, float]], train: Part, val: Part) -> str:
    """A Markdown table with a row per predictor and target, or class, and an explanation."""
    config = search.config
    is_numbers = config.task.name == "regression"
    metrics = list(METRICS) if is_numbers else list(CLASS_METRICS)
    rows = []
    for suffix in ("", *(config.task.targets if is_numbers else config.task.classes or [])):
        for predictor, values in found.items():
            names = [f"val_{name}_{suffix}" if suffix else f"val_{name}" for name in metrics]
            cells = [f"{values[name]:.4f}" if name in values else "" for name in names]
            rows.append([suffix or "all", predictor, *cells])
    final = search.folder.num_ended
    if is_numbers:
        constant = "each target's mean over the training clips"
        labels = " and the\n  labels"
        svm = f"SVR: rbf kernel, C={SVM_C:g}, epsilon={SVR_EPSILON:g} standard deviations of the label"
        means = " For all targets rmse and mae are pooled, the others means."
    else:
        constant, labels, means = "the classes' frequencies in the training clips", "", ""
        svm = f"SVC: rbf kernel, C={SVM_C:g}, classes weighted by the inverse of their frequency"
    metric = config.search.metric
    notes = "".join(f"\n- Note: {note}." for note in search_notes(search.folder, [search.best], {}, metric, "min"))
    return f"""## {search.folder.name}: validation figures

{table(["target" if is_numbers else "class", "predictor", *metrics], rows, left=2)}

- The same {len(train[1])} training and {len(val[1])} validation clips for all; no test clip was read. The constant
  predictor's figures are those that the search recorded.{means}
- Best trial: first of {final} by {metric}. Trial and epoch were chosen on these validation clips,
  so its figures are somewhat too good; the other two predictors were not chosen by them.
- Constant: {constant}.
- {svm}. It gets mean, standard deviation, 10th and 90th percentile of the
  {config.features.name} features over a clip's frames, and the mean absolute difference between frames; these{labels}
  standardised on training clips. Not tuned.{notes}"""


def _main(options: Any) -> None:
    search = read_search(options.search, options.storage)
    train, val, outputs = read_and_fit(search)
    found = compare(search, train, val, outputs)
    check_split(search, found["constant"])
    publish(describe(search, found, train, val), options.out)


def main(arguments: list[str] | None = None) -> int:
    """Print and write the comparison; exit code 2 if the search or its corpus is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baselines", description=__doc__)
    parser.add_argument("search", help="folder of a search, or its name")
    parser.add_argument("--storage", default="results", help="folder that holds the searches")
    parser.add_argument("--out", help="also write the table to this file")
    words = sys.argv[1:] if arguments is None else arguments
    allow = "allow_code=true"  # as the commands take it
    try:
        with allowing(allow in words):
            _main(parser.parse_args([word for word in words if word != allow]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    return DONE


if __name__ == "__main__":
    sys.exit(main())
