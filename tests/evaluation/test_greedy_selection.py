"""Ensembles by greedy forward selection: the rule, and what finalize makes of it."""

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import recall_score

from tests.helpers.command import TINY, run
from tuning import api
from tuning.cli import finalize
from tuning.cli.folds import main as folds
from tuning.evaluation.greedy_selection import choose


def rmse(targets):
    return lambda fold, outputs: float(np.sqrt(((outputs - targets[fold]) ** 2).mean()))


def mean(members):
    return np.mean(members, axis=0)


def test_errors_that_cancel_are_chosen_before_better_models_alone():
    targets = [np.zeros(4)]
    outputs = [[np.full(4, value)] for value in (1.0, 1.1, -1.5, 9.0)]
    order, scores = choose(outputs, rmse(targets), mean, "min", 3)
    # 1 alone, then (1 - 1.5) / 2, then (1 - 1.5 + 1.1) / 3; with the last (0.6 + 9) / 4.
    assert order == [0, 2, 1]
    np.testing.assert_allclose(scores, [1, 0.25, 0.2])
    assert choose(outputs, rmse(targets), mean, "min", 4) == (order, scores)  # the fourth makes it worse
    assert choose(outputs, rmse(targets), mean, "min", 2)[0] == [0, 2]


def test_folds_count_alike_whatever_their_size():
    targets = [np.zeros(1), np.zeros(100)]
    outputs = [[np.full(1, a), np.full(100, b)] for a, b in ((2.0, 0.0), (0.5, 1.0))]
    assert choose(outputs, rmse(targets), mean, "min", 1) == ([1], [0.75])


def test_a_score_that_is_not_defined_is_none():
    def score(fold, outputs):
        return None if outputs[0] == 1 else float(outputs[0])

    assert choose([[np.array([1.0])], [np.array([0.2])]], score, mean, "max", 1) == ([1], [0.2])
    assert choose([[np.array([1.0])]], score, mean, "max", 2) == ([], [])


@pytest.fixture(scope="module")
def jobs(ray_session, tmp_path_factory, prepared):
    """Folders of two searches of four trials: one validation split, and two inner folds."""
    folder = tmp_path_factory.mktemp("greedy")
    common = (
        f"storage={folder}",
        f"data.prepared={prepared}",
        *TINY[1:],
        "search.num_trials=4",
        "augment.noise_prob=0.5",
    )
    common += ("task.name=classification", "data.corpus=demo_speech", "search.metric=val_uar", "augment.enabled=true")
    run(*common, "name=plain", "features.num_frames={choice: [16, 24]}")
    run(*common, "name=folds", "split.inner_folds=2", "features.num_frames=16")
    # As a trial that a scheduler stopped after its first fold.
    *_, last = csv.DictReader((folder / "folds" / "leaderboard.csv").open())
    record = folder / "folds" / "trials" / f"{int(last['trial']):04d}" / "result.json"
    result = json.loads(record.read_text())
    record.write_text(json.dumps(result | {"status": "stopped", "epochs": 1}))
    return folder


def validation_uar(folder, members, prepared):
    """UAR of several trials together on the validation clips, predicted from their files."""
    table = json.loads((folder / "split.json").read_text())["clips"]
    clips = [clip for clip, row in table.items() if row["part"] == "val"]
    root = next((prepared / "corpora").glob("demo_speech-*"))
    shares = []
    for trial in members:
        found = api.load_trial(folder, trial).predict([root / clip for clip in clips])
        shares.append(found[[name for name in found if name.startswith("p_")]].to_numpy())
    classes = [name[2:] for name in found if name.startswith("p_")]
    predicted = [classes[index] for index in np.mean(shares, axis=0).argmax(axis=1)]
    return recall_score([clip.split("/")[1].rsplit("_", 1)[0] for clip in clips], predicted, average="macro")


def test_members_are_those_that_predict_validation_best_together(jobs, prepared, capsys):
    assert finalize.main([str(jobs / "plain"), "ensemble=3", "select=greedy"]) == 0
    printed = capsys.readouterr().out
    metrics = json.loads((jobs / "plain" / "best" / "metrics.json").read_text())
    selection, members = metrics["selection"], metrics.get("ensemble", [metrics["trial"]])
    ranked = list(csv.DictReader((jobs / "plain" / "leaderboard.csv").open()))
    trials = [int(row["trial"]) for row in ranked]
    assert members[0] == trials[0] and selection["scores"][0] == pytest.approx(float(ranked[0]["val_uar"]), abs=1e-6)
    assert selection["scores"] == sorted(set(selection["scores"])) and len(selection["scores"]) == len(members)
    assert (selection["pool"], selection["at_most"], selection["metric"]) == (4, 3, "val_uar")
    assert "by greedy forward selection on validation, val_uar" in printed
    chosen = []
    for member, score in zip(members, selection["scores"], strict=True):
        chosen.append(member)
        assert validation_uar(jobs / "plain", chosen, prepared) == pytest.approx(score, abs=1e-6)
    others = [validation_uar(jobs / "plain", [*chosen[:1], other], prepared) for other in trials[1:]]
    best = max(others)
    assert (selection["scores"][1] if len(members) > 1 else selection["scores"][0]) == pytest.approx(
        max(best, selection["scores"][0]), abs=1e-6
    )
    card = (jobs / "plain" / "best" / "MODEL_CARD.md").read_text()
    assert len(members) == 1 or "They were chosen among the 4 best by greedy forward selection" in card


def test_with_inner_folds_the_score_is_the_mean_over_folds(jobs, capsys):
    assert finalize.main([str(jobs / "folds"), "ensemble=2", "select=greedy"]) == 0
    metrics = json.loads((jobs / "folds" / "best" / "metrics.json").read_text())
    first = next(csv.DictReader((jobs / "folds" / "leaderboard.csv").open()))
    assert metrics["selection"]["scores"][0] == pytest.approx(float(first["val_uar"]), abs=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["select=greedy"], "select: expected ensemble=K with at least 2 trials, got greedy without"),
        (["select=greedy", "ensemble=2", "top=2"], "top: expected none with select=greedy"),
        (["select=gredy", "ensemble=2"], "select: expected one of best, greedy"),
    ],
)
def test_words_that_do_not_go_together_are_refused(jobs, words, message, capsys):
    assert finalize.main([str(jobs / "plain"), *words, "again=true"]) == 2
    assert message in capsys.readouterr().err


def test_folds_choose_greedily_only_among_several(capsys):
    assert folds(["data.corpus=demo", "select=greedy", "--dry-run"]) == 2
    assert "select: expected ensemble=K with at least 2 trials" in capsys.readouterr().err
