import pytest
import torch
from keras_reference import keras

from tuning.losses import LOSSES, huber


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
