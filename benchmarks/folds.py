"""Five (or so) searches, each blind to its own test fold; each winner tested once, beside an SVR on the same clips.

`python -m benchmarks.folds --name emotify --out table.md data.corpus=manifest data.root=emotify/ \
    data.group_column=artist data.fold_column=fold space=crnn search.num_trials=8`

Every fold is a search of its own (`NAME-fold-K`), finalised: the winner is chosen on the validation fold, trained again
on training and validation clips for the epochs that its best took, and tested once. A second call finds the searches
finished and only prints. R2 is pooled over all test clips (against their mean) and given as the mean of the folds.
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

from benchmarks.baselines import clip_statistics, middle, svr_outputs
from benchmarks.report import machine, publish, table
from datasets.reading import scan
from tuning import finalize, run
from tuning.metrics import ccc, pearson, r2, rmse
from tuning.plan import make_plan, read_corpus
from tuning.stages import prepare_features, usable_split

METRICS = {"r2": r2, "ccc": ccc, "pearson": pearson, "rmse": rmse}


def run_fold(name: str, storage: str, fold: str, overrides: list[str]) -> tuple[Path, float]:
    """Search one fold and test its winner, where that has not been done; the folder, and the seconds it took now."""
    began = time.monotonic()
    search = f"{name}-fold-{fold}"
    code = run.main([*overrides, f"name={search}", f"storage={storage}", f"split.test_fold={fold}"])
    folder = Path(storage) / search
    if code == 0 and not (folder / "test_looks.json").exists():
        code = finalize.main([str(folder)])
    if code:
        raise SystemExit(code)
    return folder, time.monotonic() - began


def svr_fold(storage: str, fold: str, overrides: list[str], clips: list[str]) -> np.ndarray:
    """The SVR fitted on all clips but the test fold's, its predictions for `clips` in their order [clips, targets]."""
    plan = make_plan([*overrides, f"storage={storage}", f"split.test_fold={fold}"])
    corpus, split = read_corpus(plan.config)
    variants = prepare_features(plan.space, plan.config, corpus, split, lambda done, total: None)
    split, prepared = usable_split(split, variants), next(iter(variants.values()))
    statistics: dict[str, np.ndarray] = {}
    for ids, num_frames, features in scan(prepared, {clip.id for clip in corpus.clips}, sealed=()):
        for clip, valid, values in zip(ids, num_frames.tolist(), features, strict=True):
            statistics[clip] = clip_statistics(middle(values, valid, prepared.num_frames))
    known = split.train + split.val
    train = np.stack([statistics[clip.id] for clip in known]), np.array([clip.targets for clip in known])
    return svr_outputs(train, np.stack([statistics[clip] for clip in clips]))


def read_predictions(folder: Path, targets: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Clips, labels [clips, targets] and the winner's predictions of a tested search."""
    rows = list(csv.DictReader((folder / "best" / "test_predictions.csv").open(encoding="utf-8")))
    wanted = np.array([[float(row[target]) for target in targets] for row in rows])
    found = np.array([[float(row[f"predicted_{target}"]) for target in targets] for row in rows])
    return [row["clip"] for row in rows], wanted, found


def describe(targets: list[str], folds: list[dict[str, Any]]) -> str:
    """Markdown: pooled figures and the mean and standard deviation of R2 over folds, per target and predictor."""
    rows = []
    for index, target in enumerate(targets):
        for predictor in ("winner", "svr"):
            wanted, found = (np.concatenate([fold[key][:, index] for fold in folds]) for key in ("labels", predictor))
            each = [r2(fold["labels"][:, index], fold[predictor][:, index]) for fold in folds]
            pooled = [f"{function(wanted, found):.3f}" for function in METRICS.values()]
            name = "search's winner" if predictor == "winner" else "SVR"
            rows.append([target, name, *pooled, f"{np.mean(each):.3f}", f"{np.std(each):.3f}"])
    header = ["target", "predictor", *(f"{name}, pooled" for name in METRICS), "r2, mean of folds", "sd"]
    return table(header, rows, left=2)


def main(arguments: list[str] | None = None) -> int:
    """Run all folds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="the searches are NAME-fold-K")
    parser.add_argument("--storage", default="results")
    parser.add_argument("--out", help="write the table to this file, too")
    options, overrides = parser.parse_known_args(arguments)
    corpus_only = [override for override in overrides if not override.startswith("split.")]
    config = make_plan([*corpus_only, "split.method=grouped"]).config
    corpus, _ = read_corpus(config)
    names = sorted({clip.fold for clip in corpus.clips if clip.fold is not None})
    folds, seconds = [], 0.0
    for fold in names:
        folder, took = run_fold(options.name, options.storage, fold, overrides)
        clips, labels, winner = read_predictions(folder, config.task.targets)
        svr = svr_fold(options.storage, fold, overrides, clips)
        trial = json.loads((folder / "best" / "metrics.json").read_text(encoding="utf-8"))["trial"]
        folds.append({"labels": labels, "winner": winner, "svr": svr, "trial": trial})
        seconds += took
    trials = ", ".join(f"{name}: {fold['trial']}" for name, fold in zip(names, folds, strict=True))
    notes = (
        f"- {len(names)} searches, each blind to its test fold; "
        f"{sum(len(fold['labels']) for fold in folds)} test clips,\n"
        f"  each predicted once. Winning trial by fold: {trials}. This call took {seconds / 60:.1f} minutes.\n"
        f"- SVR: statistics of the first feature variant (`benchmarks.baselines`), fitted on the same training and\n"
        f"  validation clips as the retrained winner; not tuned.\n"
        f"- Command: `{' '.join(overrides)}`. {machine('torch', 'ray')}"
    )
    publish(f"## {options.name}: test figures\n\n{describe(config.task.targets, folds)}\n\n{notes}\n", options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
