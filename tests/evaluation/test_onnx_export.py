"""ONNX files against PyTorch: both families, lengths and padding, what the file says of itself, what is refused."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from tests.helpers.recordings import tone, write_corpus
from tuning.cli import export
from tuning.config.schema import parse_config
from tuning.datasets.store.reader import FeatureStatistics
from tuning.evaluation.final_test_files import write_model
from tuning.evaluation.inference import Predictor
from tuning.evaluation.onnx_graph import normalised
from tuning.evaluation.saved_model import load_best, write_weights
from tuning.models.crnn import CRNN
from tuning.models.crnn_settings import CRNNSettings
from tuning.training.encoders import encoder_of
from tuning.training.trial import build_model

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install -e '.[dev]'")

FRAMES, MELS = 40, 8
CLASSES = {"name": "classification", "classes": ["sad", "calm", "happy"]}
MODELS = {
    "crnn": ({}, {"name": "crnn", "conv_filters": [4, 4], "lstm_units": [6, 4]}),
    "crnn, masked": (
        {},
        {"name": "crnn", "conv_filters": [4, 6], "lstm_units": [6], "summary": "statistics", "attention": True,
         "bidirectional": True, "lstm_activation": "relu", "input_statistics": True},
    ),
    "ser": (CLASSES, {"name": "ser", "conv_channels": [4, 6], "lstm_hidden": 4, "attention_heads": 2}),
    "crnn, adaptive": (
        {},
        {"name": "crnn", "conv_filters": [4, 6], "lstm_units": [6], "pooling": "adaptive_max", "adaptive_frames": 7},
    ),
}  # fmt: skip


def write_best(folder, task, model, seed=0, data=(("root", "nowhere"),), **changed):
    """A folder best/ whose weights are as drawn, but for statistics and biases, which are those of no fresh model."""
    features = {"num_frames": FRAMES, "num_mels": MELS, "num_mfcc": MELS} | changed
    config = parse_config({"task": task, "model": model, "features": features, "data": dict(data)})
    torch.manual_seed(seed)
    width = config.features.num_features
    built = build_model(config, width)
    with torch.no_grad():
        for name, tensor in built.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                tensor.normal_(std=0.3)
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
    rng = np.random.default_rng(seed)
    statistics = FeatureStatistics(
        rng.normal(-30, 5, width).astype(np.float32), rng.uniform(5, 20, width).astype(np.float32)
    )
    write_model(folder, config, encoder_of(config), built, statistics, FRAMES)
    return folder


def run(file, features, num_frames):
    session = onnxruntime.InferenceSession(str(file))
    return session.run(None, {"features": features, "num_frames": num_frames})


def batch_of(best, num_clips, frames, seed=1):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((num_clips, frames, MELS))
    return (noise * best.features.std + best.features.mean).astype(np.float32)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "ser" else pytest.mark.slow) for name in MODELS]
)
def test_onnxruntime_gives_what_pytorch_gives(tmp_path, capsys, name):
    folder = write_best(tmp_path / "best", *MODELS[name])
    assert export.main([str(folder)]) == 0
    output = capsys.readouterr().out
    assert "any number of clips" in output and "largest difference" in output
    best, metadata = load_best(folder), onnxruntime.InferenceSession(str(folder / "model.onnx")).get_modelmeta()
    about = metadata.custom_metadata_map
    assert json.loads(about["labels"]) == best.labels and about["normalisation"] == "in the graph"
    assert json.loads(about["features"]) == best.config.features.model_dump(mode="json")
    fewest = int(about["fewest_frames"])
    assert fewest < FRAMES or name in ("crnn, masked", "crnn, adaptive")
    for frames in {FRAMES, *((fewest, 57, 200) if fewest < FRAMES else ())}:
        features = batch_of(best, 5, frames)
        num_frames = np.array([frames, frames // 2, 1, 3 * frames // 4, 2], dtype=np.int64)
        spoiled = features.copy()
        for row, count in zip(spoiled, num_frames, strict=True):
            row[count:] = 1e9  # what stands in the padding is of no effect
        with torch.no_grad():
            values = normalised(features, num_frames, best.features.mean, best.features.std)
            wanted = best.model(values, torch.from_numpy(num_frames))
        found = run(folder / "model.onnx", spoiled, num_frames)
        assert np.abs(found[0] - wanted.numpy()).max() < 2e-5
        if best.config.task.name == "classification":
            assert np.abs(found[1] - wanted.softmax(1).numpy()).max() < 2e-5
    assert len({tuple(row) for row in np.round(found[0], 3).tolist()}) > 1  # clips differ, so the comparison can fail


def test_a_recording_that_cannot_be_used_is_left_out_of_the_comparison(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "corpus", num_clips=20)
    for clip in corpus.clips[::3]:
        file = tmp_path / "corpus" / clip.id
        file.write_bytes(file.read_bytes()[:-3000])
    folder = write_best(
        tmp_path / "best", *MODELS["crnn"], data={"corpus": "manifest", "root": str(tmp_path / "corpus")}
    )
    assert export.main([str(folder)]) == 0
    assert "8 clips of the corpus manifest" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "segment"), [("crnn", "middle"), pytest.param("ser", "start", marks=pytest.mark.slow)]
)
def test_a_graph_from_the_waveform_predicts_as_the_command_does(tmp_path, capsys, name, segment):
    folder = write_best(tmp_path / "best", *MODELS[name], segment=segment, name="mel+mfcc+chroma", deltas=1)
    assert export.main([str(folder), "waveform=true"]) == 0
    assert "any number of samples at 16000 Hz" in capsys.readouterr().out
    rng = np.random.default_rng(2)
    # Below a window, below and above what was prepared (2 s), and so long that a segment is cut.
    sounds = [
        tone(seconds, rate=16000) + 0.01 * rng.standard_normal(round(16000 * seconds)) for seconds in (0.1, 1.3, 5)
    ]
    files = [tmp_path / f"{number}.wav" for number in range(len(sounds))]
    for file, sound in zip(files, sounds, strict=True):
        sound[len(sound) // 3 : len(sound) // 2] *= 0.01
        soundfile.write(file, sound, 16000, subtype="FLOAT")
    expected = Predictor([load_best(folder)]).predict(files)
    counts = np.array([len(sound) for sound in sounds])
    batch = np.full((3, counts.max()), np.nan, np.float32)  # what stands in the padding is of no effect
    for row, sound in zip(batch, sounds, strict=True):
        row[: len(sound)] = sound
    session = onnxruntime.InferenceSession(str(folder / "waveform.onnx"))
    found = session.run(None, {"waveform": batch, "num_samples": counts})[-1]
    columns = [f"p_{label}" for label in CLASSES["classes"]] if name == "ser" else ["valence", "arousal"]
    np.testing.assert_allclose(found, expected[columns], atol=1e-4)
    assert len({tuple(row) for row in np.round(found, 3).tolist()}) == 3
    assert session.get_modelmeta().custom_metadata_map["sample_rate_hz"] == "16000"
    assert not (folder / "model.onnx").exists()


def test_a_signal_path_that_cannot_be_exported_is_refused(tmp_path, capsys):
    folder = write_best(tmp_path / "best", *MODELS["crnn"], trim_db=40.0)
    assert export.main([str(folder), "waveform=true"]) == 2
    assert "expected features.trim_db=null with waveform=true, got 40" in capsys.readouterr().err
    assert not list(folder.glob("*.onnx*"))


@pytest.mark.slow
def test_an_ensemble_has_a_file_for_each_member(tmp_path, capsys):
    folder = write_best(tmp_path / "best", *MODELS["crnn"])
    write_best(folder / "members" / "0007", *MODELS["crnn"], seed=3)
    assert export.main([str(folder)]) == 0
    first, second = folder / "model.onnx", folder / "members" / "0007" / "model.onnx"
    features = batch_of(load_best(folder), 2, FRAMES)
    counts = np.array([FRAMES, 9], dtype=np.int64)
    assert not np.allclose(run(first, features, counts)[0], run(second, features, counts)[0])
    assert capsys.readouterr().out.count("compared") == 2


def test_a_file_that_differs_is_deleted(tmp_path, capsys, monkeypatch):
    folder = write_best(tmp_path / "best", *MODELS["crnn"])
    # Gates out of order.
    monkeypatch.setattr("tuning.evaluation.onnx_graph._reordered", lambda weight: weight.detach()[None])
    assert export.main([str(folder)]) == 2
    assert "expected the outputs of PyTorch" in capsys.readouterr().err
    assert not list(folder.glob("model.onnx*"))


def test_what_is_refused(tmp_path, capsys, monkeypatch):
    def refused(*arguments):
        assert export.main([str(argument) for argument in arguments]) == 2
        return capsys.readouterr().err

    assert "expected one folder best/" in refused()
    assert "expected a folder best/ that tuning finalize wrote" in refused(tmp_path)
    folder = write_best(tmp_path / "best", *MODELS["crnn"])
    (tmp_path / "broken").mkdir()
    shutil.copytree(folder, tmp_path / "broken", dirs_exist_ok=True)
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no weights")
    assert "expected weights in safetensors" in refused(tmp_path / "broken")
    own = folder / "config.yaml"
    text = own.read_text()
    own.write_text(text.replace("name: crnn", "name: tests.evaluation.test_onnx_export:Own"))
    write_weights(folder, load_file(folder / "model.safetensors"))  # they know their settings
    assert "model.name: expected a class that this command line or its space file names" in refused(folder)
    assert "expected a model of one of the families crnn, ser" in refused(folder, "allow_code=true")
    own.write_text(text)
    monkeypatch.setattr("tuning.api.ONNX_PACKAGES", ("onnx", "no_such_package"))
    assert "install them: pip install 'audio-emotion-tuning[onnx]'" in refused(folder)


class Own(CRNN):
    """A user's model."""

    class Settings(CRNNSettings):
        """Those of the CRNN under another name."""

        name: str = "own"
