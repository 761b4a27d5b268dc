"""The speech emotion network: every variant against Keras, by its parameters, in training and with padded clips."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from tests.helpers.keras_reference import keras, randomise
from tests.helpers.ser_reference import Reference, as_ours, copy_weights, our_outputs, weight_pairs
from tuning.models.attention import AttentionPool
from tuning.models.ser import SER
from tuning.models.ser_settings import SERSettings

GOLDEN = Path(__file__).parents[1] / "golden" / "ser_variants.json"

# The guide's two models, and each of its improvements taken from one or added to the other.
BASELINE = {
    "conv_channels": [128, 128], "residual": False, "lstm_layers": 1, "bidirectional": False,
    "attention_heads": 0, "pooling": "mean",
}  # fmt: skip
VARIANTS = {
    "improved": {},
    "improved_without_residual": {"residual": False},
    "improved_without_shortcuts": {"residual": False, "convs_per_block": 2},
    "improved_without_attention": {"attention_heads": 0},
    "improved_with_one_lstm": {"lstm_layers": 1},
    "improved_one_way": {"bidirectional": False},
    "improved_with_mean_pooling": {"pooling": "mean"},
    "improved_narrow": {"conv_channels": [128, 128]},
    "baseline": BASELINE,
    "baseline_residual": BASELINE | {"residual": True},
    "baseline_attention": BASELINE | {"attention_heads": 4},
    "baseline_with_two_lstms": BASELINE | {"lstm_layers": 2},
    "baseline_both_ways": BASELINE | {"bidirectional": True},
    "baseline_attention_pooling": BASELINE | {"pooling": "attention"},
    "baseline_wide": BASELINE | {"conv_channels": [128, 256]},
    "max_pooling": {"pooling": "max"},
    "statistics": {"pooling": "statistics"},
    "input_statistics": {"input_statistics": True},
    "head": {"head_units": [64, 32]},
    "no_batch_norm": {"batch_norm": False},
    "no_lstm": {"lstm_layers": 0},
    "no_convolution": {"conv_channels": []},
    "attention_alone": {"conv_channels": [], "lstm_layers": 0, "input_statistics": True},
    "residual_with_one_convolution": {"convs_per_block": 1, "kernel_size": 3},
    "three_convolutions": {"conv_channels": [64], "residual": False, "convs_per_block": 3, "kernel_size": 4},
    "three_blocks": {"conv_channels": [64, 128, 128], "pool_sizes": [3, 1, 2]},
}  # fmt: skip
FRAMES, FEATURES, OUTPUTS = 50, 8, 4


def small(name: str, **changes) -> SERSettings:
    """A variant with an eighth of its channels and LSTM units, without dropout."""
    settings = SERSettings(**VARIANTS[name])
    sizes = {"conv_channels": [size // 8 for size in settings.conv_channels], "lstm_hidden": 16}
    sizes |= {"head_units": [size // 4 for size in settings.head_units], "dropout": 0}
    return SERSettings(**(settings.model_dump() | sizes | changes))


def pair(name: str) -> tuple[Reference, SER]:
    """A small variant in Keras and ours with its weights."""
    settings = small(name)
    reference, model = Reference(settings, OUTPUTS), SER(settings, FEATURES, OUTPUTS)
    reference(torch.randn(2, FRAMES, FEATURES), training=False)
    randomise(reference)
    copy_weights(reference, model)
    return reference, model


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_layer_equals_keras_in_inference(name):
    reference, model = pair(name)
    features = torch.randn(3, FRAMES, FEATURES)
    with torch.no_grad():
        theirs, ours = reference(features, training=False), our_outputs(model.eval(), features)
    assert theirs.keys() == ours.keys()
    for layer, expected in theirs.items():
        torch.testing.assert_close(ours[layer], expected, rtol=1e-5, atol=1e-5, msg=lambda m, n=layer: f"{n}: {m}")
    assert ours["output"].std() > 1e-3


@pytest.mark.parametrize("name", VARIANTS)
def test_training_step_equals_keras(name):
    reference, model = pair(name)
    features, labels = torch.randn(5, FRAMES, FEATURES), torch.tensor([0, 1, 2, 3, 0])
    theirs, ours = reference(features, training=True), our_outputs(model.train(), features)
    for layer, expected in theirs.items():
        torch.testing.assert_close(ours[layer], expected, rtol=1e-5, atol=1e-4, msg=lambda m, n=layer: f"{n}: {m}")
    for outputs in (theirs, ours):
        F.cross_entropy(outputs["output"], labels).backward()
    for layer, tensor, weight in weight_pairs(reference, model):
        torch.testing.assert_close(tensor.detach(), as_ours(weight.value, tensor), rtol=1e-5, atol=1e-5)
        if weight.trainable:
            expected = as_ours(weight.value.grad, tensor)
            tolerance = 1e-4 * expected.abs().max().item() + 1e-6
            torch.testing.assert_close(
                tensor.grad, expected, rtol=0, atol=tolerance, msg=lambda m, n=layer: f"{n}: {m}"
            )


def test_parameters_are_counted_as_by_keras_and_as_before():
    counts = {}
    for name, variant in VARIANTS.items():
        settings = SERSettings(**variant)
        reference, model = Reference(settings, 8), SER(settings, 40, 8)
        reference(torch.zeros(1, 12, 40), training=False)
        counts[name] = sum(parameter.numel() for parameter in model.parameters())
        assert counts[name] == sum(weight.value.numel() for weight in reference.weights if weight.trainable), name
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(counts, indent=2) + "\n")
    assert counts == json.loads(GOLDEN.read_text())


def test_the_baseline_s_parameters_by_a_literal_formula():
    convolutions = 40 * 128 * 5 + 128 * 128 * 5 + 2 * (2 * 128)
    lstm = 4 * 128 * (128 + 128 + 1)
    assert sum(p.numel() for p in SER(SERSettings(**BASELINE), 40, 8).parameters()) == convolutions + lstm + 129 * 8


def test_attention_equals_torch_s_with_its_weights():
    model = SER(small("improved"), FEATURES, OUTPUTS).eval()
    ours, theirs = model.attention, nn.MultiheadAttention(32, 4, batch_first=True)
    projections = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in projections]))
        theirs.in_proj_bias.copy_(torch.cat([layer.bias.normal_() for layer in projections]))
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias.normal_())
    sequence, lengths = torch.randn(3, 9, 32), torch.tensor([9, 4, 1])
    padding = torch.arange(9) >= lengths[:, None]
    expected = sequence + theirs(sequence, sequence, sequence, key_padding_mask=padding)[0]
    expected = F.layer_norm(expected, (32,), eps=1e-3)
    torch.testing.assert_close(ours(sequence, lengths)[~padding], expected[~padding], rtol=1e-5, atol=1e-5)


def test_attention_pooling_by_a_literal_formula():
    pool, sequence, lengths = AttentionPool(6), torch.randn(3, 9, 6), torch.tensor([9, 4, 1])
    start = pool(sequence, lengths)
    torch.testing.assert_close(start[1], sequence[1, :4].mean(0))
    nn.init.normal_(pool.weight)
    pooled, vector = pool(sequence, lengths).detach().numpy(), pool.weight.detach().numpy()
    for clip, length in enumerate(lengths.tolist()):
        frames = sequence[clip, :length].numpy()
        weights = np.exp(frames @ vector) / np.exp(frames @ vector).sum()
        np.testing.assert_allclose(pooled[clip], sum(w * f for w, f in zip(weights, frames, strict=True)), rtol=1e-5)
    torch.testing.assert_close(pool(sequence), pool(sequence, torch.full((3,), 9)))


LENGTHS = torch.tensor([FRAMES, 41, 12, 20])


def perturbed(name: str) -> SER:
    """A small variant in which no zero bias or unit variance hides a leak."""
    model = SER(small(name), FEATURES, OUTPUTS)
    with torch.no_grad():
        for tensor_name, tensor in model.state_dict().items():
            noise = 0.1 * torch.randn_like(tensor)
            tensor.add_(noise.abs() if "running_var" in tensor_name else noise)
    return model


def test_a_clip_too_short_for_the_pooling_is_filled_up_with_zeros():
    model, features = perturbed("three_blocks").eval(), torch.randn(3, FRAMES, FEATURES)
    assert model.min_frames == 6
    together = model(features, torch.tensor([FRAMES, 2, 0]))
    for clip, length in ((1, 2), (2, 1)):
        alone = model(F.pad(features[clip : clip + 1, :length], (0, 0, 0, 6 - length)))
        torch.testing.assert_close(together[clip : clip + 1], alone, rtol=1e-5, atol=1e-5)


def test_dropout_acts_in_training_alone_and_at_each_of_its_places():
    rates = []
    model = SER(small("head", dropout=0.5), FEATURES, OUTPUTS)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda layer, _, out: rates.append((layer.p, tuple(out.shape))))
    features = torch.randn(3, FRAMES, FEATURES)
    assert not torch.equal(model(features), model(features))
    places = [(3, 25, 16), (3, 12, 32), (3, 32), (3, 16), (3, 8)]
    assert rates == [(0.5, shape) for shape in places] * 2
    assert [(lstm.ahead.dropout, lstm.back.dropout) for lstm in model.lstms] == [(0, 0), (0.5, 0.5)]
    model.eval()
    assert torch.equal(model(features), model(features))


@pytest.mark.parametrize(("heads", "together"), [(2, 6), (4, 4), (8, 8)])
def test_heads_need_not_divide_the_width(heads, together):
    model = SER(SERSettings(lstm_hidden=7, attention_heads=heads, bidirectional=False), FEATURES, OUTPUTS)
    assert model.attention.query.out_features == together
    assert model(torch.randn(2, FRAMES, FEATURES)).shape == (2, OUTPUTS)


def test_nothing_is_penalised():
    penalty = SER(SERSettings(), FEATURES, OUTPUTS).penalty()
    assert penalty == 0 and penalty.shape == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool_sizes": [2, 2, 2]}, r"pool_sizes: expected one size per block of conv_channels \(2\), got 3"),
        ({"pool_sizes": [0]}, r"pool_sizes: expected positive sizes, got \[0\]"),
        ({"conv_channels": [64, 0]}, r"conv_channels: expected positive sizes, got \[64, 0\]"),
        ({"head_units": [-1]}, r"head_units: expected positive sizes, got \[-1\]"),
        ({"pool_sizes": []}, r"pool_sizes\n.*at least 1 item"),
        ({"dropout": 1}, r"dropout\n.*less than 1"),
        ({"lstm_layers": -1}, r"lstm_layers\n.*greater than or equal to 0"),
        ({"attention_heads": "many"}, r"attention_heads\n.*valid integer"),
        ({"pooling": "median"}, r"pooling\n.*'attention', 'mean', 'max' or 'statistics'"),
        ({"lstm_units": 64}, r"lstm_units\n.*not permitted"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ValidationError, match=message):
        SERSettings(**settings)


def test_wrong_shapes_are_named():
    model = SER(small("three_blocks"), FEATURES, OUTPUTS)
    with pytest.raises(ValueError, match=r"at least 6 frames.*got 5"):
        model(torch.randn(2, 5, FEATURES))
    with pytest.raises(ValueError, match=r"expected \[batch, frames, 8\], got \[2, 16, 9\]"):
        model(torch.randn(2, 16, 9))
    with pytest.raises(ValueError, match=r"num_frames: expected \[4\], one per clip, got \[3\]"):
        model(torch.randn(4, FRAMES, FEATURES), LENGTHS[:3])
    assert model(torch.randn(2, 6, FEATURES)).shape == (2, OUTPUTS)
