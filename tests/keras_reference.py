"""The guide's CRNN in Keras, an independent reference for ours, and the way from its weights to ours."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch
from keras import layers

from models.crnn import CRNN
from models.settings import CRNNSettings


def build_crnn(settings: CRNNSettings, num_frames: int, num_features: int, num_outputs: int) -> keras.Model:
    """Functional model whose outputs are those of all its layers by name, the dropout layers excepted."""
    kernel, l2 = settings.kernel_size, keras.regularizers.L2(settings.dense_l2)
    inputs = x = keras.Input((num_frames, num_features))
    named = {}

    def add(name: str, layer: keras.Layer):
        named[name] = layer(x)
        return named[name]

    for i, (filters, rate) in enumerate(zip(settings.conv_filters, settings.conv_dropout, strict=True), 1):
        x = add(f"conv{2 * i - 1}", layers.Conv1D(filters, kernel, padding="same", activation="relu"))
        x = add(f"bn{i}", layers.BatchNormalization(momentum=settings.bn_momentum))
        x = add(f"conv{2 * i}", layers.Conv1D(filters, kernel, padding="same", activation="relu"))
        x = add(f"pool{i}", layers.MaxPooling1D(settings.pool_size))
        x = layers.Dropout(rate)(x)
    for i, units in enumerate(settings.lstm_units, 1):
        lstm = layers.LSTM(
            units,
            return_sequences=i < len(settings.lstm_units),
            dropout=settings.lstm_dropout,
            recurrent_dropout=settings.recurrent_dropout,
        )
        x = add(f"lstm{i}", lstm)
    for i, units in enumerate(settings.dense_units, 1):
        if i > 1:
            x = layers.Dropout(settings.dense_dropout)(x)
        x = add(f"dense{i}", layers.Dense(units, activation="relu", kernel_regularizer=l2))
    x = add("output", layers.Dense(num_outputs))
    return keras.Model(inputs, named)


def tensors_in_order(model: CRNN) -> list[torch.Tensor]:
    """Our parameters and moving statistics in the order of Keras's `model.weights`."""
    ours: list[torch.Tensor] = []
    for block in model.blocks:
        norm = block.norm
        ours += [block.conv1.weight, block.conv1.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var]
        ours += [block.conv2.weight, block.conv2.bias]
    for lstm in model.lstms:
        ours += [lstm.weight_ih, lstm.weight_hh, lstm.bias]
    for dense in [*model.head, model.output]:
        ours += [dense.weight, dense.bias]
    return ours


def reversed_axes(value: torch.Tensor) -> torch.Tensor:
    """Keras's kernels are [taps, in, out], [in, out] or [in, 4u]; ours are the same backwards."""
    return value.permute(*reversed(range(value.ndim)))


def randomise(reference: keras.Model) -> None:
    """Perturb all weights, so that zero biases and unit variances hide no mistake."""
    for weight in reference.weights:
        value = weight.value.detach()
        noise = 0.03 * torch.randn_like(value)
        weight.assign(value + (noise.abs() if "variance" in weight.path else noise))


def copy_weights(reference: keras.Model, model: CRNN) -> None:
    ours = tensors_in_order(model)
    assert len(ours) == len(reference.weights)
    with torch.no_grad():
        for tensor, weight in zip(ours, reference.weights, strict=True):
            value = reversed_axes(weight.value.detach())
            assert value.shape == tensor.shape, (weight.path, value.shape, tensor.shape)
            tensor.copy_(value)
