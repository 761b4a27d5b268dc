"""Learning rates against Keras: schedules step by step, the plateau epoch by epoch."""

import doctest
import math

import numpy as np
import pytest
import torch

from tests.helpers.keras_reference import keras
from tuning.config.schema import OptimSettings
from tuning.training import optimizers as optim
from tuning.training.schedules import Plateau, make_plateau, make_schedule

schedules = keras.optimizers.schedules
STEPS = 5000
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras's own


def test_doctests():
    assert doctest.testmod(optim).failed == 0


def test_the_plateau_rule_has_the_defaults_of_the_settings():
    rule = Plateau("min")
    fields = {name: OptimSettings.model_fields[f"plateau_{name}"] for name in ("patience", "factor", "min_delta")}
    fields["min_learning_rate"] = OptimSettings.model_fields["min_learning_rate"]
    assert all(field.get_default() == getattr(rule, name) for name, field in fields.items())


# An array of float64 makes Keras compute in float64.
CASES = [
    ({"schedule": "exponential"}, schedules.ExponentialDecay(np.array(0.001), 1000, 0.96, staircase=True)),
    (
        {"schedule": "exponential", "staircase": False},
        schedules.ExponentialDecay(np.array(0.001), 1000, 0.96, staircase=False),
    ),
    (
        {"schedule": "exponential", "learning_rate": 0.01, "decay_rate": 0.9, "staircase": False},
        schedules.ExponentialDecay(np.array(0.01), decay_steps=1000, decay_rate=0.9),
    ),
    (
        {"schedule": "exponential", "decay_steps": 7, "decay_rate": 0.999},
        schedules.ExponentialDecay(np.array(0.001), 7, 0.999, staircase=True),
    ),
    ({"schedule": "cosine"}, schedules.CosineDecay(np.array(0.001), 3917, alpha=0.1)),
    ({"schedule": "cosine", "alpha": 0.0}, schedules.CosineDecay(np.array(0.001), 3917)),
]


@pytest.mark.parametrize(("settings", "reference"), CASES)
def test_schedules_equal_keras_at_every_step(settings, reference):
    settings = OptimSettings(**settings)
    schedule = make_schedule(settings, epochs=3917, steps_per_epoch=1)
    ours = [schedule(step, settings.learning_rate) for step in range(STEPS)]
    theirs = [float(reference(step)) for step in range(STEPS)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("name", ["constant", "plateau"])
def test_these_are_constant_within_an_epoch(name):
    schedule = make_schedule(OptimSettings(schedule=name), epochs=10, steps_per_epoch=1)
    assert {schedule(step, 0.3) for step in range(20)} == {0.3}


def test_cosine_ends_at_alpha_of_the_first_rate():
    schedule = make_schedule(
        OptimSettings(schedule="cosine", learning_rate=0.02, alpha=0.25), epochs=20, steps_per_epoch=5
    )
    assert schedule(0, 0.02) == 0.02
    assert math.isclose(schedule(50, 0.02), 0.02 * (1 + 0.25) / 2)
    assert math.isclose(schedule(100, 0.02), 0.005) and schedule(1000, 0.02) == schedule(100, 0.02)


@pytest.mark.parametrize("rate", [1e-3, 1e-5, 1e-6])
def test_cosine_ends_at_the_final_rate_whatever_it_began_with(rate):
    settings = OptimSettings(schedule="cosine", learning_rate=1e-3, alpha=0.5, final_learning_rate=1e-6)
    schedule = make_schedule(settings, epochs=100, steps_per_epoch=1)
    weight = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=rate)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100, eta_min=1e-6)
    for step in range(101):
        assert schedule(step, rate) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()
    assert schedule(100, rate) == schedule(1000, rate) == 1e-6


class Model:
    def __init__(self, learning_rate):
        self.optimizer = keras.optimizers.SGD(learning_rate)


def keras_rates(values, learning_rate, mode, **options):
    callback = keras.callbacks.ReduceLROnPlateau(monitor="val_metric", mode=mode, **options)
    callback.set_model(Model(learning_rate))
    callback.on_train_begin()
    rates = []
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {"val_metric": value})
        rates.append(float(callback.model.optimizer.learning_rate))
    return rates


def plateau_rates(plateau, values, learning_rate):
    rates = []
    for value in values:
        learning_rate = plateau.after_epoch(value, learning_rate)
        rates.append(learning_rate)
    return rates


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("patience", [1, 2, 5, 7])
@pytest.mark.parametrize("min_delta", [0.0, 2.0**-4, 2.0**-2])
def test_the_plateau_is_that_of_keras(mode, patience, min_delta):
    rng = np.random.default_rng([patience, int(1 / (min_delta or 1)), mode == "max"])
    lowered = 0
    for _ in range(12):
        # Sixteenths, so that ties and gains of exactly min_delta occur and are exact in Keras's float32.
        trend = np.cumsum(rng.normal(0.05 * (1 if mode == "max" else -1), 0.3, 40))
        values = (np.round(16 * (trend + rng.normal(0, 0.3, 40))) / 16).tolist()
        options = {"factor": 0.5, "patience": patience, "min_delta": min_delta, "min_lr": 2.0**-12}
        theirs = keras_rates(values, 2.0**-7, mode, **options)
        settings = OptimSettings(
            schedule="plateau",
            plateau_patience=patience,
            plateau_factor=0.5,
            plateau_min_delta=min_delta,
            min_learning_rate=2.0**-12,
        )
        assert plateau_rates(make_plateau(settings, mode), values, 2.0**-7) == theirs
        lowered += len(set(theirs)) - 1
    assert lowered > 0


def test_the_plateau_with_default_settings_down_to_the_least_rate():
    values = [1.0] * 80
    settings = OptimSettings(schedule="plateau")
    ours = plateau_rates(make_plateau(settings, "min"), values, settings.learning_rate)
    theirs = keras_rates(values, 0.001, "min", factor=0.5, patience=5, min_lr=1e-6)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert ours[:5] == [0.001] * 5 and ours[5] == 0.0005 and ours[-1] == 1e-6


def test_a_rate_below_the_least_is_left_alone():
    assert plateau_rates(Plateau("min", patience=1, min_learning_rate=0.1), [1.0] * 4, 0.01) == [0.01] * 4


def test_a_restored_plateau_goes_on():
    values = [3.0, 2.0, 2.5, 2.0, 2.1, 1.0, 1.5, 1.2, 1.1, 1.3]
    whole = plateau_rates(Plateau("min", patience=2), values, 1.0)
    assert len(set(whole)) > 2
    for cut in range(len(values)):
        first, second = Plateau("min", patience=2), Plateau("min", patience=2)
        rates = plateau_rates(first, values[:cut], 1.0)
        second.load_state_dict(first.state_dict())
        assert rates + plateau_rates(second, values[cut:], rates[-1] if rates else 1.0) == whole


@pytest.mark.parametrize("name", ["constant", "exponential", "cosine"])
def test_other_schedules_have_no_plateau(name):
    assert make_plateau(OptimSettings(schedule=name), "min") is None


@pytest.mark.parametrize("name", ["constant", "cosine", "step"])
def test_warm_up_and_steps_equal_pytorch(name):
    settings = OptimSettings(
        schedule=name, learning_rate=0.02, warmup_epochs=5, alpha=0.1, step_epochs=3, step_factor=0.3
    )
    schedule = make_schedule(settings, epochs=30, steps_per_epoch=7)
    weight = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.02)
    warm = 35
    after = {
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 210 - warm, eta_min=0.002),
        "step": lambda: torch.optim.lr_scheduler.StepLR(optimizer, 3 * 7, gamma=0.3),
    }[name]()
    for done in range(210):
        if done < warm:
            expected = 0.02 * (done + 1) / warm
        else:
            expected = optimizer.param_groups[0]["lr"]
            optimizer.step()
            after.step()
        assert schedule(done, 0.02) == pytest.approx(expected, rel=1e-9)


def test_a_warm_up_leaves_an_epoch_for_the_schedule():
    schedule = make_schedule(OptimSettings(schedule="cosine", warmup_epochs=50), epochs=3, steps_per_epoch=4)
    rates = [schedule(done, 1.0) for done in range(12)]
    assert rates[:8] == [pytest.approx((done + 1) / 8) for done in range(8)]
    assert rates[8] == 1 and rates[11] < 0.3
