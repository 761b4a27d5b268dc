"""What the loss settings mean, and what is refused before work starts."""

import re
from typing import get_args

import numpy as np
import pytest
import torch

from tuning.config.errors import UserError
from tuning.config.schema import Config, LossSettings, TaskSettings, nested
from tuning.data.plan import make_plan
from tuning.training.losses import emotion_aware, huber, mse, weighted_mse
from tuning.training.ranking import ranking_metrics
from tuning.training.tasks import Regression, task_of

SEARCHED = {
    "loss.name": "{choice: [mse, huber]}",
    "loss.delta": "{uniform: [0.5, 2]}",
    "loss.weights": "{choice: [[1, 1], [1, 1.2]]}",
    "loss.quadrant_penalty": "{uniform: [0, 0.5]}",
    "loss.quadrant": "{choice: [smooth, sign]}",
    "loss.quadrant_sharpness": "{loguniform: [1, 20]}",
}
IN_TRAINING = {"loss.label_smoothing": "{uniform: [0, 0.2]}", "loss.class_weights": "{choice: [none, inverse]}"}


# The loss that each of these settings is one of.
OF_LOSS = {
    "loss.delta": ["loss.name=huber"],
    "loss.weights": ["loss.name=weighted_mse"],
    **{path: ["loss.name=emotion_aware"] for path in SEARCHED if path.startswith("loss.quadrant")},
}


def plan(*arguments):
    return make_plan([*arguments, "search.num_trials=1"])


def test_every_setting_of_the_loss_is_tried_below():
    assert set(SEARCHED) | set(IN_TRAINING) == {f"loss.{name}" for name in LossSettings.model_fields}


@pytest.mark.parametrize("path", list(IN_TRAINING))
def test_what_acts_in_training_alone_leaves_the_validation_loss_comparable(path):
    classes = ["task.name=classification", "data.label_column=emotion"]
    assert plan(*classes, f"{path}={IN_TRAINING[path]}", "search.metric=val_loss").mode == "min"


@pytest.mark.parametrize("path", list(SEARCHED))
def test_a_loss_that_varies_ranks_by_another_metric(path):
    wanted = f"comparable across trials, got val_loss, which contains {path} (searched); use val_rmse or val_ccc"
    with pytest.raises(UserError, match=re.escape(wanted)):
        plan(f"{path}={SEARCHED[path]}", *OF_LOSS.get(path, []))
    for metric, mode in (("val_rmse", "min"), ("val_ccc", "max"), ("val_quadrant_accuracy", "max")):
        assert plan(f"{path}={SEARCHED[path]}", *OF_LOSS.get(path, []), f"search.metric={metric}").mode == mode


def test_a_loss_that_follows_a_searched_setting_varies_too():
    follows = ["loss.name=huber", "loss.delta=${optim.epsilon}", "optim.epsilon={uniform: [0.5, 2]}"]
    with pytest.raises(UserError, match=r"which contains loss.delta \(searched\)"):
        plan(*follows)
    assert plan(*follows, "search.metric=val_rmse").mode == "min"


def test_all_varied_settings_are_named():
    with pytest.raises(UserError, match=r"which contains loss.name, loss.weights \(searched\)"):
        plan(f"loss.weights={SEARCHED['loss.weights']}", "loss.name={choice: [mse, weighted_mse]}")


ONE_PER_TARGET = "loss.weights: expected one weight per target ({}), got {}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["loss.name=weighted_mse", "loss.weights=[1, 2, 3]"], (2, 3)),
        (["loss.name=weighted_mse", "task.targets=[valence]"], (1, 2)),
        (["loss.name={choice: [mse, weighted_mse]}", "loss.weights=[1]", "search.metric=val_rmse"], (2, 1)),
        (
            ["loss.name=weighted_mse", "loss.weights={choice: [[1, 1], [1, 2, 3]]}", "search.metric=val_rmse"],
            (2, 3),
        ),
        (
            [
                "loss.name={choice: [mse, weighted_mse]}",
                "loss.weights={choice: [[1], [1, 2]], when: {loss.name: weighted_mse}}",
                "search.metric=val_rmse",
            ],
            (2, 1),
        ),
    ],
)
def test_weights_that_do_not_fit_the_targets_are_refused(arguments, expected):
    with pytest.raises(UserError) as caught:
        plan(*arguments)
    assert str(caught.value) == ONE_PER_TARGET.format(*expected)


def test_weights_of_other_losses_do_not_matter():
    plan("task.targets=[valence]")
    plan("task.targets=[a, b, c]", "loss.name=weighted_mse", "loss.weights=[1, 2, 3]")
    with pytest.raises(UserError, match=re.escape(ONE_PER_TARGET.format(3, 2))):
        Regression(["a", "b", "c"], LossSettings(name="weighted_mse"))


@pytest.mark.parametrize("weights", ["[0, 1]", "[1, -2]", "[]", "[a, b]", "[.nan, 1]"])
def test_weights_are_numbers_above_zero(weights):
    with pytest.raises(UserError, match=r"loss\.weights: expected "):
        plan(f"loss.weights={weights}")


LOSSES_WITH_SETTINGS = [
    ({}, mse),
    ({"name": "weighted_mse", "weights": [0.5, 3.0]}, lambda o, t: weighted_mse(o, t, weights=[0.5, 3.0])),
    ({"name": "huber", "delta": 0.2}, lambda o, t: huber(o, t, delta=0.2)),
    (
        {"name": "emotion_aware"},
        lambda o, t: emotion_aware(o, t, quadrant_penalty=0.1, quadrant="smooth", quadrant_sharpness=5.0),
    ),
    (
        {"name": "emotion_aware", "quadrant_penalty": 0.4, "quadrant_sharpness": 2.0},
        lambda o, t: emotion_aware(o, t, quadrant_penalty=0.4, quadrant="smooth", quadrant_sharpness=2.0),
    ),
    ({"name": "emotion_aware", "quadrant": "sign"}, lambda o, t: emotion_aware(o, t, quadrant="sign")),
]


@pytest.mark.parametrize(("settings", "expected"), LOSSES_WITH_SETTINGS)
def test_settings_reach_the_loss(settings, expected):
    torch.manual_seed(0)
    outputs, targets = torch.randn(20, 2), torch.randn(20, 2)
    task = task_of(Config.model_validate({"loss": settings}))
    assert torch.equal(task.loss_per_clip()(outputs, targets), expected(outputs, targets))
    labels = targets.double().numpy()
    baseline = task.constant_baseline(labels, labels)
    constant = targets.double().mean(dim=0).expand(20, 2)
    assert baseline["val_loss"] == pytest.approx(expected(constant, targets.double()).mean().item())


def test_all_losses_are_tried_above():
    known = set(get_args(LossSettings.model_fields["name"].annotation)) - {"cross_entropy"}
    assert {s.get("name", "mse") for s, _ in LOSSES_WITH_SETTINGS} == known


def test_quadrants_need_centred_labels():
    labels = np.array([[1.5, 0.2], [8.25, -0.3]])
    centred = labels - [5, 0]
    aware = Regression(["valence", "arousal"], LossSettings(name="emotion_aware"))
    wanted = "loss.name: expected labels on both sides of 0 for emotion_aware, got valence from 1.5 to 8.25"
    with pytest.raises(UserError, match=re.escape(wanted)):
        aware.constant_baseline(labels, centred)
    assert "val_quadrant_accuracy" in aware.constant_baseline(centred, centred)
    found = Regression(["valence", "arousal"], LossSettings()).constant_baseline(labels, labels)
    assert "val_quadrant_accuracy" not in found and "val_accuracy" in found


def test_the_threshold_of_accuracy_is_a_setting():
    task = task_of(Config.model_validate(nested({"task.accuracy_threshold": 0.1})))
    labels = np.array([[0.0, 0.0], [1.0, 1.0]])
    assert task.metrics(labels, labels + 0.05)["accuracy"] == 1
    assert task.metrics(labels, labels + 0.15)["accuracy"] == 0
    assert TaskSettings().accuracy_threshold == 0.5
    assert Regression(["a", "b"], LossSettings()).metrics(labels, labels + 0.45)["accuracy"] == 1


def test_ranking_metrics_and_their_directions():
    modes = ranking_metrics(TaskSettings())
    assert {name for name, mode in modes.items() if mode == "min"} == {
        "val_loss", "val_quadrant_penalty",
        *(f"val_{error}{suffix}" for error in ("rmse", "mae") for suffix in ("", "_valence", "_arousal")),
    }  # fmt: skip
    assert modes["val_accuracy"] == modes["val_quadrant_accuracy"] == modes["val_ccc_arousal"] == "max"
    assert plan("search.metric=val_accuracy").mode == "max"
    assert plan("search.metric=val_quadrant_penalty").mode == "min"
    with pytest.raises(UserError, match="got val_quadrant_accuracy"):
        plan("search.metric=val_quadrant_accuracy", "task.targets=[valence]")


def test_a_task_gives_exactly_the_metrics_that_may_rank():
    rng = np.random.default_rng(0)
    for names in (["valence"], ["valence", "arousal"], ["a", "b", "c"]):
        labels = rng.normal(size=(30, len(names)))
        found = Regression(names, LossSettings()).constant_baseline(
            labels, labels + 0.1 * rng.normal(size=labels.shape)
        )
        undefined = {name for name in ranking_metrics(TaskSettings(targets=names)) if name.startswith("val_pearson")}
        assert set(found) == set(ranking_metrics(TaskSettings(targets=names))) - undefined
