"""Pretrained encoders, by folder or hub name: locate, identify and check them, and load those of transformers.

A musicnn is a folder with a checkpoint of TensorFlow, of an installed package if it has one of the names in `MUSICNN`.

Imports torch and transformers only where they are used, since a search is planned from the config files alone.
Every function that can fail names the setting that asked for the encoder.
"""

import difflib
import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning.models.tensorflow_checkpoint import DATA, INDEX

if TYPE_CHECKING:
    from torch import nn

Signature = tuple[tuple[str, int, int], ...]  # name, size and time of change in ns of each file

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
# Where transformers 5 keeps the same when it saves a preprocessor of sounds or pictures together with a tokenizer.
PROCESSOR, PROCESSOR_PARTS = "processor_config.json", ("feature_extractor", "image_processor")
WEIGHTS = (".safetensors", ".bin", DATA)
PACKAGE = "musicnn"
MUSICNN = (f"{PACKAGE}/MSD_musicnn", f"{PACKAGE}/MTT_musicnn")
# Weights that hidden states do not depend on, and that some published encoders lack: a prefix and a suffix.
POOLER, TRAINING_MASK = "pooler.", "masked_spec_embed"
# Code that the files of an encoder bring along is not run; transformers would ask for it.
NO_CODE = {"trust_remote_code": False}
# Where a model has its transformer layers: BERT and its relatives; DistilBERT; ModernBERT and ViT.
LAYERS = ("encoder.layer", "transformer.layer", "layers")


def located(name: str) -> str:
    """Return the encoder as a process with another working folder finds it: an absolute path, or the name as it is."""
    folder = Path(name).expanduser()
    return str(folder.absolute()) if folder.is_dir() else name


def folder_of(name: str) -> Path | None:
    """Return the folder with an encoder's files, which may be that of a package; None for a hub name."""
    folder = Path(located(name))
    if folder.is_dir():
        return folder
    # The package itself is not imported: it needs TensorFlow.
    found = importlib.util.find_spec(PACKAGE) if name in MUSICNN else None
    places = (found and found.submodule_search_locations) or []
    folders = (Path(place) / name.removeprefix(f"{PACKAGE}/") for place in places)
    return next((folder for folder in folders if folder.is_dir()), None)


def is_musicnn(name: str, setting: str) -> bool:
    """Return whether an encoder is a musicnn, by its files.

    Raises:
        ValueError: a path that is no folder, or a folder without the files of an encoder.
    """
    return INDEX in _names(signature(name, setting))


def signature(name: str, setting: str) -> Signature:
    """List the files of an encoder's folder; empty for a hub name. Cached results are valid while it is equal.

    Raises:
        ValueError: a path that is no folder, or a folder without config.json or half of a musicnn.
    """
    folder = folder_of(name)
    if folder is None:
        if name.partition("/")[0] == PACKAGE:
            raise ValueError(_not_installed(name, setting))
        folder = Path(located(name))
        if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or folder.exists():
            raise ValueError(f"{setting}: expected a hub name or a folder, got '{name}'{_nearest(folder)}")
        return ()
    found = _files(folder)
    if {INDEX, DATA} & set(_names(found)):
        if len(found) < 2:
            raise ValueError(_lacking(name, setting, f"{INDEX} and {DATA}", found))
    elif CONFIG not in _names(found):
        raise ValueError(_lacking(name, setting, f"{CONFIG} and weights (*.safetensors, *.bin)", found))
    return found


def loaded_from(name: str, setting: str) -> tuple[Signature, str]:
    """Return what differs as soon as a name stands for other files: a loaded encoder is valid while it is equal.

    Raises:
        ValueError: as `signature` does.
    """
    found = signature(name, setting)
    return found, "" if found else _commit(name)


def content_of(name: str) -> str:
    """Return what identifies an encoder in a fingerprint: a hash of its folder, or its hub name with the commit."""
    snapshot = snapshot_of(name)
    if folder_of(name) is not None:
        return snapshot
    return f"{name}@{snapshot}" if snapshot else name


def snapshot_of(name: str) -> str:
    """Return which files a name stands for now: a hash of a folder's files, or the commit in the hub's cache.

    The hash depends on names and contents, not on the folder's path or on times. Empty where neither is at hand.
    """
    folder = folder_of(name)
    return _commit(name) if folder is None else _hash(folder, _files(folder))


def check_weights(name: str, setting: str) -> None:
    """Check that a folder has weights. A hub name is checked when its weights are loaded.

    Raises:
        ValueError: none.
    """
    found = signature(name, setting)
    if found and not any(file.endswith(WEIGHTS) for file in _names(found)):
        raise ValueError(_lacking(name, setting, "weights (*.safetensors, *.bin)", found))


def load_config(name: str, setting: str) -> Any:
    """Return the configuration of an encoder (transformers' own class), without its weights.

    Raises:
        ValueError: no such encoder.
    """
    from tuning.models.hugging_face import transformers

    return _loaded(transformers.AutoConfig.from_pretrained, name, setting, **NO_CODE)


def load_preprocessor(name: str, setting: str) -> dict[str, Any]:
    """Return what preprocessor_config.json says, or else processor_config.json; empty where an encoder has neither.

    Raises:
        ValueError: no such encoder, or a file that is no JSON object.
    """
    found = _read_json(PREPROCESSOR, name, setting)
    if found is not None:
        return found
    parts = _read_json(PROCESSOR, name, setting) or {}
    return next((dict(parts[part]) for part in PROCESSOR_PARTS if part in parts), {})


def _read_json(file_name: str, name: str, setting: str) -> dict[str, Any] | None:
    is_folder = signature(name, setting)
    file = Path(located(name)) / file_name if is_folder else _loaded(_cached_file, name, setting, file_name=file_name)
    if file is None or not Path(file).is_file():
        return None
    try:
        return dict(json.loads(Path(file).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{setting}: expected names with values in {file}, got: {error}") from None


def load_tokenizer(name: str, setting: str = "model.text_encoder") -> Any:
    """Return the tokenizer of a text encoder (transformers' own class).

    Raises:
        ValueError: no such encoder, or one without a tokenizer.
    """
    from tuning.models.hugging_face import transformers

    tokenizer = _loaded(transformers.AutoTokenizer.from_pretrained, name, setting, **NO_CODE)
    # Without its files transformers may build a tokenizer of nothing but the special tokens, and not say so.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        found = signature(name, setting)
        raise ValueError(_lacking(name, setting, "a tokenizer (tokenizer.json, or vocab.txt)", found))
    return tokenizer


def load_encoder(name: str, setting: str = "model.text_encoder", pretrained: bool = True) -> "nn.Module":
    """Return an encoder in float32 and evaluation mode, without its pooler, which no hidden state depends on.

    With `pretrained` false it has random weights, drawn from torch's global generator.

    Raises:
        ValueError: no such encoder, or weights that are missing or damaged.
    """
    from tuning.models.hugging_face import transformers

    if pretrained:
        check_weights(name, setting)
        model, info = _loaded(
            transformers.AutoModel.from_pretrained, name, setting, output_loading_info=True, **NO_CODE
        )
        # transformers fills missing weights with random numbers.
        lacking = (key for key in info["missing_keys"] if not key.endswith(TRAINING_MASK))
        if missing := [key for key in lacking if not key.startswith(POOLER)]:
            raise ValueError(
                f"{setting}: expected weights of the whole model in '{name}', {len(missing)} are missing, "
                f"'{min(missing)}' among them"
            )
    else:
        model = transformers.AutoModel.from_config(load_config(name, setting), **NO_CODE)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model.float().eval()


def save_parts(name: str, setting: str, folder: Path, parts: tuple[str, ...]) -> None:
    """Write parts of an encoder into a folder from which the functions above read them.

    Args:
        name: folder or hub name of the encoder.
        setting: named by errors.
        folder: where to.
        parts: some of `config`, `preprocessor`, `tokenizer` and `weights`; weights bring the config along.

    Raises:
        ValueError: the encoder lacks a part.
    """
    load = {"config": load_config, "tokenizer": load_tokenizer, "weights": load_encoder}
    for part in parts:
        if part in load:
            loaded = load[part](name, setting)
            with quiet():
                loaded.save_pretrained(folder)
        elif found := load_preprocessor(name, setting):
            (folder / PREPROCESSOR).write_text(json.dumps(found), encoding="utf-8")


def layers_of(encoder: "nn.Module", setting: str = "model.text_layers") -> "list[nn.Module]":
    """Return the transformer layers of an encoder, first to last.

    Raises:
        ValueError: an encoder that has them under none of the names in `LAYERS`.
    """
    from torch import nn

    for path in LAYERS:
        try:
            layers = attrgetter(path)(encoder)
        except AttributeError:
            continue
        if isinstance(layers, nn.ModuleList):
            return list(layers)
    raise ValueError(
        f"{setting}: expected a model like BERT, RoBERTa, MPNet, ELECTRA, DistilBERT or ModernBERT, whose layers are "
        f"{', '.join(LAYERS)}, got {type(encoder).__name__}; 0 (none) and -1 (all) are possible"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress transformers' progress bars and its warnings of unused heads, which every process would print."""
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


def _loaded(load: Callable[..., Any], name: str, setting: str, **options: Any) -> Any:
    """Call `load` on the folder, or on the hub's cache and, where files are missing there, on the hub."""
    is_folder, where = bool(signature(name, setting)), str(folder_of(name) or name)
    with quiet():
        try:
            try:
                return load(where, local_files_only=True, **options)
            except OSError:
                if is_folder or not _hub_answers():
                    raise
                return load(where, **options)
        except Exception as error:  # torch, safetensors and transformers raise errors of their own
            reason = " ".join(str(error).split())
    if is_folder:
        raise ValueError(f"{setting}: '{name}' can't be loaded: {reason}")
    raise ValueError(
        f"{setting}: '{name}' is no folder{_nearest(Path(name))}, and can't be had from the hub or its cache; run "
        f"`hf download {name}` where there is a network, or give a folder with its {CONFIG} and "
        f"model.safetensors ({reason})"
    )


def _hub_answers() -> bool:
    """Return whether the hub can be reached. Its own functions retry for half a minute before they give up."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=3)
    except Exception:  # of requests or of httpx, depending on the package's version
        return False
    return True


def _cached_file(name: str, file_name: str, local_files_only: bool = False) -> str | None:
    """Return the path of a file of an encoder in the hub; None where the hub has none.

    Raises:
        OSError: it is not in the cache, and the hub was not asked.
    """
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    if try_to_load_from_cache(name, file_name) is _CACHED_NO_EXIST:
        return None
    try:
        return hf_hub_download(name, file_name, local_files_only=local_files_only)
    except RemoteEntryNotFoundError:
        return None


def _files(folder: Path) -> Signature:
    # Tokenizers read files of any ending (bpe.codes, spiece.model, merges.txt); only *.md is text about the model.
    files = [file for file in folder.iterdir() if file.is_file()]
    # What else is in the folder of a musicnn is a record of its training.
    read = sorted(file for file in files if file.name in (INDEX, DATA))
    read = read or sorted(file for file in files if not file.name.startswith(".") and file.suffix != ".md")
    return tuple((file.name, stat.st_size, stat.st_mtime_ns) for file in read for stat in [file.stat()])


def _names(files: Signature) -> list[str]:
    return [name for name, _, _ in files]


@lru_cache(maxsize=8)
def _hash(folder: Path, files: Signature) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    for name in _names(files):
        with open(folder / name, "rb") as stream:
            hasher.update(name.encode() + b"\0" + hashlib.file_digest(stream, "blake2b").digest())
    return hasher.hexdigest()


def _commit(name: str) -> str:
    from huggingface_hub import try_to_load_from_cache

    try:
        file = try_to_load_from_cache(name, CONFIG)
    except ValueError:  # no valid hub name, such as the path of a folder that was deleted
        return ""
    return Path(file).parent.name if isinstance(file, str) else ""


def _not_installed(name: str, setting: str) -> str:
    if name not in MUSICNN:
        return f"{setting}: expected {' or '.join(MUSICNN)}, or a folder with such a checkpoint, got '{name}'"
    return (
        f"{setting}: '{name}' is a folder of the package {PACKAGE}, which is not installed; "
        f"pip install --no-deps {PACKAGE} (the TensorFlow that it asks for is not needed)"
    )


def _lacking(name: str, setting: str, expected: str, found: Signature) -> str:
    names = _names(found)
    hint = "" if CONFIG in names else _nearest(Path(located(name)))
    return f"{setting}: expected {expected} in '{name}', found {', '.join(names) or 'none of them'}{hint}"


def _nearest(folder: Path) -> str:
    """Return `; did you mean 'x'?` for the most similar name of an encoder's folder next to this one, or nothing."""
    try:
        others = [other for other in folder.parent.iterdir() if other.name != folder.name]
        known = [other.name for other in others if any((other / file).is_file() for file in (CONFIG, INDEX))]
    except OSError:
        return ""
    close = difflib.get_close_matches(folder.name, known, n=1, cutoff=0.5)
    return f"; did you mean '{folder.with_name(close[0])}'?" if close else ""
