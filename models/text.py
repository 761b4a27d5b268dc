"""Text tower: a pretrained encoder, or its precomputed states, pooled and projected."""

import torch
from torch import Tensor, nn

from tuning.models.bimodal_settings import BimodalSettings
from tuning.models.encoder_shapes import TEXT
from tuning.models.layers import clip_lengths, valid_frames, zero_padding
from tuning.models.lora import add_lora
from tuning.models.pooling import mean_over_frames
from tuning.models.pretrained import layers_of, load_encoder


class TextTower(nn.Module):
    """Texts -> vectors [B, text_units]. `settings.text_input` says what a text is given as.

    The encoder is part of the tower only where texts are tokens. A frozen encoder stays in evaluation mode, whatever
    `train` says, so that its states are equal to those that are computed before a search.
    """

    def __init__(self, settings: BimodalSettings) -> None:
        super().__init__()
        shape = settings.encoder_shape()
        self.input, self.pooling, self.width = settings.text_input, settings.text_pooling, shape.hidden_size
        self.max_tokens = shape.max_tokens
        self.frozen = settings.text_layers == 0
        self.encoder: nn.Module | None = None
        if self.input == "tokens":
            self.encoder = load_encoder(settings.text_encoder, TEXT, settings.text_pretrained)
            if settings.text_lora_rank is None:
                _train_last(self.encoder, settings.text_layers)
            else:
                layers, rank = layers_of(self.encoder), settings.text_lora_rank
                adapted = layers if settings.text_layers == -1 else layers[-settings.text_layers :]
                add_lora(self.encoder, adapted, shape.model_type, rank, settings.lora_alpha, "model.text_lora_rank")
        self.dropout = nn.Dropout(settings.text_dropout)
        self.dense = nn.Linear(self.width, settings.text_units)
        self.train()

    def train(self, mode: bool = True) -> "TextTower":
        super().train(mode)
        if self.encoder is not None and self.frozen:
            self.encoder.eval()
        return self

    def forward(self, text: Tensor, num_tokens: Tensor | None = None) -> Tensor:
        return self.vector(*self.states(text, num_tokens))

    def states(self, text: Tensor, num_tokens: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the tokens' states [B, L, hidden_size] and the texts' lengths [B], None where all are full.

        `text` is token ids [B, L], states [B, L, hidden_size] or pooled states [B, 1, hidden_size]. `num_tokens` [B]
        are the lengths without padding; they may stay on the CPU. Padding has state 0, and L may be cut to the
        longest text of the batch.

        Raises:
            ValueError: wrong shapes, or more tokens than the encoder takes.
        """
        self._check(text)
        if self.input in ("cls", "mean"):
            return text.to(self.dense.weight.dtype), None
        if num_tokens is not None and num_tokens.shape == text.shape[:1] and not torch.compiler.is_exporting():
            text = text[:, : max(1, int(num_tokens.max()))]
        lengths = clip_lengths(text, num_tokens, "num_tokens")
        states = text.to(self.dense.weight.dtype) if self.encoder is None else self._encoded(text, lengths)
        return zero_padding(states, lengths), lengths

    def vector(self, states: Tensor, lengths: Tensor | None) -> Tensor:
        """Return the text vector [B, text_units] of what `states` returned."""
        pooled = states[:, 0] if self.pooling == "cls" else mean_over_frames(states, lengths)
        return self.dense(self.dropout(pooled)).relu()

    def _encoded(self, tokens: Tensor, lengths: Tensor | None) -> Tensor:
        assert self.encoder is not None
        if self.max_tokens is not None and tokens.shape[1] > self.max_tokens:
            raise ValueError(
                f"text: expected at most {self.max_tokens} tokens (model.max_tokens), which is what model.text_encoder "
                f"takes, got {tokens.shape[1]}"
            )
        valid = None
        if lengths is not None:
            valid = valid_frames(lengths, tokens.shape[1]).squeeze(2)
            # RoBERTa and its relatives derive positions from the padding token.
            padding = getattr(self.encoder.config, "pad_token_id", None) or 0
            tokens = tokens.masked_fill(~valid, padding)
        return self.encoder(input_ids=tokens, attention_mask=None if valid is None else valid.long())[0]

    def _check(self, text: Tensor) -> None:
        if self.input == "tokens":
            fits, expected = text.ndim == 2 and not text.is_floating_point(), "token ids [batch, tokens]"
        else:
            fits = text.ndim == 3 and text.shape[2] == self.width and (self.input == "states" or text.shape[1] == 1)
            expected = f"states [batch, {'tokens' if self.input == 'states' else 1}, {self.width}]"
        if not fits:
            raise ValueError(f"text: expected {expected}, got {list(text.shape)} ({text.dtype})")


def _train_last(encoder: nn.Module, count: int) -> None:
    """Let only the last `count` transformer layers be trained; with -1 the whole encoder."""
    encoder.requires_grad_(count == -1)
    if count > 0:
        for layer in layers_of(encoder)[-count:]:
            layer.requires_grad_(True)
