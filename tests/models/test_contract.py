"""What every model does, in each of its variants: a new line in `MODELS` needs a line in `FAMILIES`.

The references that a model is compared with, and what it alone has, are in the file of its name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import BaseModel

from tests.helpers.tiny_bert import write_encoder
from tests.helpers.tiny_vit import write_image_encoder
from tests.models import test_bimodal, test_crnn_variants, test_ser, test_vit
from tuning.config.schema import import_model, model_settings
from tuning.models import MODELS

FRAMES, FEATURES, OUTPUTS, TOKENS, HIDDEN = 50, 8, 4, 12, 32
LENGTHS, WORDS = torch.tensor([FRAMES, 41, 12, 20]), torch.tensor([TOKENS, 7, 2, TOKENS])
# A key's bias shifts all scores of a query alike, which the softmax cancels.
NO_GRADIENT = ("key.bias", "k_proj.bias")


@dataclass(frozen=True)
class Family:
    """Small variants of a model."""

    variants: Mapping[str, Mapping[str, Any]]  # what is trained; without dropout
    small: Mapping[str, Any]  # sizes, which a variant may change
    dropout: Mapping[str, Any]
    masked: Mapping[str, Mapping[str, Any]] | None = None  # those that know padding; None: all
    by_length: frozenset[str] = frozenset()  # of them those whose windows depend on the batch's length
    encoder: tuple[str, Callable[..., str]] | None = None  # the setting with a pretrained encoder, and who writes one
    reads_text: bool = False
    of_numbers: bool = False  # learns two numbers a clip, which may be bounded; else classes


def narrowed(variants: Mapping[str, Mapping[str, Any]], **factors: int) -> dict[str, dict[str, Any]]:
    """The variants with so many times fewer channels or units."""
    return {
        variant: {k: [n // factors[k] for n in v] if k in factors else v for k, v in settings.items()}
        for variant, settings in variants.items()
    }


CRNN_SIZES = {
    "conv_filters": [6, 8], "lstm_units": [7, 5], "dense_units": [6], "attention_heads": 2, "attention_key_dim": 5,
}  # fmt: skip
FAMILIES: dict[str, Family] = {
    "crnn": Family(
        narrowed(test_crnn_variants.VARIANTS | test_crnn_variants.OWN, conv_filters=8, lstm_units=8, dense_units=4),
        {"conv_filters": [8, 16], "lstm_units": [16, 8], "dense_units": [16, 8], "attention_heads": 2,
         "attention_key_dim": 5},
        {"lstm_dropout": 0.3, "recurrent_dropout": 0.2, "summary_dropout": 0.2, "dense_dropout": 0.4},
        {k: CRNN_SIZES | v for k, v in
         (test_crnn_variants.MASKED | test_crnn_variants.MASKED_BY_LENGTH).items()},
        frozenset(test_crnn_variants.MASKED_BY_LENGTH), of_numbers=True,
    ),
    "ser": Family(
        narrowed(test_ser.VARIANTS, conv_channels=8, head_units=4),
        {"conv_channels": [16, 32], "lstm_hidden": 16, "dropout": 0}, {"dropout": 0.3},
    ),
    "mlp": Family(
        {"linear": {"dropout": 0}, "deep": {"hidden_units": [12, 6], "dropout": 0}},
        {"hidden_units": [32]}, {"input_dropout": 0.3, "dropout": 0.3},
    ),
    "bimodal": Family(
        test_bimodal.VARIANTS, test_bimodal.SMALL,
        {"audio_dropout": 0.3, "text_dropout": 0.3, "head_dropout": 0.3},
        encoder=("text_encoder", write_encoder), reads_text=True,
    ),
    "vit": Family(
        {"random": test_vit.TINY, "pretrained": {"unfreeze_epochs": []}, "stages": {"unfreeze_epochs": [2, 3]}},
        {"head_dropout": 0}, {"head_dropout": 0.3}, {}, encoder=("image_encoder", write_image_encoder),
    ),
}  # fmt: skip
TRAINED = [
    pytest.param(name, variant, id=f"{name}-{variant}") for name in FAMILIES for variant in FAMILIES[name].variants
]
MASKED = [
    pytest.param(name, variant, id=f"{name}-{variant}")
    for name, family in FAMILIES.items()
    for variant in (family.variants if family.masked is None else family.masked)
]
trained = pytest.mark.parametrize(("name", "variant"), TRAINED)
masked = pytest.mark.parametrize(("name", "variant"), MASKED)


def test_every_model_has_variants():
    assert set(FAMILIES) == set(MODELS)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, str]:
    """By the model that reads it, a tiny pretrained encoder."""
    written = {name: family.encoder for name, family in FAMILIES.items() if family.encoder}
    return {name: write(tmp_path_factory.mktemp(name)) for name, (_, write) in written.items()}


def settings_of(name: str, variant: Mapping[str, Any], encoders: Mapping[str, str], **changed: Any) -> BaseModel:
    family = FAMILIES[name]
    off = test_crnn_variants.NO_DROPOUT if name == "crnn" else dict.fromkeys(family.dropout, 0)
    encoder = {family.encoder[0]: encoders[name]} if family.encoder else {}
    return model_settings(name)(**(dict(family.small) | encoder | dict(variant) | off | changed))


def build(name: str, settings: BaseModel) -> torch.nn.Module:
    return import_model(name)(settings, FEATURES, OUTPUTS)


def perturbed(name: str, settings: BaseModel) -> torch.nn.Module:
    """A model in which no zero bias and no unit variance hides a leak."""
    model = build(name, settings)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point() and "encoder" not in key:
                noise = 0.1 * torch.randn_like(tensor)
                tensor.add_(noise.abs() if "running_var" in key else noise)
    return model


def texts_of(name: str, settings: BaseModel, junk: float = 0.0) -> tuple[torch.Tensor, ...]:
    """What four clips' texts are for a model, if it reads any, and their lengths; `junk` beyond them."""
    if not FAMILIES[name].reads_text:
        return ()
    beyond = torch.arange(TOKENS) >= WORDS[:, None]
    tokens, states = torch.randint(5, 90, (4, TOKENS)), torch.randn(4, TOKENS, HIDDEN)
    if settings.text_input == "tokens":
        return tokens.masked_fill(beyond, 10**9 if junk != junk else int(junk)), WORDS
    return (states.masked_fill(beyond[:, :, None], junk) if settings.text_input == "states" else states[:, :1]), WORDS


def padded(junk: float) -> torch.Tensor:
    """Clips of LENGTHS, the same ones after each seed, with `junk` behind them."""
    features = torch.randn(len(LENGTHS), FRAMES, FEATURES)
    features[torch.arange(FRAMES) >= LENGTHS[:, None]] = junk
    return features


def weights_of(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@trained
def test_gradients_are_finite_and_reach_every_parameter(name, variant, encoders):
    settings = settings_of(name, FAMILIES[name].variants[variant], encoders, **FAMILIES[name].dropout)
    model = build(name, settings).train()
    out = model(padded(0.0), LENGTHS, *texts_of(name, settings))
    assert out.shape == (4, OUTPUTS)
    (F.cross_entropy(out, torch.arange(4)) + model.penalty()).backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), key
            # Of an encoder of tokens only the rows of the words that occur; the pooler's state may go unused.
            assert parameter.grad.abs().max() > 0 or key.endswith(NO_GRADIENT) or "encoder" in key, key


@trained
def test_four_clips_are_learnt(name, variant, encoders):
    settings = settings_of(name, FAMILIES[name].variants[variant], encoders)
    model, labels, targets = build(name, settings).train(), torch.tensor([2, 0, 3, 1]), torch.rand(4, 2) * 1.6 - 0.8
    features, texts = torch.randn(4, 18, FEATURES), texts_of(name, settings)
    lengths = torch.full((4,), 18)
    inner = {id(parameter) for parameter in model.encoder_parameters()}
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in inner and p.requires_grad], "lr": 0.01},
        {"params": model.encoder_parameters(), "lr": 0.002},
    ]
    optimizer, first = torch.optim.Adam([group for group in groups if group["params"]]), None
    for _ in range(300):
        optimizer.zero_grad()
        out = model(features, lengths, *texts)
        loss = F.mse_loss(out[:, :2], targets) if FAMILIES[name].of_numbers else F.cross_entropy(out, labels)
        loss.backward()
        optimizer.step()
        first = first or loss.item()
        if loss.item() < 0.05 * first:
            return
    pytest.fail(f"the loss fell from {first:.3f} to no less than {loss.item():.3f}")


@trained
def test_in_evaluation_outputs_and_penalty_are_the_same_each_time(name, variant, encoders):
    settings = settings_of(name, FAMILIES[name].variants[variant], encoders, **FAMILIES[name].dropout)
    model, features, texts = build(name, settings).eval(), padded(0.0), texts_of(name, settings)
    assert torch.equal(model(features, LENGTHS, *texts), model(features, LENGTHS, *texts))
    penalty = model.penalty()
    assert penalty.shape == () and penalty >= 0 and torch.equal(penalty, model.penalty())


@trained
def test_weights_are_those_of_the_seed_and_go_into_another_model(name, variant, encoders):
    settings = settings_of(name, FAMILIES[name].variants[variant], encoders)
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(build(name, settings).eval())
    one, same, other = models
    assert torch.equal(weights_of(one), weights_of(same)) and not torch.equal(weights_of(one), weights_of(other))
    features, texts = padded(0.0), texts_of(name, settings)
    wanted = one(features, LENGTHS, *texts)
    assert not torch.equal(other(features, LENGTHS, *texts), wanted)
    other.load_state_dict(one.state_dict(), strict=True)
    assert torch.equal(other(features, LENGTHS, *texts), wanted)


@trained
def test_the_fewest_frames_are_enough(name, variant, encoders):
    settings = settings_of(name, FAMILIES[name].variants[variant], encoders)
    model, fewest = build(name, settings).eval(), import_model(name).min_frames
    fewest = getattr(model, "min_frames", fewest)
    features = torch.randn(4, fewest, FEATURES)
    assert model(features, torch.full((4,), fewest), *texts_of(name, settings)).isfinite().all()


@masked
def test_a_padded_clip_gives_what_it_gives_alone(name, variant, encoders):
    family = FAMILIES[name]
    settings = settings_of(name, (family.masked or family.variants)[variant], encoders)
    model, features, texts = perturbed(name, settings).eval(), padded(0.0), texts_of(name, settings)
    full = torch.full((4,), FRAMES)
    assert torch.equal(model(features, None, *texts), model(features, full, *texts)), "no lengths are full ones"
    together = model(features, LENGTHS, *texts)
    if getattr(settings, "modalities", "audio") != "text":
        assert not torch.allclose(model(features, None, *texts), together), "without lengths the padding counts"
    if variant in family.by_length:
        return
    for clip, length in enumerate(LENGTHS.tolist()):
        words = ()
        if texts:
            known = texts[0].shape[1] == 1 or settings.text_input in ("cls", "mean")
            words = (texts[0][clip : clip + 1] if known else texts[0][clip : clip + 1, : int(WORDS[clip])],)
        alone = model(features[clip : clip + 1, :length], None, *words)
        torch.testing.assert_close(together[clip : clip + 1], alone, rtol=1e-4, atol=1e-5)
    longer = model(F.pad(features, (0, 0, 0, 17)), LENGTHS, *texts)
    torch.testing.assert_close(longer, together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@masked
def test_what_stands_in_the_padding_never_counts(name, variant, encoders, training):
    family = FAMILIES[name]
    settings = settings_of(name, (family.masked or family.variants)[variant], encoders)
    found = []
    for junk in (0.0, torch.nan, 1e3):
        torch.manual_seed(0)
        model = perturbed(name, settings).train(training)
        if (text := getattr(model, "text", None)) is not None and text.encoder is not None:
            text.encoder.eval()  # its dropout draws other numbers for other lengths
        features = padded(junk).requires_grad_()
        out = model(features, LENGTHS, *texts_of(name, settings, 7.0 if junk == 1e3 else junk))
        out.square().sum().backward()
        if features.grad is not None:
            assert not features.grad[torch.arange(FRAMES) >= LENGTHS[:, None]].any()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
        moving = torch.cat([torch.zeros(1), *(b.flatten().float() for b in model.buffers())])
        found.append((out, gradients, moving))
    for zeros, nans, numbers in zip(*found, strict=True):
        assert torch.equal(zeros, nans) and torch.equal(zeros, numbers)


@masked
def test_in_training_too_it_does_not_matter_how_much_padding_follows(name, variant, encoders):
    family = FAMILIES[name]
    if variant in family.by_length:
        pytest.skip("its windows depend on the batch's length")
    settings = settings_of(name, (family.masked or family.variants)[variant], encoders)
    model, features, texts = perturbed(name, settings).train(), padded(0.0), texts_of(name, settings)
    if (text := getattr(model, "text", None)) is not None and text.encoder is not None:
        text.encoder.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    together = model(features, LENGTHS, *texts)
    moving = {key: value.clone() for key, value in model.named_buffers()}
    model.load_state_dict(before)
    torch.testing.assert_close(model(F.pad(features, (0, 0, 0, 17)), LENGTHS, *texts), together, rtol=1e-4, atol=1e-5)
    for key, value in model.named_buffers():
        torch.testing.assert_close(value, moving[key], rtol=1e-4, atol=1e-6)
