"""The bimodal model against the guide's own code, literal formulas and transformers, with padding, and in training."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from tests.helpers.tiny_bert import write_encoder
from tuning.models.bimodal import Bimodal
from tuning.models.bimodal_settings import BimodalSettings
from tuning.models.fusion import GatedFusion
from tuning.models.pretrained import load_encoder
from tuning.models.text import TextTower
from tuning.models.vgg import AudioTower, FeatureGate, NormedConv2d, SqueezeExcitation

SMALL = {
    "channels": [4, 6, 8], "se_reduction": 2, "audio_units": [10, 8], "text_units": 8, "fusion_heads": 2,
    "head_units": [12], "audio_dropout": 0, "text_dropout": 0, "head_dropout": 0,
}  # fmt: skip
VARIANTS = {
    "guide": {},
    "two_convolutions": {"convs_per_block": 2},
    "feature_gate": {"attention": "feature"},
    "no_attention": {"attention": "none"},
    "audio_alone": {"modalities": "audio"},
    "text_alone": {"modalities": "text"},
    "first_token": {"text_pooling": "cls"},
    "gated": {"fusion": "gated"},
    "cross_attention": {"fusion": "cross_attention"},
    "one_block": {"channels": [6], "head_units": []},
    "frozen_at_every_step": {"text_cache": False},
    "last_layer": {"text_layers": 1, "text_pooling": "cls"},
    "all_layers": {"text_layers": -1},
    "random_encoder": {"text_layers": -1, "text_pretrained": False},
    "cross_attention_with_tokens": {"fusion": "cross_attention", "text_layers": 1},
    "text_alone_with_tokens": {"modalities": "text", "text_layers": -1},
}  # fmt: skip
FRAMES, FEATURES, TOKENS, HIDDEN, OUTPUTS = 23, 9, 12, 32, 4
NUM_FRAMES, NUM_TOKENS = torch.tensor([FRAMES, 14, 5, 20]), torch.tensor([TOKENS, 7, 2, TOKENS])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def small(encoder: str, name: str, **changes) -> BimodalSettings:
    return BimodalSettings(text_encoder=encoder, **(SMALL | VARIANTS[name] | changes))


def perturbed(settings: BimodalSettings) -> Bimodal:
    """A model in which no zero bias or unit variance hides a leak."""
    model = Bimodal(settings, FEATURES, OUTPUTS)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and "encoder" not in name:
                noise = 0.1 * torch.randn_like(tensor)
                tensor.add_(noise.abs() if "running_var" in name else noise)
    return model


def text_of(settings: BimodalSettings, junk: float | None = None) -> torch.Tensor:
    """What four clips' text is for a model; `junk` stands beyond NUM_TOKENS (id 0 for tokens where it is None)."""
    beyond = torch.arange(TOKENS) >= NUM_TOKENS[:, None]
    tokens = torch.randint(5, 90, (4, TOKENS))
    if settings.text_input == "tokens":
        return tokens.masked_fill(beyond, 0 if junk is None else int(junk))
    states = torch.randn(4, TOKENS, HIDDEN)
    return states.masked_fill(beyond[:, :, None], junk or 0) if settings.text_input == "states" else states[:, :1]


def guide_audio_model(convs_per_block: int) -> nn.Sequential:
    """The guide's VGGish_Audio_Model (MODEL_3 and MODEL_5; with two convolutions a block MODEL_4), layer by layer."""

    class SEAttention(nn.Module):
        def __init__(self, channel_dim, reduction_ratio=16):
            super().__init__()
            self.squeeze = nn.AdaptiveAvgPool2d(1)
            self.excitation = nn.Sequential(
                nn.Linear(channel_dim, channel_dim // reduction_ratio, bias=False),
                nn.ReLU(inplace=True),
                nn.Linear(channel_dim // reduction_ratio, channel_dim, bias=False),
                nn.Sigmoid(),
            )

        def forward(self, x):
            batch_size, channels, _, _ = x.shape
            squeezed = self.squeeze(x).view(batch_size, channels)
            return x * self.excitation(squeezed).view(batch_size, channels, 1, 1).expand_as(x)

    layers: list[nn.Module] = []
    width = 1
    for channels in (64, 128, 256, 512):
        for _ in range(convs_per_block):
            layers += [nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            width = channels
        layers += [nn.MaxPool2d(2, 2)] if channels < 512 else []
    layers += [SEAttention(512), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()]
    layers += [nn.Dropout(0), nn.Linear(512, 256), nn.ReLU(inplace=True), nn.Dropout(0), nn.Linear(256, 64)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("convs_per_block", [1, 2])
def test_the_audio_tower_is_the_guide_s(convs_per_block):
    theirs = guide_audio_model(convs_per_block).double()
    ours = AudioTower(BimodalSettings(convs_per_block=convs_per_block, audio_dropout=0), 16).double()
    names = {name for name, module in theirs.named_modules() if isinstance(module, nn.BatchNorm2d)}
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for mine, guide in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(guide)
    features = torch.randn(3, 26, 16, dtype=torch.float64)
    moving = [b for n, b in theirs.named_buffers() if "num_batches" not in n]
    assert len(moving) == 2 * len(names) == 8 * convs_per_block
    for training in (True, False):
        expected = theirs.train(training)(features.transpose(1, 2).unsqueeze(1))
        found = ours.train(training)(features)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        for model, output in ((ours, found), (theirs, expected)):
            model.zero_grad()
            output.square().sum().backward()
        for mine, guide in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, guide.grad, rtol=1e-7, atol=1e-9)
        for mine, guide in zip(ours.buffers(), moving, strict=True):
            # PyTorch's moving variance is the unbiased one; the last block's is of 18 values a channel.
            torch.testing.assert_close(mine, guide, rtol=0.01, atol=1e-9)
            mine.copy_(guide)


@pytest.mark.parametrize("convs_per_block", [1, 2])
def test_parameters_are_as_many_as_counted_by_hand(encoder, convs_per_block):
    widths = [1, 64, 128, 256, 512]
    audio = sum(b * a * 9 + b + 2 * b for a, b in pairwise(widths))
    audio += (convs_per_block - 1) * sum(b * b * 9 + b + 2 * b for b in widths[1:])
    audio += 2 * 512 * 512 // 16 + (512 * 256 + 256) + (256 * 64 + 64)
    head = (64 + 64) * 64 + 64 + 64 * 2 + 2
    model = Bimodal(BimodalSettings(text_encoder=encoder, convs_per_block=convs_per_block), 128, 2)
    assert sum(p.numel() for p in model.audio.parameters()) == audio
    assert sum(p.numel() for p in model.parameters()) == audio + HIDDEN * 64 + 64 + head
    pools = [module for module in model.modules() if isinstance(module, nn.MaxPool2d)]
    assert [pool.kernel_size for pool in pools] == [2, 2, 2]


def test_squeeze_and_excitation_by_its_formula():
    layer, image = SqueezeExcitation(6, 3), torch.randn(2, 6, 4, 5)
    x, narrow, wide = (t.detach().numpy() for t in (image, layer.narrow.weight, layer.wide.weight))
    assert narrow.shape == (2, 6) and wide.shape == (6, 2) and len(list(layer.parameters())) == 2
    for clip in range(2):
        squeezed = np.array([x[clip, c].sum() / 20 for c in range(6)])
        gates = 1 / (1 + np.exp(-wide @ np.maximum(narrow @ squeezed, 0)))
        np.testing.assert_allclose(layer(image)[clip].detach(), x[clip] * gates[:, None, None], rtol=1e-5, atol=1e-6)


def test_gates_do_not_see_where_but_which_channel():
    layer, image = SqueezeExcitation(6, 3), torch.randn(2, 6, 4, 5).abs()
    gates = layer.gates(image, None)
    shuffled = image.flatten(2)[:, :, torch.randperm(20)].view_as(image)
    torch.testing.assert_close(layer.gates(shuffled, None), gates, rtol=1e-6, atol=1e-6)
    nn.init.uniform_(layer.narrow.weight)
    louder = image.clone()
    louder[:, 2] *= 5
    assert (layer.gates(louder, None) - layer.gates(image, None)).abs().min() > 1e-4
    # A clip's padding has no part, and a shorter clip's gates are those it has alone.
    image[1, :, :, 3:] = 0
    torch.testing.assert_close(layer.gates(image, torch.tensor([5, 3]))[1:], layer.gates(image[1:, :, :, :3], None))


def test_attention_acts_before_the_global_pooling_or_after_everything(encoder):
    for attention in ("se", "feature", "none"):
        tower = AudioTower(small(encoder, "audio_alone", attention=attention), FEATURES).eval()
        seen: dict[str, torch.Tensor] = {}
        tower.blocks[-1].register_forward_hook(lambda _, __, out, seen=seen: seen.__setitem__("image", out[0]))
        vector = tower(torch.randn(2, FRAMES, FEATURES))
        image = seen["image"] if attention != "se" else tower.se(seen["image"])
        pooled = image.mean((2, 3))
        expected = F.linear(pooled, tower.dense[0].weight, tower.dense[0].bias).relu()
        expected = F.linear(expected, tower.dense[1].weight, tower.dense[1].bias)
        if attention == "feature":
            narrow, wide = tower.gate.narrow, tower.gate.wide
            assert (narrow.in_features, narrow.out_features, wide.out_features) == (8, 2, 8)
            hidden = F.linear(expected, narrow.weight, narrow.bias).relu()
            expected = expected * F.linear(hidden, wide.weight, wide.bias).sigmoid()
        torch.testing.assert_close(vector, expected, rtol=1e-5, atol=1e-6)
        assert (tower.se is None, tower.gate is None) == (attention != "se", attention != "feature")
        assert image.shape == (2, 8, FEATURES // 4, FRAMES // 4)
        assert any(isinstance(module, FeatureGate) for module in tower.modules()) == (attention == "feature")


def test_gated_fusion_by_its_formula():
    layer, audio, text = GatedFusion(5), torch.randn(3, 5), torch.randn(3, 5)
    joined = layer(audio, text).detach().numpy()
    a, t, w = audio.numpy(), text.numpy(), layer.gate.weight.detach().numpy()
    for clip in range(3):
        gate = 1 / (1 + np.exp(-w @ np.concatenate([a[clip], t[clip]])))
        np.testing.assert_allclose(joined[clip], gate * a[clip] + (1 - gate) * t[clip], rtol=1e-5, atol=1e-6)


def test_concatenation_and_head_by_their_formula(encoder):
    model = Bimodal(settings := small(encoder, "guide"), FEATURES, OUTPUTS).eval()
    features, text = torch.randn(4, FRAMES, FEATURES), text_of(settings)
    with torch.no_grad():
        x = np.concatenate([model.audio(features).numpy(), model.text(text).numpy()], 1)
        for dense in (*model.hidden, model.output):
            x = np.maximum(x, 0) if dense is model.output else x
            x = x @ dense.weight.numpy().T + dense.bias.numpy()
        np.testing.assert_allclose(model(features, None, text), x, rtol=1e-4, atol=1e-5)


def test_cross_attention_by_its_formula(encoder):
    model = Bimodal(settings := small(encoder, "cross_attention", fusion_heads=1), FEATURES, OUTPUTS).eval()
    cross, units = model.cross, 8
    frames, tokens = torch.randn(2, 6, 8), torch.randn(2, 4, HIDDEN)
    lengths, counts = torch.tensor([6, 3]), torch.tensor([2, 4])
    found = cross(frames, lengths, tokens, counts).detach().numpy()

    def dense(x, weight, bias):
        return x @ weight.detach().numpy().T + bias.detach().numpy()

    def attended(layer, asks, answers):
        (wq, wk, wv), (bq, bk, bv) = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
        scores = dense(asks, wq, bq) @ dense(answers, wk, bk).T / np.sqrt(units)
        weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        return dense(weights @ dense(answers, wv, bv), layer.out_proj.weight, layer.out_proj.bias).mean(0)

    for clip in range(2):
        f = dense(frames[clip, : lengths[clip]].numpy(), cross.frames.weight, cross.frames.bias)
        t = dense(tokens[clip, : counts[clip]].numpy(), cross.tokens.weight, cross.tokens.bias)
        expected = np.concatenate([attended(cross.to_tokens, f, t), attended(cross.to_frames, t, f)])
        np.testing.assert_allclose(found[clip], expected, rtol=1e-4, atol=1e-5)
    assert model.hidden[0].in_features == 8 + 8 + 2 * units and settings.text_input == "states"


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_text_is_pooled_over_its_own_tokens_alone(encoder, pooling):
    settings = small(encoder, "cross_attention", text_pooling=pooling)
    tower, text = TextTower(settings).eval(), text_of(settings, junk=1e3)
    found = tower(text, NUM_TOKENS).detach().numpy()
    for clip, count in enumerate(NUM_TOKENS.tolist()):
        states = text[clip, :count].numpy()
        pooled = states[0] if pooling == "cls" else states.sum(0) / count
        expected = np.maximum(tower.dense.weight.detach().numpy() @ pooled + tower.dense.bias.detach().numpy(), 0)
        np.testing.assert_allclose(found[clip], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "DistilBert"])
@pytest.mark.parametrize("training", [False, True])
def test_a_frozen_encoder_gives_at_every_step_what_was_computed_before(tmp_path, kind, training):
    name = write_encoder(tmp_path, kind)
    now, before = (small(name, "cross_attention", text_cache=cache, text_dropout=0) for cache in (False, True))
    assert (now.text_input, before.text_input) == ("tokens", "states")
    alive, cached = Bimodal(now, FEATURES, OUTPUTS).train(training), Bimodal(before, FEATURES, OUTPUTS).train(training)
    cached.load_state_dict({k: v for k, v in alive.state_dict().items() if "encoder" not in k})
    features, tokens = torch.randn(4, FRAMES, FEATURES), text_of(now)
    import transformers

    theirs = getattr(transformers, f"{kind}Model").from_pretrained(name).eval()
    mask = torch.arange(TOKENS) < NUM_TOKENS[:, None]
    with torch.no_grad():
        states = theirs(input_ids=tokens, attention_mask=mask.long())[0]
    found, _ = alive.text.states(tokens, NUM_TOKENS)
    torch.testing.assert_close(found[mask], states[mask], rtol=1e-5, atol=1e-5)
    assert not found[~mask].any() and not found.requires_grad and found.std() > 0.1
    torch.testing.assert_close(
        alive(features, NUM_FRAMES, tokens, NUM_TOKENS), cached(features, NUM_FRAMES, states, NUM_TOKENS)
    )


def test_pooled_states_are_what_pooling_gives(encoder):
    for pooling in ("cls", "mean"):
        settings = small(encoder, "text_alone", text_pooling=pooling, text_cache=False)
        alive, cached = TextTower(settings).eval(), TextTower(settings.model_copy(update={"text_cache": True})).eval()
        cached.load_state_dict({k: v for k, v in alive.state_dict().items() if "encoder" not in k})
        tokens = text_of(settings)
        states, _ = alive.states(tokens, NUM_TOKENS)
        pooled = states[:, :1] if pooling == "cls" else (states.sum(1) / NUM_TOKENS[:, None])[:, None]
        torch.testing.assert_close(cached(pooled.half().double()), alive(tokens, NUM_TOKENS), rtol=0, atol=2e-2)
        torch.testing.assert_close(cached(pooled), alive(tokens, NUM_TOKENS))


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "DistilBert"])
@pytest.mark.parametrize(("count", "adapted"), [(1, 1), (-1, 2)])
def test_lora_trains_matrices_of_the_last_layers_alone(tmp_path, kind, count, adapted):
    pytest.importorskip("peft")
    settings = small(write_encoder(tmp_path, kind), "guide", text_layers=count, text_lora_rank=2, text_dropout=0)
    model = Bimodal(settings, FEATURES, OUTPUTS).train()
    trained = {n: p for n, p in model.text.encoder.named_parameters() if p.requires_grad}
    assert len(trained) == adapted * 2 * 2 and all("lora_" in name for name in trained)  # A and B of query and value
    assert [id(p) for p in model.encoder_parameters()] == [id(p) for p in trained.values()]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # B is zero at first, so that A's gradient comes one step later
        optimiser.zero_grad()
        model(torch.randn(4, FRAMES, FEATURES), NUM_FRAMES, text_of(settings), NUM_TOKENS).square().sum().backward()
        optimiser.step()
    assert all(p.grad.abs().max() > 0 for p in trained.values())


@pytest.mark.parametrize(("count", "trained"), [(0, ()), (1, (".layer.1.",)), (2, (".layer.",)), (-1, ("",))])
def test_which_parameters_of_the_encoder_are_trained(encoder, count, trained):
    model = Bimodal(small(encoder, "guide", text_layers=count, text_cache=count != 0), FEATURES, OUTPUTS).train()
    named = dict(model.text.encoder.named_parameters())
    expected = {name for name in named if any(part in name for part in trained)}
    assert {name for name, parameter in named.items() if parameter.requires_grad} == expected
    assert [id(p) for p in model.encoder_parameters()] == [id(p) for n, p in named.items() if n in expected]
    assert {module.training for module in model.text.encoder.modules()} == {count != 0}
    assert model.text.dropout.training and not model.eval().text.encoder.training
    assert all(p.requires_grad for n, p in model.named_parameters() if ".encoder." not in n)
    before = {name: parameter.clone() for name, parameter in named.items()}
    model.train()(torch.randn(4, FRAMES, FEATURES), None, text_of(small(encoder, "all_layers"))).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    # A key's bias shifts all scores of a query alike, which the softmax cancels.
    moved = {name for name, parameter in named.items() if not torch.equal(parameter, before[name])}
    assert {n for n in expected if "key.bias" not in n} <= moved <= expected


def test_the_encoder_is_only_there_where_tokens_come_in(encoder):
    assert Bimodal(small(encoder, "guide"), FEATURES, OUTPUTS).text.encoder is None
    audio = Bimodal(small("nobody/nothing", "audio_alone", text_layers=2), FEATURES, OUTPUTS)
    assert audio.text is None and audio.encoder_parameters() == []
    pretrained = Bimodal(small(encoder, "last_layer"), FEATURES, OUTPUTS).text.encoder.state_dict()
    drawn = Bimodal(small(encoder, "random_encoder"), FEATURES, OUTPUTS).text.encoder.state_dict()
    saved = load_encoder(encoder).state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in pretrained.items())
    assert not torch.equal(drawn["embeddings.word_embeddings.weight"], saved["embeddings.word_embeddings.weight"])


def test_batch_statistics_are_of_the_clips_own_frames():
    layer, lengths = NormedConv2d(2, 5, 3, bn_momentum=0.75).train(), torch.tensor([7, 3, 5])
    image = torch.randn(3, 2, 4, 7)
    found = layer(image, lengths)
    with torch.no_grad():
        convolved = layer.conv(image)
    values = torch.cat([convolved[clip, :, :, :length].flatten(1) for clip, length in enumerate(lengths)], 1)
    mean, variance = values.mean(1), values.var(1, unbiased=False)
    torch.testing.assert_close(layer.norm.running_mean, 0.25 * mean)
    torch.testing.assert_close(layer.norm.running_var, 0.75 + 0.25 * variance)
    for clip, length in enumerate(lengths):
        expected = (convolved[clip] - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        torch.testing.assert_close(found[clip, :, :, :length], expected[:, :, :length], rtol=1e-4, atol=1e-5)


def test_a_clip_too_short_for_the_poolings_is_filled_up_with_zeros(encoder):
    model, features = perturbed(small(encoder, "audio_alone")).eval(), torch.randn(3, FRAMES, FEATURES)
    together = model(features, torch.tensor([FRAMES, 2, 0]))
    for clip, length in ((1, 2), (2, 1)):
        alone = model(F.pad(features[clip : clip + 1, :length], (0, 0, 0, 4 - length)))
        torch.testing.assert_close(together[clip : clip + 1], alone, rtol=1e-4, atol=1e-5)


def test_the_global_seed_fixes_weights_and_dropout(encoder):
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        settings = small(encoder, "random_encoder", head_dropout=0.5)
        model = Bimodal(settings, FEATURES, OUTPUTS)
        torch.manual_seed(5)
        outputs = model(torch.randn(4, FRAMES, FEATURES), None, text_of(settings))
        drawn.append(torch.cat([p.detach().flatten() for p in model.parameters()] + [outputs.detach().flatten()]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_dropout_acts_in_training_alone_and_at_each_of_its_places(encoder):
    settings, places = small(encoder, "guide", audio_dropout=0.5, text_dropout=0.4, head_dropout=0.2), []
    model = Bimodal(settings, FEATURES, OUTPUTS)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda layer, _, out: places.append((layer.p, tuple(out.shape))))
    features, text = torch.randn(4, FRAMES, FEATURES), text_of(settings)
    assert not torch.equal(model(features, None, text), model(features, None, text))
    assert sorted(places[:4]) == [(0.2, (4, 12)), (0.4, (4, HIDDEN)), (0.5, (4, 8)), (0.5, (4, 10))]
    model.eval()
    assert torch.equal(model(features, None, text), model(features, None, text))


def test_what_a_batch_must_bring(encoder):
    inputs = {name: small(encoder, name).text_input for name in VARIANTS}
    assert {name for name, found in inputs.items() if found == "states"} == {"cross_attention"}
    assert {name for name, found in inputs.items() if found == "cls"} == {"first_token"}
    tokens = {"audio_alone", "frozen_at_every_step", "last_layer", "all_layers", "random_encoder"}
    assert {name for name, found in inputs.items() if found == "tokens"} == tokens | {
        "cross_attention_with_tokens", "text_alone_with_tokens",
    }  # fmt: skip
    assert BimodalSettings(modalities="text", fusion="cross_attention").text_input == "mean"
    assert BimodalSettings(modalities="audio", text_pooling="cls").text_input == "tokens"


def test_nothing_is_penalised(encoder):
    penalty = Bimodal(small(encoder, "audio_alone"), FEATURES, OUTPUTS).penalty()
    assert penalty == 0 and penalty.shape == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": []}, r"channels\n.*at least 1 item"),
        ({"audio_units": []}, r"audio_units\n.*at least 1 item"),
        ({"channels": [64, 0]}, r"channels: expected positive sizes, got \[64, 0\]"),
        ({"head_units": [-1]}, r"head_units: expected positive sizes, got \[-1\]"),
        ({"convs_per_block": 4}, r"convs_per_block\n.*less than or equal to 3"),
        ({"kernel_size": 4}, r"kernel_size: expected an odd number, got 4"),
        ({"channels": [4, 8]}, r"se_reduction: expected at most the last of channels \(8\), got 16"),
        ({"attention": "feature", "audio_units": [3], "text_units": 3}, r"audio_units: expected at least 4 last"),
        ({"fusion": "gated", "text_units": 32}, r"text_units: expected the last of audio_units \(64\).*got 32"),
        ({"fusion": "cross_attention", "text_units": 30}, r"text_units: expected a multiple of fusion_heads \(4\).*30"),
        ({"text_pretrained": False}, r"text_pretrained: expected true where text_layers is 0"),
        ({"text_cache": False, "text_layers": 2}, r"text_cache: expected true .* text_layers is not 0 \(2\)"),
        ({"text_lora_rank": 2}, r"text_lora_rank: expected null where text_layers is 0, which trains none, got 2"),
        ({"text_layers": -2}, r"text_layers\n.*greater than or equal to -1"),
        ({"max_tokens": 1}, r"max_tokens\n.*greater than or equal to 2"),
        ({"text_pooling": "max"}, r"text_pooling\n.*'cls' or 'mean'"),
        ({"se_ratio": 8}, r"se_ratio\n.*not permitted"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ValidationError, match=message):
        BimodalSettings(**settings)


def test_what_one_modality_does_not_use_is_not_checked():
    BimodalSettings(
        modalities="audio", text_pretrained=False, text_cache=False, text_layers=1, fusion="gated", text_units=3
    )
    BimodalSettings(modalities="text", channels=[4], fusion="cross_attention", text_units=30, kernel_size=2)
    BimodalSettings(channels=[8], attention="none")


def test_wrong_input_is_named(encoder):
    model = Bimodal(small(encoder, "guide"), FEATURES, OUTPUTS)
    features, text = torch.randn(4, FRAMES, FEATURES), torch.randn(4, 1, HIDDEN)
    with pytest.raises(ValueError, match=r"at least 4 frames, so that one is left after 2 poolings.*got 3"):
        model(features[:, :3], None, text)
    with pytest.raises(ValueError, match=r"features: expected \[batch, frames, 9\], got \[4, 23, 8\]"):
        model(features[:, :, :8], None, text)
    with pytest.raises(ValueError, match=r"num_frames: expected \[4\], one per clip, got \[3\]"):
        model(features, NUM_FRAMES[:3], text)
    with pytest.raises(ValueError, match=r"text: expected mean of each clip's text beside its features, got none"):
        model(features)
    with pytest.raises(ValueError, match=r"text: expected 4, one per clip, got 3"):
        model(features, None, text[:3])
    for wrong in (torch.randn(4, 2, HIDDEN), torch.randn(4, 1, 5), torch.zeros(4, 6, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"text: expected states \[batch, 1, 32\], got"):
            model(features, None, wrong)
    model = Bimodal(small(encoder, "all_layers"), FEATURES, OUTPUTS)
    with pytest.raises(
        ValueError, match=r"text: expected token ids \[batch, tokens\], got \[4, 1, 32\] \(torch.float32\)"
    ):
        model(features, None, text)
    tokens = torch.full((4, 65), 7)
    with pytest.raises(ValueError, match=r"num_tokens: expected \[4\], one per clip, got \[3\]"):
        model(features, None, tokens, NUM_TOKENS[:3])
    with pytest.raises(ValueError, match=r"text: expected at most 64 tokens \(model.max_tokens\).*got 65"):
        model(features, None, tokens)
    assert model(features, None, tokens, NUM_TOKENS).shape == (4, OUTPUTS)  # what is too long is padding
    with pytest.raises(ValueError, match=r"model.text_layers: expected -1 \(all, .*\) to 2 for '.*', got 3"):
        Bimodal(small(encoder, "guide", text_layers=3), FEATURES, OUTPUTS)
    with pytest.raises(ValueError, match=r"model.channels: expected so few blocks .* 3 mels .*, got 3"):
        Bimodal(small(encoder, "guide"), 3, OUTPUTS)
