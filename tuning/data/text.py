"""Texts of a corpus, prepared once as shards: token ids, or the states of a frozen encoder.

    <prepared>/texts/<fingerprint>/    one row per clip: number of tokens, and token ids or hidden states

What a model reads is said by `text_encoder`, `max_tokens` and `text_input` of its settings (`ModelSettings`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from tuning.config.errors import UserError
from tuning.config.schema import PREPARED, Config
from tuning.config.space import Space
from tuning.datasets import storage
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.features import library_versions as versions
from tuning.datasets.features.text_file import TextError, decode_text
from tuning.datasets.features.threads import one_thread
from tuning.datasets.hashing import digest_files, digest_of
from tuning.datasets.store.build import (
    CLIPS_PER_SHARD,
    Prepared,
    chosen_store,
    collected,
    make_missing,
    wanted_shards,
)
from tuning.datasets.store.shard_index import DEVICES, Device, of_device
from tuning.datasets.store.worker import PLAIN, Input, Job, Rows, Task
from tuning.models.encoder_shapes import TEXT
from tuning.models.pretrained import content_of, load_encoder, load_tokenizer, loaded_from
from tuning.training.encoders import encoder_of, reads_text

if TYPE_CHECKING:
    import numpy as np

VERSION = 1  # raised by hand when texts are read or encoded in another way


def text_key(config: Config) -> str:
    """Return a key of what a configuration's model reads of texts; empty where it reads none."""
    if not reads_text(config):
        return ""
    settings: Any = config.model
    return json.dumps([settings.text_encoder, settings.max_tokens, settings.text_input])


def text_variants(space: Space) -> dict[str, Config]:
    """Return a configuration for each `text_key` that trials may ask for."""
    of_texts = tuple(prefix for prefix in PREPARED if prefix.startswith("model."))
    return {key: config for config in space.variants(of_texts) if (key := text_key(config))}


def prepare_texts(
    corpus: Corpus,
    partitions: Mapping[str, str],
    config: Config,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:
    """Write the shards that are missing of what the configuration's model reads of texts, and return where they are.

    As in `tuning.datasets.store.build.prepare`, test clips have shards of their own, only what is new is computed, and
    texts that can't be read are quarantined with their reason.

    Raises:
        QuarantineError: too many texts can't be used.
        UserError: the encoder can't be loaded.
    """
    settings: Any = config.model
    prepared = storage.absolute(config.data.prepared)
    files = {clip.id: text_of(clip) for clip in corpus.clips}
    of_file, unreadable = digest_files(corpus.root, sorted(set(files.values())), prepared, config.data.verify)
    digests = {clip: of_file[file] for clip, file in files.items() if file in of_file}
    reasons = {clip: f"lyrics {unreadable[file]}" for clip, file in files.items() if file in unreadable}
    encoder = encoder_of(config)
    fingerprints: dict[Device, str] = {device: _fingerprint(encoder, settings, device) for device in DEVICES}
    wanted = wanted_shards(partitions, digests, CLIPS_PER_SHARD)

    def on_done(done: int) -> None:
        on_progress(len(reasons) + done, len(corpus.clips))

    gpus = config.resources.gpu_features and settings.text_input != "tokens"
    device, index = chosen_store(storage.below(prepared, "texts"), fingerprints, wanted, on_done, gpus)
    fingerprint = fingerprints[device]
    extracted = make_missing(
        corpus.root,
        {PLAIN: index},
        wanted,
        {"text": {"encoder": encoder, "max_tokens": settings.max_tokens, "input": settings.text_input}},
        on_done,
        task=TEXTS,
        files=files,
        device=device,
    )
    shape = (settings.max_tokens, 1)
    found = collected(
        corpus,
        partitions,
        config.data,
        index,
        f"texts-{fingerprint}",
        wanted,
        digests,
        reasons,
        extracted[PLAIN],
        shape,
    )
    # No digests: songs with the same words are not the same recording.
    return replace(found, fingerprint=fingerprint, digests={})


def text_of(clip: Clip) -> str:
    """Return the path of a clip's text."""
    assert clip.text is not None, "checked when the corpus was read"
    return clip.text


def _fingerprint(encoder: str, settings: Any, device: Device) -> str:
    """Return a hash of all that the stored values depend on, except the texts; of the encoder, its content."""
    made_by = versions.of_texts(settings.text_input) | of_device(device)
    matters = [content_of(encoder), settings.max_tokens, settings.text_input, VERSION, made_by]
    return digest_of(json.dumps(matters))[:16]


def read_lyrics(raw: bytes, job: Job) -> str:
    """Return the text of a file. Raises TextError, which says that it is one of lyrics."""
    try:
        return decode_text(raw)
    except TextError as error:
        raise TextError(f"lyrics {error.kind}", error.detail) from None


def encode_all(inputs: Sequence[Input], job: Job, device: str) -> list[dict[str, Rows] | str]:
    """Return what a model reads of texts, as `encode_text` does."""
    asked = job["text"]
    return [
        {PLAIN: encode_text(read.value, asked["encoder"], asked["max_tokens"], asked["input"], device)}
        for read in inputs
    ]


TEXTS = Task(read_lyrics, encode_all, TextError)


def encode_text(text: str, encoder: str, max_tokens: int, wanted: str, device: str) -> tuple[int, np.ndarray]:
    """Return the number of tokens, and their ids, int32 [max_tokens, 1], or their states, float32 [max_tokens, size].

    With `wanted` cls or mean it is one state, [1, size]. A longer text is cut at its end; zeros follow a shorter one.

    Raises:
        UserError: the encoder can't be loaded.
    """
    import numpy as np
    import torch

    tokenizer, model = _loaded(encoder, wanted != "tokens", device)
    tokens = tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]
    if wanted == "tokens":
        numbers = np.zeros((max_tokens, 1), dtype=np.int32)
        numbers[: len(tokens), 0] = tokens
        return len(tokens), numbers
    with one_thread(), torch.inference_mode():
        ids = torch.tensor([tokens], device=device)
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].cpu().numpy()
    if wanted == "states":
        states = np.zeros((max_tokens, output.shape[1]), dtype=np.float32)
        states[: len(output)] = output
        return len(output), states
    return 1, output[:1] if wanted == "cls" else output.mean(axis=0, keepdims=True)


def text_batch(texts: Sequence[str], config: Config) -> dict[str, Any]:
    """Return what a model reads of texts: `text` and `num_tokens` of a batch."""
    import numpy as np
    import torch

    from tuning.datasets.loaders.text import Texts

    settings, encoder = cast(Any, config.model), encoder_of(config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = [encode_text(text, encoder, settings.max_tokens, settings.text_input, device) for text in texts]
    places = np.arange(len(rows))
    return Texts.of(places, rows).batch(places)


def _loaded(encoder: str, with_model: bool, device: str) -> tuple[Any, Any]:
    try:
        return _load(encoder, loaded_from(encoder, TEXT), with_model, device)
    except ValueError as error:
        raise UserError(str(error)) from None


@functools.lru_cache(maxsize=1)
def _load(encoder: str, _: object, with_model: bool, device: str) -> tuple[Any, Any]:
    tokenizer = load_tokenizer(encoder, TEXT)
    return tokenizer, load_encoder(encoder, TEXT).eval().to(device) if with_model else None
