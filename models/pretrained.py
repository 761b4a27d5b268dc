"""Pretrained models of the package transformers by hub name or folder, never with random weights unless asked."""

import difflib
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

from torch import nn

PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = (".safetensors", ".bin")
TEXT_SIZES = ("hidden_size", "num_hidden_layers", "vocab_size")
# Their positions are counted from the one behind the padding token's id.
LATER_POSITIONS = (
    "camembert", "data2vec-text", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
    "xlm-roberta-xl", "xmod",
)  # fmt: skip
LAYERS = ("encoder.layer", "transformer.layer", "layers")  # BERT's and its kin's; DistilBERT's; ModernBERT's, ViT's
Signature = tuple[tuple[str, int, int], ...]  # name, size, time of change in ns of each file; empty for a hub name


@dataclass(frozen=True)
class TextShape:
    """What config.json says of a text encoder.

    Args:
        hidden_size: values per token.
        num_layers: transformer layers.
        max_tokens: the longest text it takes; None for any.
        model_type: its kind, as transformers calls it.
    """

    hidden_size: int
    num_layers: int
    max_tokens: int | None
    model_type: str


def shape_of(name: str, setting: str = "model.text_encoder") -> TextShape:
    """Sizes of a text encoder by hub name or folder, without its weights; read anew only when the folder changes.

    Raises:
        ValueError: no such model, no encoder of text; begins with `setting`.
    """
    return _shape(name, setting, signature(name, setting))


def load_encoder(name: str, setting: str = "model.text_encoder", pretrained: bool = True) -> nn.Module:
    """The model in float32, ready for inference; its pooler, which is no part of the states, is left out.

    `pretrained` false gives its layout with random weights, drawn from torch's global generator.

    Raises:
        ValueError: no such model, no or not all weights; begins with `setting`.
    """
    from transformers import AutoModel

    if not pretrained:
        model = AutoModel.from_config(load_config(name, setting))
    else:
        check_weights(name, setting)
        model, info = _loaded(AutoModel.from_pretrained, name, setting, output_loading_info=True)
        # What is missing was filled with random numbers.
        if missing := sorted(key for key in info["missing_keys"] if not key.startswith("pooler.")):
            raise ValueError(
                f"{setting}: expected weights of the whole model in '{name}', {len(missing)} are missing, "
                f"'{missing[0]}' among them"
            )
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model.float().eval()


def check_weights(name: str, setting: str = "model.text_encoder") -> None:
    """Whether a local folder has weights; of a hub name it is seen when they are loaded.

    Raises:
        ValueError: none; begins with `setting`.
    """
    files = [file for file, _, _ in signature(name, setting)]
    if files and not any(file.endswith(WEIGHTS) for file in files):
        raise ValueError(_lacking(name, setting, "weights (*.safetensors, *.bin)", files))


def load_config(name: str, setting: str = "model.text_encoder") -> Any:
    """The settings of a model, without its weights.

    Raises:
        ValueError: no such model; begins with `setting`.
    """
    from transformers import AutoConfig

    return _loaded(AutoConfig.from_pretrained, name, setting)


def load_tokenizer(name: str, setting: str = "model.text_encoder") -> Any:
    """The tokenizer that belongs to a text encoder.

    Raises:
        ValueError: no such model, no tokenizer beside it; begins with `setting`.
    """
    files = [file for file, _, _ in signature(name, setting)]
    from transformers import AutoTokenizer

    tokenizer = _loaded(AutoTokenizer.from_pretrained, name, setting)
    # Without its files some are made of nothing but the special tokens, in silence.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ValueError(_lacking(name, setting, "a tokenizer (tokenizer.json, or vocab.txt)", files))
    return tokenizer


def preprocessor_of(name: str, setting: str) -> dict[str, Any]:
    """What preprocessor_config.json says of how images are prepared for a model; nothing where there is none.

    Raises:
        ValueError: no such model, a file that is no JSON; begins with `setting`.
    """
    found = signature(name, setting)
    file = Path(name) / PREPROCESSOR if found else _loaded(_cached_preprocessor, name, setting)
    if file is None or not Path(file).is_file():
        return {}
    try:
        return dict(json.loads(Path(file).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{setting}: expected names with values in {file}, got: {error}") from None


def _cached_preprocessor(name: str, local_files_only: bool = False) -> str | None:
    """The file in the hub's cache, None where the hub has none; a file that is only not here yet is an OSError."""
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    if try_to_load_from_cache(name, PREPROCESSOR) is _CACHED_NO_EXIST:
        return None
    try:
        return hf_hub_download(name, PREPROCESSOR, local_files_only=local_files_only)
    except RemoteEntryNotFoundError:
        return None


def layers_of(encoder: nn.Module, setting: str = "model.text_layers") -> list[nn.Module]:
    """The transformer layers in order.

    Raises:
        ValueError: a model whose layers lie elsewhere than those of the models known here; begins with `setting`.
    """
    for path in LAYERS:
        try:
            layers = attrgetter(path)(encoder)
        except AttributeError:
            continue
        if isinstance(layers, nn.ModuleList):
            return list(layers)
    raise ValueError(
        f"{setting}: expected a model like BERT, RoBERTa, MPNet, ELECTRA, DistilBERT or ModernBERT, whose layers are "
        f"{', '.join(LAYERS)}, got {type(encoder).__name__}; 0 (none) and -1 (all) can be had"
    )


def signature(name: str, setting: str) -> Signature:
    """Names, sizes and times of the files of a model in a local folder; nothing for a hub name.

    Raises:
        ValueError: a path that is no folder, a folder without config.json; begins with `setting`.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or folder.exists():
            raise ValueError(f"{setting}: expected a hub name or a folder, got '{name}'{_nearest(folder)}")
        return ()
    kinds = (*WEIGHTS, ".json", ".txt", ".model")
    files = sorted(file for file in folder.iterdir() if file.suffix in kinds and file.is_file())
    if not (folder / "config.json").is_file():
        expected = "config.json and weights (*.safetensors, *.bin)"
        raise ValueError(_lacking(name, setting, expected, [file.name for file in files]))
    return tuple((file.name, stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()])


@lru_cache(maxsize=8)
def _shape(name: str, setting: str, _: Signature) -> TextShape:
    from transformers import MODEL_MAPPING

    config = load_config(name, setting)
    expected = f"{setting}: expected an encoder of text such as BERT, got '{name}', a {config.model_type}"
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{expected}, which has a decoder, too")
    if lacking := [size for size in TEXT_SIZES if not isinstance(getattr(config, size, None), int)]:
        raise ValueError(f"{expected}, without {lacking[0]}")
    kinds = MODEL_MAPPING[type(config)]
    kind = kinds[0] if isinstance(kinds, (list, tuple)) else kinds
    if not {"input_ids", "attention_mask"} <= set(inspect.signature(kind.forward).parameters):
        raise ValueError(f"{expected}, which takes {kind.main_input_name}")
    positions = getattr(config, "max_position_embeddings", None) or 0
    if config.model_type in LATER_POSITIONS:
        positions -= config.pad_token_id + 1
    max_tokens = positions if positions > 0 else None
    return TextShape(config.hidden_size, config.num_hidden_layers, max_tokens, config.model_type)


def _loaded(load: Callable[..., Any], name: str, setting: str, **options: Any) -> Any:
    """What `load` gives: from the folder; or from the hub's cache and, where it is not whole there, from the hub."""
    with quiet():
        try:
            try:
                return load(name, local_files_only=True, **options)
            except OSError:
                if Path(name).is_dir() or not _hub_answers():
                    raise
                return load(name, **options)
        except Exception as error:  # torch, safetensors and transformers have their own
            reason = " ".join(str(error).split())
    if Path(name).is_dir():
        raise ValueError(f"{setting}: '{name}' can't be loaded: {reason}")
    raise ValueError(
        f"{setting}: '{name}' is no folder{_nearest(Path(name))}, and can't be had from the hub or its cache; run "
        f"`hf download {name}` where there is a network, or give a folder with its config.json and "
        f"model.safetensors ({reason})"
    )


def _hub_answers() -> bool:
    """Whether there is a way to the hub. Its own functions try for half a minute before they say that there is none."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=3)
    except Exception:  # requests' or httpx's, by the package's version
        return False
    return True


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of heads that are not used and no progress bars, a line each for every process."""
    from transformers.utils import logging

    level, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shows_bars:
            logging.enable_progress_bar()


def _lacking(name: str, setting: str, expected: str, found: list[str]) -> str:
    hint = "" if "config.json" in found else _nearest(Path(name))
    return f"{setting}: expected {expected} in '{name}', found {', '.join(found) or 'none of them'}{hint}"


def _nearest(folder: Path) -> str:
    """`; did you mean 'x'?` for the folder with a config.json beside this one whose name is nearest."""
    try:
        known = [f.name for f in folder.parent.iterdir() if f.name != folder.name and (f / "config.json").is_file()]
    except OSError:
        return ""
    close = difflib.get_close_matches(folder.name, known, n=1, cutoff=0.5)
    return f"; did you mean '{folder.with_name(close[0])}'?" if close else ""
