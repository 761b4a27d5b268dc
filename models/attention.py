"""Self-attention as in Keras, and pooling by attention. Sequences are [batch, frames, channels]."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuning.models.layers import Dense, valid_frames


class SelfAttention(nn.Module):
    """Multi-head self-attention with a residual connection and layer norm. [B, T, C] -> [B, T, C].

    Queries, keys and values of each head have width `key_dim`, which does not depend on C: Keras's
    `MultiHeadAttention`, which `nn.MultiheadAttention` can't express. `dropout` acts on the attention weights. With
    `lengths` [B] no frame attends to padding, and the output of padding frames is undefined. The epsilon of the layer
    norm is Keras's 1e-3. Source: Vaswani et al. 2017, section 3.2.2.
    """

    def __init__(self, channels: int, heads: int = 8, key_dim: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = Dense(channels, heads * key_dim)
        self.key = Dense(channels, heads * key_dim)
        self.value = Dense(channels, heads * key_dim)
        self.output = Dense(heads * key_dim, channels)
        self.norm = nn.LayerNorm(channels, eps=1e-3)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        batch, frames, _ = sequence.shape
        # [B, heads, T, key_dim]
        query, key, value = (
            layer(sequence).view(batch, frames, self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        allowed = None if lengths is None else valid_frames(lengths, frames).view(batch, 1, 1, frames)
        rate = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, allowed, rate)
        return self.norm(sequence + self.output(attended.transpose(1, 2).flatten(2)))


class AttentionPool(nn.Module):
    """Mean over frames, weighted by the softmax of their products with a learned vector. [B, T, C] -> [B, C].

    The vector starts at zero, so that the initial weights are equal. With `lengths` [B] padding frames weigh nothing.
    Source: Mirsamadi, Barsoum and Zhang 2017, equations 3 and 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        scores = sequence @ self.weight.unsqueeze(1)
        if lengths is not None:
            scores = scores.masked_fill(~valid_frames(lengths, sequence.shape[1]), -torch.inf)
        # [B, 1, T] @ [B, T, C]
        return (scores.softmax(1).transpose(1, 2) @ sequence).squeeze(1)
