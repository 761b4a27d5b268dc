"""The guide's CRNN and its variants in Keras, an independent reference, and the way from its weights to ours."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch
from keras import layers
from torch import nn

from tuning.models.crnn import CRNN
from tuning.models.crnn_settings import CRNNSettings

# Keras's string 'leaky_relu' has slope 0.2; the guide's is 0.01.
ACTIVATIONS = {"leaky_relu": lambda slope: layers.LeakyReLU(negative_slope=slope)}


def build_crnn(settings: CRNNSettings, num_frames: int, num_features: int, num_outputs: int) -> keras.Model:
    """Functional model whose outputs are those of all its layers by name, the dropout layers excepted."""
    s, named = settings, {}
    inputs = keras.Input((num_frames, num_features))

    def act(name: str):
        return ACTIVATIONS[name](s.leaky_slope) if name in ACTIVATIONS else name

    def add(name: str, layer: keras.Layer, *of):
        named[name] = layer(*of)
        return named[name]

    def conv(name: str, x, filters: int, taps: int = s.kernel_size, linear: bool = False):
        activation = "linear" if linear else act(s.conv_activation)
        return add(name, layers.Conv1D(filters, taps, padding="same", activation=activation, name=name), x)

    def norm(name: str, x):
        return add(name, layers.BatchNormalization(momentum=s.bn_momentum, name=name), x) if s.batch_norm else x

    x = inputs
    if s.conv_block == "residual":
        x = norm("stem_bn", conv("stem", x, s.conv_filters[0]))
    width = x.shape[-1]
    for i, (filters, size, rate) in enumerate(s.per_block(), 1):
        if s.conv_block == "residual":
            if filters != width:
                x = conv(f"entry{i}", x, filters)
            shortcut = conv(f"shortcut{i}", x, filters, 1, True) if filters != width else x
            x = conv(f"conv{2 * i - 1}", x, filters)
            x = layers.Add()([conv(f"conv{2 * i}", x, filters, linear=True), shortcut])
            x = layers.Activation(act(s.conv_activation))(x)
        else:
            x = norm(f"bn{i}", conv(f"conv{2 * i - 1}", x, filters))
            if s.conv_block == "standard":
                x = conv(f"conv{2 * i}", x, filters)
        width = filters
        x = add(f"pool{i}", pooling(s, i, size), x)
        drop = {"element": layers.Dropout(rate), "channel": layers.SpatialDropout1D(rate)}
        x = drop.get(s.dropout_kind, layers.Dropout(rate, noise_shape=(None, x.shape[1], 1)))(x)
    if s.attention:
        attention = layers.MultiHeadAttention(
            s.attention_heads, s.attention_key_dim, dropout=s.attention_dropout, name="attention"
        )
        x = add("attention_norm", layers.LayerNormalization(name="attention_norm"), layers.Add()([x, attention(x, x)]))
    for i, units in enumerate(s.lstm_units, 1):
        lstm = layers.LSTM(
            units,
            activation=s.lstm_activation,
            return_sequences=i < len(s.lstm_units) or s.summary in ("mean", "max"),
            dropout=s.lstm_dropout,
            recurrent_dropout=s.recurrent_dropout,
            name=f"lstm{i}" if not s.bidirectional else None,
        )
        x = add(f"lstm{i}", layers.Bidirectional(lstm, name=f"lstm{i}") if s.bidirectional else lstm, x)
    if s.summary in ("mean", "max"):
        x = layers.GlobalAveragePooling1D()(x) if s.summary == "mean" else layers.GlobalMaxPooling1D()(x)
    summary, penalty = x, keras.regularizers.L1L2(s.dense_l1, s.dense_l2)
    for i, units in enumerate(s.dense_units, 1):
        if i > 1 and s.dense_dropouts is None:
            x = layers.Dropout(s.dense_dropout)(x)
        dense = layers.Dense(units, activation=act(s.dense_activation), kernel_regularizer=penalty, name=f"dense{i}")
        x = add(f"dense{i}", dense, x)
        if s.dense_dropouts is not None:
            x = layers.Dropout(s.dense_dropouts[i - 1])(x)
    if s.head == "skip":
        projection = layers.Dense(s.dense_units[-1], kernel_regularizer=penalty, name="skip")
        x = layers.Add()([x, add("skip", projection, summary)])
    add("output", layers.Dense(num_outputs, activation=s.output_activation, name="output"), x)
    return keras.Model(inputs, named)


def pooling(settings: CRNNSettings, block: int, size: int) -> keras.Layer:
    """The pooling layer of block `block`, counted from 1."""
    if settings.pooling.startswith("adaptive"):
        frames = settings.adaptive_frames
        for _, later, _ in settings.per_block()[block:]:
            frames *= later
        if settings.pooling == "adaptive_max":
            return layers.AdaptiveMaxPooling1D(frames)
        return layers.AdaptiveAveragePooling1D(frames)
    kind = layers.MaxPooling1D if settings.pooling == "max" else layers.AveragePooling1D
    return kind(size, strides=settings.pool_stride, padding=settings.pool_padding)


def our_layers(model: CRNN) -> dict[str, nn.Module]:
    """Our layers under the names of the reference, in the order of the model."""
    named: dict[str, nn.Module | None] = {}
    if model.stem is not None:
        named |= {"stem": model.stem.conv1, "stem_bn": model.stem.norm}
    for i, block in enumerate(model.blocks, 1):
        named |= {f"entry{i}": getattr(block, "entry", None), f"shortcut{i}": getattr(block, "shortcut", None)}
        named |= {f"conv{2 * i - 1}": block.conv1, f"bn{i}": getattr(block, "norm", None)}
        named |= {f"conv{2 * i}": block.conv2, f"pool{i}": block.pool}
    if model.attention is not None:
        named |= {"attention": model.attention, "attention_norm": model.attention.norm}
    named |= {f"lstm{i}": lstm for i, lstm in enumerate(model.lstms, 1)}
    named |= {f"dense{i}": dense for i, dense in enumerate(model.head.hidden, 1)}
    named |= {"skip": model.head.skip, "output": model.head.output}
    return {name: layer for name, layer in named.items() if layer is not None}


def weight_pairs(reference: keras.Model, model: CRNN) -> list[tuple[torch.Tensor, keras.Variable]]:
    """Our parameters and moving statistics, each beside the reference's; every weight of both is in one pair."""
    pairs = []
    for name, ours in our_layers(model).items():
        if name.startswith("pool"):
            continue
        if name == "attention":
            tensors = [t for p in (ours.query, ours.key, ours.value, ours.output) for t in (p.weight, p.bias)]
        else:
            tensors = list(ours.parameters())
            tensors += [buffer for buffer_name, buffer in ours.named_buffers() if "running" in buffer_name]
        pairs += zip(tensors, reference.get_layer(name).weights, strict=True)
    assert {id(weight) for _, weight in pairs} == {id(weight) for weight in reference.weights}
    assert {id(t) for t, _ in pairs} >= {id(p) for p in model.parameters()}
    return pairs


def reversed_axes(value: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
    """Keras's kernels are [taps, in, out], [in, out] or [in, 4u]; ours are the same backwards.

    Kernels and biases of its attention have an axis for the heads, which ours (`like`) count to their neighbour.
    """
    if like is not None and value.ndim > like.ndim:
        value = value.reshape(tuple(reversed(like.shape)))
    return value.permute(*reversed(range(value.ndim)))


def randomise(reference: keras.Model) -> None:
    """Perturb all weights, so that zero biases and unit variances hide no mistake."""
    for weight in reference.weights:
        value = weight.value.detach()
        noise = 0.03 * torch.randn_like(value)
        weight.assign(value + (noise.abs() if "variance" in weight.path else noise))


def copy_weights(reference: keras.Model, model: CRNN) -> None:
    """Give our model the reference's weights."""
    with torch.no_grad():
        for tensor, weight in weight_pairs(reference, model):
            value = reversed_axes(weight.value.detach(), like=tensor)
            assert value.shape == tensor.shape, (weight.path, value.shape, tensor.shape)
            tensor.copy_(value)


def layer_outputs(model: CRNN, features: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of our layers under the names of the reference, activations included."""
    outputs: dict[str, torch.Tensor] = {}
    named = our_layers(model)
    handles = [
        layer.register_forward_hook(lambda _, __, out, name=name: outputs.__setitem__(name, out))
        for name, layer in named.items()
        if name not in ("output", "attention")
    ]
    outputs["output"] = model(features)
    for handle in handles:
        handle.remove()
    for name, out in outputs.items():
        # The second convolution of a residual block is linear, as its shortcut is.
        residual = model.stem is not None and name.startswith("conv") and int(name[4:]) % 2 == 0
        if name.startswith(("conv", "entry")) and not residual:
            outputs[name] = model.blocks[0].activation(out)
        elif name == "stem":
            outputs[name] = model.stem.activation(out)
        elif name.startswith("dense"):
            outputs[name] = model.head.activation(out)
    last = f"lstm{len(model.lstms)}"
    if last in outputs and model.summary not in ("mean", "max"):
        states = outputs[last]
        half = states.shape[2] // 2
        backwards = torch.cat([states[:, -1, :half], states[:, 0, half:]], 1)
        outputs[last] = backwards if model.bidirectional else states[:, -1]
    return outputs
