"""Settings of the GAN of spectrograms (`gan.py`) and of its training."""

from typing import Literal

from pydantic import Field, model_validator

from tuning.models.settings import NetworkSettings


class GANSettings(NetworkSettings):
    """The conditional GAN of spectrograms and its training.

    The defaults are the documented values where there are any (docs/sources.md).
    """

    epochs: int = Field(10, ge=1, description="passes over the training split")
    latent_dim: int = Field(100, ge=1, description="width of the noise vector")
    condition_units: int = Field(64, ge=1, description="width of both layers of the label embedding")
    channels: list[int] = Field(
        [256, 128, 64, 32],
        min_length=4,
        max_length=4,
        description="input channels of the generator's four transposed convolutions; the last one outputs one channel",
    )
    discriminator_channels: list[int] = Field(
        [32, 64, 128, 256], min_length=4, max_length=4, description="channels of the discriminator's four convolutions"
    )
    batch_size: int = Field(16, ge=2, description="real clips per step; batch norm needs two")
    clips_per_real: float = Field(1.0, gt=0, le=10, description="clips generated for each training clip")
    learning_rate: float = Field(2e-4, gt=0, description="learning rate of the generator in the first epoch")
    discriminator_rate_factor: float = Field(
        0.5, gt=0, description="the discriminator's learning rate over the generator's"
    )
    beta_1: float = Field(0.5, ge=0, lt=1, description="Adam's decay of the mean gradient")
    decay: float = Field(0.99, gt=0, le=1, description="factor on both learning rates after each epoch")
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm of each network")
    weak_accuracy: float = Field(0.6, ge=0, le=1, description="below this accuracy the discriminator makes more steps")
    strong_accuracy: float = Field(0.95, ge=0, le=1, description="above this accuracy when_strong applies")
    most_discriminator_steps: int = Field(3, ge=1, description="most steps on one batch of a weak discriminator")
    when_strong: Literal["skip", "train_generator", "as_documented"] = Field(
        "skip",
        description="skip: no step of the discriminator; train_generator: two steps of the generator; as_documented: "
        "one of each, as in a balanced batch",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "GANSettings":
        self.check_sizes("channels", "discriminator_channels")
        if self.weak_accuracy > self.strong_accuracy:
            raise ValueError(
                f"weak_accuracy: expected at most strong_accuracy ({self.strong_accuracy:g}), "
                f"got {self.weak_accuracy:g}"
            )
        return self
