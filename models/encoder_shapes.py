"""Sizes of pretrained encoders of sound, text and images, read from their config files without their weights."""

import inspect
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from tuning.models.pretrained import (
    Signature,
    check_weights,
    folder_of,
    is_musicnn,
    load_config,
    load_preprocessor,
    signature,
)
from tuning.models.tensorflow_checkpoint import read_entries

SPEECH, TEXT, IMAGE = "features.encoder", "model.text_encoder", "model.image_encoder"

# `model_type` in config.json.
SPEECH_KINDS = ("hubert", "wav2vec2", "wavlm", "whisper")
WHISPER_HOP = 320  # samples: the hop of its mel spectrogram, 160, times the stride of its convolutions
MUSICNN_HOP = 256  # samples
# Frames and mel bands of the filters of musicnn's front end, and frames of those of the layers after it.
MUSICNN_KERNELS, MUSICNN_WIDTH = ((7, 38), (7, 67), (128, 1), (64, 1), (32, 1)), 7
# Their states are those of the patches, after the class token and perhaps other tokens.
IMAGE_KINDS = ("deit", "dinov2", "dinov2_with_registers", "vit", "vit_msn")
# These number positions from the padding token's id + 1.
LATER_POSITIONS = (
    "camembert", "data2vec-text", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
    "xlm-roberta-xl", "xmod",
)  # fmt: skip
SPEECH_RATE_HZ = 16000  # of the recordings that encoders of sound were pretrained on
Layers = int | list[int] | Literal["all"]  # a layer, several, or all with the input of the first
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # ViT's own, for an encoder without preprocessor_config.json


@dataclass(frozen=True)
class SpeechShape:
    """Sizes of an encoder of sound.

    Args:
        sizes: values per frame of each layer; that of number 0 is the input of the first, of musicnn the front end.
        hop_samples: samples between the starts of two frames: the product of the convolutions' strides.
        field_samples: samples that one frame depends on. A shorter input gives no frame. 0 where frames are centred on
            multiples of the hop, so that any input gives one.
        normalised: whether the encoder expects a waveform of mean 0 and variance 1.
        max_frames: the most frames that it takes; None for any number.
    """

    sizes: tuple[int, ...]
    hop_samples: int
    field_samples: int
    normalised: bool
    max_frames: int | None = None

    @property
    def num_layers(self) -> int:
        """Number of the last layer."""
        return len(self.sizes) - 1

    def layers(self, chosen: Layers) -> list[int]:
        """Return the layers that a choice names, without a check that they are there."""
        if chosen == "all":
            return list(range(self.num_layers + 1))
        numbers = [chosen] if isinstance(chosen, int) else chosen
        return [self.num_layers if number == -1 else number for number in numbers]

    def num_samples(self, num_frames: int) -> int:
        """Return the number of samples that give exactly `num_frames` frames."""
        return max(1, self.field_samples + (num_frames - 1) * self.hop_samples)

    def frames_in(self, num_samples: int) -> int:
        """Return the frames that so many samples give. Too few samples for a frame are padded to one."""
        return 1 + max(0, num_samples - self.field_samples) // self.hop_samples


@dataclass(frozen=True)
class TextShape:
    """Sizes of an encoder of text.

    Args:
        hidden_size: values per token.
        num_layers: transformer layers.
        max_tokens: longest text that it takes; None for any.
        model_type: its kind, as transformers calls it.
    """

    hidden_size: int
    num_layers: int
    max_tokens: int | None
    model_type: str


@dataclass(frozen=True)
class ImageShape:
    """Sizes of an encoder of images, and how its images are normalised.

    Args:
        image_size: height and width of an image.
        patch_size: height and width of a patch.
        hidden_size: values per patch.
        num_layers: transformer layers.
        mean: subtracted from each of three channels with values in [0, 1].
        std: each channel is then divided by it.
    """

    image_size: int
    patch_size: int
    hidden_size: int
    num_layers: int
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2


def check_speech_encoder(name: str | None, layers: Layers, num_frames: int) -> None:
    """Check before any work that an encoder of sound is there, has the layers, and takes so many frames.

    Raises:
        ValueError: no such encoder, another kind of model, no weights, no such layer, or too many frames.
    """
    shape = speech_shape(name)
    numbers = shape.layers(layers)
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"features.encoder_layers: expected different layers of '{name}', got {layers}")
    for layer in numbers:
        if layer > shape.num_layers:
            raise ValueError(
                f"features.encoder_layers: expected -1 (the last) to {shape.num_layers} for '{name}' "
                f"(0: the input of the first), got {layer}"
            )
    if shape.max_frames is not None and num_frames > shape.max_frames:
        raise ValueError(
            f"features.num_frames (features.pooled_seconds if they are pooled): expected at most {shape.max_frames} "
            f"({shape.num_samples(shape.max_frames) / SPEECH_RATE_HZ:g} s), as '{name}' takes, got {num_frames}"
        )
    check_weights(str(name), SPEECH)


def check_layers_to_weigh(name: str | None, layers: Layers) -> None:
    """Check that an encoder's layers, of which a model is to read one mean, have as many values each.

    Raises:
        ValueError: they differ.
    """
    shape = speech_shape(name)
    numbers = shape.layers(layers)
    sizes = [shape.sizes[number] for number in numbers]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"model.layer_weights: expected null, or features.encoder_layers of one size, got learnt with the layers "
            f"{', '.join(map(str, numbers))} of '{name}', which have {', '.join(map(str, sizes))} values"
        )


def speech_shape(name: str | None) -> SpeechShape:
    """Return the sizes of an encoder of sound; a folder is read again only when its files change.

    Raises:
        ValueError: no such encoder, or another kind of model.
    """
    if name is None:
        raise ValueError(f"{SPEECH}: expected a hub name or a folder for features.name=encoder, got null")
    return _speech_shape(name, signature(name, SPEECH))


def text_shape(name: str, setting: str = TEXT) -> TextShape:
    """Return the sizes of an encoder of text; a folder is read again only when its files change.

    Raises:
        ValueError: no such encoder, or another kind of model.
    """
    return _text_shape(name, setting, signature(name, setting))


def image_shape(name: str) -> ImageShape:
    """Return the sizes of an encoder of images; a folder is read again only when its files change.

    Raises:
        ValueError: no such encoder, or another kind of model.
    """
    return _image_shape(name, signature(name, IMAGE))


@lru_cache(maxsize=8)
def _speech_shape(name: str, _: Signature) -> SpeechShape:
    if is_musicnn(name, SPEECH):
        return _musicnn_shape(name)
    config = load_config(name, SPEECH)
    if config.model_type not in SPEECH_KINDS:
        kinds = ", ".join(SPEECH_KINDS)
        raise ValueError(f"{SPEECH}: expected one of {kinds}, musicnn, got '{name}', a {config.model_type}")
    if config.model_type == "whisper":
        sizes = (config.d_model,) * (config.encoder_layers + 1)
        return SpeechShape(sizes, WHISPER_HOP, WHISPER_HOP, False, config.max_source_positions)
    hop, field = 1, 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    normalised = bool(load_preprocessor(name, SPEECH).get("do_normalize", True))
    return SpeechShape((config.hidden_size,) * (config.num_hidden_layers + 1), hop, field, normalised)


def musicnn_counts(folder: Path) -> tuple[int, int, int, int]:
    """Return how many filters a musicnn has: of each timbral kind, of each temporal kind, and of each later layer;
    then the values of its penultimate layer.

    Raises:
        ValueError: files that are missing or damaged, or a checkpoint of another network.
    """
    entries = read_entries(folder)
    names = [f"{layer}/kernel" for layer in (*numbered("conv2d", len(MUSICNN_KERNELS) + 3), "dense")]
    found = [entries[name].shape if name in entries else () for name in names]
    timbral, temporal, middle, penultimate = (found[place][-1] if found[place] else 0 for place in (0, 2, 5, -1))
    counts = [timbral, timbral, temporal, temporal, temporal]
    wanted: list[tuple[int, ...]] = [(*kernel, 1, count) for kernel, count in zip(MUSICNN_KERNELS, counts, strict=True)]
    wanted += [(MUSICNN_WIDTH, size, 1, middle) for size in (sum(counts), middle, middle)]
    wanted += [(2 * (sum(counts) + 3 * middle), penultimate)]
    for name, shape, expected in zip(names, found, wanted, strict=True):
        if shape != expected or 0 in shape:
            got = f"{list(shape)} as the shape of" if name in entries else "no"
            raise ValueError(f"'{folder}': expected the checkpoint of a musicnn, got {got} '{name}'")
    return timbral, temporal, middle, penultimate


def numbered(layer: str, count: int) -> list[str]:
    """Return the names that TensorFlow gives to layers of a kind.

    >>> numbered("conv2d", 3)
    ['conv2d', 'conv2d_1', 'conv2d_2']
    """
    return [layer, *(f"{layer}_{number}" for number in range(1, count))]


def _musicnn_shape(name: str) -> SpeechShape:
    folder = folder_of(name)
    assert folder is not None
    try:
        timbral, temporal, middle, penultimate = musicnn_counts(folder)
    except ValueError as error:
        raise ValueError(f"{SPEECH}: {error}") from None
    return SpeechShape((2 * timbral + 3 * temporal, middle, middle, middle, penultimate), MUSICNN_HOP, 0, False)


@lru_cache(maxsize=8)
def _text_shape(name: str, setting: str, _: Signature) -> TextShape:
    from tuning.models.hugging_face import transformers

    config = load_config(name, setting)
    expected = f"{setting}: expected an encoder of text such as BERT, got '{name}', a {config.model_type}"
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{expected}, which has a decoder, too")
    for size in ("hidden_size", "num_hidden_layers", "vocab_size"):
        if not isinstance(getattr(config, size, None), int):
            raise ValueError(f"{expected}, without {size}")
    kinds = transformers.MODEL_MAPPING[type(config)]
    kind = kinds[0] if isinstance(kinds, (list, tuple)) else kinds
    if not {"input_ids", "attention_mask"} <= set(inspect.signature(kind.forward).parameters):
        raise ValueError(f"{expected}, which takes {kind.main_input_name}")
    positions = getattr(config, "max_position_embeddings", None) or 0
    if config.model_type in LATER_POSITIONS:
        positions -= config.pad_token_id + 1
    max_tokens = positions if positions > 0 else None
    return TextShape(config.hidden_size, config.num_hidden_layers, max_tokens, config.model_type)


@lru_cache(maxsize=8)
def _image_shape(name: str, _: Signature) -> ImageShape:
    config = load_config(name, IMAGE)
    if config.model_type not in IMAGE_KINDS:
        kinds = ", ".join(IMAGE_KINDS)
        raise ValueError(f"{IMAGE}: expected an encoder of images ({kinds}), got '{name}', a {config.model_type}")
    sizes = []
    for size in ("image_size", "patch_size", "hidden_size", "num_hidden_layers"):
        value = getattr(config, size)
        value = value[0] if isinstance(value, (list, tuple)) and len(set(value)) == 1 else value
        if not isinstance(value, int):
            raise ValueError(f"{IMAGE}: expected square images and patches in '{name}', got {size} {value}")
        sizes.append(value)
    if config.num_channels != 3:
        raise ValueError(f"{IMAGE}: expected an encoder of three channels, got '{name}' with {config.num_channels}")
    image_size, patch_size, hidden_size, num_layers = sizes
    return ImageShape(image_size, patch_size, hidden_size, num_layers, *_normalisation(name))


def _normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel."""
    found = load_preprocessor(name, IMAGE)
    if found.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = found.get("image_mean", MEAN), found.get("image_std", STD)
    if not (_are_three(mean) and _are_three(std) and min(std) > 0):
        raise ValueError(
            f"{IMAGE}: expected three numbers each in image_mean and image_std (above 0) of '{name}', "
            f"got {mean} and {std}"
        )
    return tuple(map(float, mean)), tuple(map(float, std))


def _are_three(values: Any) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) == 3
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    )
