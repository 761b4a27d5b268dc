"""An encoder's last layers within a model: the encoder's own states, also of padded batches; what is trained."""

import copy
from contextlib import suppress

import pytest
import torch
from torch import nn

from tests.helpers.tiny_encoders import KINDS, write_encoder
from tests.helpers.tiny_whisper import write_whisper
from tuning.datasets.features.speech_encoder import hidden_states
from tuning.models.encoder_shapes import SPEECH
from tuning.models.layer_mix import LayerMix
from tuning.models.mlp import MLP
from tuning.models.mlp_settings import MLPSettings
from tuning.models.pretrained import load_encoder
from tuning.models.tuned_layers import Layers, TunedLayers

ALL = [*KINDS, "Whisper", "stable"]


@pytest.fixture(params=ALL)
def encoder(request, tmp_path):
    """The folder of an encoder of two layers; stable ones end with a normalisation."""
    if request.param == "Whisper":
        write_whisper(tmp_path)
    elif request.param == "stable":
        write_encoder(tmp_path, do_stable_layer_norm=True, feat_extract_norm="layer")
    else:
        write_encoder(tmp_path, request.param)
    return str(tmp_path)


def own_states(folder, waveforms):
    """All hidden states of the model itself."""
    model = load_encoder(folder, SPEECH)
    with torch.no_grad():
        return hidden_states(model.encoder if model.config.model_type == "whisper" else model, waveforms)


@pytest.mark.parametrize("first", [0, 1])
def test_states_are_the_encoders_own(encoder, first):
    waveforms = torch.randn(3, 3200, generator=torch.Generator().manual_seed(1))
    wanted = own_states(encoder, waveforms)
    layers = Layers(encoder, first).eval()
    with torch.no_grad():
        found = layers(wanted[first], None)
    assert len(found) == layers.num_states == 3 - first
    for state, own in zip(found, wanted[first:], strict=True):
        torch.testing.assert_close(state, own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", [0, 1])
def test_a_clip_among_longer_ones_is_as_alone(encoder, first):
    long = own_states(encoder, torch.randn(1, 3200, generator=torch.Generator().manual_seed(2)))[first]
    short = long[:, :6]
    layers = Layers(encoder, first).eval()
    batch = torch.cat([long, nn.functional.pad(short, (0, 0, 0, long.shape[1] - 6))])
    with torch.no_grad():
        together, alone = layers(batch, torch.tensor([long.shape[1], 6])), layers(short, None)
        whole = layers(long, None)
    for state, one, other in zip(together, alone, whole, strict=True):
        torch.testing.assert_close(state[1:, :6], one, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state[:1], other, rtol=1e-4, atol=1e-5)


def tuned(encoder, first=1, mixes=True, **options):
    layers = Layers(encoder, first, **options)
    model = MLP(MLPSettings(dropout=0.0), 16, 2)
    return TunedLayers(LayerMix(model, layers.num_states) if mixes else model, layers, reads_all=mixes)


def step(model, rate=0.01):
    features = torch.randn(4, 9, 16, generator=torch.Generator().manual_seed(3))
    loss = nn.functional.cross_entropy(model(features, torch.tensor([9, 4, 7, 9])), torch.tensor([0, 1, 0, 1]))
    model.zero_grad()
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=rate).step()
    return loss.item()


def test_all_weights_behind_the_features_are_trained(encoder):
    model = tuned(encoder).train()
    before = copy.deepcopy(model.state_dict())
    assert step(model) > step(model)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    names = {name for name, parameter in model.encoder.named_parameters() if parameter.requires_grad}
    # A shift of all keys changes no attention.
    assert {f"encoder.{name}" for name in names} - moved <= {n for n in before if "k_proj.bias" in n}
    assert len(model.encoder_parameters()) == len(names) and not any("positions" in name for name in names)


@pytest.mark.parametrize("first", [0, 1])
def test_lora_trains_small_matrices_that_all_count(encoder, first):
    pytest.importorskip("peft")
    model = tuned(encoder, first, lora_rank=2).train()
    untouched = tuned(encoder, first, pretrained=True)
    features = torch.randn(2, 9, 16)
    untouched.model.load_state_dict(model.model.state_dict())
    with torch.no_grad():  # before the first step they change nothing
        torch.testing.assert_close(model.eval()(features), untouched.eval()(features))
    model.train()
    trained = {name: p for name, p in model.encoder.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    step(model)
    # B is zero at first, so that A's gradient comes one step later.
    assert all(p.grad.abs().max() > 0 for name, p in trained.items() if "lora_B" in name)
    step(model)
    assert all(p.grad.abs().max() > 0 for p in trained.values())
    num_layers = 2 - first
    assert sum(p.numel() for p in trained.values()) <= num_layers * 2 * 2 * (16 + 24)
    assert len(model.encoder_parameters()) == len(trained)


def test_less_memory_is_the_same_gradient(encoder):
    torch.manual_seed(0)
    plain = tuned(encoder)
    saving = copy.deepcopy(plain)
    saving.encoder.saves_memory = True
    for model in (plain, saving):
        for module in model.modules():  # whose random numbers would differ
            with suppress(AttributeError):
                module.p = 0.0
            for name in ("dropout", "activation_dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        step(model.train(), rate=0)
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


def test_weights_are_saved_and_loaded_over_random_ones(encoder):
    from safetensors.torch import load, save

    model = tuned(encoder, first=0)
    other = tuned(encoder, first=0, pretrained=False)
    other.load_state_dict(load(save(model.state_dict())))
    features = torch.randn(2, 9, 16)
    with torch.no_grad():
        assert torch.equal(model.eval()(features), other.eval()(features))


def test_the_last_state_alone_or_all_are_read(encoder):
    model, features = tuned(encoder, mixes=False).eval(), torch.randn(2, 9, 16)
    read = []
    model.model.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    with torch.no_grad():
        last = model.encoder(features, None)[-1]
        model(features)
    torch.testing.assert_close(read[0], nn.functional.layer_norm(last, (16,)))
