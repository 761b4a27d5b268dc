"""Every variant of the CRNN as a value of a setting: against Keras, in training, and with padded clips."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tests.helpers.keras_reference import build_crnn, copy_weights, keras, layer_outputs, randomise
from tuning.models.crnn import CRNN
from tuning.models.crnn_settings import CRNNSettings

GOLDEN = Path(__file__).parents[1] / "golden" / "crnn_variants.json"
NO_DROPOUT = {
    "conv_dropout": [0],
    "summary_dropout": 0,
    "lstm_dropout": 0,
    "recurrent_dropout": 0,
    "attention_dropout": 0,
}
NO_DROPOUT |= {"dense_dropout": 0, "dense_dropouts": None}

PLAIN = {"conv_dropout": [0], "dense_l2": 0, "recurrent_dropout": 0}
VARIANTS = {
    "complete": {},
    # Part 9, variations 1 and 2.
    "residual": PLAIN
    | {"conv_block": "residual", "conv_filters": [32, 64], "dense_units": [64], "dense_dropouts": [0.4]},
    "attention": PLAIN
    | {"conv_block": "single", "conv_filters": [64], "attention": True, "dense_units": [64], "dense_dropouts": [0]},
    # Part 4.
    "progressive_downsampling": {
        "conv_block": "single", "batch_norm": False, "conv_filters": [64, 128, 256], "pool_sizes": [2, 2, 3],
        "conv_dropout": [0],
    },
    "minimal_pooling": {
        "conv_block": "single", "batch_norm": False, "pool_sizes": [1, 2], "conv_dropout": [0],
    },
    "pool_3": {"pool_sizes": [3]},
    "pool_4": {"pool_sizes": [4]},
    "overlapping_windows": {"pool_sizes": [3], "pool_stride": 2},
    "stride_1_same": {"pool_sizes": [2, 3], "pool_stride": 1, "pool_padding": "same"},
    "average_pooling": {"pooling": "average"},
    "adaptive_average": {"pooling": "adaptive_average", "adaptive_frames": 6},
    "adaptive_max": {"pooling": "adaptive_max", "adaptive_frames": 6},
    "global_max": {"lstm_units": [], "summary": "max"},
    "global_average": {"lstm_units": [], "summary": "mean"},
    # Part 5.
    "spatial_dropout": {"dropout_kind": "channel", "conv_dropout": [0.3]},
    "time_step_dropout": {"dropout_kind": "time_step", "conv_dropout": [0.3]},
    "progressive_dropout": {"conv_dropout": [0.1, 0.2], "dense_units": [64], "dense_dropouts": [0.4]},
    # Part 6.
    "bidirectional": {"lstm_units": [64], "bidirectional": True},
    "bidirectional_stacked": {"lstm_units": [64, 32], "bidirectional": True},
    "masked_mean": {"lstm_units": [128], "summary": "mean"},
    "masked_max": {"lstm_units": [128], "summary": "max"},
    "last_valid": {"summary": "last_valid"},
    "lstm_relu": {"lstm_activation": "relu"},
    "lstm_sigmoid": {"lstm_activation": "sigmoid"},
    # Part 7.
    "pyramid": {"dense_units": [128, 64, 32], "dense_dropouts": [0.4, 0.3, 0.2]},
    "bottleneck": {"dense_units": [32, 64], "dense_dropout": 0, "dense_l2": 0},
    "skip": {"head": "skip", "dense_units": [64, 64], "dense_dropout": 0, "dense_l2": 0},
    "swish": {"dense_activation": "swish", "conv_activation": "swish"},
    "gelu": {"dense_activation": "gelu", "conv_activation": "gelu"},
    "leaky_relu": {"dense_activation": "leaky_relu", "conv_activation": "leaky_relu"},
    "elu": {"dense_activation": "elu", "conv_activation": "elu"},
    "l1": {"dense_l1": 0.01, "dense_l2": 0},
    "l1_l2": {"dense_l1": 0.01, "dense_l2": 0.01},
    "tanh_output": {"output_activation": "tanh"},
}  # fmt: skip
# What Keras has no layer for.
STATISTICS = {"conv_dropout": [0], "lstm_units": [], "summary": "statistics"}
OWN = {
    "statistics": STATISTICS | {"summary_norm": True, "summary_dropout": 0.2},
    "trends_of_convolutions": STATISTICS | {"summary": "trends", "summary_norm": True},
    "statistics_of_lstm": {"lstm_units": [64], "bidirectional": True, "summary": "statistics"},
    "statistics_of_the_input": STATISTICS | {"conv_filters": [], "summary_norm": True},
    "input_beside_the_last_state": {"input_statistics": True, "summary_norm": True, "summary_dropout": 0.2},
}
FRAMES = 50


def small(name: str, **changes) -> CRNNSettings:
    """A variant with an eighth of its channels and units."""
    settings = CRNNSettings(**(VARIANTS | OWN)[name])
    sizes = {key: [size // 8 for size in getattr(settings, key)] for key in ("conv_filters", "lstm_units")}
    sizes |= {"dense_units": [size // 4 for size in settings.dense_units]}
    sizes |= {"attention_heads": 2, "attention_key_dim": 5}
    return CRNNSettings(**(settings.model_dump() | sizes | changes))


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_layer_equals_keras_in_inference(name):
    settings = small(name)
    reference, model = build_crnn(settings, FRAMES, 7, 2), CRNN(settings, 7, 2).eval()
    randomise(reference)
    copy_weights(reference, model)
    features = torch.randn(3, FRAMES, 7)
    with torch.no_grad():
        theirs, ours = reference(features, training=False), layer_outputs(model, features)
    assert theirs.keys() <= ours.keys()
    for layer, expected in theirs.items():
        assert ours[layer].shape == expected.shape, layer
        torch.testing.assert_close(ours[layer], expected, rtol=1e-5, atol=1e-5, msg=lambda m, n=layer: f"{n}: {m}")
    assert ours["output"].std() > 1e-3
    torch.testing.assert_close(model.penalty().detach(), torch.as_tensor(sum(reference.losses)).detach().float())


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_counted_as_by_keras_and_as_before(name):
    settings = CRNNSettings(**VARIANTS[name])
    count = sum(p.numel() for p in CRNN(settings, 40, 2).parameters())
    reference = build_crnn(settings, 600, 40, 2)
    assert count == sum(w.value.numel() for w in reference.trainable_weights)
    assert count == json.loads(GOLDEN.read_text())[name]


@pytest.mark.parametrize("name", OWN)
def test_parameters_of_own_variants_are_counted_as_before(name):
    count = sum(p.numel() for p in CRNN(CRNNSettings(**OWN[name]), 40, 2).parameters())
    assert count == json.loads(GOLDEN.read_text())[name]


@pytest.mark.parametrize("name", [*VARIANTS, *OWN])
def test_dropouts_act_in_training_alone(name):
    settings = small(name)
    model, features = CRNN(settings, 7, 2), torch.randn(3, FRAMES, 7)
    assert not torch.equal(model(features), model(features)) or settings.lstm_units == []
    model.eval()
    assert torch.equal(model(features), model(features))


def test_the_attention_variation_is_the_guide_s_by_its_parameters():
    model = CRNN(CRNNSettings(**VARIANTS["attention"]), 40, 2)
    assert sum(p.numel() for n, p in model.attention.named_parameters() if "norm" not in n) == 132_672


# What a padded clip gives alone it gives in a batch: blocks, pooling, attention, directions and summaries.
MASKED = {
    "mean": {"summary": "mean"},
    "max": {"summary": "max"},
    "last_valid": {"summary": "last_valid"},
    "single": {"summary": "mean", "conv_block": "single"},
    "no_batch_norm": {"summary": "mean", "batch_norm": False},
    "residual": {"summary": "max", "conv_block": "residual"},
    "average": {"summary": "last_valid", "pooling": "average", "pool_sizes": [2, 3]},
    "overlapping": {"summary": "mean", "pool_sizes": [4], "pool_stride": 2},
    "stride_1_same": {"summary": "mean", "pool_sizes": [3], "pool_stride": 1, "pool_padding": "same"},
    "average_stride_1_same": {
        "summary": "mean", "pooling": "average", "pool_sizes": [4], "pool_stride": 1, "pool_padding": "same",
    },
    "same": {"summary": "mean", "pool_padding": "same"},
    "average_same": {"summary": "mean", "pooling": "average", "pool_padding": "same"},
    "attention": {"summary": "mean", "attention": True},
    "attention_last_valid": {"summary": "last_valid", "attention": True},
    "bidirectional_mean": {"summary": "mean", "bidirectional": True},
    "bidirectional_last_valid": {"summary": "last_valid", "bidirectional": True, "attention": True},
    "bidirectional_relu": {"summary": "last_valid", "bidirectional": True, "lstm_activation": "relu"},
    "global_mean": {"summary": "mean", "lstm_units": []},
    "global_max": {"summary": "max", "lstm_units": []},
    "statistics": {"summary": "statistics"},
    "trends": {"summary": "trends"},
    "statistics_norm": {"summary": "statistics", "lstm_units": [], "summary_norm": True},
    "statistics_of_the_input": {"summary": "statistics", "lstm_units": [], "conv_filters": []},
    "input_statistics": {"summary": "mean", "input_statistics": True},
    "even_kernel": {"summary": "max", "kernel_size": 4},
}  # fmt: skip
# Windows that depend on the batch's length: what stands in the padding still counts nowhere.
MASKED_BY_LENGTH = {
    "adaptive_max": {"summary": "mean", "pooling": "adaptive_max", "adaptive_frames": 7},
    "adaptive_average": {"summary": "max", "pooling": "adaptive_average", "adaptive_frames": 7},
    "same_3": {"summary": "mean", "pool_sizes": [3], "pool_padding": "same"},
    "attention_last": {"summary": "last", "attention": True},
}
LENGTHS = torch.tensor([FRAMES, 41, 12, 20])


def masked_model(settings: dict) -> CRNN:
    sizes = {"conv_filters": [6, 8], "lstm_units": [7, 5], "dense_units": [6], "dense_l2": 0}
    sizes |= {"attention_heads": 2, "attention_key_dim": 5}
    model = CRNN(CRNNSettings(**(NO_DROPOUT | sizes | settings)), 7, 2)
    with torch.no_grad():  # no bias or statistic that hides a leak
        for name, tensor in model.state_dict().items():
            noise = 0.1 * torch.randn_like(tensor)
            tensor.add_(noise.abs() if "running_var" in name else noise)
    return model


def padded_batches() -> tuple[torch.Tensor, torch.Tensor]:
    """The same clips with zeros and with NaN for padding."""
    zeros = torch.randn(len(LENGTHS), FRAMES, 7)
    padding = torch.arange(FRAMES) >= LENGTHS[:, None]
    zeros[padding] = 0
    nan = zeros.clone()
    nan[padding] = torch.nan
    return zeros, nan


def test_the_guide_s_model_knows_no_padding():
    model, (features, _) = masked_model({}).eval(), padded_batches()
    assert torch.equal(model(features), model(features, LENGTHS))


def test_last_reads_the_batch_s_last_step_after_masked_attention():
    model, (features, _) = masked_model(MASKED_BY_LENGTH["attention_last"]).eval(), padded_batches()
    states, summaries = [], []
    model.lstms[-1].register_forward_hook(lambda _, __, out: states.append(out))
    model.head.register_forward_hook(lambda _, inputs, __: summaries.append(inputs[0]))
    masked, unmasked = model(features, LENGTHS), model(features)
    assert torch.equal(summaries[0], states[0][:, -1])
    assert not torch.allclose(masked, unmasked)


def test_the_masked_mean_by_a_literal_formula():
    model, (features, _) = masked_model({"summary": "mean", "pool_sizes": [2, 3]}).eval(), padded_batches()
    states, summaries = [], []
    model.lstms[-1].register_forward_hook(lambda _, __, out: states.append(out))
    model.head.register_forward_hook(lambda _, inputs, __: summaries.append(inputs[0]))
    model(features, LENGTHS)
    # 50 frames give 8, 41 give 6, 12 give 2 and 20 give 3: whole windows of 2, then of 3.
    expected = torch.stack([states[0][k, :n].sum(0) / n for k, n in enumerate([8, 6, 2, 3])])
    torch.testing.assert_close(summaries[0], expected, rtol=1e-6, atol=1e-6)


def test_a_clip_shorter_than_its_poolings_is_finite():
    for settings in ({"summary": "mean"}, {"summary": "max", "pooling": "average"}, {"summary": "last_valid"}):
        model = masked_model(settings | {"pool_sizes": [4]})
        model(torch.randn(3, FRAMES, 7), torch.tensor([FRAMES, 1, 0])).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conv_filters": [8, 8, 8]}, r"conv_dropout: expected one rate per block of conv_filters \(3\), got 2"),
        ({"pool_sizes": [2, 2, 2]}, r"pool_sizes: expected one size per block of conv_filters \(2\), got 3"),
        ({"pool_sizes": [0]}, r"pool_sizes: expected positive sizes, got \[0\]"),
        ({"dense_dropouts": [0.4]}, r"dense_dropouts: expected one rate per layer of dense_units \(2\), got 1"),
        ({"dense_dropouts": [0.4, 1]}, r"dense_dropouts: expected rates in \[0, 1\), got \[0.4, 1.0\]"),
        ({"conv_dropout": [-0.1]}, r"conv_dropout: expected rates in \[0, 1\), got \[-0.1\]"),
        ({"lstm_units": []}, "summary: expected mean, max, statistics or trends where lstm_units is empty, got last"),
        ({"conv_filters": [], "conv_block": "residual"}, "conv_block: expected standard or single"),
        ({"head": "skip", "dense_units": []}, "head: expected dense where dense_units is empty, got skip"),
        ({"pooling": "median"}, "pooling"),
    ],
)
def test_settings_that_do_not_go_together_are_named(settings, message):
    with pytest.raises(ValidationError, match=message):
        CRNNSettings(**settings)


def test_lengths_of_the_wrong_shape_are_named():
    with pytest.raises(ValueError, match=r"num_frames: expected \[4\], one per clip, got \[3\]"):
        masked_model({})(torch.randn(4, FRAMES, 7), LENGTHS[:3])


def test_one_size_and_one_rate_stand_for_all_blocks():
    settings = CRNNSettings(conv_filters=[4, 8, 8], pool_sizes=[3], conv_dropout=[0.1])
    assert settings.per_block() == [(4, 3, 0.1), (8, 3, 0.1), (8, 3, 0.1)]
    assert CRNN(settings, 7, 2).min_frames == 27
    assert CRNN(CRNNSettings(pool_sizes=[2, 4], pool_padding="same"), 7, 2).min_frames == 1
    adaptive = CRNNSettings(pooling="adaptive_max", pool_sizes=[2, 3], adaptive_frames=5)
    assert [block.pool.adaptive_frames for block in CRNN(adaptive, 7, 2).blocks] == [15, 5]


def test_tanh_keeps_outputs_within_one():
    model = CRNN(small("tanh_output"), 7, 2)
    with torch.no_grad():
        model.head.output.bias += 50
    assert model(torch.randn(3, FRAMES, 7)).abs().max() <= 1


def test_the_initial_gain_is_a_factor_on_the_head_s_kernels_alone():
    states = []
    for gain in (1.0, 0.25):
        torch.manual_seed(3)
        states.append(CRNN(small("skip", dense_init_gain=gain), 7, 2).state_dict())
    for name, tensor in states[0].items():
        factor = 0.25 if name.startswith("head.") else 1.0
        torch.testing.assert_close(states[1][name], factor * tensor)
