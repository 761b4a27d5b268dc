"""LoRA (Hu et al. 2022) by peft: small matrices beside the weights of transformer layers, which alone are trained."""

from collections.abc import Sequence

from torch import nn

# What the layers of transformers' models call the projections of queries and values, together or apart.
QUERIES_AND_VALUES = (
    "q_proj", "v_proj", "query", "value", "q_lin", "v_lin", "query_proj", "value_proj", "Wqkv", "attn.q", "attn.v",
)  # fmt: skip
# WavLM's attention reads the weights of its projections and would not see what is added to them: the layers behind it.
OTHERS = {"wavlm": ("intermediate_dense", "output_dense")}


def add_lora(encoder: nn.Module, layers: Sequence[nn.Module], kind: str, rank: int, alpha: float, setting: str) -> None:
    """Add LoRA to some layers of an encoder, whose other weights are not trained.

    Args:
        encoder: of transformers.
        layers: of it.
        kind: its `model_type`.
        rank: of the matrices.
        alpha: what they add counts `alpha / rank` times.
        setting: that asks for it, named by errors.

    Raises:
        ValueError: layers whose projections have none of the known names.
    """
    from tuning.models.hugging_face import transformers  # first: peft imports its models, and these torchaudio

    assert transformers
    from peft import LoraConfig, inject_adapter_in_model

    names = OTHERS.get(kind, QUERIES_AND_VALUES)
    encoder.requires_grad_(False)
    for layer in layers:
        found = [
            name for name, _ in layer.named_modules() if f".{name}".endswith(tuple(f".{known}" for known in names))
        ]
        if not found:
            raise ValueError(
                f"{setting}: expected an encoder whose layers have {', '.join(names)}, got a {kind} with "
                f"{', '.join(name for name, module in layer.named_modules() if isinstance(module, nn.Linear))}"
            )
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=found), layer)
