import itertools

import pytest
import torch

from tests.helpers.keras_reference import keras
from tuning.training.losses import LOSSES, emotion_aware, huber, mse, weighted_mse


@pytest.mark.parametrize(
    ("name", "options", "reference"),
    [
        ("mse", {}, lambda: keras.losses.MeanSquaredError(reduction=None)),
        ("huber", {}, lambda: keras.losses.Huber(reduction=None)),
        ("huber", {"delta": 0.3}, lambda: keras.losses.Huber(delta=0.3, reduction=None)),
    ],
)
def test_losses_equal_keras(name, options, reference):
    torch.manual_seed(0)
    outputs, targets = torch.randn(50, 3) * 2, torch.randn(50, 3)
    ours = LOSSES[name](outputs, targets, **options)
    assert ours.shape == (50,)
    torch.testing.assert_close(ours, reference()(targets, outputs), rtol=1e-6, atol=1e-6)


def test_huber_is_smooth_where_its_parts_meet():
    outputs = torch.tensor([[0.5 - 1e-4], [0.5], [0.5 + 1e-4]], requires_grad=True)
    values = huber(outputs, torch.zeros(3, 1), delta=0.5)
    torch.testing.assert_close(values[1].item(), 0.125)
    (slope,) = torch.autograd.grad(values.sum(), outputs)
    torch.testing.assert_close(slope, torch.full((3, 1), 0.5), rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", list(LOSSES))
def test_shapes_that_would_broadcast_are_refused(name):
    with pytest.raises(AssertionError):
        LOSSES[name](torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(AssertionError):
        LOSSES[name](torch.zeros(4), torch.zeros(4))


def two(seed=0):
    """Outputs and targets of two dimensions that miss every axis."""
    rng = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(200, 2, generator=rng, dtype=torch.float64) for _ in range(2))


def documented_weighted_mse(true, pred, valence_weight=1.0, arousal_weight=1.2):
    """The guide's formula over a batch, in Keras's operations: a sum over two outputs."""
    square, mean = keras.ops.square, keras.ops.mean
    valence = mean(square(true[:, 0] - pred[:, 0])) * valence_weight
    arousal = mean(square(true[:, 1] - pred[:, 1])) * arousal_weight
    return valence + arousal


def documented_emotion_aware(true, pred, weight=0.1):
    sign, square = keras.ops.sign, keras.ops.square
    squares = keras.ops.mean(square(true[:, 0] - pred[:, 0]) + square(true[:, 1] - pred[:, 1]))
    crossed = square(sign(true[:, 0]) - sign(pred[:, 0])) + square(sign(true[:, 1]) - sign(pred[:, 1]))
    return squares + weight * keras.ops.mean(crossed)


def test_weighted_mse_is_half_the_documented_sum():
    outputs, targets = two()
    assert weighted_mse(outputs, targets).shape == (200,)
    torch.testing.assert_close(2 * weighted_mse(outputs, targets).mean(), documented_weighted_mse(targets, outputs))
    torch.testing.assert_close(
        2 * weighted_mse(outputs, targets, weights=[0.3, 2.0]).mean(),
        documented_weighted_mse(targets, outputs, 0.3, 2.0),
    )
    torch.testing.assert_close(weighted_mse(outputs, targets, weights=[1.0, 1.0]), mse(outputs, targets))


def test_weights_belong_to_targets_in_order():
    error = torch.tensor([[2.0, 3.0, 5.0]])
    values = weighted_mse(error, torch.zeros(1, 3), weights=[1.0, 10.0, 100.0])
    torch.testing.assert_close(values, torch.tensor([(4 + 90 + 2500) / 3]))
    with pytest.raises(AssertionError):
        weighted_mse(error, torch.zeros(1, 3))


def test_the_sign_form_is_half_the_documented_loss():
    outputs, targets = two()
    ours = emotion_aware(outputs, targets, quadrant="sign")
    assert ours.shape == (200,)
    torch.testing.assert_close(2 * ours.mean(), documented_emotion_aware(targets, outputs))
    ours = emotion_aware(outputs, targets, quadrant_penalty=0.7, quadrant="sign")
    torch.testing.assert_close(2 * ours.mean(), documented_emotion_aware(targets, outputs, 0.7))


def test_the_smooth_form_is_its_formula_and_nears_the_sign_form():
    outputs, targets = two()
    wrong = (torch.tanh(3 * outputs) - torch.tanh(3 * targets)).square().sum(dim=1) / 2
    expected = (outputs - targets).square().sum(dim=1) / 2 + 0.4 * wrong
    torch.testing.assert_close(
        emotion_aware(outputs, targets, quadrant_penalty=0.4, quadrant="smooth", quadrant_sharpness=3.0), expected
    )
    sharp = emotion_aware(outputs, targets, quadrant_sharpness=1e6)
    torch.testing.assert_close(sharp, emotion_aware(outputs, targets, quadrant="sign"))
    assert torch.equal(emotion_aware(outputs, targets, quadrant_penalty=0.0), mse(outputs, targets))


def test_only_the_smooth_penalty_trains():
    targets = torch.tensor([[0.3, -0.2], [-0.4, 0.5]])
    outputs = (-0.5 * targets).requires_grad_()

    def gradient(loss):
        return torch.autograd.grad(loss.sum(), outputs)[0]

    plain = gradient(mse(outputs, targets))
    assert torch.equal(gradient(emotion_aware(outputs, targets, quadrant="sign")), plain)
    more = gradient(emotion_aware(outputs, targets)) - plain
    assert (more * plain > 0).all()  # the same direction: over the axis, to the target
    assert more.abs().min() > 0.1 * plain.abs().min()
    torch.testing.assert_close(emotion_aware(targets, targets), torch.zeros(2))
    where_right = targets.clone().requires_grad_()
    (slope,) = torch.autograd.grad(emotion_aware(where_right, targets).sum(), where_right)
    assert torch.equal(slope, torch.zeros(2, 2))


def test_a_value_on_an_axis_is_on_its_positive_side():
    for target, output in itertools.product([-1e-9, 0.0, 1e-9], repeat=2):
        value = emotion_aware(
            torch.tensor([[output]]), torch.tensor([[target]]), quadrant_penalty=1.0, quadrant="sign"
        ).item()
        assert value == pytest.approx(4.0 if (target < 0) != (output < 0) else 0.0)


@pytest.mark.parametrize("name", list(LOSSES))
def test_losses_keep_the_type_and_have_finite_gradients(name):
    outputs, targets = (values.float() for values in two())
    outputs[0], outputs[1] = targets[0], 0.0
    outputs.requires_grad_()
    values = LOSSES[name](outputs, targets)
    assert values.dtype == torch.float32 and values.shape == (200,) and (values >= 0).all()
    (slope,) = torch.autograd.grad(values.sum(), outputs)
    assert slope.isfinite().all()
