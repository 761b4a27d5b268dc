"""Settings of the vision transformer (`vit.py`)."""

from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from tuning.models.encoder_shapes import IMAGE, ImageShape, image_shape
from tuning.models.pretrained import check_weights
from tuning.models.settings import ModelSettings


class ViTSettings(ModelSettings):
    """A vision transformer on the image of a spectrogram. A pretrained one is unfrozen in stages.

    The epochs of the stages are the documented ones (docs/sources.md).
    """

    name: Literal["vit"] = Field("vit", description="model family")
    image_encoder: str | None = Field(
        "google/vit-base-patch16-224-in21k",
        description="hub name or folder of a transformers ViT, DeiT or DINOv2; null: a ViT of the sizes that follow",
    )
    pretrained: bool = Field(True, description="false: random weights, all trained from the first epoch")
    image_size: int = Field(224, ge=1, description="height and width of the image (image_encoder=null)")
    patch_size: int = Field(16, ge=1, description="height and width of a patch (image_encoder=null)")
    hidden_size: int = Field(192, ge=1, description="values per patch (image_encoder=null)")
    num_layers: int = Field(12, ge=1, description="transformer layers (image_encoder=null)")
    num_heads: int = Field(3, ge=1, description="heads of the self-attention (image_encoder=null)")
    unfreeze_epochs: list[int] = Field(
        [8, 12, 16],
        description="epochs at which training of the last layer, the last two, the last three ... begins; before, and "
        "always with [], only the head is trained",
    )
    pooling: Literal["cls", "mean"] = Field("cls", description="state of the class token, or mean over all patches")
    head_units: list[int] = Field([], description="units of each hidden layer before the output; [] for none")
    head_dropout: float = Field(0.1, ge=0, lt=1, description="dropout before each layer of the head")

    @model_validator(mode="after")
    def _consistent(self) -> "ViTSettings":
        self.check_sizes("head_units")
        epochs = self.unfreeze_epochs
        if any(later <= earlier for earlier, later in pairwise([0, *epochs])):
            raise ValueError(f"unfreeze_epochs: expected epochs from 1, each later than the one before, got {epochs}")
        if epochs and not self.pretrained:
            raise ValueError(
                f"unfreeze_epochs: expected [] with pretrained=false, whose random weights are all trained from the "
                f"first epoch, got {epochs}"
            )
        if self.image_encoder is not None:
            return self
        if self.pretrained:
            raise ValueError("image_encoder: expected a hub name or a folder with pretrained=true, got null")
        for name, part in (("image_size", "patch_size"), ("hidden_size", "num_heads")):
            whole, unit = getattr(self, name), getattr(self, part)
            if whole % unit:
                raise ValueError(f"{name}: expected a multiple of {part} ({unit}), got {whole}")
        return self

    @property
    def encoder_setting(self) -> str | None:
        return None if self.image_encoder is None else "image_encoder"

    @property
    def encoder_parts(self) -> tuple[str, ...]:
        return () if self.image_encoder is None else ("config", "preprocessor")

    @property
    def unfreezing(self) -> list[int]:
        return self.unfreeze_epochs

    def encoder_shape(self) -> ImageShape:
        """Return the sizes of the image encoder.

        Raises:
            ValueError: no such encoder, or fewer layers than are to be unfrozen.
        """
        if self.image_encoder is None:
            return ImageShape(self.image_size, self.patch_size, self.hidden_size, self.num_layers)
        shape = image_shape(self.image_encoder)
        if len(self.unfreeze_epochs) > shape.num_layers:
            raise ValueError(
                f"model.unfreeze_epochs: expected at most {shape.num_layers} epochs, one for each layer of "
                f"'{self.image_encoder}', got {self.unfreeze_epochs}"
            )
        return shape

    def check_encoder(self) -> None:
        if self.image_encoder is not None and self.pretrained:
            check_weights(self.image_encoder, IMAGE)
        self.encoder_shape()

    def with_saved_encoder(self, encoder: str) -> "ViTSettings":
        return self.model_copy(update={"image_encoder": encoder, "pretrained": False, "unfreeze_epochs": []})
