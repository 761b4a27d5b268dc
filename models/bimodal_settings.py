"""Settings of the model of audio and lyrics (`bimodal.py`)."""

from typing import Literal

from pydantic import Field, model_validator

from tuning.models.encoder_shapes import TEXT, TextShape, text_shape
from tuning.models.pretrained import check_weights, load_tokenizer
from tuning.models.settings import ModelSettings, TextInput

GATE_REDUCTION = 4  # inputs per hidden unit of the gate on the audio vector (attention=feature), as documented


class BimodalSettings(ModelSettings):
    """Audio and lyrics: a VGG-like network, a pretrained text encoder, and a fusion of both.

    The defaults of the audio tower are the documented network with squeeze-and-excitation (docs/sources.md).
    """

    name: Literal["bimodal"] = Field("bimodal", description="model family")
    modalities: Literal["both", "audio", "text"] = Field(
        "both", description="what the model uses; one alone for comparison"
    )
    channels: list[int] = Field([64, 128, 256, 512], min_length=1, description="channels of each convolution block")
    convs_per_block: int = Field(1, ge=1, le=3, description="convolutions in each block")
    kernel_size: int = Field(3, ge=1, description="mels and frames that each convolution spans, an odd number")
    bn_momentum: float = Field(0.9, ge=0, lt=1, description="share of the moving statistics that each batch keeps")
    attention: Literal["se", "feature", "none"] = Field(
        "se",
        description="squeeze-and-excitation before the global pooling; feature: a gate on the audio vector instead",
    )
    se_reduction: int = Field(16, ge=1, description="channels per unit in the bottleneck of squeeze-and-excitation")
    audio_units: list[int] = Field(
        [256, 64],
        min_length=1,
        description="units of each layer after the global pooling; the last gives the vector",
    )
    audio_dropout: float = Field(0.5, ge=0, lt=1, description="dropout before each layer of audio_units")
    text_encoder: str = Field(
        "bert-base-uncased",
        description="hub name or folder of a transformers text encoder; demo: the tiny one that comes with the demo",
    )
    text_pretrained: bool = Field(True, description="false: an encoder of the same layout with random weights")
    text_layers: int = Field(
        0, ge=-1, description="number of last transformer layers that are trained; 0: none; -1: all, and the embeddings"
    )
    text_lora_rank: int | None = Field(
        None,
        ge=1,
        description="train matrices of this rank beside queries and values of text_layers (LoRA, at least 1), in place "
        "of all their weights; they count model.lora_alpha / text_lora_rank times",
    )
    text_cache: bool = Field(
        True, description="compute a frozen encoder's states once, before the search; false: at every step"
    )
    max_tokens: int = Field(512, ge=2, description="tokens that longer texts are cut to")
    text_pooling: Literal["cls", "mean"] = Field("mean", description="state of the first token, or mean over all")
    text_units: int = Field(64, ge=1, description="width of the text vector")
    text_dropout: float = Field(0.3, ge=0, lt=1, description="dropout on the encoder's pooled state")
    fusion: Literal["concat", "gated", "cross_attention"] = Field(
        "concat",
        description="how the two vectors are joined: concatenated; mixed by a gate; concatenated with cross-attention "
        "between frames and tokens",
    )
    fusion_heads: int = Field(4, ge=1, description="heads of the cross-attention")
    head_units: list[int] = Field([64], description="units of each hidden layer before the output; [] for none")
    head_dropout: float = Field(0.3, ge=0, lt=1, description="dropout after each hidden layer of the head")

    @model_validator(mode="after")
    def _consistent(self) -> "BimodalSettings":
        self.check_sizes("channels", "audio_units", "head_units")
        if self.modalities != "text":
            self._consistent_audio()
        if self.modalities != "audio":
            self._consistent_text()
        if self.modalities != "both":
            return self
        if self.fusion == "gated" and self.text_units != self.audio_units[-1]:
            raise ValueError(
                f"text_units: expected the last of audio_units ({self.audio_units[-1]}) with fusion=gated, "
                f"got {self.text_units}"
            )
        if self.fusion == "cross_attention" and self.text_units % self.fusion_heads:
            raise ValueError(
                f"text_units: expected a multiple of fusion_heads ({self.fusion_heads}) with fusion=cross_attention, "
                f"got {self.text_units}"
            )
        return self

    def _consistent_audio(self) -> None:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd number, got {self.kernel_size}")
        if self.attention == "se" and self.se_reduction > self.channels[-1]:
            raise ValueError(
                f"se_reduction: expected at most the last of channels ({self.channels[-1]}), got {self.se_reduction}"
            )
        if self.attention == "feature" and self.audio_units[-1] < GATE_REDUCTION:
            raise ValueError(
                f"audio_units: expected at least {GATE_REDUCTION} last with attention=feature, "
                f"got {self.audio_units[-1]}"
            )

    def _consistent_text(self) -> None:
        if not self.text_pretrained and self.text_layers == 0:
            raise ValueError(
                "text_pretrained: expected true where text_layers is 0, since random weights would stay as they are, "
                "got false"
            )
        if self.text_lora_rank is not None and self.text_layers == 0:
            raise ValueError(
                f"text_lora_rank: expected null where text_layers is 0, which trains none, got {self.text_lora_rank}"
            )
        if not self.text_cache and self.text_layers != 0:
            raise ValueError(
                f"text_cache: expected true (which then has no effect) where text_layers is not 0 "
                f"({self.text_layers}), since a trained encoder's states change, got false"
            )

    @property
    def text_input(self) -> TextInput:
        """What the model reads of texts: states only of a frozen encoder. A model of audio alone ignores its tokens."""
        if self.modalities == "audio" or self.text_layers != 0 or not self.text_cache:
            return "tokens"
        if self.modalities == "both" and self.fusion == "cross_attention":
            return "states"
        return self.text_pooling

    @property
    def needs_text(self) -> bool:
        return self.modalities != "audio"

    @property
    def encoder_parts(self) -> tuple[str, ...]:
        if not self.needs_text:
            return ()
        # Weights that the model loads with its own are not kept twice.
        return ("tokenizer", "config" if self.text_input == "tokens" else "weights")

    def encoder_shape(self) -> TextShape:
        """Return the sizes of the text encoder.

        Raises:
            ValueError: no such encoder, or fewer layers than are to be trained.
        """
        shape = text_shape(self.text_encoder)
        if self.text_layers > shape.num_layers:
            raise ValueError(
                f"model.text_layers: expected -1 (all, with the embeddings) to {shape.num_layers} for "
                f"'{self.text_encoder}', got {self.text_layers}"
            )
        return shape

    def check_encoder(self) -> None:
        if self.text_pretrained:
            check_weights(self.text_encoder, TEXT)
        shape = self.encoder_shape()
        load_tokenizer(self.text_encoder, TEXT)
        if shape.max_tokens is not None and self.max_tokens > shape.max_tokens:
            raise ValueError(
                f"model.max_tokens: expected at most {shape.max_tokens} for '{self.text_encoder}', "
                f"got {self.max_tokens}"
            )

    def with_saved_encoder(self, encoder: str) -> "BimodalSettings":
        own = {"text_pretrained": False} if self.text_input == "tokens" else {}
        return self.model_copy(update={"text_encoder": encoder, **own})
