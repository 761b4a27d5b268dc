"""The vision transformer against transformers' own, on a picture made by literal formulas; what is trained when."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.helpers.tiny_vit import MEAN, STD, write_image_encoder
from tuning.models import encoder_shapes
from tuning.models.pretrained import save_parts
from tuning.models.vit import ViT
from tuning.models.vit_settings import ViTSettings

FRAMES, MELS, OUTPUTS = 50, 40, 2
RANDOM = {"image_encoder": None, "pretrained": False, "unfreeze_epochs": []}
TINY = RANDOM | {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_layers": 3, "num_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_image_encoder(tmp_path_factory.mktemp("vit"))


def clips(count=3, seed=0):
    noise = np.random.default_rng(seed).normal(scale=2, size=(count, FRAMES, MELS))
    return torch.from_numpy(noise.astype(np.float32))


def triangle(inputs, outputs):
    """Weights [outputs, inputs] of bilinear resizing to fewer values: a triangle as wide as two of them."""
    scale = inputs / outputs
    assert scale >= 1
    centres = (np.arange(outputs) + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(inputs) - centres[:, None]) / scale)
    return weights / weights.sum(axis=1, keepdims=True)


def picture(features, num_frames, size=32):
    """The documented picture, clip by clip, in numpy."""
    pictures = []
    for clip, length in zip(features.double().numpy(), num_frames, strict=True):
        sound = np.where(np.arange(FRAMES)[:, None] < length, clip, 0.0)
        grey = np.clip((sound + 3) / 6, 0, 1).T  # the lowest mel on top, time to the right
        small = triangle(MELS, size) @ grey @ triangle(FRAMES, size).T
        pictures.append([(small - mean) / std for mean, std in zip(MEAN, STD, strict=True)])
    return torch.tensor(np.array(pictures), dtype=torch.float32)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize(
    ("kind", "in_front"), [("ViT", 1), ("DeiT", 2), ("Dinov2", 1), ("Dinov2WithRegisters", 5), ("ViTMSN", 1)]
)
def test_outputs_are_those_of_transformers_on_the_documented_picture(tmp_path, kind, in_front, pooling):
    import transformers

    name = write_image_encoder(tmp_path, kind)
    model = ViT(ViTSettings(image_encoder=name, pooling=pooling, head_units=[8], head_dropout=0.5), MELS, OUTPUTS)
    theirs = getattr(transformers, f"{kind}Model").from_pretrained(name).eval()
    features, lengths = clips(), [FRAMES, 20, 1]
    image = picture(features, lengths)
    features[1, 20:] = 99.0  # whatever stands in the padding
    torch.testing.assert_close(model.image(features, torch.tensor(lengths)), image, rtol=0, atol=1e-5)
    with torch.no_grad():
        states = theirs(pixel_values=image).last_hidden_state
        assert states.shape == (3, in_front + 16, 16)
        summary = states[:, 0] if pooling == "cls" else states[:, in_front:].mean(1)
        expected = model.output(model.hidden[0](summary).relu())
        found = model.eval()(features, torch.tensor(lengths))
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_loud_and_low_are_bright_and_on_top():
    model = ViT(ViTSettings(**TINY), MELS, OUTPUTS)
    features = torch.zeros(1, FRAMES, MELS)
    features[:, :25, :20] = 9.0
    image = model.image(features)
    assert image.shape == (1, 3, 32, 32)
    expected = torch.zeros(32, 32)  # the mean is a middle grey
    expected[:16, :16] = 1  # clipped to white, which ViT's own normalisation makes 1
    inner = torch.tensor([row for row in range(32) if row not in (15, 16)])  # without the blurred edge
    torch.testing.assert_close(image[0, 1][inner][:, inner], expected[inner][:, inner], rtol=0, atol=1e-6)
    torch.testing.assert_close(model.image(-features), -image, rtol=0, atol=1e-6)
    assert torch.equal(image, model.image(features.expand(1, -1, -1), torch.tensor([FRAMES])))
    with pytest.raises(ValueError, match=r"features: expected \[batch, frames, 40\], got \[1, 50, 39\]"):
        model(features[:, :, 1:])


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_a_pretrained_one_names_its_last_layers_by_epoch(folder):
    model = ViT(ViTSettings(image_encoder=folder, unfreeze_epochs=[2, 5]), MELS, OUTPUTS)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    stages = [(epoch, {names[id(p)] for p in parameters}) for epoch, parameters in model.unfreezing()]
    of_layer = [{name for name in names.values() if name.startswith(f"encoder.layers.{k}.")} for k in range(4)]
    assert stages == [(2, of_layer[3]), (5, of_layer[2])] and len(of_layer[3]) == 16
    assert trained(model) == of_layer[3] | of_layer[2] | {"output.weight", "output.bias"}
    frozen = ViT(ViTSettings(image_encoder=folder, unfreeze_epochs=[]), MELS, OUTPUTS).train()
    assert frozen.unfreezing() == [] and trained(frozen) == {"output.weight", "output.bias"}
    assert frozen.training and not frozen.encoder.training  # what is not trained infers
    assert model.train().encoder.training and not model.eval().encoder.training


def test_random_weights_are_all_trained_and_come_by_the_seed(folder):
    for settings in (ViTSettings(**TINY), ViTSettings(**(RANDOM | {"image_encoder": folder}))):
        models = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            models.append(ViT(settings, MELS, OUTPUTS))
        one, same, other = (model.state_dict() for model in models)
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert any(not torch.equal(one[name], other[name]) for name in one)
        assert trained(models[0]) == {name for name, _ in models[0].named_parameters()}
        models[0](clips()).square().sum().backward()
        assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for n, p in models[0].named_parameters()
                   if not n.endswith(("k_proj.bias", "key.bias")))  # fmt: skip  # the softmax does not see these
    shape = ViTSettings(**TINY).encoder_shape()
    assert (shape.num_patches, shape.num_layers, shape.hidden_size) == (16, 3, 16)


def test_dinov2_trains_all_that_it_uses(tmp_path):
    name = write_image_encoder(tmp_path, "Dinov2")
    model = ViT(ViTSettings(**(RANDOM | {"image_encoder": name})), MELS, OUTPUTS)
    assert "encoder.embeddings.mask_token" not in trained(model)
    model(clips()).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_the_layout_alone_gives_the_same_model(folder, tmp_path):
    model = ViT(ViTSettings(image_encoder=folder), MELS, OUTPUTS).eval()
    save_parts(folder, "model.image_encoder", tmp_path, ViTSettings(image_encoder=folder).encoder_parts)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "preprocessor_config.json"]
    other = ViT(ViTSettings(**(RANDOM | {"image_encoder": str(tmp_path)})), MELS, OUTPUTS).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(clips()), other(clips()))


def test_without_preprocessor_the_channels_are_centred_and_none_is_none(tmp_path):
    name = write_image_encoder(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text('{"do_normalize": false, "image_mean": [1, 1, 1]}')
    assert ViTSettings(image_encoder=name).encoder_shape().std == (1.0, 1.0, 1.0)
    file.unlink()
    assert ViTSettings(image_encoder=name).encoder_shape().mean == (0.5, 0.5, 0.5)
    for broken in ('{"image_mean": [0.5]}', '{"image_std": [0.5, 0.5, 0]}', '{"image_mean": ["a", "b", "c"]}'):
        file.write_text(broken + " " * len(broken))
        with pytest.raises(ValueError, match=r"^model.image_encoder: expected three numbers each in image_mean"):
            ViTSettings(image_encoder=name).encoder_shape()
    file.write_text("{")
    with pytest.raises(ValueError, match=r"^model.image_encoder: expected names with values in .*preprocessor_config"):
        ViTSettings(image_encoder=name).encoder_shape()


@pytest.fixture
def no_network(monkeypatch):
    """As HF_HUB_OFFLINE=1, which is read when the package is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def build(**settings):
    return ViT(ViTSettings(**settings), MELS, OUTPUTS)


def test_what_can_t_be_had_is_an_error_and_never_random(folder, tmp_path, no_network):
    with pytest.raises(ValueError, match=r"^model.image_encoder: 'google/nobody' is no folder.*can't be had"):
        build(image_encoder="google/nobody")
    with pytest.raises(ValueError, match=r"^model.image_encoder: expected a hub name or a folder, got '/no/such'"):
        build(image_encoder="/no/such")
    name = write_image_encoder(tmp_path / "some")
    weights = tmp_path / "some" / "model.safetensors"
    from safetensors.torch import load_file, save_file

    fewer = {key: value for key, value in load_file(weights).items() if ".2." not in key}
    save_file(fewer, weights, {"format": "pt"})
    with pytest.raises(ValueError, match=r"^model.image_encoder: expected weights of the whole model.*16 are missing"):
        build(image_encoder=name)
    weights.unlink()
    with pytest.raises(ValueError, match=r"^model.image_encoder: expected weights \(\*.safetensors, \*.bin\) in"):
        build(image_encoder=name)
    assert build(image_encoder=name, pretrained=False, unfreeze_epochs=[]).unfreezing() == []
    with pytest.raises(ValueError, match=r"model.unfreeze_epochs: expected at most 4 epochs, one for each layer"):
        build(image_encoder=folder, unfreeze_epochs=[1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("Bert", {}, r"expected an encoder of images \(deit, .*a bert"),
        ("Swin", {"embed_dim": 8, "depths": [1], "num_heads": [1]}, "a swin"),
        ("ViTMAE", {}, "a vit_mae"),
        ("ViT", {"image_size": [32, 16]}, r"square images and patches in .*got image_size .32, 16"),
        ("ViT", {"num_channels": 1}, "of three channels, got .* with 1"),
    ],
)
def test_other_kinds_are_refused(tmp_path, kind, changed, message):
    import transformers

    getattr(transformers, f"{kind}Config")(**changed).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"^model.image_encoder: .*{message}"):
        build(image_encoder=str(tmp_path))


@pytest.mark.parametrize("exists", [True, False, None])
def test_a_hub_model_s_preprocessor_is_read_from_the_cache_or_missed_aloud(tmp_path, monkeypatch, no_network, exists):
    """With the file in the cache, with the mark that the hub has none, and with neither."""
    from huggingface_hub import constants

    place = tmp_path / "models--some--vit"
    snapshot = place / "snapshots" / ("0" * 40)
    write_image_encoder(snapshot)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    if not exists:
        (snapshot / "preprocessor_config.json").unlink()
    if exists is False:
        mark = place / ".no_exist" / ("0" * 40)
        mark.mkdir(parents=True)
        for kind in ("preprocessor", "processor"):
            (mark / f"{kind}_config.json").touch()
    for module in ("constants", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    name = "some/vit"
    encoder_shapes._image_shape.cache_clear()
    if exists is None:
        with pytest.raises(ValueError, match=r"^model.image_encoder: 'some/vit' is no folder"):
            build(image_encoder=name)
        return
    expected = (MEAN, STD) if exists else ([0.5] * 3, [0.5] * 3)
    shape = ViTSettings(image_encoder=name).encoder_shape()
    assert (list(shape.mean), list(shape.std)) == expected
    assert build(image_encoder=name)(clips()).shape == (3, OUTPUTS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unfreeze_epochs": [8, 8]}, r"unfreeze_epochs: expected epochs from 1, each later.*got \[8, 8\]"),
        ({"unfreeze_epochs": [0, 8]}, r"unfreeze_epochs: expected epochs from 1"),
        ({"pretrained": False}, r"unfreeze_epochs: expected \[\] with pretrained=false.*got \[8, 12, 16\]"),
        ({"image_encoder": None}, r"image_encoder: expected a hub name or a folder with pretrained=true, got null"),
        (RANDOM | {"image_size": 60}, r"image_size: expected a multiple of patch_size \(16\), got 60"),
        (RANDOM | {"hidden_size": 64}, r"hidden_size: expected a multiple of num_heads \(3\), got 64"),
        ({"head_units": [0]}, r"head_units: expected positive sizes, got \[0\]"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        ViTSettings(**settings)


def test_the_epochs_of_the_stages_are_the_documented_ones():
    assert json.loads(json.dumps(ViTSettings().model_dump()))["unfreeze_epochs"] == [8, 12, 16]
