"""Bimodal: an audio tower, a text tower, and their fusion."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from tuning.models.base import Model
from tuning.models.bimodal_settings import BimodalSettings
from tuning.models.fusion import CrossAttention, GatedFusion
from tuning.models.text import TextTower
from tuning.models.vgg import AudioTower


class Bimodal(Model):
    """Emotion of songs from spectrogram and lyrics, or from one of them for comparison.

    The audio tower is the documented one (docs/sources.md); the text tower and the fusions are this project's. Initial
    weights have PyTorch's own distributions and come from torch's global generator.

    Raises:
        ValueError: too many blocks for the number of mels, no such text encoder, or too few layers in it.
    """

    Settings = BimodalSettings

    def __init__(self, settings: BimodalSettings, num_features: int, num_outputs: int) -> None:
        super().__init__()
        self.audio = AudioTower(settings, num_features) if settings.modalities != "text" else None
        if self.audio is not None:
            self.min_frames = self.audio.min_frames
        self.text = TextTower(settings) if settings.modalities != "audio" else None
        self.gated: GatedFusion | None = None
        self.cross: CrossAttention | None = None
        width = {"audio": settings.audio_units[-1], "text": settings.text_units}.get(settings.modalities, 0)
        if settings.modalities == "both":
            width = settings.audio_units[-1] + settings.text_units
            if settings.fusion == "gated":
                self.gated, width = GatedFusion(settings.text_units), settings.text_units
            elif settings.fusion == "cross_attention":
                assert self.text is not None
                sizes = settings.channels[-1], self.text.width, settings.text_units
                self.cross = CrossAttention(*sizes, settings.fusion_heads)
                width += 2 * settings.text_units
        widths = [width, *settings.head_units]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = nn.Dropout(settings.head_dropout)
        self.output = nn.Linear(widths[-1], num_outputs)

    def forward(
        self,
        features: Tensor,
        num_frames: Tensor | None = None,
        text: Tensor | None = None,
        num_tokens: Tensor | None = None,
    ) -> Tensor:
        """Return outputs [B, num_outputs] of `features` [B, T, num_features] and `text`.

        `settings.text_input` says what `text` holds. `num_frames` and `num_tokens` [B] are the lengths without padding;
        they may stay on the CPU. A model of one modality ignores the input of the other.

        Raises:
            ValueError: no text where the model reads it, wrong shapes, or too few frames for the poolings.
        """
        summary = self._joined(features, num_frames, text, num_tokens)
        for dense in self.hidden:
            summary = self.dropout(dense(summary).relu())
        return self.output(summary)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the pretrained encoder that are trained."""
        if self.text is None or self.text.encoder is None:
            return []
        return [parameter for parameter in self.text.encoder.parameters() if parameter.requires_grad]

    def _joined(
        self, features: Tensor, num_frames: Tensor | None, text: Tensor | None, num_tokens: Tensor | None
    ) -> Tensor:
        if self.text is None:
            assert self.audio is not None
            return self.audio(features, num_frames)
        if text is None:
            raise ValueError(f"text: expected {self.text.input} of each clip's text beside its features, got none")
        states, text_lengths = self.text.states(text, num_tokens)
        written = self.text.vector(states, text_lengths)
        if self.audio is None:
            return written
        if len(features) != len(text):
            raise ValueError(f"text: expected {len(features)}, one per clip, got {len(text)}")
        frames, lengths = self.audio.sequence(features, num_frames)
        heard = self.audio.vector(frames, lengths)
        if self.gated is not None:
            return self.gated(heard, written)
        both = [heard, written]
        if self.cross is not None:
            both.append(self.cross(frames, lengths, states, text_lengths))
        return torch.cat(both, 1)
