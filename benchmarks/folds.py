"""Test a space on all folds of a corpus: a search per fold, whose winner is tested once, and an SVM on the same clips.

`python -m benchmarks.folds --name emotify --out table.md data.corpus=manifest data.root=emotify/ \
    data.group_column=artist data.fold_column=fold space=crnn search.num_trials=8`

Each search (`NAME-fold-K`) never opens its test fold. Its winner is chosen on validation clips, retrained on training
and validation clips for the epochs that it took, and tested once; with `--ensemble K` so are the K best trials, which
predict together. A second call finds the searches finished and only prints. R2 is pooled over all test clips and also
given as mean over folds; UAR is given for each fold, with mean and standard deviation.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from benchmarks.baselines import SVR_C, clip_statistics, svr_outputs
from benchmarks.report import machine, publish, table
from tuning import run
from tuning.cli import finalize
from tuning.config.schema import Config
from tuning.data.data_module import DataModule
from tuning.data.plan import make_plan, read_corpus
from tuning.datasets.store.reader import scan
from tuning.training.class_metrics import confusion, uar
from tuning.training.metrics import ccc, pearson, r2, rmse

METRICS = {"r2": r2, "ccc": ccc, "pearson": pearson, "rmse": rmse}


def run_fold(name: str, storage: str, fold: str, overrides: list[str], ensemble: int) -> tuple[Path, float]:
    """Search one fold and test its winner, unless that is done; the folder, and the seconds that this call took."""
    began = time.monotonic()
    search = f"{name}-fold-{fold}"
    code = run.main([*overrides, f"name={search}", f"storage={storage}", f"split.test_fold={fold}"])
    folder = Path(storage) / search
    if code == 0 and not (folder / "test_looks.json").exists():
        code = finalize.main([str(folder), f"ensemble={ensemble}"])
    if code:
        raise SystemExit(code)
    return folder, time.monotonic() - began


def svm_fold(storage: str, fold: str, overrides: list[str], clips: list[str]) -> np.ndarray:
    """Fit an SVM on all clips but the test fold's; its predictions for `clips`.

    Of a regression [clips, targets], of a classification class indices [clips].
    """
    plan = make_plan([*overrides, f"storage={storage}", f"split.test_fold={fold}"])
    data = DataModule.read(plan.space)
    data.prepare_features(lambda done, total: None)
    corpus, split, prepared = data.corpus, data.split, next(iter(data.features.values()))
    statistics: dict[str, np.ndarray] = {}
    for ids, num_frames, features in scan(prepared, {clip.id for clip in corpus.clips}, sealed=()):
        for clip, valid, values in zip(ids, num_frames.tolist(), features, strict=True):
            statistics[clip] = clip_statistics(values[:valid])
    known = split.train + split.val
    train = np.stack([statistics[clip.id] for clip in known]), np.array([clip.targets for clip in known])
    test = np.stack([statistics[clip] for clip in clips])
    if not corpus.classes:
        return svr_outputs(train, test)
    model = make_pipeline(StandardScaler(), SVC(kernel="rbf", C=SVR_C, class_weight="balanced"))
    return np.asarray(model.fit(train[0], train[1][:, 0].astype(int)).predict(test))


def read_fold(folder: Path, config: Config) -> dict[str, Any]:
    """Clips, labels, predictions (as those of `svm_fold`) and metrics of a tested search."""
    rows = list(csv.DictReader((folder / "best" / "test_predictions.csv").open(encoding="utf-8")))
    clips, metrics = [row["clip"] for row in rows], json.loads((folder / "best" / "metrics.json").read_text("utf-8"))
    if config.task.name == "classification":
        classes = json.loads((folder / "best" / "labels.json").read_text("utf-8"))["classes"]
        labels, found = (np.array([classes.index(row[key]) for row in rows]) for key in ("label", "predicted"))
    else:
        targets = config.task.targets
        labels = np.array([[float(row[target]) for target in targets] for row in rows])
        found = np.array([[float(row[f"predicted_{target}"]) for target in targets] for row in rows])
    return {"clips": clips, "labels": labels, "search": found, "metrics": metrics}


def describe_targets(targets: list[str], folds: list[dict[str, Any]]) -> str:
    """A Markdown table of pooled metrics, and R2 over folds, per target and predictor."""
    rows = []
    for index, target in enumerate(targets):
        for predictor, key in (("search", "search"), ("SVR", "svm")):
            wanted, found = (np.concatenate([fold[part][:, index] for fold in folds]) for part in ("labels", key))
            each = [r2(fold["labels"][:, index], fold[key][:, index]) for fold in folds]
            pooled = [f"{function(wanted, found):.3f}" for function in METRICS.values()]
            rows.append([target, predictor, *pooled, f"{np.mean(each):.3f}", f"{np.std(each):.3f}"])
    header = ["target", "predictor", *(f"{name}, pooled" for name in METRICS), "r2, mean of folds", "sd"]
    return table(header, rows, left=2)


def describe_classes(names: list[str], folds: list[dict[str, Any]]) -> str:
    """A Markdown table of the UAR of each fold, with mean and standard deviation, per predictor."""
    count = 1 + max(int(fold["labels"].max()) for fold in folds)
    found = {
        label: [uar(confusion(fold["labels"], fold[key], count)) for fold in folds]
        for label, key in (("search", "search"), ("SVM", "svm"))
    }
    if all("winner_alone" in fold["metrics"] for fold in folds):
        found["winner alone"] = [fold["metrics"]["winner_alone"]["test_uar"] for fold in folds]
    rows = [
        [label, *(f"{value:.3f}" for value in values), f"**{np.mean(values):.3f}**", f"{np.std(values):.3f}"]
        for label, values in found.items()
    ]
    return table(["test UAR", *(f"fold {name}" for name in names), "mean", "sd"], rows)


def main(arguments: list[str] | None = None) -> int:
    """Run all folds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="searches are called NAME-fold-K")
    parser.add_argument("--ensemble", type=int, default=1, help="trials that are retrained and predict together")
    parser.add_argument("--storage", default="results")
    parser.add_argument("--out", help="also write the table to this file")
    options, overrides = parser.parse_known_args(arguments)
    corpus_only = [override for override in overrides if not override.startswith("split.")]
    config = make_plan([*corpus_only, "split.method=grouped"]).config
    corpus, _ = read_corpus(config)
    names = sorted({clip.fold for clip in corpus.clips if clip.fold is not None})
    folds, seconds = [], 0.0
    for fold in names:
        folder, took = run_fold(options.name, options.storage, fold, overrides, options.ensemble)
        found = read_fold(folder, config)
        folds.append(found | {"svm": svm_fold(options.storage, fold, overrides, found["clips"])})
        seconds += took
    trials = ", ".join(f"{name}: {fold['metrics']['trial']}" for name, fold in zip(names, folds, strict=True))
    tested = f"the {options.ensemble} best trials" if options.ensemble > 1 else "the winner"
    num_clips = sum(len(fold["labels"]) for fold in folds)
    notes = (
        f"- {len(names)} searches, each blind to its test fold; {num_clips} test clips,\n"
        f"  each predicted once by {tested}. Winning trial by fold: {trials}.\n"
        f"  This call took {seconds / 60:.1f} minutes.\n"
        f"- SVM: statistics of the first feature variant (`benchmarks.baselines`), fitted on the same training and\n"
        f"  validation clips as the retrained winner; not tuned.\n"
        f"- Command: `{' '.join(overrides)}`. {machine('torch', 'ray')}"
    )
    classes = config.task.name == "classification"
    figures = describe_classes(names, folds) if classes else describe_targets(config.task.targets, folds)
    publish(f"## {options.name}: test figures\n\n{figures}\n\n{notes}\n", options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
