"""A tiny Whisper with random weights."""

import torch

from tuning.datasets.settings import FeatureSettings
from tuning.models.hugging_face import transformers


def write_whisper(folder, frames=20):
    """A tiny Whisper whose clips are padded to `frames` frames of 20 ms, in place of 1500."""
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=24, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=24, num_mel_bins=10, max_source_positions=frames, vocab_size=50,
        max_target_positions=10, init_std=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    )  # fmt: skip
    transformers.WhisperModel(config).save_pretrained(folder)
    return FeatureSettings(name="encoder", encoder=str(folder), num_frames=frames)
