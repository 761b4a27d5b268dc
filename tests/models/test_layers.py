import math

import pytest
import torch

from tests.helpers.keras_reference import keras
from tuning.models.layers import BatchNorm, Conv1dSame, Dropout, activation, dropout_mask, valid_frames, zero_padding


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


def test_masks_keep_the_expectation():
    for rate in (0.2, 0.5):
        mask = dropout_mask(torch.zeros(1), (100_000,), rate)
        assert mask.mean().item() == pytest.approx(1, abs=0.02)
        assert (mask == 0).float().mean().item() == pytest.approx(rate, abs=0.01)


def test_batch_norm_follows_the_biased_variance():
    norm, values = BatchNorm(3, momentum=0.9), torch.randn(2, 2, 3) * 5 + 1
    flat = values.reshape(4, 3)
    out = norm(values)
    torch.testing.assert_close(norm.running_mean, 0.1 * flat.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * flat.var(0, correction=0))
    expected = (flat - flat.mean(0)) / (flat.var(0, correction=0) + 1e-3).sqrt()
    torch.testing.assert_close(out.reshape(4, 3), expected)
    norm.eval()
    before = norm.running_var.clone()
    norm(values)
    assert torch.equal(norm.running_var, before)


@pytest.mark.parametrize("taps", [1, 2, 3, 4, 9])
def test_convolution_equals_a_sum_over_taps(taps):
    conv, sequence = Conv1dSame(3, 4, taps), torch.randn(2, 7, 3)
    padded = torch.nn.functional.pad(sequence, (0, 0, (taps - 1) // 2, taps // 2))
    expected = sum(padded[:, k : k + 7] @ conv.weight[:, :, k].T for k in range(taps))
    torch.testing.assert_close(conv(sequence), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["relu", "swish", "gelu", "leaky_relu", "elu"])
def test_activations_equal_keras_and_their_formulas(name):
    values = torch.linspace(-4, 4, 101, dtype=torch.float64)
    theirs = keras.layers.LeakyReLU(negative_slope=0.01) if name == "leaky_relu" else keras.activations.get(name)
    torch.testing.assert_close(activation(name)(values), theirs(values).double(), rtol=1e-6, atol=1e-7)
    formula = {
        "relu": lambda x: max(x, 0),
        "swish": lambda x: x / (1 + math.exp(-x)),
        "gelu": lambda x: x * (1 + math.erf(x / 2**0.5)) / 2,
        "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
        "elu": lambda x: x if x > 0 else math.expm1(x),
    }[name]
    expected = torch.tensor([formula(x) for x in values.tolist()], dtype=torch.float64)
    torch.testing.assert_close(activation(name)(values), expected, rtol=1e-12, atol=1e-12)


def test_leaky_relu_takes_its_slope():
    assert activation("leaky_relu", 0.2)(torch.tensor([-1.0])).item() == pytest.approx(-0.2)


@pytest.mark.parametrize("kind", ["element", "channel", "time_step"])
def test_dropout_drops_together_what_keras_does(kind):
    rate, ones = 0.3, torch.ones(60, 20, 30)
    theirs = {
        "element": keras.layers.Dropout(rate),
        "channel": keras.layers.SpatialDropout1D(rate),
        "time_step": keras.layers.Dropout(rate, noise_shape=(None, 20, 1)),
    }[kind]
    ours = Dropout(rate, kind).train()
    shared = {"element": [], "channel": [1], "time_step": [2]}[kind]
    for out in (ours(ones), theirs(ones, training=True)):
        assert sorted(out.unique().tolist()) == pytest.approx([0, 1 / (1 - rate)])
        dropped = out == 0
        for axis in (0, 1, 2):
            alike = (dropped == dropped.narrow(axis, 0, 1)).all()
            assert alike == (axis in shared), axis
        draws = dropped.numel() / math.prod(ones.shape[axis] for axis in shared)
        spread = 5 * (rate * (1 - rate) / draws) ** 0.5
        assert dropped.double().mean().item() == pytest.approx(rate, abs=spread)
        assert out.double().mean().item() == pytest.approx(1, abs=spread / (1 - rate))
    assert torch.equal(ours.eval()(ones), ones)
    assert torch.equal(Dropout(0.0, kind).train()(ones), ones)


def test_padding_is_zeroed_whatever_stands_there():
    lengths = torch.tensor([2, 0, 3])
    assert valid_frames(lengths, 3).squeeze(2).tolist() == [[True, True, False], [False] * 3, [True] * 3]
    sequence = torch.ones(3, 3, 2)
    sequence[0, 2], sequence[1] = torch.nan, torch.inf
    assert torch.equal(zero_padding(sequence, lengths), valid_frames(lengths, 3).float().expand(3, 3, 2))
    assert zero_padding(sequence, None) is sequence


def test_batch_norm_counts_no_padding():
    values, lengths = torch.randn(3, 5, 4) * 3 + 1, torch.tensor([5, 2, 3])
    values[1, 2:] = values[2, 3:] = torch.nan
    real = torch.cat([values[clip, :length] for clip, length in enumerate(lengths)])
    masked, plain = BatchNorm(4, momentum=0.9), BatchNorm(4, momentum=0.9)
    torch.nn.init.uniform_(masked.weight)
    plain.load_state_dict(masked.state_dict())
    leaf, flat = values.clone().requires_grad_(), real.clone()[None].requires_grad_()
    out = masked(leaf, lengths)
    ours = torch.cat([out[clip, :length] for clip, length in enumerate(lengths)])
    expected = plain(flat)[0]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    for name, buffer in masked.named_buffers():
        torch.testing.assert_close(buffer, dict(plain.named_buffers())[name], rtol=1e-5, atol=1e-6)
    wanted = torch.randn_like(real)
    (gradient,) = torch.autograd.grad((ours * wanted).sum(), leaf)
    (plain_gradient,) = torch.autograd.grad((expected * wanted).sum(), flat)
    ours = torch.cat([gradient[clip, :length] for clip, length in enumerate(lengths)])
    torch.testing.assert_close(ours, plain_gradient[0], rtol=1e-4, atol=1e-5)
    assert not gradient[1, 2:].any()
