"""The GAN's two networks against what their layers do one by one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from tuning.models.gan import Discriminator, Generator, SpatialAttention
from tuning.models.gan_settings import GANSettings

SMALL = GANSettings(latent_dim=6, condition_units=8, channels=[16, 16, 8, 8], discriminator_channels=[4, 8, 8, 16])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def wide(tensor, spread=0.5):
    with torch.no_grad():
        return tensor.add_(spread * torch.randn(tensor.shape))


@pytest.mark.parametrize(("frames", "features"), [(32, 32), (33, 20), (5, 40), (16, 1), (50, 128)])
def test_shapes_of_any_size(frames, features):
    generator, discriminator = (kind(SMALL, frames, features, 2) for kind in (Generator, Discriminator))
    conditions = torch.rand(3, 2)
    drawn = generator(torch.randn(3, 6), conditions)
    assert drawn.shape == (3, frames, features) and drawn.abs().max() <= 1
    logits = discriminator(drawn, conditions)
    assert logits.shape == (3,)
    logits.sum().backward()
    for network in (generator, discriminator):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_documented_sizes():
    settings = GANSettings()
    generator, discriminator = Generator(settings, 64, 128, 2), Discriminator(settings, 64, 128, 2)
    assert [tuple(up.weight.shape) for up in generator.ups] == [
        (256, 128, 4, 4),
        (128, 64, 4, 4),
        (64, 32, 4, 4),
        (32, 1, 4, 4),
    ]
    assert [tuple(down.weight.shape[:2]) for down in discriminator.downs] == [(32, 2), (64, 32), (128, 64), (256, 128)]
    assert settings.learning_rate == 2e-4 and settings.discriminator_rate_factor == 0.5 and settings.decay == 0.99


def test_generator_layer_by_layer():
    generator = Generator(SMALL, 33, 20, 2).eval()
    wide(generator.attention.gamma)
    for norm in generator.norms:
        wide(norm.running_mean), wide(norm.weight), wide(norm.bias)
    noise, conditions = torch.randn(4, 6), torch.rand(4, 2)
    first, second = generator.embedding[0], generator.embedding[2]
    embedded = F.relu(F.linear(F.relu(F.linear(conditions, first.weight, first.bias)), second.weight, second.bias))
    maps = F.linear(torch.cat([noise, embedded], 1), generator.projection.weight, generator.projection.bias)
    maps = maps.reshape(4, 16, 3, 2)
    for number, (norm, up) in enumerate(zip(generator.norms, generator.ups, strict=True)):
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None]
        maps = F.relu((maps - norm.running_mean[:, None, None]) * scale + norm.bias[:, None, None])
        maps = F.conv_transpose2d(maps, up.weight, up.bias, stride=2, padding=1)
        if number == 0:
            maps = generator.attention(maps)
    assert maps.shape == (4, 1, 48, 32)
    torch.testing.assert_close(generator(noise, conditions), maps[:, 0, :33, :20].tanh(), rtol=1e-4, atol=1e-5)


def test_attention_by_the_literal_formula_and_none_at_first():
    attention, maps = SpatialAttention(16), torch.randn(2, 16, 3, 4)
    torch.testing.assert_close(attention(maps), maps)
    wide(attention.gamma)
    expected = maps.clone()
    weights = [layer.weight.detach()[:, :, 0, 0] for layer in (attention.query, attention.key, attention.value)]
    for clip in range(2):
        places = maps[clip].reshape(16, 12)
        query, key, value = (weight @ places for weight in weights)
        shares = (query.T @ key).softmax(1)  # row: the place that attends
        attended = attention.output.weight[:, :, 0, 0] @ (value @ shares.T)
        expected[clip] += attention.gamma * attended.reshape(16, 3, 4)
    assert (expected - maps).abs().max() > 0.01
    torch.testing.assert_close(attention(maps), expected, rtol=1e-4, atol=1e-5)


def test_discriminator_layer_by_layer():
    discriminator = Discriminator(SMALL, 33, 20, 2).eval()
    clips, conditions = torch.randn(4, 33, 20), torch.rand(4, 2)
    first, second = discriminator.embedding[0], discriminator.embedding[2]
    embedded = F.leaky_relu(F.linear(conditions, first.weight, first.bias), 0.2)
    labels = F.linear(embedded, second.weight, second.bias).reshape(4, 33, 20)
    maps = torch.zeros(4, 2, 48, 32)
    maps[:, 0, :33, :20], maps[:, 1, :33, :20] = clips, labels
    for down in discriminator.downs:
        maps = F.leaky_relu(F.conv2d(maps, down.weight, down.bias, stride=2, padding=1), 0.2)
    output = discriminator.output
    expected = F.linear(maps.reshape(4, -1), output.weight, output.bias)[:, 0]
    torch.testing.assert_close(discriminator(clips, conditions), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(discriminator(clips, -conditions), expected, atol=1e-4)


def normalised(discriminator):
    return [m for m in discriminator.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]


def test_every_weight_of_the_discriminator_has_norm_one():
    discriminator = Discriminator(SMALL, 32, 32, 2)
    layers = normalised(discriminator)
    assert len(layers) == 7
    for layer in layers:
        wide(layer.parametrizations.weight.original, 2.0)  # as if by steps of training
    for _ in range(60):
        discriminator(torch.randn(2, 32, 32), torch.rand(2, 2))
    discriminator.eval()
    for layer in layers:
        largest = np.linalg.svd(layer.weight.detach().flatten(1).numpy(), compute_uv=False)[0]
        assert 0.95 < largest < 1.02
        assert np.linalg.norm(layer.parametrizations.weight.original.detach().flatten(1).numpy(), 2) > 1.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"channels": [8, 8, 8]}, "channels"),
        ({"discriminator_channels": [8, 0, 8, 8]}, "discriminator_channels: expected positive sizes"),
        ({"weak_accuracy": 0.96}, r"weak_accuracy: expected at most strong_accuracy \(0.95\), got 0.96"),
        ({"batch_size": 1}, "batch_size"),
        ({"when_strong": "stop"}, "when_strong"),
    ],
)
def test_impossible_settings(given, message):
    with pytest.raises(ValidationError, match=message):
        GANSettings(**given)
