"""Tiny encoders of speech with random weights: wav2vec 2.0, HuBERT and WavLM."""

import json

import torch

from tuning.datasets.settings import FeatureSettings
from tuning.models.hugging_face import transformers

KINDS = ["Wav2Vec2", "Hubert", "WavLM"]
HOP, FIELD = 80, 10 + 2 * 5 + 2 * 20  # strides 5, 4, 4; kernels 10, 3, 3: each adds its kernel less one, strided
TINY = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "conv_dim": [8, 8, 8], "conv_stride": [5, 4, 4], "conv_kernel": [10, 3, 3], "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "initializer_range": 0.3,
}  # fmt: skip


def write_encoder(folder, kind="Wav2Vec2", seed=0, do_normalize=None, **changed):
    """Write an encoder into a folder; return features of its last layer."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**(TINY | changed))
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    if do_normalize is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": do_normalize}))
    return FeatureSettings(name="encoder", encoder=str(folder), num_frames=40)
