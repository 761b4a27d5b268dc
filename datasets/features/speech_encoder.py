"""Hidden states of a pretrained encoder of sound (wav2vec 2.0, HuBERT, WavLM, Whisper, musicnn), or their mean."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tuning.datasets.features.frames import check_encoder
from tuning.datasets.features.threads import one_thread
from tuning.datasets.settings import FeatureSettings
from tuning.models.encoder_shapes import SPEECH, WHISPER_HOP, SpeechShape, speech_shape
from tuning.models.musicnn import Musicnn, load_musicnn, log_mels
from tuning.models.pretrained import Signature, folder_of, is_musicnn, load_encoder, loaded_from
from tuning.models.torch_audio import functional

VARIANCE_FLOOR = 1e-7  # as transformers' Wav2Vec2FeatureExtractor adds to the variance
BATCH_SAMPLES = 1 << 22  # of sound that a GPU encodes at once: four minutes
# Whisper's mel spectrogram, as its feature extractor makes it.
WHISPER_WINDOW, WHISPER_MEL_HOP, WHISPER_FLOOR = 400, 160, 1e-10


def encode(
    waveforms: Sequence[np.ndarray], settings: FeatureSettings, num_frames: int, device: str = "cpu"
) -> list[tuple[np.ndarray, int]]:
    """Compute hidden states float32 [num_frames, values] of waveforms at 16 kHz, and how many frames are valid.

    Values are the outputs of one of `settings.encoder_layers` after another: -1 is the last, 0 the input of the first,
    of musicnn the front end. Pooled, they are of each layer the mean over a clip's frames, then, if asked for, the
    standard deviation, in one frame. Frames beyond `num_frames` are cut off, and zeros follow where there are fewer.

    Raises:
        ValueError: the encoder can't be loaded, or has no such layer.
    """
    check_encoder(settings)
    encoder, shape = settings.encoder, speech_shape(settings.encoder)
    assert encoder is not None
    heard = [_as_heard(waveform.astype(np.float32), shape) for waveform in waveforms]
    layers, values = shape.layers(settings.encoder_layers), settings.num_features
    found: dict[int, tuple[np.ndarray, int]] = {}
    with one_thread(), torch.inference_mode():
        model = _model(encoder, loaded_from(encoder, SPEECH), device)
        for positions in _batches([len(waveform) for waveform in heard], device):
            batch = torch.from_numpy(np.stack([heard[position] for position in positions])).to(device)
            states = hidden_states(model, batch)
            chosen = torch.cat([_pooled(states[layer], settings) for layer in layers], dim=2)[:, :num_frames]
            for position, clip in zip(positions, chosen.cpu().numpy(), strict=True):
                padded = np.zeros((num_frames, values), dtype=np.float32)
                padded[: len(clip)] = clip
                found[position] = padded, len(clip)
    return [found[position] for position in range(len(heard))]


def hidden_states(model: nn.Module, waveforms: Tensor) -> Sequence[Tensor]:
    """Compute the hidden states [B, frames, values] of every layer, the input of the first before them.

    Args:
        model: an encoder of transformers, or a musicnn.
        waveforms: [B, samples], all of them sound; as the encoder expects them.
    """
    if isinstance(model, Musicnn):
        return model(log_mels(waveforms))
    config: Any = model.config
    if config.model_type != "whisper":
        return tuple(model(waveforms, output_hidden_states=True).hidden_states)
    encoder: Any = model
    frames = waveforms.shape[1] // WHISPER_HOP
    mels = _whisper_mels(waveforms[:, : frames * WHISPER_HOP], config.num_mel_bins)
    # Whisper's own code takes 30 seconds, padded. Here a clip is all that it hears, at the first positions, in a
    # fraction of the time.
    every, most = encoder.embed_positions, config.max_source_positions
    try:
        config.max_source_positions = frames
        encoder.embed_positions = nn.Embedding.from_pretrained(every.weight[:frames])
        return tuple(encoder(mels, output_hidden_states=True).hidden_states)
    finally:
        config.max_source_positions, encoder.embed_positions = most, every


def _whisper_mels(waveforms: Tensor, num_mels: int) -> Tensor:
    """Log mel spectrograms [B, num_mels, frames] as Whisper's feature extractor makes them of padded waveforms."""
    frames, window = waveforms.shape[1] // WHISPER_MEL_HOP, torch.hann_window(WHISPER_WINDOW, device=waveforms.device)
    padded = torch.nn.functional.pad(waveforms, (0, WHISPER_WINDOW))
    spectrum = torch.stft(padded, WHISPER_WINDOW, WHISPER_MEL_HOP, window=window, return_complex=True)[:, :, :frames]
    filters = functional.melscale_fbanks(
        WHISPER_WINDOW // 2 + 1, 0.0, 8000.0, num_mels, 16000, norm="slaney", mel_scale="slaney"
    )
    logs = (filters.T.to(waveforms.device) @ spectrum.abs().square()).clamp(min=WHISPER_FLOOR).log10()
    return (torch.maximum(logs, logs.amax(dim=(1, 2), keepdim=True) - 8) + 4) / 4


def _as_heard(waveform: np.ndarray, shape: SpeechShape) -> np.ndarray:
    """A waveform as the encoder expects it, at least as long as a frame."""
    if shape.normalised:
        waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + np.float32(VARIANCE_FLOOR))
    return np.pad(waveform, (0, max(0, shape.field_samples - len(waveform))))


def _batches(lengths: Sequence[int], device: str) -> Iterator[list[int]]:
    """Places of waveforms of one length, so many as fit at once; on a CPU one, which so depends on no other."""
    ordered = sorted(range(len(lengths)), key=lambda place: lengths[place])
    for length, places in groupby(ordered, key=lambda place: lengths[place]):
        alike, size = list(places), 1 if device == "cpu" else max(1, BATCH_SAMPLES // length)
        yield from (alike[begin : begin + size] for begin in range(0, len(alike), size))


def _pooled(states: Tensor, settings: FeatureSettings) -> Tensor:
    """Hidden states [B, frames, values], or [B, 1, values] pooled over the frames."""
    if settings.encoder_pooling == "frames":
        return states
    mean = states.mean(dim=1, keepdim=True)
    if settings.encoder_pooling == "mean":
        return mean
    return torch.cat([mean, states.std(dim=1, keepdim=True, correction=0)], dim=2)


@lru_cache(maxsize=1)
def _model(encoder: str, _: tuple[Signature, str], device: str) -> Any:
    # One per process, since a large encoder takes more than a gigabyte.
    if is_musicnn(encoder, SPEECH):
        folder = folder_of(encoder)
        assert folder is not None
        try:
            return load_musicnn(folder).to(device)
        except ValueError as error:
            raise ValueError(f"{SPEECH}: {error}") from None
    model: Any = load_encoder(encoder, SPEECH)
    return (model.encoder if model.config.model_type == "whisper" else model).to(device)
