"""The last layers of a pretrained encoder of speech as part of a model that trains them, as a whole or by LoRA."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tuning.models.base import Around
from tuning.models.encoder_shapes import SPEECH
from tuning.models.layers import clip_lengths, valid_frames, zero_padding
from tuning.models.lora import add_lora
from tuning.models.pretrained import load_encoder


class TunedLayers(Around):
    """The layers of an encoder behind features [B, T, size], which are its hidden states, and a model that reads them.

    The model reads the states of all layers from the features on, side by side, or of the last alone; each state is
    normalised over its values, without weights.

    Args:
        model: reads [B, T, layers * size] or [B, T, size].
        encoder: the layers.
        reads_all: whether the model reads all layers.
    """

    def __init__(self, model: nn.Module, encoder: "Layers", reads_all: bool) -> None:
        super().__init__(model)
        self.encoder, self.reads_all = encoder, reads_all

    def forward(self, features: Tensor, num_frames: Tensor | None = None, *others: Tensor) -> Tensor:
        """Compute the model's outputs [B, K]; it gets the other inputs as they are."""
        lengths = clip_lengths(features, num_frames)
        states = self.encoder(features, lengths)
        read = states if self.reads_all else states[-1:]
        normal = torch.cat([nn.functional.layer_norm(state, state.shape[2:]) for state in read], dim=2)
        outputs: Tensor = self.model(zero_padding(normal, lengths), num_frames, *others)
        return outputs

    def encoder_parameters(self) -> list[nn.Parameter]:
        """The encoder's weights, or LoRA's, that are trained."""
        return [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]


class Layers(nn.Module):
    """The transformer layers of an encoder of speech from the one after `first` on.

    Args:
        name: folder or hub name of a wav2vec 2.0, HuBERT, WavLM or Whisper model.
        first: number of the layer whose states are the input; 0: the input of the first layer.
        lora_rank: rank of LoRA's matrices, beside which all weights stay as they are; None trains all weights.
        lora_alpha: LoRA's change counts `lora_alpha / lora_rank` times.
        saves_memory: whether a layer's inner values are computed again for its gradient.
        pretrained: false for random weights, to be loaded over.

    Raises:
        ValueError: no such encoder.
    """

    def __init__(
        self,
        name: str,
        first: int,
        lora_rank: int | None = None,
        lora_alpha: float = 16.0,
        saves_memory: bool = False,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        model: Any = load_encoder(name, SPEECH, pretrained)
        self.kind, self.saves_memory = model.config.model_type, saves_memory
        encoder = model.encoder
        self.first = first
        self.layers = encoder.layers[first:]
        # Behind the last layer only Whisper's states, as transformers lists them, are normalised.
        self.norm = encoder.layer_norm if self.kind == "whisper" else nn.Identity()
        # Only WavLM's first layer knows of positions; it hands them on.
        self.positions = encoder.layers[0].attention if self.kind == "wavlm" and first > 0 else None
        if self.positions is not None:
            self.positions.requires_grad_(False)
        if lora_rank is not None:
            add_lora(self, list(self.layers), self.kind, lora_rank, lora_alpha, "model.encoder_training")

    @property
    def num_states(self) -> int:
        """States that `forward` returns: the input, and one for each layer."""
        return 1 + len(self.layers)

    def forward(self, states: Tensor, lengths: Tensor | None) -> list[Tensor]:
        """Compute the states [B, T, size] of each layer, the input before them; frames beyond `lengths` count nothing.

        They are those that transformers lists as hidden states.
        """
        valid = None if lengths is None else valid_frames(lengths, states.shape[1]).squeeze(2)
        context: dict[str, Any] = {"attention_mask": _mask(valid, states, self.kind)}
        if self.positions is not None:
            bias = self.positions.compute_bias(states.shape[1], states.shape[1])
            context["position_bias"] = bias.repeat(len(states), 1, 1)
        found = [states]
        for layer in self.layers:
            if self.saves_memory and self.training and torch.is_grad_enabled():
                output = checkpoint(layer, found[-1], use_reentrant=False, **context)
            else:
                output = layer(found[-1], **context)
            if isinstance(output, tuple):
                output, context["position_bias"] = output
            found.append(output)
        found[-1] = self.norm(found[-1])
        return found


def _mask(valid: Tensor | None, states: Tensor, kind: str) -> Tensor | None:
    """What keeps attention from padding, in the form that layers of a kind take; `valid` [B, T]."""
    if valid is None:
        return None
    if kind == "wavlm":
        return valid.long()
    return torch.zeros_like(valid, dtype=states.dtype).masked_fill(~valid, torch.finfo(states.dtype).min)[:, None, None]
