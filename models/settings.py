"""Settings of the models. Imports nothing heavy: `--help` reads it."""

from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Activation = Literal["relu", "swish", "gelu", "leaky_relu", "elu"]
DropoutKind = Literal["element", "channel", "time_step"]
Pooling = Literal["max", "average", "adaptive_max", "adaptive_average"]
GATE_REDUCTION = 4  # inputs per hidden unit of the gate that attention=feature puts on the bimodal model's audio vector


class CRNNSettings(BaseModel):
    """The CRNN of the guide (part 8): convolution blocks, attention if wanted, stacked LSTMs, a dense head."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    name: Literal["crnn"] = Field("crnn", description="model family")
    conv_block: Literal["standard", "single", "residual"] = Field(
        "standard", description="two convolutions a block; one; or a stem and blocks with a shortcut"
    )
    conv_filters: list[int] = Field([64, 128], description="channels of each convolution block; may be empty")
    kernel_size: int = Field(3, ge=1, description="frames under each convolution")
    conv_activation: Activation = Field("relu", description="after each convolution")
    batch_norm: bool = Field(True, description="batch-norm after the first convolution (residual: after the stem)")
    bn_momentum: float = Field(0.99, ge=0, lt=1, description="batch-norm momentum as Keras counts it (kept share)")
    pooling: Pooling = Field("max", description="how each block pools frames")
    pool_sizes: list[int] = Field([2], min_length=1, description="pooling window of each block, or one for all")
    pool_stride: int | None = Field(None, ge=1, description="frames from window to window (null: the window's size)")
    pool_padding: Literal["valid", "same"] = Field("valid", description="drop incomplete windows, or pad as Keras does")
    adaptive_frames: int = Field(150, ge=1, description="frames after the last block (adaptive pooling)")
    conv_dropout: list[float] = Field([0.2, 0.3], min_length=1, description="dropout after each block, or one for all")
    dropout_kind: DropoutKind = Field("element", description="what conv_dropout drops together")
    attention: bool = Field(False, description="self-attention between the convolutions and the LSTMs")
    attention_heads: int = Field(8, ge=1, description="heads of the self-attention")
    attention_key_dim: int = Field(64, ge=1, description="width of each head's queries, keys and values")
    attention_dropout: float = Field(0.1, ge=0, lt=1, description="dropout on the attention's weights")
    lstm_units: list[int] = Field([128, 64], description="units of each LSTM, of each direction if bidirectional")
    lstm_activation: Literal["tanh", "relu", "sigmoid"] = Field(
        "tanh", description="of cell and output; others than tanh run frame by frame, more slowly"
    )
    bidirectional: bool = Field(False, description="every LSTM also reads backwards; outputs are concatenated")
    lstm_dropout: float = Field(0.3, ge=0, lt=1, description="dropout on each LSTM's input, one mask for all frames")
    recurrent_dropout: float = Field(0.2, ge=0, lt=1, description="dropout on each LSTM's recurrent weights")
    summary: Literal["last", "last_valid", "mean", "max", "statistics", "trends"] = Field(
        "last",
        description="sequence to vector: last step; or, without padding, last step, mean, maximum, or mean, deviation "
        "and changes over time (statistics), and with them slope and bend over the clip (trends)",
    )
    input_statistics: bool = Field(False, description="the input's own statistics join the summary")
    summary_norm: bool = Field(False, description="batch-norm of the summary (at bn_momentum)")
    summary_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the summary")
    head: Literal["dense", "skip"] = Field("dense", description="skip: its projected input joins the last hidden layer")
    dense_units: list[int] = Field([64, 32], description="units of each layer of the head")
    dense_activation: Activation = Field("relu", description="of the head's hidden layers")
    dense_dropout: float = Field(0.4, ge=0, lt=1, description="dropout between the layers of the head")
    dense_dropouts: list[float] | None = Field(
        None, description="instead of dense_dropout: a rate after each hidden layer, the last one too"
    )
    dense_l1: float = Field(0.0, ge=0, description="L1 penalty on the head's kernels, output layer excepted")
    dense_l2: float = Field(0.01, ge=0, description="L2 penalty on the head's kernels, output layer excepted")
    dense_init_gain: float = Field(
        1.0, gt=0, description="factor on the head's initial kernels; small for wide summaries and few clips"
    )
    leaky_slope: float = Field(0.01, ge=0, description="slope below 0 of leaky_relu (Keras's own default is 0.2)")
    output_activation: Literal["linear", "tanh"] = Field("linear", description="tanh: outputs within -1 and 1")

    @model_validator(mode="after")
    def _consistent(self) -> "CRNNSettings":
        blocks = len(self.conv_filters)
        _each(self.conv_dropout, blocks, "conv_dropout: expected one rate per block of conv_filters")
        _each(self.pool_sizes, blocks, "pool_sizes: expected one size per block of conv_filters")
        if self.dense_dropouts is not None and len(self.dense_dropouts) != len(self.dense_units):
            raise ValueError(
                f"dense_dropouts: expected one rate per layer of dense_units ({len(self.dense_units)}), "
                f"got {len(self.dense_dropouts)}"
            )
        for name in ("conv_filters", "pool_sizes", "lstm_units", "dense_units"):
            if any(width < 1 for width in getattr(self, name)):
                raise ValueError(f"{name}: expected positive sizes, got {getattr(self, name)}")
        for name in ("conv_dropout", "dense_dropouts"):
            if any(not 0 <= rate < 1 for rate in getattr(self, name) or []):
                raise ValueError(f"{name}: expected rates in [0, 1), got {getattr(self, name)}")
        if not self.lstm_units and self.summary in ("last", "last_valid"):
            known = "mean, max, statistics or trends"
            raise ValueError(f"summary: expected {known} where lstm_units is empty, got {self.summary}")
        if not self.conv_filters and self.conv_block == "residual":
            raise ValueError("conv_block: expected standard or single where conv_filters is empty, got residual")
        if not self.dense_units and self.head == "skip":
            raise ValueError("head: expected dense where dense_units is empty, got skip")
        return self

    def per_block(self) -> list[tuple[int, int, float]]:
        """Channels, pooling window and dropout rate of each convolution block."""
        blocks = len(self.conv_filters)
        if not blocks:
            return []
        sizes = self.pool_sizes * (blocks if len(self.pool_sizes) == 1 else 1)
        rates = self.conv_dropout * (blocks if len(self.conv_dropout) == 1 else 1)
        return list(zip(self.conv_filters, sizes, rates, strict=True))

    def head_dropouts(self) -> list[float]:
        """Dropout rate after each hidden layer of the head."""
        if self.dense_dropouts is not None:
            return self.dense_dropouts
        between = max(len(self.dense_units) - 1, 0)
        return [self.dense_dropout] * between + [0.0] * (len(self.dense_units) - between)


class SERSettings(BaseModel):
    """Speech emotion classifier. The defaults are the guide's improved model; each improvement can be taken back."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    name: Literal["ser"] = Field("ser", description="model family")
    conv_channels: list[int] = Field([128, 256], description="channels of each convolution block; [] for none")
    residual: bool = Field(True, description="a shortcut around each block's convolutions")
    convs_per_block: int | None = Field(
        None, ge=1, description="convolutions in each block (null: two in residual blocks, else one)"
    )
    kernel_size: int = Field(5, ge=1, description="frames under each convolution")
    batch_norm: bool = Field(True, description="batch-norm after each convolution")
    bn_momentum: float = Field(0.9, ge=0, lt=1, description="share of the moving statistics that a batch keeps")
    pool_sizes: list[int] = Field([2], min_length=1, description="max-pooling window of each block, or one for all")
    lstm_hidden: int = Field(128, ge=1, description="units of each LSTM, of each direction if bidirectional")
    lstm_layers: int = Field(2, ge=0, description="stacked LSTMs; 0 for none")
    bidirectional: bool = Field(True, description="every LSTM also reads backwards; outputs are concatenated")
    attention_heads: int = Field(4, ge=0, description="heads of the self-attention after the LSTMs; 0 for none")
    pooling: Literal["attention", "mean", "max", "statistics"] = Field(
        "attention", description="sequence to vector: learned weights; mean; maximum; mean, deviation and changes"
    )
    input_statistics: bool = Field(
        False, description="the features' own mean, standard deviation and changes join the pooled vector"
    )
    head_units: list[int] = Field([], description="units of hidden layers before the output; [] for none")
    dropout: float = Field(0.2, ge=0, lt=1, description="after each block, between LSTMs, before each dense layer")

    @model_validator(mode="after")
    def _consistent(self) -> "SERSettings":
        _each(self.pool_sizes, len(self.conv_channels), "pool_sizes: expected one size per block of conv_channels")
        for name in ("conv_channels", "pool_sizes", "head_units"):
            if any(width < 1 for width in getattr(self, name)):
                raise ValueError(f"{name}: expected positive sizes, got {getattr(self, name)}")
        return self

    def per_block(self) -> list[tuple[int, int]]:
        """Channels and pooling window of each convolution block."""
        blocks = len(self.conv_channels)
        sizes = self.pool_sizes * blocks if len(self.pool_sizes) == 1 else self.pool_sizes[:blocks]
        return list(zip(self.conv_channels, sizes, strict=True))

    def num_convs(self) -> int:
        """Convolutions in each block."""
        return self.convs_per_block or (2 if self.residual else 1)


class GANSettings(BaseModel):
    """The conditional GAN of spectrograms and its training. The defaults are the guide's where it names a value."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    epochs: int = Field(10, ge=1, description="passes over the training split")
    latent_dim: int = Field(100, ge=1, description="width of the noise")
    condition_units: int = Field(64, ge=1, description="width of the two-layer embedding of the labels")
    channels: list[int] = Field(
        [256, 128, 64, 32],
        min_length=4,
        max_length=4,
        description="what goes into each of the generator's four transposed convolutions; the last gives one channel",
    )
    discriminator_channels: list[int] = Field(
        [32, 64, 128, 256], min_length=4, max_length=4, description="channels of the discriminator's four convolutions"
    )
    batch_size: int = Field(16, ge=2, description="real clips per step; batch-norm needs two")
    clips_per_real: float = Field(1.0, gt=0, le=10, description="clips that are made for each training clip")
    learning_rate: float = Field(2e-4, gt=0, description="the generator's, in the first epoch")
    discriminator_rate_factor: float = Field(0.5, gt=0, description="the discriminator's rate over the generator's")
    beta_1: float = Field(0.5, ge=0, lt=1, description="Adam's decay of the gradients' mean")
    decay: float = Field(0.99, gt=0, le=1, description="factor on both rates after each epoch")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of each network's gradient")
    weak_accuracy: float = Field(0.6, ge=0, le=1, description="the discriminator below it makes more steps")
    strong_accuracy: float = Field(0.95, ge=0, le=1, description="above it when_strong applies")
    most_discriminator_steps: int = Field(3, ge=1, description="the discriminator's steps on a batch while it is weak")
    when_strong: Literal["skip", "train_generator", "as_documented"] = Field(
        "skip",
        description="no discriminator step; or two of the generator; as_documented: one each, which is what happens "
        "anyway and so changes nothing",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "GANSettings":
        for name in ("channels", "discriminator_channels"):
            if any(width < 1 for width in getattr(self, name)):
                raise ValueError(f"{name}: expected positive sizes, got {getattr(self, name)}")
        if self.weak_accuracy > self.strong_accuracy:
            raise ValueError(
                f"weak_accuracy: expected at most strong_accuracy ({self.strong_accuracy:g}), "
                f"got {self.weak_accuracy:g}"
            )
        return self


class BimodalSettings(BaseModel):
    """Audio and lyrics: a VGG-like network, a pretrained text encoder, and what joins them (the guide's, improved)."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    name: Literal["bimodal"] = Field("bimodal", description="model family")
    modalities: Literal["both", "audio", "text"] = Field(
        "both", description="what the model uses; one alone to compare"
    )
    channels: list[int] = Field([64, 128, 256, 512], min_length=1, description="channels of each convolution block")
    convs_per_block: int = Field(1, ge=1, le=3, description="convolutions in each block")
    kernel_size: int = Field(3, ge=1, description="mels and frames under each convolution, an odd number")
    bn_momentum: float = Field(0.9, ge=0, lt=1, description="share of the moving statistics that a batch keeps")
    attention: Literal["se", "feature", "none"] = Field(
        "se", description="squeeze-and-excitation before the global pooling; or a gate on the audio vector, after all"
    )
    se_reduction: int = Field(16, ge=1, description="channels per unit of squeeze-and-excitation's narrow layer")
    audio_units: list[int] = Field(
        [256, 64], min_length=1, description="units of the layers after the global pooling; the last is the vector"
    )
    audio_dropout: float = Field(0.5, ge=0, lt=1, description="dropout before each of those layers")
    text_encoder: str = Field(
        "bert-base-uncased",
        description="hub name or folder of a transformers text encoder; demo: the tiny one that the demo brings along",
    )
    text_pretrained: bool = Field(True, description="false: the encoder's layout with random weights")
    text_layers: int = Field(
        0, ge=-1, description="last transformer layers that are trained; 0: frozen; -1: all, the embeddings too"
    )
    text_cache: bool = Field(
        True, description="a frozen encoder's states are computed once, before the search; false: at every step"
    )
    max_tokens: int = Field(512, ge=2, description="longer texts are cut")
    text_pooling: Literal["cls", "mean"] = Field("mean", description="state of the first token, or of all the mean")
    text_units: int = Field(64, ge=1, description="width of the text's vector")
    text_dropout: float = Field(0.3, ge=0, lt=1, description="dropout on the encoder's pooled state")
    fusion: Literal["concat", "gated", "cross_attention"] = Field(
        "concat", description="vectors side by side; a gate between them; frames and tokens attend to one another, too"
    )
    fusion_heads: int = Field(4, ge=1, description="heads of the cross-attention")
    head_units: list[int] = Field([64], description="units of hidden layers before the output; [] for none")
    head_dropout: float = Field(0.3, ge=0, lt=1, description="dropout after each hidden layer of the head")

    @model_validator(mode="after")
    def _consistent(self) -> "BimodalSettings":
        for name in ("channels", "audio_units", "head_units"):
            if any(width < 1 for width in getattr(self, name)):
                raise ValueError(f"{name}: expected positive sizes, got {getattr(self, name)}")
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
        if not self.text_cache and self.text_layers != 0:
            raise ValueError(
                f"text_cache: expected true (which then has no effect) where text_layers is not 0 "
                f"({self.text_layers}), since a trained encoder's states change, got false"
            )

    @property
    def text_input(self) -> Literal["tokens", "states", "cls", "mean"]:
        """What a batch must bring: the tokens' ids, a frozen encoder's states of all of them, or those pooled.

        Of audio alone it is tokens, which the model ignores.
        """
        if self.modalities == "audio" or self.text_layers != 0 or not self.text_cache:
            return "tokens"
        if self.modalities == "both" and self.fusion == "cross_attention":
            return "states"
        return self.text_pooling


class ViTSettings(BaseModel):
    """A vision transformer on the picture of the spectrogram; a pretrained one is unfrozen in stages (ViT guide)."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    name: Literal["vit"] = Field("vit", description="model family")
    image_encoder: str | None = Field(
        "google/vit-base-patch16-224-in21k",
        description="hub name or folder of a transformers ViT, DeiT or DINOv2; null: a ViT of the sizes below",
    )
    pretrained: bool = Field(True, description="false: random weights, all of them trained from the first epoch")
    image_size: int = Field(224, ge=1, description="height and width of the picture (image_encoder=null)")
    patch_size: int = Field(16, ge=1, description="height and width of a patch (image_encoder=null)")
    hidden_size: int = Field(192, ge=1, description="values per patch (image_encoder=null)")
    num_layers: int = Field(12, ge=1, description="transformer layers (image_encoder=null)")
    num_heads: int = Field(3, ge=1, description="heads of the self-attention (image_encoder=null)")
    unfreeze_epochs: list[int] = Field(
        [8, 12, 16],
        description="epochs from which on the last layer, the last two, the last three ... are trained; before the "
        "first, and with [] always, the head alone is",
    )
    pooling: Literal["cls", "mean"] = Field("cls", description="state of the class token, or of all patches the mean")
    head_units: list[int] = Field([], description="units of hidden layers before the output; [] for none")
    head_dropout: float = Field(0.1, ge=0, lt=1, description="dropout before each layer of the head")

    @model_validator(mode="after")
    def _consistent(self) -> "ViTSettings":
        if any(width < 1 for width in self.head_units):
            raise ValueError(f"head_units: expected positive sizes, got {self.head_units}")
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


def _each(values: list[float] | list[int], blocks: int, expectation: str) -> None:
    if blocks and len(values) not in (1, blocks):
        raise ValueError(f"{expectation} ({blocks}), got {len(values)}")
