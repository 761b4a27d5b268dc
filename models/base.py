"""What the trainer, the optimiser and the export ask of a model, with answers for those that need none of it."""

from torch import Tensor, nn


class Model(nn.Module):
    """A network from features [B, T, F] (and `num_frames`, and texts where it reads them) to outputs [B, K].

    A model of a user's own need not be one, as long as it has `penalty`.
    """

    min_frames = 1  # fewest frames of a clip from which an output can be computed

    def penalty(self) -> Tensor:
        """What the model adds to the training loss: nothing, a scalar 0 on its device."""
        return next(self.parameters()).new_zeros(())

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Weights that came pretrained and are trained from the start, at `optim.encoder_learning_rate`."""
        return []

    def unfreezing(self) -> list[tuple[int, list[nn.Parameter]]]:
        """Weights that are trained only from an epoch on, counted from 1: the epoch and the weights, one layer each."""
        return []
