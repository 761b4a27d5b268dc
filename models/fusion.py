"""Fusion of audio and text: a gate between two vectors, and cross-attention between two sequences."""

import torch
from torch import Tensor, nn

from tuning.models.layers import valid_frames
from tuning.models.pooling import mean_over_frames


class GatedFusion(nn.Module):
    """Mix vectors a (audio) and t (text) as g a + (1 - g) t with a gate g = sigmoid(W [a; t]). [B, D] -> [B, D].

    Source: Arevalo et al. 2017, equations 3 to 5, without the tanh layer of each modality, since the towers end in
    layers of their own.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * units, units, bias=False)

    def forward(self, audio: Tensor, text: Tensor) -> Tensor:
        gate = self.gate(torch.cat([audio, text], 1)).sigmoid()
        return gate * audio + (1 - gate) * text


class CrossAttention(nn.Module):
    """Let frames attend to tokens and tokens to frames, and return the mean of each, [B, 2 units].

    Frames [B, T, frame_width] and tokens [B, L, token_width] are first projected to `units`. Padding must be finite
    and is ignored. Source: Vaswani et al. 2017, section 3.2.2; both directions as in Lu et al. 2019.
    """

    def __init__(self, frame_width: int, token_width: int, units: int, heads: int) -> None:
        super().__init__()
        self.frames, self.tokens = nn.Linear(frame_width, units), nn.Linear(token_width, units)
        self.to_tokens = nn.MultiheadAttention(units, heads, batch_first=True)
        self.to_frames = nn.MultiheadAttention(units, heads, batch_first=True)

    def forward(self, frames: Tensor, num_frames: Tensor | None, tokens: Tensor, num_tokens: Tensor | None) -> Tensor:
        frames, tokens = self.frames(frames), self.tokens(tokens)
        heard, _ = self.to_tokens(frames, tokens, tokens, _padding(tokens, num_tokens), need_weights=False)
        read, _ = self.to_frames(tokens, frames, frames, _padding(frames, num_frames), need_weights=False)
        return torch.cat([mean_over_frames(heard, num_frames), mean_over_frames(read, num_tokens)], 1)


def _padding(sequence: Tensor, lengths: Tensor | None) -> Tensor | None:
    """Return which positions of `sequence` [B, T, C] are padding, [B, T]; None where none are."""
    return None if lengths is None else ~valid_frames(lengths, sequence.shape[1]).squeeze(2)
