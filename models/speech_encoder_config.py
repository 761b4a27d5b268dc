"""What is known of a pretrained speech encoder without its weights. Imports transformers only when it is asked."""

import difflib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tuning.models import encoder_snapshot as snapshot
from tuning.models.encoder_snapshot import Signature

KINDS = ("hubert", "wav2vec2", "wavlm")  # as `model_type` of config.json says
WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class EncoderShape:
    """What config.json and preprocessor_config.json say.

    Args:
        hidden_size: values per frame.
        num_layers: transformer layers, `features.encoder_layer` counts them from 1.
        hop_samples: step between frames, the product of the convolutions' strides.
        field_samples: samples that one frame is made of, so that shorter input has none.
        normalised: whether the waveform must have zero mean and unit variance.
    """

    hidden_size: int
    num_layers: int
    hop_samples: int
    field_samples: int
    normalised: bool

    def num_samples(self, num_frames: int) -> int:
        """Samples that give exactly `num_frames` frames."""
        return self.field_samples + (num_frames - 1) * self.hop_samples

    def frames_in(self, num_samples: int) -> int:
        """Frames that so many samples give; fewer than one frame needs are followed by zeros."""
        return 1 + max(0, num_samples - self.field_samples) // self.hop_samples


def check(encoder: str | None, layer: int) -> None:
    """Say before any work what would fail in it.

    Raises:
        ValueError: no such encoder, another kind of model, no such layer.
    """
    shape = shape_of(encoder)
    if layer > shape.num_layers:
        raise ValueError(
            f"features.encoder_layer: expected -1 (the last) to {shape.num_layers} for '{encoder}' "
            f"(0: what enters its first transformer layer), got {layer}"
        )


def shape_of(encoder: str | None) -> EncoderShape:
    """Sizes of an encoder by hub name or folder, read anew only when files of the folder change.

    Raises:
        ValueError: no such encoder, another kind of model.
    """
    if encoder is None:
        raise ValueError("features.encoder: expected a hub name or a folder for features.name=encoder, got null")
    return _shape(encoder, signature(encoder))


def located(encoder: str | None) -> str | None:
    """The encoder as other processes find it, whose working folder may be another: a folder by its absolute path."""
    return str(Path(encoder).absolute()) if encoder is not None and Path(encoder).is_dir() else encoder


def signature(encoder: str) -> Signature:
    """Names, sizes and times of the files in a local folder, as `snapshot` has them; nothing for a hub name.

    Raises:
        ValueError: a path that is no folder.
    """
    folder = Path(encoder)
    if not folder.is_dir():
        if folder.is_absolute() or encoder.startswith((".", "~")) or encoder.count("/") > 1 or folder.exists():
            raise ValueError(f"features.encoder: expected a hub name or a folder, got '{encoder}'{_nearest(folder)}")
        return ()
    found = snapshot.signature(folder)
    names = [name for name, _, _ in found]
    if not any(name.endswith(WEIGHTS) for name in names) or "config.json" not in names:
        raise ValueError(
            f"features.encoder: expected config.json and weights (*.safetensors, *.bin) in '{encoder}', "
            f"found {', '.join(names) or 'neither'}{_nearest(folder)}"
        )
    return found


def _nearest(folder: Path) -> str:
    """`; did you mean 'x'?` for the folder with a config.json beside this one whose name is nearest."""
    try:
        known = [f.name for f in folder.parent.iterdir() if f != folder and (f / "config.json").is_file()]
    except OSError:
        return ""
    close = difflib.get_close_matches(folder.name, known, n=1, cutoff=0.5)
    return f"; did you mean '{folder.with_name(close[0])}'?" if close else ""


@lru_cache(maxsize=8)
def _shape(encoder: str, _: Signature) -> EncoderShape:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(encoder)
        normalised = bool(_preprocessing(encoder).get("do_normalize", True))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"features.encoder: '{encoder}' can't be loaded: {reason}") from None
    if config.model_type not in KINDS:
        kinds = ", ".join(KINDS)
        raise ValueError(f"features.encoder: expected one of {kinds}, got '{encoder}', a {config.model_type}")
    hop, field = 1, 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return EncoderShape(config.hidden_size, config.num_hidden_layers, hop, field, normalised)


def _preprocessing(encoder: str) -> dict[str, Any]:
    """The content of preprocessor_config.json, nothing where there is none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name = "preprocessor_config.json"
    if os.path.isdir(encoder):
        file = Path(encoder) / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    try:
        return json.loads(Path(hf_hub_download(encoder, name)).read_text(encoding="utf-8"))
    except LocalEntryNotFoundError:  # unreachable: whether there is one is not known
        raise
    except EntryNotFoundError:
        return {}
