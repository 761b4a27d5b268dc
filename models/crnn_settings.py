"""Settings of the CRNN (`crnn.py`)."""

from typing import Literal

from pydantic import Field, model_validator

from tuning.models.settings import Activation, DropoutKind, ModelSettings, Pooling, for_each


class CRNNSettings(ModelSettings):
    """The CRNN: convolution blocks, optional self-attention, stacked LSTMs, and a dense head.

    The defaults are the documented complete network (docs/sources.md).
    """

    name: Literal["crnn"] = Field("crnn", description="model family")
    conv_block: Literal["standard", "single", "residual"] = Field(
        "standard", description="two convolutions per block; one; or a stem and residual blocks"
    )
    conv_filters: list[int] = Field([64, 128], description="channels of each convolution block; [] for no blocks")
    kernel_size: int = Field(3, ge=1, description="frames that each convolution spans")
    conv_activation: Activation = Field("relu", description="activation after each convolution")
    batch_norm: bool = Field(True, description="batch norm after the first convolution (residual: after the stem)")
    bn_momentum: float = Field(0.99, ge=0, lt=1, description="share of the moving statistics that each batch keeps")
    pooling: Pooling = Field("max", description="how each block pools its frames")
    pool_sizes: list[int] = Field([2], min_length=1, description="pooling window of each block, or one for all")
    pool_stride: int | None = Field(None, ge=1, description="frames from window to window (null: the window's size)")
    pool_padding: Literal["valid", "same"] = Field("valid", description="drop incomplete windows, or pad as Keras does")
    adaptive_frames: int = Field(150, ge=1, description="frames that adaptive pooling leaves after the last block")
    conv_dropout: list[float] = Field([0.2, 0.3], min_length=1, description="dropout after each block, or one for all")
    dropout_kind: DropoutKind = Field("element", description="what conv_dropout drops as a whole")
    attention: bool = Field(False, description="self-attention between the convolutions and the LSTMs")
    attention_heads: int = Field(8, ge=1, description="heads of the self-attention")
    attention_key_dim: int = Field(64, ge=1, description="width of each head's queries, keys and values")
    attention_dropout: float = Field(0.1, ge=0, lt=1, description="dropout on the attention weights")
    lstm_units: list[int] = Field([128, 64], description="units of each LSTM, of each direction if bidirectional")
    lstm_activation: Literal["tanh", "relu", "sigmoid"] = Field(
        "tanh", description="activation of cell and output; all but tanh run frame by frame, which is slower"
    )
    bidirectional: bool = Field(False, description="each LSTM also reads backwards, and both outputs are concatenated")
    lstm_dropout: float = Field(0.3, ge=0, lt=1, description="dropout on each LSTM's input, one mask for all frames")
    recurrent_dropout: float = Field(0.2, ge=0, lt=1, description="dropout on each LSTM's recurrent weights")
    summary: Literal["last", "last_valid", "mean", "max", "statistics", "trends"] = Field(
        "last",
        description="how the sequence becomes one vector: its last frame (last); or, padding left out, its last frame "
        "(last_valid), mean, maximum, mean with deviation and changes over time (statistics), or these with the slope "
        "and curvature over the clip (trends)",
    )
    input_statistics: bool = Field(False, description="append statistics of the input features to the summary")
    summary_norm: bool = Field(False, description="batch norm of the summary (with bn_momentum)")
    summary_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the summary")
    head: Literal["dense", "skip"] = Field(
        "dense", description="skip: its projected input is added to its last hidden layer"
    )
    dense_units: list[int] = Field([64, 32], description="units of each hidden layer of the head")
    dense_activation: Activation = Field("relu", description="activation of the head's hidden layers")
    dense_dropout: float = Field(0.4, ge=0, lt=1, description="dropout between the hidden layers of the head")
    dense_dropouts: list[float] | None = Field(
        None, description="in place of dense_dropout: one rate after each hidden layer, the last included"
    )
    dense_l1: float = Field(0.0, ge=0, description="L1 penalty on the kernels of the head's hidden layers")
    dense_l2: float = Field(0.01, ge=0, description="L2 penalty on the kernels of the head's hidden layers")
    dense_init_gain: float = Field(
        1.0, gt=0, description="factor on the head's initial kernels; below 1 for wide summaries and few clips"
    )
    leaky_slope: float = Field(0.01, ge=0, description="slope of leaky_relu below 0 (Keras's own default is 0.2)")
    output_activation: Literal["linear", "tanh"] = Field("linear", description="tanh keeps outputs between -1 and 1")

    @model_validator(mode="after")
    def _consistent(self) -> "CRNNSettings":
        self.check_blocks("conv_dropout", "rate", of="conv_filters")
        self.check_blocks("pool_sizes", "size", of="conv_filters")
        if self.dense_dropouts is not None and len(self.dense_dropouts) != len(self.dense_units):
            raise ValueError(
                f"dense_dropouts: expected one rate per layer of dense_units ({len(self.dense_units)}), "
                f"got {len(self.dense_dropouts)}"
            )
        self.check_sizes("conv_filters", "pool_sizes", "lstm_units", "dense_units")
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
        """Return channels, pooling window and dropout rate of each convolution block."""
        blocks = len(self.conv_filters)
        sizes, rates = for_each(self.pool_sizes, blocks), for_each(self.conv_dropout, blocks)
        return list(zip(self.conv_filters, sizes, rates, strict=True))

    def head_dropouts(self) -> list[float]:
        """Return the dropout rate after each hidden layer of the head."""
        if self.dense_dropouts is not None:
            return self.dense_dropouts
        between = max(len(self.dense_units) - 1, 0)
        return [self.dense_dropout] * between + [0.0] * (len(self.dense_units) - between)
