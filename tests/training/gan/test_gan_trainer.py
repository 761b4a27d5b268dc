"""The GAN's training: one step written out, the adaptive rule, and going on after a kill."""

import copy
import io
import math

import numpy as np
import pytest
import torch

from tuning.models.gan_settings import GANSettings
from tuning.training.gan import trainer as gan_training
from tuning.training.gan.trainer import Clips, GANTrainer, Judgement, discriminator_steps

SMALL = GANSettings(
    latent_dim=6,
    condition_units=8,
    channels=[16, 16, 8, 8],
    discriminator_channels=[4, 8, 8, 16],
    batch_size=4,
    epochs=4,
)


def data(clips=12, frames=16, features=18, ends=None):
    rng = np.random.default_rng(0)
    conditions = rng.uniform(-1, 1, (clips, 2)).astype(np.float32)
    waves = np.sin(np.arange(frames)[:, None] * (1 + conditions[:, 0, None, None]) + np.arange(features) / 3)
    ends = np.full(clips, frames) if ends is None else ends
    waves[np.arange(frames) >= ends[:, None]] = 0
    return (0.8 * waves).astype(np.float32), conditions, ends


def make(settings=SMALL, seed=0, **sizes):
    return GANTrainer(settings, *data(**sizes), seed=seed)


def weights(network):
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def cross_entropy(logits, wanted):
    """Of the probability 1 / (1 + exp(-logit)), by its definition."""
    probability = 1 / (1 + np.exp(-logits.double().detach().numpy()))
    return -np.mean(np.log(probability if wanted else 1 - probability))


def first_adam_step(parameters, gradients, rate, clip):
    """Adam's first step from zero moments, after clipping: the bias corrections cancel the decays."""
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
    factor = min(1.0, clip / (norm + 1e-6))
    moved = [
        p.detach() - rate * factor * g / ((factor * g).abs() + 1e-8) for p, g in zip(parameters, gradients, strict=True)
    ]
    return moved, min(norm, clip)


@pytest.mark.parametrize("clip", [0.01, 1e3])
def test_one_batch_written_out(clip):
    settings = SMALL.model_copy(update={"batch_size": 12, "clip_norm": clip, "weak_accuracy": 0.0})
    training = make(settings)
    generator, discriminator = copy.deepcopy(training.generator), copy.deepcopy(training.discriminator)
    row = training.one_epoch()

    rng = gan_training._stream(0, 1)
    order = torch.randperm(12, generator=rng)
    real, conditions = training.clips.spectrograms[order], training.clips.conditions[order]
    fake = generator(torch.randn(12, 6, generator=rng), conditions).detach()
    logits = discriminator(torch.cat([real, fake]), torch.cat([conditions, conditions]))
    loss = (cross_entropy(logits[:12], 1) + cross_entropy(logits[12:], 0)) / 2
    assert row["discriminator_loss"] == pytest.approx(loss, rel=1e-5)
    assert row["accuracy_real"] == pytest.approx((logits[:12] > 0).double().mean().item())
    assert row["accuracy_fake"] == pytest.approx((logits[12:] < 0).double().mean().item())
    parameters = list(discriminator.parameters())
    # d/dlogit of the mean cross-entropy is (probability - label) / N
    wanted = (torch.arange(24) < 12).float()
    gradients = torch.autograd.grad(logits, parameters, (logits.sigmoid() - wanted).detach() / 24)
    moved, norm = first_adam_step(parameters, gradients, 1e-4, clip)
    assert row["discriminator_gradient_norm"] == pytest.approx(norm, rel=1e-4) and norm <= clip
    close(training.discriminator, moved)
    with torch.no_grad():
        for parameter, value in zip(parameters, moved, strict=True):
            parameter.copy_(value)

    logits = discriminator(generator(torch.randn(12, 6, generator=rng), conditions), conditions)
    loss = cross_entropy(logits, 1)
    assert row["generator_loss"] == pytest.approx(loss, rel=1e-5)
    assert row["loss_ratio"] == pytest.approx(loss / row["discriminator_loss"], rel=1e-5)
    parameters = list(generator.parameters())
    gradients = torch.autograd.grad(logits, parameters, (logits.sigmoid() - 1).detach() / 12)
    moved, norm = first_adam_step(parameters, gradients, 2e-4, clip)
    assert row["generator_gradient_norm"] == pytest.approx(norm, rel=1e-4)
    close(training.generator, moved)
    assert (row["generator_steps"], row["discriminator_steps"], row["epoch"]) == (1, 1, 1)


def close(network, moved):
    for (name, value), expected in zip(network.named_parameters(), moved, strict=True):
        # Where a gradient is about as small as Adam's epsilon, rounding decides the step.
        apart = (value.detach() - expected).abs() > 2e-6
        assert apart.float().mean() < 0.02, name


def test_each_step_moves_its_own_network():
    training = make(SMALL)
    some, rng = Clips(*(values[:4] for values in training.clips)), torch.Generator().manual_seed(0)
    before = weights(training.generator), weights(training.discriminator)
    loss = training.judge(some, rng).loss
    training._update(training.discriminator, training.discriminator_optimizer, loss)
    assert changed(before[0], training.generator) == set()
    assert changed(before[1], training.discriminator) == set(before[1])
    after = weights(training.discriminator)
    training._update(training.generator, training.generator_optimizer, training.deceive(some, rng))
    assert changed(after, training.discriminator) == set()
    # behind gamma, which is 0 at first, nothing has a gradient yet
    still = {f"attention.{name}.weight" for name in ("query", "key", "value", "output")}
    assert changed(before[0], training.generator) == set(before[0]) - still


def changed(before, network):
    return {name for name, value in network.named_parameters() if not torch.equal(before[name], value)}


def test_the_rule_of_balance():
    documented = GANSettings(when_strong="as_documented")
    assert [discriminator_steps(a, documented) for a in (0.59, 0.6, 0.8, 0.95, 0.96)] == [(3, 1)] + [(1, 1)] * 4
    assert discriminator_steps(1.0, GANSettings()) == (0, 1)
    assert discriminator_steps(1.0, GANSettings(when_strong="train_generator")) == (1, 2)
    assert discriminator_steps(0.1, GANSettings(most_discriminator_steps=5)) == (5, 1)


@pytest.mark.parametrize(
    ("when_strong", "steps"),
    [("as_documented", (3 + 1 + 1, 3)), ("skip", (3 + 1 + 0, 3)), ("train_generator", (3 + 1 + 1, 4))],
)
def test_scripted_accuracies_make_the_steps(monkeypatch, when_strong, steps):
    training = make(SMALL.model_copy(update={"when_strong": when_strong}))
    script = iter([(0.4, 0.7), None, None, (0.7, 0.9), (0.96, 1.0)])  # None: the weak one's further steps
    judge = GANTrainer.judge

    def scripted(self, *arguments):
        accuracies = next(script) or (0.0, 0.0)
        return Judgement(judge(self, *arguments).loss, *accuracies)

    monkeypatch.setattr(GANTrainer, "judge", scripted)
    row = training.one_epoch()
    assert (row["discriminator_steps"], row["generator_steps"]) == steps
    assert row["accuracy_real"] == pytest.approx((0.4 + 0.7 + 0.96) / 3)
    assert row["accuracy_fake"] == pytest.approx((0.7 + 0.9 + 1.0) / 3)


def test_a_skipped_discriminator_stays_and_has_no_norm(monkeypatch):
    training = make(SMALL)
    judge = GANTrainer.judge
    monkeypatch.setattr(GANTrainer, "judge", lambda *arguments: Judgement(judge(*arguments).loss, 1.0, 1.0))
    before = weights(training.discriminator)
    row = training.one_epoch()
    assert changed(before, training.discriminator) == set()
    assert row["discriminator_steps"] == 0 and row["discriminator_gradient_norm"] is None
    assert row["discriminator_loss"] > 0


def test_rates_fall_by_a_hundredth_each_epoch():
    training = make(SMALL)
    rows = [training.one_epoch() for _ in range(3)]
    rates = [(row["generator_learning_rate"], row["discriminator_learning_rate"]) for row in rows]
    np.testing.assert_allclose(rates, [(2e-4 * 0.99**k, 1e-4 * 0.99**k) for k in range(3)])
    assert training.generator_optimizer.param_groups[0]["lr"] == rates[2][0]
    assert training.discriminator_optimizer.param_groups[0]["betas"] == (0.5, 0.999)


def test_goes_on_after_a_kill_to_the_same_bits():
    whole = make(SMALL, clips=13)
    for _ in range(4):
        whole.one_epoch()
    first = make(SMALL, clips=13)
    first.one_epoch(), first.one_epoch()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make(SMALL, clips=13)
    second.load_state_dict(torch.load(file, weights_only=True))
    torch.manual_seed(123)
    second.one_epoch(), second.one_epoch()
    assert second.rows == whole.rows and second.epoch == 4
    for name in ("generator", "discriminator"):
        ours, theirs = getattr(second, name).state_dict(), getattr(whole, name).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    wanted = data()[1:]
    assert np.array_equal(second.generate(*wanted, 5), whole.generate(*wanted, 5))


def test_the_seed_decides_and_other_random_numbers_are_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    training, other = make(seed=1), make(seed=2)
    assert training.one_epoch() != other.one_epoch()
    assert torch.equal(torch.rand(3), expected)
    assert make(seed=1).one_epoch() == training.rows[0]


def test_generated_clips_depend_on_seed_and_labels_alone():
    training = make(SMALL)
    training.one_epoch()
    _, conditions, ends = data(70)
    drawn = training.generate(conditions, ends, 1)
    assert drawn.shape == (70, 16, 18) and drawn.dtype == np.float32 and np.abs(drawn).max() <= 1
    assert np.array_equal(drawn, training.generate(conditions, ends, 1))
    assert not np.allclose(drawn, training.generate(conditions, ends, 2))
    assert not np.allclose(drawn, training.generate(-conditions, ends, 1))
    # batch-norm's moving statistics: who else is drawn does not matter
    others = np.concatenate([conditions[:3], -conditions[3:]])
    np.testing.assert_allclose(training.generate(others, ends, 1)[:3], drawn[:3], atol=1e-5)
    # a shorter clip is the beginning of a longer one
    shorter = training.generate(conditions, np.full(70, 9), 1)
    assert np.array_equal(shorter[:, :9], drawn[:, :9]) and not shorter[:, 9:].any()


def test_the_discriminator_sees_real_and_generated_clips_end_at_the_same_frames():
    ends = np.array([16, 5, 9, 16, 1, 12, 3, 7, 16, 2, 11, 4])
    training = GANTrainer(SMALL, *data(ends=ends), seed=0)
    order = torch.cat(gan_training._batches(12, 4, gan_training._stream(0, 1))).tolist()
    seen = []
    training.discriminator.register_forward_hook(lambda network, given, logits: seen.append(given[0].detach()))
    training.one_epoch()
    beyond = torch.arange(16) >= torch.tensor(ends[order])[:, None]
    batches = [beyond[start : start + 4] for start in (0, 4, 8)]
    heard = 0
    for spectrograms in seen:
        # the discriminator's have the batch twice, real and generated
        lengths = next((b for b in batches if not spectrograms[b.repeat(len(spectrograms) // 4, 1)].any()), None)
        assert lengths is not None
        within = ~lengths.repeat(len(spectrograms) // 4, 1)
        assert spectrograms[within].ne(0).float().mean() > 0.9
        heard += 1
    assert heard >= 6


def test_every_clip_once_and_no_batch_of_one():
    rng = torch.Generator().manual_seed(0)
    parts = gan_training._batches(13, 4, rng)
    assert [len(part) for part in parts] == [4, 4, 5]
    assert sorted(torch.cat(parts).tolist()) == list(range(13))
    assert [len(part) for part in gan_training._batches(2, 16, rng)] == [2]


def test_each_epoch_has_its_own_order(monkeypatch):
    orders, batches = [], gan_training._batches

    def recorded(*arguments):
        parts = batches(*arguments)
        orders.append(torch.cat(parts).tolist())
        return parts

    monkeypatch.setattr(gan_training, "_batches", recorded)
    training = make(SMALL)
    training.one_epoch(), training.one_epoch()
    assert len(orders) == 2 and orders[0] != orders[1]


def test_a_loss_that_is_no_number_ends_it():
    training = make(SMALL)
    with torch.no_grad():
        training.discriminator.output.bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="discriminator_loss is nan in epoch 1"):
        training.one_epoch()


def test_one_clip_is_too_few():
    with pytest.raises(ValueError, match="expected at least 2 training clips, got 1"):
        make(clips=1)
