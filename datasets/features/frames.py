"""How many frames a number of samples gives, and the other way round, for every kind of features; nothing heavy."""

import importlib.util
import math

from tuning.datasets.settings import FeatureSettings
from tuning.models.encoder_shapes import check_speech_encoder, speech_shape


def num_samples(num_frames: int, settings: FeatureSettings) -> int:
    """The fewest samples that give `num_frames` frames."""
    if settings.is_pooled:
        return num_frames * hop_samples(settings)
    if settings.name == "encoder":
        return speech_shape(settings.encoder).num_samples(num_frames)
    return max(1, (num_frames - 1) * settings.hop_samples)


def frames_in(num_samples: int, settings: FeatureSettings) -> int:
    """Frames of a waveform of `num_samples`, at least one."""
    if settings.is_pooled:
        return max(1, math.ceil(num_samples / hop_samples(settings)))
    if settings.name == "encoder":
        return speech_shape(settings.encoder).frames_in(num_samples)
    return 1 + num_samples // settings.hop_samples


def hop_samples(settings: FeatureSettings) -> int:
    """Samples from the start of one frame to the start of the next."""
    if settings.name == "egemaps":
        return max(1, round(settings.pooled_seconds * settings.sample_rate_hz))
    if settings.is_pooled:
        return speech_shape(settings.encoder).num_samples(encoder_frames(settings))
    if settings.name == "encoder":
        return speech_shape(settings.encoder).hop_samples
    return settings.hop_samples


def encoder_frames(settings: FeatureSettings) -> int:
    """Frames of an encoder, at most, of which the features of a clip are made."""
    if not settings.is_pooled:
        return settings.num_frames
    return speech_shape(settings.encoder).frames_in(round(settings.pooled_seconds * settings.sample_rate_hz))


def check_encoder(settings: FeatureSettings) -> None:
    """Check before any work the encoder of features, if they have one, its layers and how much it can hear.

    Raises:
        ValueError: it is not there, has no such layers, or takes fewer frames; openSMILE is needed and missing.
    """
    if settings.name == "egemaps" and not importlib.util.find_spec("opensmile"):
        raise ValueError(
            "features.name: expected another than egemaps unless openSMILE is installed, got egemaps; install it, if "
            "its licence suits you: pip install 'audio-emotion-tuning[opensmile]'"
        )
    if settings.name == "encoder":
        speech_shape(settings.encoder)  # it is there, before its frames are counted
        check_speech_encoder(settings.encoder, settings.encoder_layers, encoder_frames(settings))
