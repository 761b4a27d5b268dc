"""The layers of an encoder of sound that trials read, weigh and train: numbered, checked, and what training costs."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from tuning.config.distributions import Distribution
from tuning.config.errors import UserError
from tuning.config.schema import Config
from tuning.config.space import Space
from tuning.datasets.features.frames import check_encoder
from tuning.models.encoder_shapes import SPEECH, check_layers_to_weigh, speech_shape
from tuning.models.pretrained import is_musicnn


def with_numbered_layers(space: Space) -> Space:
    """The space with the numbers of an encoder's layers in place of all, so that a trial knows them without it.

    Raises:
        UserError: they differ between trials that weigh them.
    """
    layers = "features.encoder_layers"
    if "all" not in space.values(layers):
        return space
    encoders = {config.features.encoder for config in space.variants("features.") if config.features.name == "encoder"}
    if space.settings.get(layers) == "all" and len(encoders) == 1:
        (encoder,) = encoders
        numbers = speech_shape(encoder).layers("all")
        searched = {path: _with_condition(d, layers, "all", numbers) for path, d in space.distributions.items()}
        return Space({**space.settings, layers: numbers}, searched)
    if "learnt" in space.values("model.layer_weights"):
        raise UserError(
            f"{layers}: expected numbers with model.layer_weights=learnt where it, or features.encoder, is searched, "
            "got all"
        )
    return space


def _with_condition(distribution: Distribution, path: str, old: object, new: object) -> Distribution:
    """The distribution with another value in its condition on a path, if it has one."""
    values = distribution.when.get(path, ())
    changed = tuple(new if value == old else value for value in values)
    return replace(distribution, when=distribution.when | {path: changed}) if values else distribution


def check_sound_encoders(space: Space) -> None:
    """Check each encoder of sound and layer that a trial may have: all are prepared before the first trial.

    Raises:
        UserError: it is not there, has no such layers, or none that could be weighed or trained as asked.
    """
    weighed: list[Config] = []
    if "learnt" in space.values("model.layer_weights"):
        # Every combination is allowed, also where only some points are drawn.
        paths = ("features.name", "features.encoder", "features.encoder_layers", "model.layer_weights")
        weighed = [config for config in space.variants(paths) if config.model.layer_weights == "learnt"]
    variants = [config.features for config in space.variants("features.")]
    try:
        for features in variants:
            check_encoder(features)
        for config in weighed:
            check_layers_to_weigh(config.features.encoder, config.features.encoder_layers)
    except ValueError as error:
        raise UserError(str(error)) from None
    _check_trained_encoders(space)


def _check_trained_encoders(space: Space) -> None:
    """Check that there are layers to train, and what trains them.

    Raises:
        UserError: no layer behind `features.encoder_layers`, an encoder of another kind, a package that is missing.
    """
    wanted = ("features.", "model.encoder_training", "model.layer_weights", "model.text_lora_rank")
    for config in space.variants(wanted):
        training, features = config.model.encoder_training, config.features
        if training is not None and is_musicnn(str(features.encoder), SPEECH):
            raise UserError(
                f"model.encoder_training: expected null with a musicnn, which has no transformer layers, got {training}"
            )
        if training is not None:
            shape = speech_shape(features.encoder)
            if features.encoder_layers == shape.num_layers:
                raise UserError(
                    f"features.encoder_layers: expected 0 to {shape.num_layers - 1} with "
                    f"model.encoder_training={training}, which trains the layers behind it, got "
                    f"{features.encoder_layers}, the last of '{features.encoder}'"
                )
        of_text = getattr(config.model, "text_lora_rank", None)
        if (training == "lora" or of_text is not None) and not importlib.util.find_spec("peft"):
            setting = f"model.encoder_training: expected layers or null unless peft is installed, got {training}"
            if training != "lora":
                setting = f"model.text_lora_rank: expected null unless peft is installed, got {of_text}"
            raise UserError(f"{setting}; install it: pip install 'audio-emotion-tuning[lora]'")


def trained_encoders(space: Space) -> list[str]:
    """What it costs to train an encoder's layers: a line for each encoder, each first layer and each way."""
    lines = []
    deciding = ("features.name", "features.encoder", "features.encoder_layers")
    for config in space.variants((*deciding, "model.encoder_training", "model.lora_rank")):
        features, training = config.features, config.model.encoder_training
        if training is None or not isinstance(features.encoder_layers, int):
            continue
        shape = speech_shape(features.encoder)
        count, size = shape.num_layers - features.encoder_layers, shape.sizes[-1]
        # Of the usual layer: four matrices of attention, and two to four times the width and back.
        weights = count * 12 * size**2 if training == "layers" else count * 2 * 2 * size * config.model.lora_rank
        how = "trained" if training == "layers" else f"adapted by LoRA of rank {config.model.lora_rank}"
        lines.append(
            f"the last {count} of {shape.num_layers} layers of '{features.encoder}' are {how}: about "
            f"{weights / 1e6:.3g} million weights, {16 * weights / 1e6:.3g} MB with gradients and Adam's moments"
        )
    return list(dict.fromkeys(lines))
