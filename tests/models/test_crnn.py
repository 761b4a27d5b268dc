import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ks_2samp

from tests.helpers.keras_reference import (
    build_crnn,
    copy_weights,
    keras,
    layer_outputs,
    randomise,
    reversed_axes,
    weight_pairs,
)
from tuning.models.crnn import CRNN
from tuning.models.crnn_settings import CRNNSettings

NO_DROPOUT = {"conv_dropout": [0, 0], "lstm_dropout": 0, "recurrent_dropout": 0, "dense_dropout": 0}


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture
def small() -> CRNNSettings:
    return CRNNSettings(conv_filters=[8, 12], lstm_units=[10, 6], dense_units=[9, 5], **NO_DROPOUT)


def test_every_layer_equals_keras_in_inference():
    settings = CRNNSettings()
    reference, model = build_crnn(settings, 600, 40, 2), CRNN(settings, 40, 2).eval()
    randomise(reference)
    copy_weights(reference, model)
    features = torch.randn(2, 600, 40)
    with torch.no_grad():
        theirs, ours = reference(features, training=False), layer_outputs(model, features)
    assert theirs.keys() == ours.keys()
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert ours["output"].std() > 0.01


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4])
def test_training_step_equals_keras(small, kernel_size):
    # float32 on both sides; seen over ten seeds: 1e-5 in outputs (Keras's one-pass variance), 1e-7 in statistics,
    # 3e-6 of a gradient's largest entry.
    # 43 frames, so that pooling drops some.
    settings = small.model_copy(update={"kernel_size": kernel_size, "bn_momentum": 0.9, "pool_sizes": [3]})
    reference = build_crnn(settings, 43, 7, 2)
    model = CRNN(settings, 7, 2).train()
    randomise(reference)
    copy_weights(reference, model)
    features, targets = torch.randn(5, 43, 7), torch.randn(5, 2)

    theirs, ours = reference(features, training=True), layer_outputs(model, features)
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}")
    (F.mse_loss(theirs["output"], targets) + sum(reference.losses)).backward()
    (F.mse_loss(ours["output"], targets) + model.penalty()).backward()
    num_gradients = 0
    for tensor, weight in weight_pairs(reference, model):
        torch.testing.assert_close(tensor.detach(), reversed_axes(weight.value.detach()), rtol=1e-5, atol=1e-6)
        if weight.trainable:
            largest = weight.value.grad.abs().max().item()
            assert largest > 1e-5, weight.path
            tolerance = 1e-5 * largest + 2e-7
            torch.testing.assert_close(tensor.grad, reversed_axes(weight.value.grad), rtol=0, atol=tolerance)
            num_gradients += 1
    assert num_gradients == len(list(model.parameters()))


def test_parameters_are_counted_as_by_keras():
    settings = CRNNSettings()
    reference, model = build_crnn(settings, 600, 40, 2), CRNN(settings, 40, 2)
    trainable = sum(p.numel() for p in model.parameters())
    assert trainable == 281_762
    assert trainable == sum(w.value.numel() for w in reference.trainable_weights)
    assert trainable + sum(b.numel() for n, b in model.named_buffers() if "running" in n) == reference.count_params()
    assert sum(v.numel() for v in model.state_dict().values()) == reference.count_params()


def test_initial_weights_are_distributed_as_keras_s():
    settings = CRNNSettings(conv_filters=[64, 64], attention=True)
    ours: list[list[torch.Tensor]] = []
    theirs: list[list[torch.Tensor]] = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = CRNN(settings, 40, 2)
        keras.utils.set_random_seed(100 + seed)
        pairs = weight_pairs(build_crnn(settings, 600, 40, 2), model)
        ours.append([tensor.detach() for tensor, _ in pairs])
        theirs.append([weight.value.detach() for _, weight in pairs])
        paths = [weight.path for _, weight in pairs]
    for path, *drawn in zip(paths, *ours, *theirs, strict=True):
        a, b = (torch.stack([d.flatten() for d in draws]) for draws in (drawn[:3], drawn[3:]))
        if a.unique().numel() <= 2:
            assert torch.equal(a, b), path  # biases, batch-norm
            continue
        assert not torch.equal(a[0], a[1]), path
        assert ks_2samp(a.flatten().numpy(), b.flatten().numpy()).pvalue > 1e-3, path
        assert abs(a.mean()) < 4 * a.std() / a.numel() ** 0.5, path
        assert a.std() == pytest.approx(b.std().item(), rel=4 / a.numel() ** 0.5), path
        if "recurrent" not in path:
            heads = drawn[3].ndim == 3 and "attention" in path
            taps, fans = (1, drawn[0].shape) if heads else (drawn[3].shape[:-2].numel(), drawn[3].shape[-2:])
            fan_sum = taps * sum(fans)
            bound = (6 / fan_sum) ** 0.5
            assert 0.95 * bound < a.abs().max() <= bound, path
    assert sum("recurrent" in path for path in paths) == 2


@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.0, 0.01), (0.0, 0.1), (0.01, 0.0), (0.01, 0.02)])
@pytest.mark.parametrize("head", ["dense", "skip"])
def test_penalty_is_the_sum_of_keras_s_losses(small, l1, l2, head):
    settings = small.model_copy(update={"dense_l1": l1, "dense_l2": l2, "head": head})
    reference, model = build_crnn(settings, 8, 7, 2), CRNN(settings, 7, 2)
    randomise(reference)
    copy_weights(reference, model)
    penalty = model.penalty()
    assert penalty.shape == ()
    torch.testing.assert_close(penalty.detach(), torch.as_tensor(sum(reference.losses)).detach().float())
    assert (penalty > 0) == (l1 + l2 > 0)


def test_any_number_of_layers():
    settings = CRNNSettings(conv_filters=[4], conv_dropout=[0.1], lstm_units=[5, 4, 3], dense_units=[])
    model = CRNN(settings, 7, 3)
    assert model(torch.randn(2, 9, 7)).shape == (2, 3)
    assert model.penalty() == 0


def test_dropouts_act_in_training_alone():
    features = torch.randn(3, 24, 7)
    places = {"conv_dropout": [0.5, 0.0], "lstm_dropout": 0.5, "recurrent_dropout": 0.5, "dense_dropout": 0.5}
    for name, rate in places.items():
        sizes = {"conv_filters": [8, 8], "lstm_units": [8, 8], "dense_units": [64, 8]}
        model = CRNN(CRNNSettings(**(sizes | NO_DROPOUT | {name: rate})), 7, 2)
        assert not torch.equal(model(features), model(features)), name
        model.eval()
        assert torch.equal(model(features), model(features)), name


def test_dropout_stands_between_the_head_s_hidden_layers(small):
    rates = []
    model = CRNN(small.model_copy(update={"dense_dropout": 0.5}), 7, 2).train()
    for dropout in model.head.dropouts:
        dropout.register_forward_hook(lambda layer, _, out: rates.append((layer.p, tuple(out.shape))))
    model(torch.randn(3, 24, 7))
    assert rates == [(0.5, (3, 9)), (0.0, (3, 5))]


def test_a_list_of_rates_drops_after_every_hidden_layer(small):
    model = CRNN(small.model_copy(update={"dense_dropouts": [0.4, 0.3]}), 7, 2)
    assert [dropout.p for dropout in model.head.dropouts] == [0.4, 0.3]


def test_wrong_shapes_are_named(small):
    model = CRNN(small, 7, 2)
    with pytest.raises(ValueError, match=r"at least 4 frames.*got 3"):
        model(torch.randn(2, 3, 7))
    with pytest.raises(ValueError, match=r"expected \[batch, frames, 7\], got \[2, 16, 8\]"):
        model(torch.randn(2, 16, 8))
    assert model(torch.randn(2, 4, 7)).shape == (2, 2)


def test_two_passes_before_one_backward(small):
    model = CRNN(small, 7, 2).train()
    (model(torch.randn(3, 16, 7)) + model(torch.randn(3, 16, 7))).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
