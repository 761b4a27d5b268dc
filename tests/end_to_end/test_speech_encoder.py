"""A frozen encoder of sound through the whole job: search, reproduce, finalize, predict, export."""

import csv
import json

import pytest
from safetensors.torch import load_file, save_file

from tests.helpers.command import run
from tests.helpers.tiny_musicnn import write_musicnn
from tests.helpers.tiny_whisper import write_whisper
from tuning.cli.export import main as export
from tuning.cli.predict import main as predict
from tuning.evaluation.saved_model import load_best
from tuning.training.trainer import read_checkpoint

SMALL = (
    "space=ser_encoder", "augment.enabled=false",
    "features.encoder=encoder", "features.pooled_seconds=0.4", "training.epochs=3",
    "search.num_trials=2", "model.layer_weights={grid: [null, learnt]}", "model.hidden_units=[8]",
)  # fmt: skip


# Three layers of 16 values each.
LAYERS = {write_whisper: [0, 1, 2], write_musicnn: [1, 2, 3]}


@pytest.fixture(scope="module", params=LAYERS)
def write(request):
    return request.param


@pytest.fixture(scope="module")
def searched(ray_session, tmp_path_factory, write):
    place = tmp_path_factory.mktemp("encoder")
    write(place / "encoder")
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    layers = "all" if write is write_whisper else LAYERS[write]
    run(*SMALL, f"features.encoder_layers={layers}", "name=speech", "storage=results", "data.prepared=prepared")
    yield place
    patch.undo()


@pytest.mark.slow
def test_layers_are_read_side_by_side_and_as_one_mean(searched):
    folder = searched / "results" / "speech"
    rows = {row["model.layer_weights"]: row for row in csv.DictReader((folder / "leaderboard.csv").open())}
    assert {row["status"] for row in rows.values()} == {"done"}
    weights = {
        key: read_checkpoint(folder / "trials" / f"{int(row['trial']):04d}" / "checkpoints" / "best.pt", "cpu")["model"]
        for key, row in rows.items()
    }
    # Mean and deviation of 16 values of three layers, or of one mean of them.
    assert weights[""]["hidden.0.weight"].shape == (8, 3 * 32)
    assert weights["learnt"]["model.hidden.0.weight"].shape == (8, 32)
    assert weights["learnt"]["layer_logits"].shape == (3,) and weights["learnt"]["layer_logits"].any()


@pytest.mark.slow
def test_the_winner_is_reproduced_retrained_and_predicts(searched, write, capsys):
    from tuning.cli.finalize import main as finalize
    from tuning.cli.reproduce import main as reproduce

    folder = searched / "results" / "speech"
    assert reproduce([str(folder)]) == 0
    assert "equal     to the last bit" in capsys.readouterr().out
    assert finalize([str(folder)]) == 0
    assert load_best(folder / "best").config.features.encoder_layers == LAYERS[write]
    rows = list(csv.DictReader((folder / "best" / "test_predictions.csv").open()))
    clips = [str(searched / "prepared" / "corpora" / "demo_speech-1" / row["clip"]) for row in rows[:3]]
    capsys.readouterr()
    assert predict([str(folder / "best"), *clips, "format=json"]) == 0
    for row, found in zip(rows, json.loads(capsys.readouterr().out), strict=False):
        assert found["predicted"] == row["predicted"]
    assert predict([str(folder / "best"), clips[0], "step_seconds=0.2", "format=json"]) == 0
    windows = json.loads(capsys.readouterr().out)
    assert len(windows) > 3
    assert (
        f"mean and standard deviation over at most 0.4 s of layers {', '.join(map(str, LAYERS[write]))}"
        in (folder / "best/MODEL_CARD.md").read_text()
    )
    assert all(window["end_seconds"] - window["start_seconds"] == pytest.approx(0.4, abs=1e-3) for window in windows)
    assert export([str(folder / "best")]) == 0
    if (weights := searched / "encoder" / "model.safetensors").exists():
        whole, tensors = weights.read_bytes(), load_file(weights)
        save_file({name: 1.01 * value for name, value in tensors.items()}, weights, {"format": "pt"})
        capsys.readouterr()
        assert predict([str(folder / "best"), clips[0]]) == 2
        assert "expected the encoder with which the model was trained (" in capsys.readouterr().err
        weights.write_bytes(whole)
    (searched / "encoder").rename(searched / "away")
    try:
        capsys.readouterr()
        for command in (lambda: predict([str(folder / "best"), clips[0]]), lambda: export([str(folder / "best")])):
            assert command() == 2
            assert "error: features.encoder: 'encoder' is no folder" in capsys.readouterr().err
    finally:
        (searched / "away").rename(searched / "encoder")
