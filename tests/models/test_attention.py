import pytest
import torch

from tests.helpers.keras_reference import keras, reversed_axes
from tests.helpers.keras_reference import layers as keras_layers
from tuning.models.attention import SelfAttention


@pytest.fixture
def pair():
    """Ours and Keras's attention on 64 channels with the same weights."""
    keras.utils.set_random_seed(0)
    theirs, ours = keras_layers.MultiHeadAttention(8, key_dim=64), SelfAttention(64, dropout=0.1).eval()
    theirs.build((2, 30, 64), (2, 30, 64))
    tensors = [t for layer in (ours.query, ours.key, ours.value, ours.output) for t in (layer.weight, layer.bias)]
    with torch.no_grad():
        for tensor, weight in zip(tensors, theirs.weights, strict=True):
            weight.assign(weight.value + 0.05 * torch.randn(weight.shape))
            tensor.copy_(reversed_axes(weight.value, like=tensor))
        for tensor in ours.norm.parameters():
            tensor.add_(0.3 * torch.randn(64))
    norm = keras_layers.LayerNormalization(epsilon=1e-3)
    norm.build((2, 30, 64))
    for weight, tensor in zip(norm.weights, ours.norm.parameters(), strict=True):
        weight.assign(tensor.detach())
    return ours, theirs, norm


def test_attention_equals_keras(pair):
    ours, theirs, norm = pair
    sequence = torch.randn(2, 30, 64)
    torch.testing.assert_close(ours(sequence), norm(sequence + theirs(sequence, sequence)), rtol=1e-5, atol=1e-5)
    assert norm.epsilon == ours.norm.eps == keras_layers.LayerNormalization().epsilon
    assert sum(p.numel() for p in ours.parameters()) - 128 == theirs.count_params() == 132_672


def test_masked_attention_equals_keras_and_sees_no_padding(pair):
    ours, theirs, norm = pair
    sequence, lengths = torch.randn(3, 30, 64), torch.tensor([30, 12, 1])
    mask = (torch.arange(30) < lengths[:, None])[:, None, :].expand(3, 30, 30)
    expected = norm(sequence + theirs(sequence, sequence, attention_mask=mask))
    out = ours(sequence, lengths)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    for clip, length in enumerate(lengths):
        alone = ours(sequence[clip : clip + 1, :length])
        torch.testing.assert_close(out[clip : clip + 1, :length], alone, rtol=1e-5, atol=1e-5)


def test_heads_by_the_literal_formula():
    torch.manual_seed(0)
    ours, sequence = SelfAttention(6, heads=2, key_dim=5).eval(), torch.randn(7, 6)
    heads = []
    for rows in (slice(0, 5), slice(5, 10)):
        q, k, v = (sequence @ layer.weight[rows].T + layer.bias[rows] for layer in (ours.query, ours.key, ours.value))
        heads.append((q @ k.T / 5**0.5).softmax(1) @ v)
    attended = sequence + torch.cat(heads, 1) @ ours.output.weight.T + ours.output.bias
    centred = attended - attended.mean(1, keepdim=True)
    expected = centred / (centred.square().mean(1, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(ours(sequence[None])[0], expected, rtol=1e-5, atol=1e-5)


def test_dropout_acts_on_the_attention_in_training_alone():
    attention, sequence = SelfAttention(6, heads=2, key_dim=5, dropout=0.5), torch.randn(2, 7, 6)
    assert not torch.equal(attention(sequence), attention(sequence))
    attention.eval()
    assert torch.equal(attention(sequence), attention(sequence))
