"""Settings of the models. Imports nothing heavy: `--help` reads it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Activation = Literal["relu", "swish", "gelu", "leaky_relu", "elu"]
DropoutKind = Literal["element", "channel", "time_step"]
Pooling = Literal["max", "average", "adaptive_max", "adaptive_average"]


class CRNNSettings(BaseModel):
    """The CRNN of the guide (part 8): convolution blocks, attention if wanted, stacked LSTMs, a dense head."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    name: Literal["crnn"] = Field("crnn", description="model family")
    conv_block: Literal["standard", "single", "residual"] = Field(
        "standard", description="two convolutions a block; one; or a stem and blocks with a shortcut"
    )
    conv_filters: list[int] = Field([64, 128], min_length=1, description="channels of each convolution block")
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
    summary: Literal["last", "last_valid", "mean", "max"] = Field(
        "last", description="sequence to vector: last step; last step, mean or maximum without padding"
    )
    head: Literal["dense", "skip"] = Field("dense", description="skip: its projected input joins the last hidden layer")
    dense_units: list[int] = Field([64, 32], description="units of each layer of the head")
    dense_activation: Activation = Field("relu", description="of the head's hidden layers")
    dense_dropout: float = Field(0.4, ge=0, lt=1, description="dropout between the layers of the head")
    dense_dropouts: list[float] | None = Field(
        None, description="instead of dense_dropout: a rate after each hidden layer, the last one too"
    )
    dense_l1: float = Field(0.0, ge=0, description="L1 penalty on the head's kernels, output layer excepted")
    dense_l2: float = Field(0.01, ge=0, description="L2 penalty on the head's kernels, output layer excepted")
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
            raise ValueError(f"summary: expected mean or max where lstm_units is empty, got {self.summary}")
        if not self.dense_units and self.head == "skip":
            raise ValueError("head: expected dense where dense_units is empty, got skip")
        return self

    def per_block(self) -> list[tuple[int, int, float]]:
        """Channels, pooling window and dropout rate of each convolution block."""
        blocks = len(self.conv_filters)
        sizes = self.pool_sizes * (blocks if len(self.pool_sizes) == 1 else 1)
        rates = self.conv_dropout * (blocks if len(self.conv_dropout) == 1 else 1)
        return list(zip(self.conv_filters, sizes, rates, strict=True))

    def head_dropouts(self) -> list[float]:
        """Dropout rate after each hidden layer of the head."""
        if self.dense_dropouts is not None:
            return self.dense_dropouts
        between = max(len(self.dense_units) - 1, 0)
        return [self.dense_dropout] * between + [0.0] * (len(self.dense_units) - between)


def _each(values: list[float] | list[int], blocks: int, expectation: str) -> None:
    if len(values) not in (1, blocks):
        raise ValueError(f"{expectation} ({blocks}), got {len(values)}")
