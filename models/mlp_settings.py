"""Settings of the multilayer perceptron (`mlp.py`)."""

from typing import Literal

from pydantic import Field, model_validator

from tuning.models.settings import Activation, ModelSettings


class MLPSettings(ModelSettings):
    """A multilayer perceptron on a summary of a clip's frames, of which pooled features have only one."""

    name: Literal["mlp"] = Field("mlp", description="model family")
    hidden_units: list[int] = Field([], description="units of each hidden layer; [] for a linear model")
    activation: Activation = Field("gelu", description="after each hidden layer")
    input_dropout: float = Field(0.0, ge=0, lt=1, description="share of the input's values that are dropped")
    input_limit: float | None = Field(
        None,
        gt=0,
        description="most that a value of the input may be from 0; what is farther is cut. Normalised values are in "
        "standard deviations, and where training clips hardly differ, a clip that does can be thousands away",
    )
    pooling: Literal["mean", "statistics"] = Field(
        "mean", description="mean over a clip's frames, or mean, standard deviation and mean changes"
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="after each hidden layer")
    output_init_gain: float = Field(
        1.0, ge=0, description="factor on the output layer's first weights; 0 suits a linear model of many values"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "MLPSettings":
        self.check_sizes("hidden_units")
        return self
