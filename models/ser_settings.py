"""Settings of the speech emotion classifier (`ser.py`)."""

from typing import Literal

from pydantic import Field, model_validator

from tuning.models.settings import ModelSettings, for_each


class SERSettings(ModelSettings):
    """The speech emotion classifier: convolution blocks, LSTMs, self-attention, and pooling over frames.

    The defaults are the documented improved network (docs/sources.md). Each setting undoes one of its improvements.
    """

    name: Literal["ser"] = Field("ser", description="model family")
    conv_channels: list[int] = Field([128, 256], description="channels of each convolution block; [] for no blocks")
    residual: bool = Field(True, description="a shortcut around the convolutions of each block")
    convs_per_block: int | None = Field(
        None, ge=1, description="convolutions in each block (null: two in residual blocks, one in others)"
    )
    kernel_size: int = Field(5, ge=1, description="frames that each convolution spans")
    batch_norm: bool = Field(True, description="batch norm after each convolution")
    bn_momentum: float = Field(0.9, ge=0, lt=1, description="share of the moving statistics that each batch keeps")
    pool_sizes: list[int] = Field([2], min_length=1, description="max-pooling window of each block, or one for all")
    lstm_hidden: int = Field(128, ge=1, description="units of each LSTM, of each direction if bidirectional")
    lstm_layers: int = Field(2, ge=0, description="number of stacked LSTMs; 0 for none")
    bidirectional: bool = Field(True, description="each LSTM also reads backwards, and both outputs are concatenated")
    attention_heads: int = Field(4, ge=0, description="heads of the self-attention after the LSTMs; 0 for none")
    pooling: Literal["attention", "mean", "max", "statistics"] = Field(
        "attention",
        description="how the sequence becomes one vector: weighted by attention, mean, maximum, or mean with deviation "
        "and changes over time (statistics)",
    )
    input_statistics: bool = Field(
        False, description="append mean, deviation and changes of the input features to the pooled vector"
    )
    head_units: list[int] = Field([], description="units of each hidden layer before the output; [] for none")
    dropout: float = Field(0.2, ge=0, lt=1, description="after each block, between LSTMs, before each dense layer")

    @model_validator(mode="after")
    def _consistent(self) -> "SERSettings":
        self.check_blocks("pool_sizes", "size", of="conv_channels")
        self.check_sizes("conv_channels", "pool_sizes", "head_units")
        return self

    def per_block(self) -> list[tuple[int, int]]:
        """Return channels and pooling window of each convolution block."""
        return list(zip(self.conv_channels, for_each(self.pool_sizes, len(self.conv_channels)), strict=True))

    def num_convs(self) -> int:
        """Return the number of convolutions in each block."""
        return self.convs_per_block or (2 if self.residual else 1)
