"""Classification against scikit-learn, audmetric and PyTorch, on random and degenerate data."""

import audmetric
import numpy as np
import pytest
import sklearn.metrics
import sklearn.utils.class_weight
import torch
import torch.nn.functional as F

from tuning.config.errors import UserError
from tuning.config.schema import Config, LossSettings, TaskSettings
from tuning.data.plan import make_plan
from tuning.training.class_metrics import calibration_error, classification_metrics, confusion, softmax
from tuning.training.losses import cross_entropy
from tuning.training.ranking import ranking_metrics
from tuning.training.tasks import Classification, task_of

CLASSES = ["angry", "happy", "neutral", "sad"]
RNG = np.random.default_rng(0)
RANDOM = RNG.integers(0, 4, 200), RNG.normal(size=(200, 4))
CASES = {
    "random": RANDOM,
    "a class without clips": (RANDOM[0] % 3, RANDOM[1]),
    "a class never predicted": (RANDOM[0], RANDOM[1] - np.array([0, 0, 0, 50])),
    "one class alone": (np.full(50, 2), RANDOM[1][:50]),
    "one clip": (np.array([1]), RANDOM[1][:1]),
    "all right": (RANDOM[1].argmax(axis=1), RANDOM[1]),
    "all wrong": ((RANDOM[1].argmax(axis=1) + 1) % 4, RANDOM[1]),
    "one constant class": (RANDOM[0], np.tile([0.0, 1, 0, 0], (200, 1))),
}


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("name", CASES)
def test_metrics_equal_scikit_learn_and_audmetric(name):
    truth, logits = CASES[name]
    predicted, present = logits.argmax(axis=1), sorted(set(truth.tolist()))
    found = classification_metrics(truth, logits, CLASSES)
    assert found["uar"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(truth, predicted))
    # audmetric counts only the labels that it is told of: here those that occur.
    inside = np.isin(predicted, present)
    if inside.all():
        assert found["uar"] == pytest.approx(audmetric.unweighted_average_recall(truth, predicted))
        assert found["f1"] == pytest.approx(audmetric.unweighted_average_fscore(truth, predicted))
    assert found["accuracy"] == pytest.approx(audmetric.accuracy(truth, predicted))
    f1 = sklearn.metrics.f1_score(truth, predicted, labels=present, average=None, zero_division=0)
    assert found["f1"] == pytest.approx(f1.mean())
    assert {f"f1_{CLASSES[k]}" for k in present} == {key for key in found if key.startswith("f1_")}
    for k, value in zip(present, f1, strict=True):
        assert found[f"f1_{CLASSES[k]}"] == pytest.approx(value)
    table = confusion(truth, predicted, 4)
    np.testing.assert_array_equal(table, sklearn.metrics.confusion_matrix(truth, predicted, labels=range(4)))
    assert set(found) <= {
        key.removeprefix("val_") for key in ranking_metrics(TaskSettings(name="classification", classes=CLASSES))
    }


@pytest.mark.parametrize("name", CASES)
def test_calibration_error_by_its_literal_formula(name):
    truth, logits = CASES[name]
    probabilities = torch.tensor(logits).softmax(dim=1).numpy()
    np.testing.assert_allclose(softmax(logits), probabilities, atol=1e-12)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error(truth, probabilities) == pytest.approx(expected)


def test_what_is_not_finite_or_not_there_is_no_metric():
    logits = RANDOM[1].copy()
    logits[3, 1] = np.nan
    with pytest.raises(ValueError, match="predictions: expected finite values, got 1 that are not"):
        classification_metrics(RANDOM[0], logits, CLASSES)
    with pytest.raises(ValueError, match="expected at least one sample"):
        classification_metrics(np.empty(0), np.empty((0, 4)), CLASSES)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_has_pytorch_s_convention_for_soft_targets(smoothing, weighted):
    logits, truth = torch.tensor(RANDOM[1]), torch.tensor(RANDOM[0])
    weights = torch.tensor([0.5, 1.0, 2.0, 0.7], dtype=torch.float64) if weighted else None
    hard = F.one_hot(truth, 4).double()
    options = {"label_smoothing": smoothing, "class_weights": weights}
    found = cross_entropy(logits, truth[:, None].float(), **options).mean()
    expected = F.cross_entropy(logits, hard, weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)
    # A clip mixed of two: the mixed loss of both is the loss of the mixed label.
    partner = truth.roll(1)
    mixed = 0.3 * found + 0.7 * cross_entropy(logits, partner[:, None].float(), **options).mean()
    soft = 0.3 * hard + 0.7 * F.one_hot(partner, 4).double()
    torch.testing.assert_close(mixed, F.cross_entropy(logits, soft, weight=weights, label_smoothing=smoothing))


def test_inverse_weights_make_classes_count_alike():
    truth = np.repeat([0, 1, 3], [60, 30, 10])[:, None].astype(np.float32)
    task = Classification(CLASSES, LossSettings(name="cross_entropy", class_weights="inverse", label_smoothing=0.1))
    weights = task.class_weights(truth)
    known = weights[[0, 1, 3]]
    np.testing.assert_allclose(
        known,
        sklearn.utils.class_weight.compute_class_weight(
            "balanced", classes=np.array([0, 1, 3]), y=truth[:, 0].astype(int)
        ),
    )
    assert weights[2] == 0
    assert weights[truth[:, 0].astype(int)].mean() == pytest.approx(1)
    outputs, targets = torch.randn(100, 4), torch.from_numpy(truth)
    trained = task.training_loss(truth)(outputs, targets)
    options = {"label_smoothing": 0.1, "class_weights": torch.from_numpy(weights).float()}
    torch.testing.assert_close(trained, cross_entropy(outputs, targets, **options))
    # Validation knows neither weights nor smoothing.
    torch.testing.assert_close(
        task.loss_per_clip()(outputs, targets), F.cross_entropy(outputs, targets[:, 0].long(), reduction="none")
    )


def test_the_constant_predictor_is_the_majority():
    train, val = (np.array(labels, dtype=np.float32)[:, None] for labels in ([0] * 6 + [1] * 3 + [2], [0, 1, 1, 2, 3]))
    found = Classification(CLASSES, LossSettings(name="cross_entropy")).constant_baseline(train, val)
    assert found["val_uar"] == 0.25
    assert found["val_accuracy"] == 0.2
    frequencies = np.array([0.6, 0.3, 0.1, 0.05]) / 1.05
    assert found["val_loss"] == pytest.approx(-np.log(frequencies[val[:, 0].astype(int)]).mean())


def test_an_ensemble_has_the_mean_probability():
    members = [RANDOM[1][:20], RANDOM[1][20:40] * 5]
    found = Classification(CLASSES, LossSettings(name="cross_entropy")).mean_outputs(members)
    expected = sum(torch.tensor(logits).softmax(dim=1).numpy() for logits in members) / 2
    np.testing.assert_allclose(softmax(found), expected, atol=1e-12)


def test_the_loss_is_that_of_the_task():
    config = Config.model_validate({"task": {"name": "classification", "classes": CLASSES}})
    assert config.loss.name == "cross_entropy"
    assert task_of(config).num_outputs == 4
    assert Config.model_validate(config.model_dump()) == config
    for arguments, kind, got in (
        (["task.name=classification", "loss.name=mse"], "classification", "mse"),
        (["loss.name=cross_entropy"], "regression", "cross_entropy"),
    ):
        with pytest.raises(UserError, match=f"^loss.name: expected one for {kind}, got {got}"):
            make_plan([*arguments, "search.num_trials=1"])
    plan = make_plan(["task.name=classification", "search.metric=val_uar", "search.num_trials=1"])
    assert plan.mode == "max"
    with pytest.raises(UserError, match=r"search\.metric: expected a validation metric, got val_uarr"):
        make_plan(["task.name=classification", "search.metric=val_uarr", "search.num_trials=1"])
