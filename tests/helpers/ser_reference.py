"""The speech emotion network in Keras's layers, an independent reference, and the way from its weights to ours."""

import torch

from tests.helpers.keras_reference import keras, layers, reversed_axes
from tuning.models.ser import SER
from tuning.models.ser_settings import SERSettings

LAGS = (1, 2, 4, 8, 16)


def statistics(x: torch.Tensor) -> torch.Tensor:
    """Mean, deviation and mean absolute changes, channel by channel from their formulas. [B, T, C] -> [B, 7 C]."""
    frames = x.shape[1]
    mean = sum(x[:, t] for t in range(frames)) / frames
    variance = sum((x[:, t] - mean) ** 2 for t in range(frames)) / frames
    changes = []
    for lag in LAGS:
        steps = [(x[:, t] - x[:, t - lag]).abs() for t in range(lag, frames)]
        changes.append(sum(steps) / len(steps) if steps else torch.zeros_like(mean))
    return torch.cat([mean, (variance + 1e-5).sqrt(), *changes], 1)


class Reference:
    """The network of `settings`, without dropout; layers are made at the first call."""

    def __init__(self, settings: SERSettings, num_outputs: int) -> None:
        self.settings, self.num_outputs = settings, num_outputs
        self.layers: dict[str, keras.Layer] = {}

    @property
    def weights(self) -> list[keras.Variable]:
        return [weight for layer in self.layers.values() for weight in layer.weights]

    def layer(self, name: str, kind: type[keras.Layer], *args, **kwargs) -> keras.Layer:
        if name not in self.layers:
            self.layers[name] = kind(*args, name=name, **kwargs)
        return self.layers[name]

    def __call__(self, features: torch.Tensor, training: bool) -> dict[str, torch.Tensor]:
        """What comes out of blocks, LSTMs and attention, what goes into the head (`summary`) and the logits."""
        s, x = self.settings, features
        named: dict[str, torch.Tensor] = {}
        for i, channels in enumerate(s.conv_channels, 1):
            size = s.pool_sizes[0] if len(s.pool_sizes) == 1 else s.pool_sizes[i - 1]
            x = named[f"block{i}"] = self.block(f"block{i}", x, channels, size, training)
        for i in range(1, s.lstm_layers + 1):
            if s.bidirectional:
                lstm = self.layer(f"lstm{i}", layers.Bidirectional, layers.LSTM(s.lstm_hidden, return_sequences=True))
            else:
                lstm = self.layer(f"lstm{i}", layers.LSTM, s.lstm_hidden, return_sequences=True)
            x = named[f"lstm{i}"] = lstm(x, training=training)
        if s.attention_heads:
            key_dim = x.shape[2] // s.attention_heads
            attention = self.layer("attention", layers.MultiHeadAttention, s.attention_heads, key_dim)
            norm = self.layer("attention_norm", layers.LayerNormalization)
            x = named["attention"] = norm(x + attention(x, x, training=training))
        summary = self.pooled(x)
        if s.input_statistics:
            norm = self.layer("statistics_norm", layers.BatchNormalization, momentum=s.bn_momentum)
            summary = torch.cat([summary, norm(statistics(features), training=training)], 1)
        named["summary"] = summary
        for i, units in enumerate(s.head_units, 1):
            summary = self.layer(f"hidden{i}", layers.Dense, units, activation="relu")(summary)
        named["output"] = self.layer("output", layers.Dense, self.num_outputs)(summary)
        return named

    def block(self, name: str, x: torch.Tensor, channels: int, pool_size: int, training: bool) -> torch.Tensor:
        s, inner = self.settings, x
        count = s.convs_per_block or (2 if s.residual else 1)
        for k in range(1, count + 1):
            inner = self.conv(f"{name}_conv{k}", inner, channels, s.kernel_size, training)
            if k < count:
                inner = layers.ReLU()(inner)
        if s.residual:
            same = x.shape[2] == channels
            inner = layers.Add()([inner, x if same else self.conv(f"{name}_shortcut", x, channels, 1, training)])
        return layers.MaxPooling1D(pool_size)(layers.ReLU()(inner))

    def conv(self, name: str, x: torch.Tensor, channels: int, taps: int, training: bool) -> torch.Tensor:
        s = self.settings
        x = self.layer(name, layers.Conv1D, channels, taps, padding="same", use_bias=not s.batch_norm)(x)
        if not s.batch_norm:
            return x
        return self.layer(f"{name}_bn", layers.BatchNormalization, momentum=s.bn_momentum)(x, training=training)

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        if self.settings.pooling == "attention":
            scores = self.layer("attention_pool", layers.Dense, 1, use_bias=False)(x)
            return (layers.Softmax(axis=1)(scores) * x).sum(1)
        if self.settings.pooling == "statistics":
            return statistics(x)
        kinds = {"mean": layers.GlobalAveragePooling1D, "max": layers.GlobalMaxPooling1D}
        return kinds[self.settings.pooling]()(x)


def weight_pairs(reference: Reference, model: SER) -> list[tuple[str, torch.Tensor, keras.Variable]]:
    """Our parameters and moving statistics by name, each beside the reference's; none of either is left out."""
    ours = {}
    for i, block in enumerate(model.blocks, 1):
        convs = {f"block{i}_conv{k}": conv for k, conv in enumerate(block.convs, 1)}
        for name, conv in (convs | {f"block{i}_shortcut": block.shortcut}).items():
            if conv is not None:
                ours |= {name: conv.conv, f"{name}_bn": conv.norm}
    ours |= {f"lstm{i}": lstm for i, lstm in enumerate(model.lstms, 1)}
    if model.attention is not None:
        ours |= {"attention": model.attention, "attention_norm": model.attention.norm}
    ours |= {"attention_pool": model.attention_pool, "statistics_norm": model.statistics_norm}
    ours |= {f"hidden{i}": dense for i, dense in enumerate(model.hidden, 1)} | {"output": model.output}
    pairs: list[tuple[str, torch.Tensor, keras.Variable]] = []
    for name, module in ours.items():
        if module is None:
            continue
        if name == "attention":
            dense = (module.query, module.key, module.value, module.output)
            tensors = [tensor for layer in dense for tensor in (layer.weight, layer.bias)]
        else:
            tensors = [*module.parameters(), *(b for n, b in module.named_buffers() if "running" in n)]
        theirs = reference.layers[name].weights
        pairs += [(name, tensor, weight) for tensor, weight in zip(tensors, theirs, strict=True)]
    assert {id(weight) for _, _, weight in pairs} == {id(weight) for weight in reference.weights}
    assert {id(tensor) for _, tensor, _ in pairs} == {
        id(tensor) for tensor in model.state_dict(keep_vars=True).values()
    }
    return pairs


def as_ours(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A weight of the reference, or its gradient, in the shape of ours."""
    return reversed_axes(value.detach(), like).reshape(like.shape)


def copy_weights(reference: Reference, model: SER) -> None:
    """Give our model the reference's weights."""
    with torch.no_grad():
        for _, tensor, weight in weight_pairs(reference, model):
            tensor.copy_(as_ours(weight.value, tensor))


def our_outputs(model: SER, features: torch.Tensor) -> dict[str, torch.Tensor]:
    """What our model gives under the names of the reference."""
    named: dict[str, torch.Tensor] = {}
    modules = {f"block{i}": block for i, block in enumerate(model.blocks, 1)}
    modules |= {f"lstm{i}": lstm for i, lstm in enumerate(model.lstms, 1)}
    if model.attention is not None:
        modules["attention"] = model.attention
    first = [*model.hidden, model.output][0]
    hooks = [first.register_forward_hook(lambda _, inputs, __: named.__setitem__("summary", inputs[0]))]
    for name, module in modules.items():
        hooks.append(
            module.register_forward_hook(
                lambda _, __, out, n=name: named.__setitem__(n, out[0] if isinstance(out, tuple) else out)
            )
        )
    named["output"] = model(features)
    for hook in hooks:
        hook.remove()
    return named
