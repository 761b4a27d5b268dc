import pytest
import torch

import tuning.models.lstm
from tests.helpers.keras_reference import keras, reversed_axes
from tuning.models.layers import dropout_mask
from tuning.models.lstm import LSTM, Bidirectional, last_state, reversed_frames

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid}


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


def step_by_step(lstm: LSTM, sequence: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The LSTM's equations frame by frame; `mask` [4, 1, u] acts on the state that each gate reads."""
    u = lstm.units
    gates = [slice(g * u, (g + 1) * u) for g in range(4)]
    hidden = cell = sequence.new_zeros(len(sequence), u)
    outputs = []
    act = ACTIVATIONS[lstm.activation]
    for frame in sequence.unbind(1):
        i, f, g, o = (
            frame @ lstm.weight_ih[rows].T + (hidden * mask[k]) @ lstm.weight_hh[rows].T + lstm.bias[rows]
            for k, rows in enumerate(gates)
        )
        cell = f.sigmoid() * cell + i.sigmoid() * act(g)
        hidden = o.sigmoid() * act(cell)
        outputs.append(hidden)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_recurrent_dropout_equals_a_loop_with_the_same_mask(dtype, tolerance, rate, act):
    lstm = LSTM(5, 8, recurrent_dropout=rate, activation=act).to(dtype).train()
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


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm_equals_keras_without_dropout(act, bidirectional):
    theirs = keras.layers.LSTM(6, return_sequences=True, activation=act)
    ours = Bidirectional(5, 6, activation=act) if bidirectional else LSTM(5, 6, activation=act)
    if bidirectional:
        theirs = keras.layers.Bidirectional(theirs)
    sequence = torch.randn(3, 40, 5)
    theirs.build(sequence.shape)
    for weight in theirs.weights:
        weight.assign(weight.value + 0.1 * torch.randn(weight.shape))
    with torch.no_grad():
        for parameter, weight in zip(ours.parameters(), theirs.weights, strict=True):
            parameter.copy_(reversed_axes(weight.value))
    states = ours(sequence)
    torch.testing.assert_close(states, theirs(sequence), rtol=1e-5, atol=2e-6)
    (theirs.forward_layer if bidirectional else theirs).return_sequences = False
    if bidirectional:
        theirs.backward_layer.return_sequences = theirs.return_sequences = False
    torch.testing.assert_close(last_state(states, None, bidirectional), theirs(sequence), rtol=1e-5, atol=2e-6)
    if not bidirectional:
        assert list(ours.state_dict()) == ["weight_ih", "weight_hh", "bias"]


@pytest.mark.parametrize("act", ["relu", "sigmoid"])
def test_the_loop_with_tanh_is_the_fused_kernel(act):
    lstm, sequence = LSTM(5, 8), torch.randn(3, 11, 5)
    torch.testing.assert_close(lstm._loop(sequence, lstm.weight_hh), lstm(sequence), rtol=0, atol=1e-6)
    assert not torch.allclose(lstm(sequence), LSTM(5, 8, activation=act)(sequence))


def test_both_directions_draw_their_own_masks():
    lstm = Bidirectional(5, 8, 0.5, 0.5)
    with torch.no_grad():
        for a, b in zip(lstm.ahead.parameters(), lstm.back.parameters(), strict=True):
            b.copy_(a)
    frame = torch.randn(64, 1, 5)
    ahead, back = lstm(frame).chunk(2, 2)
    assert not torch.equal(ahead, back)
    ahead, back = lstm.eval()(frame).chunk(2, 2)
    assert torch.equal(ahead, back)


@pytest.mark.parametrize("act", ["tanh", "relu"])
def test_the_backward_lstm_starts_at_each_clip_s_end(act):
    lstm, sequence = Bidirectional(5, 6, activation=act), torch.randn(4, 9, 5)
    lengths = torch.tensor([9, 4, 1, 7])
    states = lstm(sequence, lengths)
    last = last_state(states, lengths, True)
    for clip, length in enumerate(lengths):
        alone = lstm(sequence[clip : clip + 1, :length])
        torch.testing.assert_close(states[clip : clip + 1, :length], alone, rtol=0, atol=1e-6)
        torch.testing.assert_close(last[clip : clip + 1], last_state(alone, None, True), rtol=0, atol=1e-6)


def test_frames_are_reversed_within_each_clip():
    sequence = torch.arange(10.0).view(2, 5, 1)
    assert reversed_frames(sequence, torch.tensor([5, 3])).squeeze(2).tolist() == [[4, 3, 2, 1, 0], [7, 6, 5, 8, 9]]
    assert torch.equal(reversed_frames(sequence, None), sequence.flip(1))


@pytest.mark.parametrize("act", ["tanh", "sigmoid"])
def test_recurrent_dropout_keeps_the_expectation_of_what_the_gates_read(act):
    # Two frames and a gradient: the state of frame 1 enters frame 2's gates linearly before their sigmoids, so
    # the mean over masks of the weight's effective gradient is that without a mask, to first order in the weight.
    torch.manual_seed(0)
    lstm, sequence = LSTM(3, 4, recurrent_dropout=0.5, activation=act).double(), torch.randn(2, 2, 3).double()
    with torch.no_grad():
        lstm.weight_hh *= 1e-4

    def gradient():
        return torch.autograd.grad(lstm(sequence)[:, -1].sum(), lstm.weight_hh)[0]

    drawn = torch.stack([gradient() for _ in range(1000)])
    wanted = (lstm.eval(), gradient())[1]
    error = (drawn.mean(0) - wanted).abs()
    assert (error <= 5 * drawn.std(0) / 1000**0.5 + 1e-6).all()
    assert ((drawn == 0).double().mean() - 0.5).abs() < 0.02


def test_lstm_starts_orthogonal_with_an_open_forget_gate():
    lstm = LSTM(5, 16)
    torch.testing.assert_close(lstm.weight_hh.T @ lstm.weight_hh, torch.eye(16), rtol=0, atol=1e-5)
    assert torch.equal(lstm.bias, torch.tensor([0.0] * 16 + [1.0] * 16 + [0.0] * 32))
    assert not lstm.no_bias.any()


def test_one_chunk_keeps_values_and_gradients():
    lstm = LSTM(3, 2)
    weights = [lstm.weight_ih, lstm.weight_hh, lstm.bias, lstm.no_bias]
    parts = tuning.models.lstm._one_chunk(weights)
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
