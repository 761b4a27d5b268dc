"""Versions of the libraries whose numbers are in what is prepared: another one may give other values."""

import functools
import importlib.metadata
from collections.abc import Iterable

from tuning.datasets.settings import FeatureSettings

# libsndfile decodes, soxr resamples, librosa trims silence and makes spectra by the transforms of numpy and scipy.
SOUND = ("librosa", "soxr", "libsndfile", "numpy", "scipy")
NETWORK = ("torch", "transformers")
TOKENS = ("transformers", "tokenizers")


def of_features(features: FeatureSettings) -> dict[str, str]:
    """Versions by name of what makes the features."""
    return _versions((*SOUND, *NETWORK) if features.name == "encoder" else SOUND)


def of_texts(text_input: str) -> dict[str, str]:
    """Versions by name of what makes of texts what a model reads: tokens, or states (any other word) of an encoder."""
    return _versions(TOKENS if text_input == "tokens" else dict.fromkeys((*TOKENS, *NETWORK)))


@functools.cache
def installed(name: str) -> str:
    """The release of a package that is installed, whichever build of it (2.13.0 of 2.13.0+cpu)."""
    return importlib.metadata.version(name).partition("+")[0]


def _versions(names: Iterable[str]) -> dict[str, str]:
    return {name: _libsndfile() if name == "libsndfile" else installed(name) for name in names}


def _libsndfile() -> str:
    """Of the library itself, which is the system's where the package soundfile brings none."""
    import soundfile

    return str(soundfile.__libsndfile_version__)
