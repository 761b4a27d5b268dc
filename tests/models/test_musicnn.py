"""musicnn beside TensorFlow's values, Keras and librosa, and the reader of its checkpoints beside damage."""

import importlib
import os
import shutil
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import librosa
import numpy as np
import pytest
import torch
from keras import layers

from benchmarks.musicnn_golden import CHECKPOINTS, FRAMES, spectrogram
from tests.helpers.tiny_musicnn import PENULTIMATE, SIZES, published, weights, write_checkpoint, write_musicnn
from tuning.models.encoder_shapes import speech_shape
from tuning.models.musicnn import PATCH_FRAMES, load_musicnn, log_mels
from tuning.models.pretrained import MUSICNN, content_of, folder_of
from tuning.models.tensorflow_checkpoint import DATA, INDEX, crc32c, read_entries, read_tensor

GOLDEN = Path(__file__).parents[1] / "golden" / "musicnn.npz"


@pytest.fixture
def package():
    """The folder with the published checkpoints."""
    if (folder := published()) is None:
        pytest.skip("no published musicnn (pip install --no-deps musicnn, or TUNING_MUSICNN)")
    return Path(folder)


def states(model, mels):
    with torch.inference_mode():
        return [layer[0].numpy() for layer in model(torch.from_numpy(mels)[None])]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_layers_are_those_of_the_package_s_own_graph(package, checkpoint):
    """As `benchmarks/musicnn_golden.py` had them from TensorFlow."""
    model = load_musicnn(package / checkpoint)
    with np.load(GOLDEN) as golden:
        for frames, kept in FRAMES.items():
            for layer, found in enumerate(states(model, spectrogram(frames))):
                if (name := f"{checkpoint} {frames} {layer}") not in golden:
                    assert layer == 4 and frames > PATCH_FRAMES
                    continue
                expected, kept = golden[name], kept if layer < 4 else [frames // 2]
                assert expected.shape == (len(kept), (561, 64, 64, 64, 200)[layer])
                assert expected.std() > 0.3
                np.testing.assert_allclose(found[kept], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def by_keras(tensors, mels):
    """States of each layer [frames, values], as the package's code builds them, by layers of Keras."""

    def norm(number, x):
        name = f"batch_normalization{f'_{number}' if number else ''}"
        layer = layers.BatchNormalization()
        layer.build(x.shape)
        layer.set_weights([tensors[f"{name}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")])
        return layer(x, training=False)

    def conv(number, x, padding="valid"):
        name = f"conv2d{f'_{number}' if number else ''}"
        kernel = tensors[f"{name}/kernel"]
        layer = layers.Conv2D(kernel.shape[3], kernel.shape[:2], padding=padding, activation="relu")
        layer.build(x.shape)
        layer.set_weights([kernel, tensors[f"{name}/bias"]])
        return norm(number + 1, layer(x))

    around, x = layers.ZeroPadding2D((3, 0)), norm(0, torch.from_numpy(mels)[None, :, :, None])
    timbral = [conv(number, around(x)) for number in (0, 1)]
    temporal = [conv(number, x, "same") for number in (2, 3, 4)]
    found = [torch.cat([y.amax(dim=2) for y in (*timbral, *temporal)], dim=2)[..., None]]
    for number in (5, 6, 7):
        y = conv(number, around(found[-1])).transpose(2, 3)
        found.append(y if number == 5 else y + found[-1])
    every = torch.cat([y[0, :, :, 0] for y in found], dim=1)
    patches = [every[max(0, place - 93) : place + 94] for place in range(len(every))]
    pooled = torch.stack([torch.stack([y.amax(dim=0), y.mean(dim=0)], dim=1).flatten() for y in patches])
    dense = layers.Dense(PENULTIMATE, activation="relu")
    dense.build(pooled.shape)
    dense.set_weights([tensors["dense/kernel"], tensors["dense/bias"]])
    last = norm(10, dense(norm(9, pooled)))
    return [*(y[0, :, :, 0].detach().numpy() for y in found), last.detach().numpy()]


@pytest.mark.parametrize("frames", [1, 2, 50, 131, 187, 188, 256, 601])
def test_layers_equal_keras(tmp_path, frames):
    write_musicnn(tmp_path)
    found, expected = states(load_musicnn(tmp_path), spectrogram(frames)), by_keras(weights(), spectrogram(frames))
    assert [layer.shape for layer in found] == [(frames, size) for size in SIZES]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_clips_of_a_batch_do_not_hear_each_other(tmp_path):
    write_musicnn(tmp_path)
    model, mels = load_musicnn(tmp_path), torch.from_numpy(np.stack([spectrogram(300), spectrogram(301)[1:]]))
    with torch.inference_mode():
        for layer, found in enumerate(model(mels)):
            for clip, row in zip(mels, found, strict=True):
                torch.testing.assert_close(row, model(clip[None])[layer][0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 255, 256, 511, 512, 16001])
@pytest.mark.parametrize("peak", [1e-4, 0.1, 1.0])
def test_log_mels_equal_librosa(samples, peak):
    waveform = (peak * np.sin(np.arange(samples) ** 1.5 / 50)).astype(np.float32)
    power = librosa.feature.melspectrogram(
        y=np.pad(waveform, (0, max(0, 512 - samples))), sr=16000, n_fft=512, hop_length=256, n_mels=96
    ).T[: 1 + samples // 256]
    found = log_mels(torch.from_numpy(waveform)[None])[0].numpy()
    np.testing.assert_allclose(found, np.log10(10000 * power + 1), rtol=0, atol=1e-4)
    if peak == 1 and samples > 512:
        assert 10000 * power.max() > np.finfo(np.float16).max  # which the package makes infinite


def test_loading_leaves_the_random_generator_as_it_was(tmp_path):
    write_musicnn(tmp_path)
    before = torch.get_rng_state()
    assert not load_musicnn(tmp_path).training
    assert torch.equal(torch.get_rng_state(), before)


def test_checksums_are_crc_32c():
    # RFC 3720, B.4.
    known = {bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E, b"": 0}
    assert {content: crc32c(content) for content in known} == known


def test_every_tensor_of_a_published_checkpoint_is_as_its_checksum_says(package):
    folder = package / CHECKPOINTS[0]
    entries = read_entries(folder)
    assert entries["dense/kernel"].shape == (1506, 200)
    sizes = [len(read_tensor(folder, name, entry)) for name, entry in entries.items()]
    assert sum(sizes) == (folder / DATA).stat().st_size


def test_tensors_are_read_as_they_were_written(tmp_path):
    write_checkpoint(tmp_path, weights())
    entries = read_entries(tmp_path)
    assert list(entries) == sorted(weights()) and len(entries) > 3 * 16  # more than one block
    for name, expected in weights().items():
        found = np.frombuffer(read_tensor(tmp_path, name, entries[name]), np.float32).reshape(entries[name].shape)
        np.testing.assert_array_equal(found, expected)


def test_no_flipped_byte_of_an_index_is_taken_for_another_checkpoint(tmp_path):
    write_checkpoint(tmp_path, weights())
    whole, unseen, errors = (tmp_path / INDEX).read_bytes(), [], []
    for place in range(0, len(whole), 7):
        (tmp_path / INDEX).write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            read_entries(tmp_path)
            unseen.append(place)
        except ValueError as error:
            errors.append(str(error))
    assert all(error.startswith(f"'{tmp_path / INDEX}': expected the index of a TensorFlow") for error in errors)
    assert len(errors) > 200 and min(unseen) >= len(whole) - 48  # of the end, what fills it up is not read


@pytest.mark.parametrize("length", [0, 47, 48, 1000, -49, -1])
def test_a_shortened_index_is_named(tmp_path, length):
    write_musicnn(tmp_path)
    file = tmp_path / INDEX
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(
        ValueError, match=rf"^features.encoder: '{file}': expected the index of a TensorFlow checkpoint"
    ):
        speech_shape(str(tmp_path))


def test_a_shortened_file_of_data_is_named_before_it_is_read(tmp_path):
    write_musicnn(tmp_path)
    file = tmp_path / DATA
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"^features.encoder: '{file}': expected [\d,]+ bytes as .index says, got"):
        speech_shape(str(tmp_path))


@pytest.mark.parametrize("tensor", ["conv2d/kernel", "conv2d_7/bias", "batch_normalization/moving_mean"])
def test_a_flipped_byte_of_a_tensor_is_named(tmp_path, tensor):
    write_musicnn(tmp_path)
    entry, content = read_entries(tmp_path)[tensor], bytearray((tmp_path / DATA).read_bytes())
    content[entry.offset + entry.num_bytes - 1] ^= 1
    (tmp_path / DATA).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^'{tmp_path / DATA}': expected '{tensor}' as its checksum says"):
        load_musicnn(tmp_path)


@pytest.mark.parametrize("missing", [INDEX, DATA])
def test_half_a_checkpoint_is_none(tmp_path, missing):
    write_musicnn(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(
        ValueError, match=rf"^features.encoder: expected {INDEX} and {DATA} in '{tmp_path}', found \.\w"
    ):
        speech_shape(str(tmp_path))
    with pytest.raises(ValueError, match=rf"^'{tmp_path / missing}' can't be read: No such file"):
        read_entries(tmp_path)


def test_another_network_is_refused(tmp_path):
    tensors = weights()
    other = {name.replace("conv2d_4", "4CNN"): values for name, values in tensors.items()}
    write_checkpoint(tmp_path, other)
    with pytest.raises(
        ValueError, match=r"^features.encoder: '.*': expected the checkpoint of a musicnn, got no 'conv2d_4/kernel'"
    ):
        speech_shape(str(tmp_path))
    write_checkpoint(tmp_path, tensors | {"conv2d_6/kernel": tensors["conv2d_6/kernel"][:, :-1]})
    with pytest.raises(ValueError, match=r"of a musicnn, got \[7, 15, 1, 16\] as the shape of 'conv2d_6/kernel'"):
        speech_shape(str(tmp_path))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (None, "the weights of a musicnn, found no 'batch_normalization_3/gamma'"),
        (np.ones(3, np.float32), r"the shape \[2\] of 'batch_normalization_3/gamma', got \[3\]"),
    ],
)
def test_a_tensor_that_is_missing_or_of_another_shape_is_named(tmp_path, changed, message):
    tensors = weights() | {"batch_normalization_3/gamma": changed}
    write_checkpoint(tmp_path, {name: values for name, values in tensors.items() if values is not None})
    with pytest.raises(ValueError, match=rf"^'{tmp_path}': expected {message}"):
        load_musicnn(tmp_path)


def test_a_checkpoint_in_several_parts_is_refused(tmp_path):
    write_checkpoint(tmp_path, weights(), shards=2)
    with pytest.raises(ValueError, match=r"got none of a checkpoint in one part"):
        read_entries(tmp_path)


def test_the_package_s_folder_is_found_by_name_and_its_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "musicnn", raising=False)
    for name in MUSICNN:
        with pytest.raises(ValueError, match=rf"^features.encoder: '{name}' .*pip install --no-deps musicnn"):
            speech_shape(name)
    site = tmp_path / "site" / "musicnn"
    write_musicnn(site / "MSD_musicnn")
    (site / "__init__.py").write_text("import tensorflow_that_is_not_here")
    monkeypatch.setattr("sys.path", [str(site.parent)])  # syspath_prepend would put back the empty one for good
    importlib.invalidate_caches()
    assert folder_of("musicnn/MSD_musicnn") == site / "MSD_musicnn"
    assert speech_shape("musicnn/MSD_musicnn").sizes == SIZES
    assert content_of("musicnn/MSD_musicnn") == content_of(str(site / "MSD_musicnn"))
    with pytest.raises(ValueError, match=r"'musicnn/MTT_musicnn' .* pip install --no-deps musicnn"):
        speech_shape("musicnn/MTT_musicnn")
    for name in ("musicnn", "musicnn/MSD_vgg"):
        with pytest.raises(ValueError, match=rf"expected musicnn/MSD_musicnn or musicnn/MTT_musicnn, .* got '{name}'"):
            speech_shape(name)


def test_a_folder_s_content_is_that_of_both_files_and_no_other(tmp_path):
    write_musicnn(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    before = content_of(str(tmp_path / "one"))
    for name in (".meta", "checkpoint", "config.json", "train_log.tsv"):
        (tmp_path / "two" / name).unlink()
    assert content_of(str(tmp_path / "two")) == before
    for name in (INDEX, DATA):
        (tmp_path / "two" / name).write_bytes((tmp_path / "one" / name).read_bytes() + b"\0")
        assert content_of(str(tmp_path / "two")) != before
