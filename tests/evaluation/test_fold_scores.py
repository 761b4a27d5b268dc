"""Scores of all folds together: by hand, by scikit-learn and numpy, and by the intervals of one test."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, r2_score

from tuning.config.errors import UserError
from tuning.config.schema import Config
from tuning.datasets.corpus import Clip
from tuning.datasets.splits.split import NOT_APART, Split
from tuning.evaluation.fold_scores import (
    Fold,
    fold_notes,
    fold_rows,
    markdown,
    predictions_table,
    read_fold,
    score_rows,
    scores,
)  # fmt: skip
from tuning.evaluation.intervals import group_intervals
from tuning.training.tasks import task_of

CLASSES = Config.model_validate({"task": {"name": "classification", "classes": ["happy", "sad", "angry"]}})
NUMBERS = Config.model_validate({"task": {"targets": ["valence", "arousal"]}})


def of_classes(name, labels, found, svm=None, **metrics):
    outputs = np.log(np.full((len(found), 3), 0.1) + 0.7 * np.eye(3)[found])
    groups = [f"{name}{n // 2}" for n in range(len(labels))]
    svm = None if svm is None else np.array(svm, dtype=float)[:, None]
    ids = [f"{name}-{n}" for n in range(len(labels))]
    return Fold(name, ids, groups, np.array(labels, float)[:, None], outputs, metrics, svm)


@pytest.fixture
def classes():
    return [
        of_classes("1", [0, 0, 1, 2], [0, 1, 1, 2], [0, 0, 0, 0], trial=3, constant={"test_uar": 1 / 3}),
        of_classes("2", [0, 1, 2, 2], [0, 1, 2, 2], [0, 1, 2, 0], trial=1, constant={"test_uar": 1 / 3}),
    ]


def by(found, metric, predictor):
    return next(score for score in found if (score.metric, score.predictor) == (metric, predictor))


def test_recalls_are_pooled_and_the_mean_of_folds(classes):
    found = scores(classes, CLASSES)
    uar = by(found, "uar", "search")
    assert uar.by_fold == pytest.approx([(0.5 + 1 + 1) / 3, 1])
    assert (uar.mean, uar.spread) == pytest.approx((0.9167, 0.0833), abs=1e-4)
    true, predicted = [0, 0, 1, 2, 0, 1, 2, 2], [0, 1, 1, 2, 0, 1, 2, 2]
    assert uar.pooled == pytest.approx(balanced_accuracy_score(true, predicted))
    svm = by(found, "uar", "SVM")
    assert svm.by_fold == pytest.approx([1 / 3, 2.5 / 3])
    assert svm.pooled == pytest.approx(balanced_accuracy_score(true, [0, 0, 0, 0, 0, 1, 2, 0]))
    constant = by(found, "uar", "constant")
    assert constant.pooled is None and constant.mean == pytest.approx(1 / 3)
    assert not any(score.metric == "calibration_error" and score.predictor == "SVM" for score in found)


def test_numbers_are_pooled_and_have_an_interval_over_the_groups_of_all_folds():
    rng = np.random.default_rng(0)
    folds = []
    for fold in range(3):
        targets = rng.normal(size=(20, 2))
        groups = [f"g{fold}-{n // 4}" for n in range(20)]
        outputs = targets + rng.normal(size=(20, 2))
        folds.append(Fold(str(fold), [f"{fold}{n}" for n in range(20)], groups, targets, outputs, {}, targets * 0.5))
    found = scores(folds, NUMBERS)
    targets, outputs = (np.concatenate([getattr(fold, name) for fold in folds]) for name in ("targets", "outputs"))
    groups = [group for fold in folds for group in fold.groups]
    for index, target in enumerate(("valence", "arousal")):
        score = by(found, f"r2_{target}", "search")
        assert score.pooled == pytest.approx(r2_score(targets[:, index], outputs[:, index]))
        each = [r2_score(fold.targets[:, index], fold.outputs[:, index]) for fold in folds]
        assert (score.mean, score.spread) == pytest.approx((np.mean(each), np.std(each)))
        assert by(found, f"pearson_{target}", "SVM").pooled == pytest.approx(1)
    intervals, count = group_intervals(targets, outputs, groups, task_of(NUMBERS).metrics, NUMBERS.seed)
    assert count == 15 and by(found, "r2_valence", "search").interval == intervals["r2_valence"]
    assert score_rows(found)[0][3].count(" to ") == 1


def test_a_metric_that_a_fold_does_not_have_has_no_mean(classes):
    folds = [classes[0], of_classes("2", [0, 0], [0, 0], [0, 0])]
    found = by(scores(folds, CLASSES), "uar", "constant")
    assert found.by_fold == [1 / 3, None] and found.mean is None and found.spread is None


def test_a_fold_of_one_member_has_its_test_as_that_of_the_winner_alone(classes):
    """Greedy selection may choose a single trial in some folds."""
    classes[0].metrics.update(test={"test_uar": 0.8}, winner_alone={"test_uar": 0.7})
    classes[1].metrics.update(test={"test_uar": 0.6})
    assert by(scores(classes, CLASSES), "uar", "winner alone").by_fold == [0.7, 0.6]
    del classes[0].metrics["winner_alone"]
    assert all(score.predictor != "winner alone" for score in scores(classes, CLASSES))


def test_every_fold_has_a_row(classes):
    heading, rows = fold_rows(classes, scores(classes, CLASSES), "uar")
    assert heading == ["fold", "clips", "groups", "trial", "uar, search", "uar, SVM", "uar, constant"]
    assert rows == [["1", "4", "2", "3", "0.833", "0.333", "0.333"], ["2", "4", "2", "1", "1.000", "0.833", "0.333"]]
    assert markdown(heading, rows).splitlines()[2] == "| 1 | 4 | 2 | 3 | 0.833 | 0.333 | 0.333 |"


def test_notes_say_what_holds_of_all_folds_and_of_some(classes):
    poor = [of_classes("3", [0, 1], [1, 0], test={"test_uar": 0.0}, constant={"test_uar": 0.5}), *classes]
    few = "validation has one speaker or artist, '{}': figures on it hold for that one alone"
    cautions = [[NOT_APART, few.format("a")], [NOT_APART, few.format("b")], [NOT_APART, "test has one speaker"]]
    folds = [replace(fold, cautions=said) for fold, said in zip(poor, cautions, strict=True)]
    notes = fold_notes(folds, "val_uar", "max")
    assert notes == [
        "no interval: 5 speakers or artists in all folds, at least 10 needed",
        NOT_APART,
        "in 2 of 3 folds validation has one speaker or artist",
        "in 1 of 3 folds the model is no better than the constant predictor: 3",
    ]


def test_that_folds_share_speakers_is_said_once_or_of_how_many_folds(classes):
    def of(test):
        train, tested = (
            [Clip(f"{n}{group}", (0.0,), group) for group in groups] for n, groups in enumerate(("abc", test))
        )
        return Split(train, [Clip("v", (0.0,), "a")], tested, "folds", folds_share_groups="the folds 'x'").cautions()

    def notes(*tests):
        return fold_notes([replace(f, cautions=of(t)) for f, t in zip(classes, tests, strict=True)], "val_uar", "max")

    alike = notes("abc", "abc")
    assert [note for note in alike if "share" in note] == of("abc")[:1]
    unalike = notes("abc", "abd")
    assert [note for note in unalike if "share" in note] == ["in 2 of 2 folds the folds 'x' share speakers"]


def test_predictions_of_all_folds_are_one_table(classes):
    rows = list(csv.DictReader(io.StringIO(predictions_table(classes, CLASSES))))
    assert rows[1] == {"fold": "1", "clip": "1-1", "group": "10", "label": "happy", "predicted": "sad", "svm": "happy"}
    assert len(rows) == 8


def test_a_fold_is_read_from_its_test(tmp_path):
    (tmp_path / "test_predictions.csv").write_text(
        "clip,group,label,predicted,confidence,p_happy,p_sad,p_angry\na.wav,Ann,sad,happy,0.6,0.6,0.4,0.0\nb.wav,,happy,happy,1,1,0,0\n"
    )
    (tmp_path / "metrics.json").write_text(json.dumps({"trial": 2}))
    fold = read_fold("7", tmp_path, CLASSES)
    assert (fold.ids, fold.groups, fold.metrics) == (["a.wav", "b.wav"], ["Ann", None], {"trial": 2})
    assert fold.targets.tolist() == [[1.0], [0.0]] and np.isfinite(fold.outputs).all()
    assert np.exp(fold.outputs[0]) == pytest.approx([0.6, 0.4, 0.0])


@pytest.mark.parametrize("damage", ["test_predictions.csv", "metrics.json", "label"])
def test_a_damaged_test_is_named(tmp_path, damage):
    label = "glad" if damage == "label" else "sad"
    text = f"clip,group,label,p_happy,p_sad,p_angry\na.wav,Ann,{label},0.6,0.4,0.0\n"
    (tmp_path / "test_predictions.csv").write_text(text)
    (tmp_path / "metrics.json").write_text("{}")
    if damage != "label":
        (tmp_path / damage).unlink()
    with pytest.raises(UserError, match=f"{tmp_path}: expected the test that tuning finalize wrote, got: "):
        read_fold("7", tmp_path, CLASSES)
