import pytest
import torch
from keras_reference import keras, reversed_axes

from models import layers
from models.layers import LSTM, BatchNorm, Conv1dSame, MaxPool, dropout_mask


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


def step_by_step(lstm: LSTM, sequence: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The LSTM's equations frame by frame; `mask` [4, 1, u] acts on the state that each gate reads."""
    u = lstm.units
    gates = [slice(g * u, (g + 1) * u) for g in range(4)]
    hidden = cell = sequence.new_zeros(len(sequence), u)
    outputs = []
    for frame in sequence.unbind(1):
        i, f, g, o = (
            frame @ lstm.weight_ih[rows].T + (hidden * mask[k]) @ lstm.weight_hh[rows].T + lstm.bias[rows]
            for k, rows in enumerate(gates)
        )
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        outputs.append(hidden)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_recurrent_dropout_equals_a_loop_with_the_same_mask(dtype, tolerance, rate):
    lstm = LSTM(5, 8, recurrent_dropout=rate).to(dtype).train()
    sequence = torch.randn(3, 11, 5, dtype=dtype, requires_grad=True)
    wanted = torch.randn(3, 11, 8, dtype=dtype)
    inputs = [sequence, *lstm.parameters()]

    torch.manual_seed(7)
    ours = lstm(sequence)
    torch.manual_seed(7)
    mask = dropout_mask(sequence, (4, 1, 8), rate)
    expected = step_by_step(lstm, sequence, mask)
    assert torch.equal(mask.unique(), torch.tensor([1.0] if rate == 0 else [0, 1 / (1 - rate)], dtype=dtype))
    if rate > 0:
        assert len(mask.view(4, 8).unique(dim=0)) == 4, "the gates draw separately"
    torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)

    our_gradients = torch.autograd.grad((ours * wanted).sum(), inputs)
    gradients = torch.autograd.grad((expected * wanted).sum(), inputs)
    for a, b in zip(our_gradients, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=10 * tolerance, atol=10 * tolerance)


def test_recurrent_mask_is_drawn_at_every_pass_and_not_in_evaluation():
    lstm, sequence = LSTM(5, 8, recurrent_dropout=0.5), torch.randn(3, 11, 5)
    first, second = lstm(sequence), lstm(sequence)
    assert torch.equal(first[:, 0], second[:, 0])  # nothing to forget yet
    assert not torch.equal(first[:, 1:], second[:, 1:])
    lstm.eval()
    torch.testing.assert_close(lstm(sequence), step_by_step(lstm, sequence, torch.ones(4, 1, 8)), rtol=0, atol=1e-6)


def test_input_dropout_has_one_mask_per_sample_for_all_frames():
    rate, lstm = 0.25, LSTM(1, 4, dropout=0.25)
    with torch.no_grad():  # no memory: each frame's output shows that frame's input
        lstm.weight_hh.zero_()
        lstm.bias[4:8] = -1e4
    frames = torch.ones(4000, 6, 1)
    out = lstm(frames)
    assert torch.equal(out, out[:, :1].expand_as(out))
    dropped = (out[:, 0] == 0).all(1)
    assert dropped.float().mean() == pytest.approx(rate, abs=0.02)
    lstm.eval()
    torch.testing.assert_close(out[~dropped], lstm(frames[~dropped] / (1 - rate)))
    assert torch.equal(lstm(frames), lstm(frames))


def test_masks_keep_the_expectation():
    for rate in (0.2, 0.5):
        mask = dropout_mask(torch.zeros(1), (100_000,), rate)
        assert mask.mean().item() == pytest.approx(1, abs=0.02)
        assert (mask == 0).float().mean().item() == pytest.approx(rate, abs=0.01)


def test_lstm_equals_keras_without_dropout():
    theirs, ours = keras.layers.LSTM(6, return_sequences=True), LSTM(5, 6)
    sequence = torch.randn(3, 40, 5)
    theirs.build(sequence.shape)
    theirs.cell.bias.assign(torch.randn(24))
    with torch.no_grad():
        for parameter, weight in zip(ours.parameters(), theirs.weights, strict=True):
            parameter.copy_(reversed_axes(weight.value))
    torch.testing.assert_close(ours(sequence), theirs(sequence), rtol=1e-5, atol=1e-6)
    assert list(ours.state_dict()) == ["weight_ih", "weight_hh", "bias"]


def test_lstm_starts_orthogonal_with_an_open_forget_gate():
    lstm = LSTM(5, 16)
    torch.testing.assert_close(lstm.weight_hh.T @ lstm.weight_hh, torch.eye(16), rtol=0, atol=1e-5)
    assert torch.equal(lstm.bias, torch.tensor([0.0] * 16 + [1.0] * 16 + [0.0] * 32))
    assert not lstm.no_bias.any()


def test_one_chunk_keeps_values_and_gradients():
    lstm = LSTM(3, 2)
    weights = [lstm.weight_ih, lstm.weight_hh, lstm.bias, lstm.no_bias]
    parts = layers._one_chunk(weights)
    address = parts[0].data_ptr()
    for part, weight in zip(parts, weights, strict=True):
        assert torch.equal(part, weight)
        assert part.is_contiguous()
        assert part.data_ptr() == address  # cuDNN's order, without gaps
        address += part.numel() * part.element_size()
    sum((part * part).sum() for part in parts).backward()
    torch.testing.assert_close(lstm.weight_hh.grad, 2 * lstm.weight_hh.detach())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.filterwarnings("error:RNN module weights")
def test_lstm_on_a_gpu_equals_the_cpu_and_does_not_warn(mixed):
    lstm, sequence = LSTM(5, 8, recurrent_dropout=0.5).eval(), torch.randn(3, 11, 5)
    expected = lstm(sequence)
    with torch.autocast("cuda", enabled=mixed):
        ours = lstm.cuda()(sequence.cuda())
    torch.testing.assert_close(ours.float().cpu(), expected, rtol=0, atol=1e-2)
    ours.float().sum().backward()
    assert lstm.weight_hh.grad.isfinite().all()


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


def test_pooling_drops_the_frames_left_over():
    sequence = torch.randn(2, 7, 3)
    expected = torch.stack([sequence[:, 0:3].amax(1), sequence[:, 3:6].amax(1)], 1)
    assert torch.equal(MaxPool(3)(sequence), expected)
