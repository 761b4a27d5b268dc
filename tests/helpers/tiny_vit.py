"""A tiny image encoder in the folder that transformers saves and loads."""

import json
from pathlib import Path

SIZES = {
    "image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
    "intermediate_size": 24, "initializer_range": 0.3,
}  # fmt: skip
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def write_image_encoder(folder: Path, kind: str = "ViT", seed: int = 0, **changed) -> str:
    """Write a random model of transformers' class `kind` + Model, with wide weights, and what its images were like."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**(SIZES | changed))
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return str(folder)
