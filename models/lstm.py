"""LSTM layers that behave as Keras's and use PyTorch's fused kernel. Sequences are [batch, frames, channels]."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuning.models.layers import dropout_mask, forget_gate_bias_


class LSTM(nn.Module):
    """One LSTM layer with the parameters of Keras's. [B, T, in] -> [B, T, units].

    The output holds the state of every frame. There is one bias, where PyTorch's layer has two of which only the sum
    matters.

    `dropout` acts on the input, with one mask per sample for all frames and gates. Keras does the same without
    recurrent dropout, and draws one input mask per gate with it.

    `recurrent_dropout` masks columns of the recurrent weight: for each gate, which units of the previous state are
    read. A mask is drawn once per forward pass and holds for the batch and all frames. Keras draws one per sample,
    which needs a matrix product per gate and frame that no fused kernel offers. The masks of each sample have the same
    distribution in both, but here all samples of a batch share them.

    `activation` is that of the candidate and of the cell. `tanh` runs in the fused kernel, `relu` and `sigmoid` in a
    loop over frames. The gates always have sigmoid.
    """

    no_bias: Tensor

    def __init__(
        self,
        in_channels: int,
        units: int,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        activation: Literal["tanh", "relu", "sigmoid"] = "tanh",
    ) -> None:
        super().__init__()
        self.activation = activation
        self.units, self.dropout, self.recurrent_dropout = units, dropout, recurrent_dropout
        self.weight_ih = nn.Parameter(nn.init.xavier_uniform_(torch.empty(4 * units, in_channels)))
        self.weight_hh = nn.Parameter(nn.init.orthogonal_(torch.empty(4 * units, units)))
        self.bias = nn.Parameter(forget_gate_bias_(torch.empty(4 * units)))
        self.register_buffer("no_bias", torch.zeros(4 * units), persistent=False)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the states of all frames. `lengths` is not used, since no frame influences an earlier one."""
        batch, _, channels = sequence.shape
        weight_hh: Tensor = self.weight_hh
        if self.training and self.dropout > 0:
            sequence = sequence * dropout_mask(sequence, (batch, 1, channels), self.dropout)
        if self.training and self.recurrent_dropout > 0:
            mask = dropout_mask(weight_hh, (4, 1, self.units), self.recurrent_dropout)
            weight_hh = (weight_hh.view(4, self.units, self.units) * mask).view_as(weight_hh)
        if self.activation != "tanh":
            return self._loop(sequence, weight_hh)
        state = sequence.new_zeros(1, batch, self.units)
        weights = [self.weight_ih, weight_hh, self.bias, self.no_bias]
        if sequence.is_cuda:
            weights = _one_chunk(weights)
        # The arguments after the weights: biases, layers, dropout between layers, training, bidirectional, batch first.
        return torch.lstm(sequence, (state, state), weights, True, 1, 0.0, self.training, False, True)[0]

    def _loop(self, sequence: Tensor, weight_hh: Tensor) -> Tensor:
        act = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid}[self.activation]
        projected = F.linear(sequence, self.weight_ih, self.bias)
        hidden = cell = projected.new_zeros(len(sequence), self.units)
        states = []
        for frame in projected.unbind(1):
            i, f, g, o = (frame + F.linear(hidden, weight_hh)).chunk(4, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * act(g)
            hidden = o.sigmoid() * act(cell)
            states.append(hidden)
        return torch.stack(states, 1)


class Bidirectional(nn.Module):
    """Two LSTMs, one of which reads backwards, concatenated. [B, T, in] -> [B, T, 2 * units].

    Each state has the index of its frame, so that the last state of the backward LSTM is at frame 0. With `lengths`
    [B] that LSTM starts at each clip's own last frame. Both draw their own dropout masks. Arguments are those of
    `LSTM`. Source: Keras's `Bidirectional(merge_mode='concat')`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.ahead, self.back = LSTM(*args, **kwargs), LSTM(*args, **kwargs)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        backwards = reversed_frames(self.back(reversed_frames(sequence, lengths)), lengths)
        return torch.cat([self.ahead(sequence), backwards], 2)


def reversed_frames(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Return `sequence` [B, T, C] with the first `lengths` [B] frames of each clip reversed; all frames if None."""
    if lengths is None:
        return sequence.flip(1)
    frame = torch.arange(sequence.shape[1], device=sequence.device)
    mirrored = lengths[:, None] - 1 - frame
    source = torch.where(mirrored >= 0, mirrored, frame)
    return sequence.gather(1, source.unsqueeze(2).expand_as(sequence))


def last_state(states: Tensor, lengths: Tensor | None, bidirectional: bool) -> Tensor:
    """Return the last state, of both directions if there are two. [B, T, width] -> [B, width].

    With `lengths` [B] it is that of each clip's own last frame. The backward direction ends at frame 0.
    """
    clips = torch.arange(states.shape[0], device=states.device)  # len() would fix the number in an exported graph
    last = states[:, -1] if lengths is None else states[clips, lengths - 1]
    if not bidirectional:
        return last
    half = states.shape[2] // 2
    return torch.cat([last[:, :half], states[:, 0, half:]], 1)


def _one_chunk(weights: list[Tensor]) -> list[Tensor]:
    """Copy weights into one block of memory. Otherwise cuDNN copies them itself and warns at every call."""
    chunk = torch.cat([weight.flatten() for weight in weights])
    return [
        part.view_as(weight) for part, weight in zip(chunk.split([w.numel() for w in weights]), weights, strict=True)
    ]
