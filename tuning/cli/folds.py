"""Test a space on every fold of a corpus: `tuning folds space=ser data.corpus=... data.root=...`."""

from __future__ import annotations

import json
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning.cli.command import DONE, FAILED, INTERRUPTED, SELECTIONS, Parser, count, one_of, run_command
from tuning.config.errors import UserError
from tuning.config.loader import parse_overrides
from tuning.config.terminal import visible

if TYPE_CHECKING:
    import numpy as np

    from tuning.api import Search
    from tuning.data.fold_plan import FoldPlan, FoldsPlan
    from tuning.evaluation.fold_scores import Fold

PARSER = Parser(
    "tuning folds [name=NAME] [ensemble=K] [select=best|greedy] [svm=false] [out=FILE.md] [key=value ...] [--dry-run]",
    """\
Search and test every fold of a corpus, with the settings of python -m tuning.run, and put the tests together: scores
over all test clips with their 95 % intervals, and mean and spread over the folds.

Folds are those that the corpus publishes or data.fold_column names; without them whole speakers or artists are dealt
into split.num_folds folds, and with split.method=leave_one_group_out each speaker or artist is one.

Each fold is a search of its own, NAME-fold-FOLD, which never opens its test clips. Its winner is chosen on validation
clips, retrained on training and validation clips, and tested once, as by tuning finalize. An untuned SVM on statistics
of the same features is fitted on the same clips. The same command resumes: what is searched and tested stays.

STORAGE/NAME-folds/ holds folds.md, folds.json and predictions.csv.""",
    settings=True,
)
PARSER.option("ensemble", count, "K", "retrain the K best trials of each fold, which predict together")
PARSER.option("select", one_of(SELECTIONS), "|".join(SELECTIONS), "which they are, as of tuning finalize (best)")
PARSER.option("svm", one_of(("true", "false")), "false", "leave the SVM out")
PARSER.option("out", str, "FILE.md", "also write the tables to this file")


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input, 130 interrupted, 1 anything else."""
    words = sys.argv[1:] if words is None else words
    resume = f"tuning folds {shlex.join(word for word in words if not word.startswith('fresh='))}"
    return run_command(PARSER, lambda options: _folds(options, resume), words, resume=resume)


def _folds(options: Namespace, resume: str) -> int:
    parse_overrides(options.settings)  # wrong words are refused before numpy and pyarrow are imported
    from tuning.data.fold_plan import plan_folds
    from tuning.search.checks import check

    plan = plan_folds(options.settings, options.ensemble or 1, options.select == "greedy")
    # Places, resources, files and the name, before the first fold is searched.
    plan = replace(plan, corpus=check(plan.folds[0].plan).corpus)
    _print_plan(plan)
    if options.dry_run:
        return DONE
    tested = []
    began, worked = time.monotonic(), 0
    for number, fold in enumerate(plan.folds, start=1):
        print(f"\nfold      {visible(fold.name)}: {number} of {len(plan.folds)}", flush=True)
        found = _test_fold(plan, fold, with_svm=options.svm != "false")
        if isinstance(found, str):
            print(f"stopped   fold {fold.name}: {found}; to resume: {resume}", file=sys.stderr)
            return INTERRUPTED if found == "interrupted" else FAILED
        one, was_tested = found
        tested.append(one)
        worked += not was_tested
        left, seconds = len(plan.folds) - number, time.monotonic() - began
        if worked and left:
            minutes = left * seconds / worked / 60
            print(f"folds     {number} of {len(plan.folds)} done, about {minutes:.0f} minutes left", flush=True)
    _publish(plan, tested, options.settings, options.out)
    return DONE


def _print_plan(plan: FoldsPlan) -> None:
    total = plan.folds[0].plan.total
    print(f"folds     {len(plan.folds)} by split.method={plan.method}, each the test once: {plan.name}-fold-...")
    print(f"          {total} trials in each, {len(plan.folds) * total} in all")
    notes = list(plan.corpus.notes)
    if any(clip.split is not None for clip in plan.corpus.clips):
        data = plan.folds[0].plan.config.data
        published = "data.split_column" if data.split_column is not None else f"the published split of {data.corpus}"
        notes.insert(0, f"{published} is not used, since every clip is tested once")
    cautions = [fold.split.cautions() for fold in plan.folds]
    notes += [caution for caution in cautions[0] if all(caution in found for found in cautions)]
    for note in notes:
        print(visible(f"          note: {note}"))
    for fold in plan.folds:
        names = {"train": "to train", "val": "to validate", "test": "sealed"}
        parts = ", ".join(f"{len(clips)} {names[name]}" for name, clips in fold.split.parts().items())
        print(visible(f"          {fold.name}: {parts}"))


def _test_fold(plan: FoldsPlan, fold: FoldPlan, with_svm: bool) -> tuple[Fold, bool] | str:
    """Search a fold and test its winner, unless that is done.

    Returns the test and whether it was done before, or why the search stopped.
    """
    from tuning import api
    from tuning.config.distributions import counted
    from tuning.evaluation.final_test_files import NUM_TRIALS
    from tuning.evaluation.fold_scores import read_fold
    from tuning.evaluation.score_notes import cautions_of_trials
    from tuning.experiment.directory import TEST_LOOKS
    from tuning.experiment.faults import recover_folder
    from tuning.experiment.recorded import config_of

    search = api.run(fold.plan)
    if search.stopped:
        return search.stopped
    if search.best is None:
        return f"no trial came to a result; why: {search.folder.trials}/*/error.txt"
    best = search.path / "best"
    recover_folder(best)
    was_tested = (search.path / TEST_LOOKS).exists() and (best / "metrics.json").exists()
    if not was_tested:
        # A kill between the test and the last file of best/ leaves a recorded look: nothing was chosen by it.
        api.finalize(search, ensemble=plan.ensemble, select="greedy" if plan.greedy else None, again=search.is_tested)
    tested = read_fold(fold.name, best, fold.plan.config)
    selection = tested.metrics.get("selection")
    members = selection["at_most"] if selection else len(tested.metrics.get("ensemble", [0]))
    if (members, bool(selection)) != (plan.ensemble, plan.greedy):
        how, asked = (f"{SELECTIONS[chosen]}" for chosen in (bool(selection), plan.greedy))
        raise UserError(
            f"ensemble: expected {members} (select={how}), with which {search.path} was tested, got {plan.ensemble} "
            f"(select={asked}); choose another name=... to test otherwise"
        )
    trials = tested.metrics.get("ensemble", [tested.metrics["trial"]])
    configs = [config_of(search.folder, number) for number in trials]
    cautions = cautions_of_trials(search.folder, configs, fold.split)
    then, now = tested.metrics.get(NUM_TRIALS), search.folder.num_ended
    if then is not None and then < now:
        cautions.append(f"tested was what {counted(then, 'trial')} had found, before the search was extended to {now}")
    elif then is None and plan.ensemble == 1 and trials[0] != search.best.number:  # tested by an earlier version
        cautions.append(f"tested was trial {trials[0]}, the best before the search was extended")
    tested = replace(tested, cautions=cautions)
    return (replace(tested, svm=_svm(plan, fold, search, tested)) if with_svm else tested), was_tested


def _svm(plan: FoldsPlan, fold: FoldPlan, search: Search, tested: Fold) -> np.ndarray:
    """Predictions of an SVM for the clips of a fold's test, fitted where trials run, or as they were kept before."""
    import numpy as np

    from tuning.data.data_module import DataModule
    from tuning.data.keys import features_key, stored_features_of
    from tuning.datasets.checksum import write_json
    from tuning.datasets.hashing import digest_of
    from tuning.evaluation.svm import fit_and_predict
    from tuning.experiment.directory import SPLIT
    from tuning.experiment.recorded import config_of, space_of
    from tuning.search.compute import compute
    from tuning.search.lazy_start import when_needed

    config, place, name = fold.plan.config, _place(plan), f"svm-{fold.tag}.json"
    winner = config_of(search.folder, tested.metrics["trial"])
    records = [search.path / file for file in ("fingerprint.json", SPLIT)]  # earlier versions recorded no split
    key = digest_of(
        *(file.read_bytes() for file in records if file.exists()), winner.features.model_dump_json(), *tested.ids
    )
    if (kept := _read(place, name)).get("key") == key:
        return np.array(kept["predicted"], dtype=np.float64)
    print("svm       fitted on the clips that the winner knows", flush=True)
    data = DataModule.of_search(search.folder, space_of(search.folder), config)
    data.prepare_features(when_needed(config))
    features, known = data.features[features_key(stored_features_of(winner))], data.split.train + data.split.val
    clip_of = {clip.id: clip for clip in data.split.test}
    test, is_classes = [clip_of[clip] for clip in tested.ids], config.task.name == "classification"
    found = compute(config, fit_and_predict, features, known, test, winner.features, is_classes)
    write_json(place, name, {"key": key, "predicted": found.tolist()})
    return found


def _place(plan: FoldsPlan) -> str:
    """The folder or URI of what is written of all folds together."""
    from tuning.datasets import storage

    return storage.below(storage.absolute(plan.folds[0].plan.run.storage), f"{plan.name}-folds")


def _read(place: str, name: str) -> dict[str, Any]:
    """A file of that folder; empty if it is not there or damaged, and then it is made again."""
    from tuning.datasets.checksum import read_json

    try:
        found = read_json(place, name)
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _publish(plan: FoldsPlan, folds: list[Fold], settings: list[str], out: str | None) -> None:
    """Print the scores of all folds, and write them as text, as figures and with every prediction."""
    from tuning.datasets import storage
    from tuning.datasets.redaction import redacted
    from tuning.evaluation import fold_scores
    from tuning.evaluation.score_notes import metric_of_test
    from tuning.evaluation.table import make_console, make_table
    from tuning.experiment.directory import write_text

    first = plan.folds[0].plan
    found = fold_scores.scores(folds, first.config)
    metric, mode = metric_of_test(first.config, first.mode)
    shown = metric.removeprefix("val_")
    rows = fold_scores.score_rows(found)
    heading, by_fold = fold_scores.fold_rows(folds, found, shown)
    notes = fold_scores.fold_notes(folds, metric, mode)
    members = f"at most {plan.ensemble} trials, chosen greedily," if plan.greedy else f"the {plan.ensemble} best trials"
    predicting = f"{members} together" if plan.ensemble > 1 else "the winner"
    text = f"""# {plan.name}: {len(folds)} folds, each the test once

{fold_scores.markdown(fold_scores.HEADINGS, rows, left=2)}

{fold_scores.markdown(heading, by_fold)}

- {len(folds)} searches of {first.total} trials (split.method={plan.method}), each without its test fold;
  {sum(len(fold.ids) for fold in folds)} test clips, each predicted once by {predicting}.
- Pooled: over all test clips together. sd: standard deviation over the folds.
""" + "".join(f"- Note: {note}.\n" for note in notes)
    together = [f"ensemble={plan.ensemble}"] * (plan.ensemble > 1) + ["select=greedy"] * plan.greedy
    text = redacted(text + f"- Command: `tuning folds {shlex.join([*together, *settings])}`\n")
    place = _place(plan)
    figures = [
        {"metric": s.metric, "predictor": s.predictor, "pooled": s.pooled, "interval": s.interval, "folds": s.by_fold}
        for s in found
    ]
    written = {"folds": [fold.name for fold in folds], "scores": figures, "notes": notes}
    storage.write_bytes(place, "folds.json", json.dumps(written, indent=1).encode())
    storage.write_bytes(place, "predictions.csv", fold_scores.predictions_table(folds, first.config).encode())
    storage.write_bytes(place, "folds.md", text.encode())
    if out is not None:
        write_text(Path(out), text)
    console = make_console()
    console.print()
    console.print(make_table(fold_scores.HEADINGS, rows, left=[0, 1]))
    console.print()
    console.print(make_table(heading, by_fold))
    for note in notes:
        print(visible(f"note      {note}"))
    print(f"folds     {storage.below(place, 'folds.md')}")
