"""Prepare a model for ONNX: put normalisation or all of the signal path in front, and replace what ONNX has not."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tuning.datasets.features.frames import num_samples as samples_of
from tuning.datasets.features.spectral import FrontEnd
from tuning.datasets.settings import Segment
from tuning.models.layers import zero_padding
from tuning.models.lstm import LSTM
from tuning.models.pooling import Pool


class Graph(nn.Module):
    """Unnormalised features [B, T, F], num_frames [B] -> outputs [B, K], for classes logits and probabilities.

    Replaces the LSTMs and adaptive poolings within the model that it is given.
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
        # As in batches of training, padding is 0 after normalisation.
        outputs: Tensor = self.model(zero_padding((features - self.mean) * self.scale, num_frames), num_frames)
        return (outputs, outputs.softmax(1)) if self.is_classes else outputs


class WaveformGraph(nn.Module):
    """Waveforms [B, samples], num_samples [B] -> outputs of a `Graph` for the frames that a prediction makes of them.

    Args:
        graph: of the model.
        front_end: of the model's features, as long as they were prepared.
        frames: that the model sees of them.
    """

    def __init__(self, graph: Graph, front_end: FrontEnd, frames: int) -> None:
        super().__init__()
        # `graph` is a name that torch.export takes for itself.
        self.network, self.front_end, self.frames = graph, front_end, frames

    def forward(self, waveform: Tensor, num_samples: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        settings = self.front_end.settings
        wanted = samples_of(self.front_end.num_frames, settings)
        sound, count = segment_of(waveform, num_samples.clamp(1, waveform.shape[1]), wanted, settings.segment)
        features, num_valid = self.front_end(sound, count)
        found: Tensor | tuple[Tensor, Tensor] = self.network(
            *segment_of(features, num_valid, self.frames, settings.segment)
        )
        return found


def segment_of(values: Tensor, counts: Tensor, wanted: int, segment: Segment) -> tuple[Tensor, Tensor]:
    """Cut each row of values [B, N, ...] to a segment of the first `counts` [B]; [B, wanted, ...] and its length [B].

    What stands behind a shorter row is of no meaning.
    """
    kept = counts.clamp(max=wanted)
    start = (counts - kept) // 2 if segment == "middle" else torch.zeros_like(counts)
    places = (start[:, None] + torch.arange(wanted, device=values.device)).clamp(max=values.shape[1] - 1)
    if values.ndim == 3:
        places = places[:, :, None].expand(-1, -1, values.shape[2])
    return values.gather(1, places), kept


def normalised(features: np.ndarray, num_frames: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Tensor:
    """Normalise features as in training, written independently of `Graph` to compare with."""
    batch = torch.zeros(features.shape)
    for row, values, count in zip(batch, features, num_frames.tolist(), strict=True):
        row[:count] = torch.from_numpy((values[:count] - mean) * (1 / std))
    return batch


class OnnxLSTM(nn.Module):
    """An LSTM that is exported as one ONNX operator; torch's export would unroll a fixed number of frames.

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
        """The states of all frames [B, T, units], equal to those of `LSTM`."""
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
    """Adaptive pooling window by window, since ONNX has no operator for it; it fixes the number of frames."""

    def _windows(self, image: Tensor) -> Tensor:
        count, frames = self.adaptive_frames, image.shape[3]
        assert count is not None
        parts = [image[..., i * frames // count : -((i + 1) * frames // -count)] for i in range(count)]
        return torch.stack([part.amax(3) if self.maximum else part.mean(3) for part in parts], 3)


def replace_layers(model: nn.Module) -> None:
    """Replace each of our LSTMs and adaptive poolings within a model by what ONNX has."""
    for name, child in model.named_children():
        if isinstance(child, LSTM):
            setattr(model, name, OnnxLSTM(child))
        elif isinstance(child, Pool) and child.adaptive_frames is not None:
            child.__class__ = AdaptiveWindows
        else:
            replace_layers(child)
