"""Hidden states of a pretrained speech encoder (wav2vec 2.0, HuBERT, WavLM)."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tuning.models.encoder_shapes import SPEECH, check_speech_encoder, speech_shape
from tuning.models.pretrained import Signature, load_encoder, signature

if TYPE_CHECKING:
    import numpy as np

VARIANCE_FLOOR = 1e-7  # as transformers' Wav2Vec2FeatureExtractor adds to the variance


def encode(
    waveform: "np.ndarray", encoder: str | None, layer: int, num_frames: int, device: str = "cpu"
) -> "tuple[np.ndarray, int]":
    """Return hidden states float32 [num_frames, hidden_size] of a waveform [samples] at 16 kHz, and how many are valid.

    Further states are cut off, and zeros follow where there are fewer. `layer` is the transformer layer whose output
    they are; -1 is the last, and 0 the input of the first (the convolutions' output, projected, with its position).

    Raises:
        ValueError: the encoder can't be loaded, or has no such layer.
    """
    import numpy as np
    import torch

    check_speech_encoder(encoder, layer)
    assert encoder is not None
    shape = speech_shape(encoder)
    waveform = waveform.astype(np.float32)
    if shape.normalised:
        waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + np.float32(VARIANCE_FLOOR))
    waveform = np.pad(waveform, (0, max(0, shape.field_samples - len(waveform))))
    with one_thread(), torch.inference_mode():
        model = _model(encoder, signature(encoder, SPEECH), device)
        output = model(torch.from_numpy(waveform)[None].to(device), output_hidden_states=True)
        states = output.hidden_states[layer][0].cpu().numpy()
    values = np.zeros((num_frames, shape.hidden_size), dtype=np.float32)
    num_valid = min(num_frames, len(states))
    values[:num_valid] = states[:num_valid]
    return values, num_valid


@lru_cache(maxsize=1)
def _model(encoder: str, _: Signature, device: str) -> Any:
    # One per process, since a large encoder takes more than a gigabyte.
    return load_encoder(encoder, SPEECH).to(device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: every core prepares clips of its own, and sums are the same on any machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
