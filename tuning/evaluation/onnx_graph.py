"""A model as it goes into ONNX: normalisation in front, LSTMs as ONNX's own operator."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tuning.models.layers import zero_padding
from tuning.models.lstm import LSTM
from tuning.models.pooling import Pool


class Graph(nn.Module):
    """Unnormalised features [B, T, F] and num_frames [B] -> outputs [B, K]; of classes logits and probabilities.

    Takes the model over: its LSTMs and adaptive poolings are replaced.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, model: nn.Module, mean: np.ndarray, std: np.ndarray, is_classes: bool) -> None:
        super().__init__()
        replace_layers(model)
        self.model, self.is_classes = model, is_classes
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("scale", torch.from_numpy(1 / std))

    def forward(self, features: Tensor, num_frames: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        num_frames = num_frames.clamp(1, features.shape[1])
        # As batches are made: padding is 0 after normalisation.
        outputs: Tensor = self.model(zero_padding((features - self.mean) * self.scale, num_frames), num_frames)
        return (outputs, outputs.softmax(1)) if self.is_classes else outputs


def normalised(features: np.ndarray, num_frames: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Tensor:
    """The batch that a model is trained on, of unnormalised features: a literal copy, to compare with."""
    batch = torch.zeros(features.shape)
    for row, values, count in zip(batch, features, num_frames.tolist(), strict=True):
        row[:count] = torch.from_numpy((values[:count] - mean) * (1 / std))
    return batch


class OnnxLSTM(nn.Module):
    """An LSTM whose graph is the one operator of ONNX. torch's export would unroll its frames, whose number it fixes.

    ONNX has the gates in the order i, o, f, g. Source: ONNX operators, LSTM-14.
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor

    def __init__(self, lstm: LSTM) -> None:
        super().__init__()
        self.units, self.activation = lstm.units, lstm.activation.capitalize()
        self.register_buffer("weight_ih", _reordered(lstm.weight_ih))
        self.register_buffer("weight_hh", _reordered(lstm.weight_hh))
        self.register_buffer("bias", torch.cat([_reordered(lstm.bias), torch.zeros(1, 4 * lstm.units)], 1))

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The states of all frames [B, T, units], as of `LSTM`."""
        batch, frames, _ = sequence.shape
        states = torch.onnx.ops.symbolic(
            "LSTM",
            (sequence.transpose(0, 1), self.weight_ih, self.weight_hh, self.bias),
            {"hidden_size": self.units, "activations": ["Sigmoid", self.activation, self.activation]},
            dtype=sequence.dtype,
            shape=(frames, 1, batch, self.units),
        )
        return states[:, 0].transpose(0, 1)


def _reordered(weight: Tensor) -> Tensor:
    i, f, g, o = weight.detach().chunk(4)
    return torch.cat([i, o, f, g])[None]


class AdaptiveWindows(Pool):
    """Adaptive pooling window by window, which ONNX has no operator for; the number of frames is then fixed."""

    def _windows(self, image: Tensor) -> Tensor:
        count, frames = self.adaptive_frames, image.shape[3]
        assert count is not None
        parts = [image[..., i * frames // count : -((i + 1) * frames // -count)] for i in range(count)]
        return torch.stack([part.amax(3) if self.maximum else part.mean(3) for part in parts], 3)


def replace_layers(model: nn.Module) -> None:
    """Put what ONNX has in the place of each of our LSTMs and adaptive poolings, within the model."""
    for name, child in model.named_children():
        if isinstance(child, LSTM):
            setattr(model, name, OnnxLSTM(child))
        elif isinstance(child, Pool) and child.adaptive_frames is not None:
            child.__class__ = AdaptiveWindows
        else:
            replace_layers(child)
