"""Versions of the libraries that compute prepared data: another version may give other values."""

import functools
import importlib.metadata
from collections.abc import Iterable

import soundfile

from tuning.datasets.settings import FeatureSettings

# libsndfile decodes, soxr resamples, librosa trims silence and has the filters of pitch classes, scipy those of
# derivatives; torch and torchaudio compute the rest.
SOUND = ("librosa", "soxr", "libsndfile", "numpy", "scipy", "torch", "torchaudio")
NETWORK = ("torch", "transformers")
TOKENS = ("transformers", "tokenizers")


def of_features(features: FeatureSettings) -> dict[str, str]:
    """Versions by name of the libraries that compute these features."""
    others = {"encoder": NETWORK, "egemaps": ("opensmile",)}
    return _versions((*SOUND, *others.get(features.name, ())))


def of_texts(text_input: str) -> dict[str, str]:
    """Versions by name of the libraries that compute a model's `text_input`: tokens, or an encoder's states."""
    return _versions(TOKENS if text_input == "tokens" else dict.fromkeys((*TOKENS, *NETWORK)))


@functools.cache
def installed(name: str) -> str:
    """The release of an installed package without its build: 2.13.0 of 2.13.0+cpu."""
    return importlib.metadata.version(name).partition("+")[0]


def _versions(names: Iterable[str]) -> dict[str, str]:
    return {name: _libsndfile() if name == "libsndfile" else installed(name) for name in names}


def _libsndfile() -> str:
    """The library's own version: soundfile may use the system's."""
    return str(soundfile.__libsndfile_version__)
