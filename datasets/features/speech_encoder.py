"""Hidden states of a pretrained speech encoder (wav2vec 2.0, HuBERT, WavLM), by the package transformers."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tuning.models.encoder_snapshot import Signature
from tuning.models.speech_encoder_config import check, shape_of, signature

if TYPE_CHECKING:
    import numpy as np

VARIANCE_FLOOR = 1e-7  # as transformers' Wav2Vec2FeatureExtractor adds to the variance
# Not part of what is computed outside training, and absent from some published weights.
UNUSED_WEIGHTS = ("masked_spec_embed",)


def encode(waveform: "np.ndarray", encoder: str | None, layer: int, num_frames: int) -> "tuple[np.ndarray, int]":
    """Hidden states float32 [num_frames, hidden_size] of a waveform [samples] at 16 kHz, and how many are valid.

    The first of them; zeros follow those of a shorter waveform. `layer` -1 is the last, 0 what enters the first
    transformer layer (the convolutions' output, projected, with its position), else that layer's output.

    Raises:
        ValueError: the encoder can't be loaded, no such layer.
    """
    import numpy as np
    import torch

    check(encoder, layer)
    assert encoder is not None
    shape = shape_of(encoder)
    waveform = waveform.astype(np.float32)
    if shape.normalised:
        waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + np.float32(VARIANCE_FLOOR))
    waveform = np.pad(waveform, (0, max(0, shape.field_samples - len(waveform))))
    with one_thread(), torch.inference_mode():
        output = _model(encoder, signature(encoder))(torch.from_numpy(waveform)[None], output_hidden_states=True)
        states = output.hidden_states[layer][0].numpy()
    values = np.zeros((num_frames, shape.hidden_size), dtype=np.float32)
    num_valid = min(num_frames, len(states))
    values[:num_valid] = states[:num_valid]
    return values, num_valid


@lru_cache(maxsize=1)
def _model(encoder: str, _: Signature) -> Any:
    """The model in float32, ready for inference; one a process, since a large one takes more than a gigabyte."""
    from transformers import AutoModel
    from transformers.utils import logging

    level, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # heads that are not used, a line for each process
    logging.disable_progress_bar()
    try:
        model, info = AutoModel.from_pretrained(encoder, output_loading_info=True)
    except Exception as error:  # torch, safetensors and transformers have their own
        reason = " ".join(str(error).split())
        raise ValueError(f"features.encoder: '{encoder}' can't be loaded: {reason}") from None
    finally:
        logging.set_verbosity(level)
        if shows_bars:
            logging.enable_progress_bar()
    # What is missing would be filled with random numbers.
    if missing := sorted(key for key in info["missing_keys"] if not key.endswith(UNUSED_WEIGHTS)):
        raise ValueError(
            f"features.encoder: expected weights of the whole encoder in '{encoder}', "
            f"{len(missing)} are missing, '{missing[0]}' among them"
        )
    return model.float().eval()


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: every core prepares clips of its own, and sums are the same on any machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
