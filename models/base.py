"""Base of the models: defaults for all that the trainer, the optimiser and the export ask of a model."""

from typing import Any

from torch import Tensor, nn

from tuning.models.settings import ModelSettings


class Model(nn.Module):
    """Network from features [B, T, F] (with `num_frames`, and with texts if it reads them) to outputs [B, K].

    It is built as `Class(settings, num_features, num_outputs)` from an instance of `Class.Settings`. A user's own class
    need not inherit this one, as long as it has `Settings` and `penalty`.
    """

    Settings: type[ModelSettings]
    min_frames = 1  # fewest frames of a clip that give an output

    def penalty(self) -> Tensor:
        """Return the scalar that is added to the training loss: 0 by default."""
        return next(self.parameters()).new_zeros(())

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return pretrained weights that are trained from the first epoch, at `optim.encoder_learning_rate`."""
        return []

    def unfreezing(self) -> list[tuple[int, list[nn.Parameter]]]:
        """Return pretrained weights that are trained only from a later epoch on: the epoch (from 1) and the weights."""
        return []


class Around(Model):
    """A model that prepares the input of another one, whose needs are its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self.min_frames = getattr(model, "min_frames", Model.min_frames)

    def penalty(self) -> Tensor:
        """The model's penalty."""
        penalty: Tensor = self.model.penalty()
        return penalty

    def encoder_parameters(self) -> list[nn.Parameter]:
        """The model's pretrained weights that are trained from the first epoch."""
        return pretrained_weights(self.model)[0][1]

    def unfreezing(self) -> list[tuple[int, list[nn.Parameter]]]:
        """The model's pretrained weights that are trained later, with the epoch."""
        return pretrained_weights(self.model)[1:]


def pretrained_weights(model: nn.Module) -> list[tuple[int, list[nn.Parameter]]]:
    """Return the pretrained weights of a model that are trained, with the epoch (from 1) at which that begins.

    A class that does not inherit `Model` may define `encoder_parameters` and `unfreezing`, or else has the defaults.
    """
    defaults: Any = Model
    encoder = getattr(type(model), "encoder_parameters", defaults.encoder_parameters)(model)
    stages = getattr(type(model), "unfreezing", defaults.unfreezing)(model)
    return [(epoch, list(weights)) for epoch, weights in [(1, encoder), *stages]]
