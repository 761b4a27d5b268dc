"""Base of every model's settings. Imports nothing heavy, since `--help` and every check of a search read settings."""

import types
from typing import Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

Activation = Literal["relu", "swish", "gelu", "leaky_relu", "elu"]
DropoutKind = Literal["element", "channel", "time_step"]
Pooling = Literal["max", "average", "adaptive_max", "adaptive_average"]
TextInput = Literal["tokens", "states", "cls", "mean"]
Value = TypeVar("Value", int, float)


class NetworkSettings(BaseModel):
    """Settings of a network, with checks of their lists of sizes."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    def check_sizes(self, *names: str) -> None:
        """Check that lists of sizes hold positive numbers only.

        Raises:
            ValueError: names the first setting that does not.
        """
        for name in names:
            if any(size < 1 for size in getattr(self, name)):
                raise ValueError(f"{name}: expected positive sizes, got {getattr(self, name)}")

    def check_blocks(self, name: str, unit: str, of: str) -> None:
        """Check that the list `name` has one value for all blocks, or one for each entry of the list `of`.

        Raises:
            ValueError: another number of values; `unit` is what a value is called.
        """
        values, blocks = getattr(self, name), len(getattr(self, of))
        if blocks and len(values) not in (1, blocks):
            raise ValueError(f"{name}: expected one {unit} per block of {of} ({blocks}), got {len(values)}")


class ModelSettings(NetworkSettings):
    """Settings of a model, and what the model needs from the rest of the program.

    Settings of a model inherit it, add fields, `name` among them, and override the properties that differ for it. By
    default a model reads only features, has no pretrained encoder, and is trained as a whole from the start.
    """

    layer_weights: Literal["learnt"] | None = Field(
        None,
        description="learnt: the model reads one mean of features.encoder_layers, whose weights it learns (null: all "
        "layers, side by side)",
    )

    encoder_training: Literal["layers", "lora"] | None = Field(
        None,
        description="the encoder's layers behind features.encoder_layers are part of the model, which reads the last "
        "one, or with layer_weights=learnt a mean of all: their weights are trained (layers) or small matrices beside "
        "them (lora), at optim.encoder_learning_rate",
    )
    lora_rank: int = Field(8, ge=1, description="rank of those matrices (lora)")
    lora_alpha: float = Field(16.0, gt=0, description="what they add counts lora_alpha / lora_rank times (lora)")
    gradient_checkpointing: bool = Field(
        False,
        description="compute an encoder's inner values again in the backward pass: less memory, a third more time",
    )

    @property
    def text_input(self) -> TextInput | None:
        """What the model reads of each clip's text; None where it has no input for text.

        `tokens` are token ids, `states` a frozen encoder's states of all tokens, `cls` the first token's state, `mean`
        the mean over all. The settings `text_encoder` and `max_tokens` then say which encoder and how much of a text.
        """
        return None

    @property
    def needs_text(self) -> bool:
        """Whether predictions depend on text. A model may have an input for text and ignore it."""
        return self.text_input is not None

    @property
    def encoder_setting(self) -> str | None:
        """Name of the setting that names a pretrained encoder; None where the model has none."""
        return None if self.text_input is None else "text_encoder"

    @property
    def encoder_parts(self) -> tuple[str, ...]:
        """Parts of the encoder that are kept with a saved model.

        They are some of `config`, `preprocessor`, `tokenizer` and `weights`.
        """
        return ()

    @property
    def unfreezing(self) -> list[int] | None:
        """Epochs (from 1) at which training of more weights begins; None for a model without such stages.

        They are the value of the setting `unfreeze_epochs`.
        """
        return None

    def check_encoder(self) -> None:
        """Check before a search that the pretrained encoder is there and fits the other settings.

        Raises:
            ValueError: names the setting, and what is missing.
        """

    def with_saved_encoder(self, encoder: str) -> "ModelSettings":
        """Return the settings that build a saved model with the encoder parts in the folder `encoder`.

        They ask for no weights of the encoder where the model's own weights include them.
        """
        return self


def for_each(values: list[Value], blocks: int) -> list[Value]:
    """Return a list with one value for each block, given one for all blocks or one for each."""
    return values * blocks if len(values) == 1 else values[:blocks]


def as_model_settings(settings: type[BaseModel]) -> type[ModelSettings]:
    """Return a user's own settings class with the defaults of `ModelSettings`, which it need not inherit.

    Raises:
        ValueError: it has settings that mean something only where a class inherits `ModelSettings` and says so.
    """
    if issubclass(settings, ModelSettings):
        return settings
    for name in ("text_input", "image_encoder", "unfreeze_epochs"):
        if name in settings.model_fields or hasattr(settings, name):
            raise ValueError(
                f"model.name: expected {settings.__qualname__}, which has {name}, to inherit "
                "tuning.models.base.ModelSettings and to override the properties that say what the model needs"
            )
    same = {"__module__": settings.__module__, "__qualname__": settings.__qualname__, "__doc__": settings.__doc__}
    bases = (settings, ModelSettings)
    completed = types.new_class(settings.__name__, bases, dict(settings.model_config), lambda body: body.update(same))
    return cast(type[ModelSettings], completed)
