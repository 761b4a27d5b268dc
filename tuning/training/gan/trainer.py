"""Training of the conditional GAN: the discriminator's steps, the generator's, and what keeps them in balance."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuning.models.gan import Discriminator, Generator
from tuning.models.gan_settings import GANSettings
from tuning.training.uncompiled import Adam

BETA_2 = 0.999
# Clips per pass of `generate`: memory, not results, depends on it.
GENERATION_BATCH = 64


class Clips(NamedTuple):
    """Real clips: spectrograms [B, T, F] that are 0 beyond their ends, labels [B, K], valid frames [B]."""

    spectrograms: Tensor
    conditions: Tensor
    num_frames: Tensor


class Judgement(NamedTuple):
    """What the discriminator makes of a batch: its loss with a gradient, and the shares it gets right."""

    loss: Tensor
    accuracy_real: float
    accuracy_fake: float


def discriminator_steps(accuracy: float, settings: GANSettings) -> tuple[int, int]:
    """Steps of discriminator and generator on a batch, by the share that the discriminator gets right.

    Below `weak_accuracy` the discriminator makes `most_discriminator_steps`, above `strong_accuracy` what `when_strong`
    says, otherwise one.
    """
    if accuracy < settings.weak_accuracy:
        return settings.most_discriminator_steps, 1
    if accuracy > settings.strong_accuracy:
        return {"skip": (0, 1), "train_generator": (1, 2), "as_documented": (1, 1)}[settings.when_strong]
    return 1, 1


class GANTrainer:
    """The training of one GAN on the clips of a training split.

    Weights, order of the clips and noise follow from the seed; each epoch has a stream of random numbers of its own, so
    that a training restored from `state_dict` goes on as if it had never stopped.

    Args:
        settings: networks and training.
        spectrograms: float32 [N, T, F] within -1 and 1, 0 beyond a clip's end.
        conditions: labels float32 [N, K].
        num_frames: valid frames of each clip, int [N].
        seed: of everything random.
        device: where the networks are.

    Raises:
        ValueError: fewer than two clips.
    """

    def __init__(
        self,
        settings: GANSettings,
        spectrograms: np.ndarray,
        conditions: np.ndarray,
        num_frames: np.ndarray,
        *,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        if len(spectrograms) < 2:
            raise ValueError(f"gan: expected at least 2 training clips, got {len(spectrograms)}")
        assert len(spectrograms) == len(conditions) == len(num_frames), (spectrograms.shape, conditions.shape)
        assert np.abs(spectrograms).max() <= 1, "spectrograms have to be within -1 and 1, as the generator's are"
        self.settings, self.seed, self.device = settings, seed, device or torch.device("cpu")
        self.clips = Clips(torch.from_numpy(spectrograms), torch.from_numpy(conditions), torch.tensor(num_frames))
        shape = (*spectrograms.shape[1:], conditions.shape[1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.generator = Generator(settings, *shape).to(self.device)
            self.discriminator = Discriminator(settings, *shape).to(self.device)
        rate, betas = settings.learning_rate, (settings.beta_1, BETA_2)
        self.generator_optimizer = Adam(self.generator.parameters(), rate, betas)
        rate *= settings.discriminator_rate_factor
        self.discriminator_optimizer = Adam(self.discriminator.parameters(), rate, betas)
        self.rows: list[dict[str, Any]] = []

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.rows)

    def one_epoch(self) -> dict[str, Any]:
        """Train on every clip once; the row, which `rows` keeps.

        It has `epoch` (from 1), `generator_loss` (mean over its steps), `discriminator_loss`, `accuracy_real` and
        `accuracy_fake` (means over the batches, each judged before any step on it), `loss_ratio` (generator's over
        discriminator's; both losses are ln 2 where the discriminator guesses), `generator_steps` and
        `discriminator_steps`, both rates, and both mean gradient norms after clipping, None where no step was made.

        Raises:
            FloatingPointError: a loss is NaN or infinite.
        """
        epoch = self.epoch + 1
        rng = _stream(self.seed, epoch)
        factor = self.settings.decay ** (epoch - 1)
        rates = {"generator": self.settings.learning_rate * factor}
        rates["discriminator"] = rates["generator"] * self.settings.discriminator_rate_factor
        for optimizer, rate in zip(
            (self.generator_optimizer, self.discriminator_optimizer), rates.values(), strict=True
        ):
            optimizer.param_groups[0]["lr"] = rate
        self.generator.train()
        self.discriminator.train()
        seen: dict[str, list[float]] = {name: [] for name in MEASURED}
        for numbers in _batches(len(self.clips.spectrograms), self.settings.batch_size, rng):
            self.step(Clips(*(values[numbers].to(self.device) for values in self.clips)), rng, seen)
        row: dict[str, Any] = {"epoch": epoch}
        row |= {name: float(np.mean(values)) if values else None for name, values in seen.items()}
        row["loss_ratio"] = row["generator_loss"] / max(row["discriminator_loss"], float(np.finfo(np.float32).tiny))
        for name, rate in rates.items():
            row[f"{name}_steps"] = len(seen[f"{name}_gradient_norm"])
            row[f"{name}_learning_rate"] = rate
        self.rows.append(row)
        return row

    def step(self, real: Clips, rng: torch.Generator, seen: dict[str, list[float]]) -> None:
        """All steps on one batch; what is measured is appended to `seen`."""
        judged = self.judge(real, rng)
        seen["discriminator_loss"].append(self._finite("discriminator_loss", judged.loss))
        seen["accuracy_real"].append(judged.accuracy_real)
        seen["accuracy_fake"].append(judged.accuracy_fake)
        accuracy = (judged.accuracy_real + judged.accuracy_fake) / 2
        for_discriminator, for_generator = discriminator_steps(accuracy, self.settings)
        for number in range(for_discriminator):
            loss = self.judge(real, rng).loss if number else judged.loss
            norm = self._update(self.discriminator, self.discriminator_optimizer, loss)
            seen["discriminator_gradient_norm"].append(norm)
        for _ in range(for_generator):
            loss = self.deceive(real, rng)
            seen["generator_loss"].append(self._finite("generator_loss", loss))
            seen["generator_gradient_norm"].append(self._update(self.generator, self.generator_optimizer, loss))

    def judge(self, real: Clips, rng: torch.Generator) -> Judgement:
        """The discriminator on a batch and as many new spectrograms of its labels and lengths, which get no gradient.

        Its loss is the mean of the binary cross-entropies against 1 (real) and 0 (generated).
        """
        with torch.no_grad():
            fake = self._draw(real, rng)
        logits = self.discriminator(torch.cat([real.spectrograms, fake]), torch.cat([real.conditions] * 2))
        on_real, on_fake = logits.split(len(fake))
        loss = F.binary_cross_entropy_with_logits(on_real, torch.ones_like(on_real))
        loss = (loss + F.binary_cross_entropy_with_logits(on_fake, torch.zeros_like(on_fake))) / 2
        return Judgement(loss, (on_real > 0).float().mean().item(), (on_fake <= 0).float().mean().item())

    def deceive(self, like: Clips, rng: torch.Generator) -> Tensor:
        """The generator's loss on new spectrograms of a batch's labels and lengths.

        The cross-entropy of the discriminator's logits against 1.
        """
        # The gradient passes through the discriminator, but none is needed of its own weights.
        self.discriminator.requires_grad_(False)
        logits = self.discriminator(self._draw(like, rng), like.conditions)
        self.discriminator.requires_grad_(True)
        return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))

    @torch.no_grad()
    def generate(self, conditions: np.ndarray, num_frames: np.ndarray, seed: int) -> np.ndarray:
        """Spectrograms float32 [N, T, F] of labels [N, K], with batch-norm's moving statistics.

        Each is 0 beyond its `num_frames` [N].
        """
        self.generator.eval()
        labels = torch.from_numpy(np.asarray(conditions, dtype=np.float32))
        noise = torch.randn(len(labels), self.settings.latent_dim, generator=_stream(seed, 0))
        parts = zip(noise.split(GENERATION_BATCH), labels.split(GENERATION_BATCH), strict=True)
        drawn = torch.cat([self.generator(a.to(self.device), b.to(self.device)).cpu() for a, b in parts])
        return _ended(drawn, torch.tensor(num_frames)).numpy()

    def state_dict(self) -> dict[str, Any]:
        """All that a later epoch depends on, in tensors and plain values."""
        return {name: getattr(self, name).state_dict() for name in KEPT} | {"rows": list(self.rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for name in KEPT:
            getattr(self, name).load_state_dict(state[name])
        self.rows = list(state["rows"])

    def _draw(self, like: Clips, rng: torch.Generator) -> Tensor:
        """New spectrograms of a batch's labels and lengths."""
        noise = torch.randn(len(like.conditions), self.settings.latent_dim, generator=rng).to(self.device)
        return _ended(self.generator(noise, like.conditions), like.num_frames)

    def _update(self, network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
        """One step down the clipped gradient; its norm."""
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), self.settings.clip_norm).item()
        optimizer.step()
        return min(norm, self.settings.clip_norm)

    def _finite(self, name: str, loss: Tensor) -> float:
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} is {value} in epoch {self.epoch + 1} of the GAN")
        return value


KEPT = ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer")
MEASURED = (
    "generator_loss",
    "discriminator_loss",
    "accuracy_real",
    "accuracy_fake",
    "generator_gradient_norm",
    "discriminator_gradient_norm",
)


def _ended(spectrograms: Tensor, num_frames: Tensor) -> Tensor:
    """The spectrograms [B, T, F] with 0 beyond the valid frames [B] of each."""
    heard = torch.arange(spectrograms.shape[1], device=spectrograms.device) < num_frames[:, None]
    return spectrograms * heard[..., None]


def _stream(seed: int, number: int) -> torch.Generator:
    """Random numbers of one epoch, on the CPU, so that every device sees the same."""
    state = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def _batches(clips: int, batch_size: int, rng: torch.Generator) -> list[Tensor]:
    """Shuffled indices; a last batch of one clip, too few for batch-norm, joins the one before."""
    parts = list(torch.randperm(clips, generator=rng).split(batch_size))
    if len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
