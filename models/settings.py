"""Settings of the models. Imports nothing heavy: `--help` reads it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class CRNNSettings(BaseModel):
    """The CRNN of the guide (part 8): two convolution blocks, stacked LSTMs, a dense head."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    name: Literal["crnn"] = Field("crnn", description="model family")
    conv_filters: list[int] = Field([64, 128], min_length=1, description="channels of each convolution block")
    kernel_size: int = Field(3, ge=1, description="frames under each convolution")
    pool_size: int = Field(2, ge=1, description="max pooling after each convolution block")
    conv_dropout: list[float] = Field([0.2, 0.3], min_length=1, description="dropout after each convolution block")
    bn_momentum: float = Field(0.99, ge=0, lt=1, description="batch-norm momentum as Keras counts it (kept share)")
    lstm_units: list[int] = Field([128, 64], min_length=1, description="units of each LSTM")
    lstm_dropout: float = Field(0.3, ge=0, lt=1, description="dropout on each LSTM's input, one mask for all frames")
    recurrent_dropout: float = Field(0.2, ge=0, lt=1, description="dropout on each LSTM's recurrent weights")
    dense_units: list[int] = Field([64, 32], description="units of each layer of the head")
    dense_dropout: float = Field(0.4, ge=0, lt=1, description="dropout between the layers of the head")
    dense_l2: float = Field(0.01, ge=0, description="L2 penalty on the head's kernels, output layer excepted")

    @model_validator(mode="after")
    def _consistent(self) -> "CRNNSettings":
        if len(self.conv_dropout) != len(self.conv_filters):
            raise ValueError(
                f"conv_dropout: expected one rate per block of conv_filters ({len(self.conv_filters)}), "
                f"got {len(self.conv_dropout)}"
            )
        for name in ("conv_filters", "lstm_units", "dense_units"):
            if any(width < 1 for width in getattr(self, name)):
                raise ValueError(f"{name}: expected positive sizes, got {getattr(self, name)}")
        if any(not 0 <= rate < 1 for rate in self.conv_dropout):
            raise ValueError(f"conv_dropout: expected rates in [0, 1), got {self.conv_dropout}")
        return self
