"""An encoder's last layers, trained and adapted, through the whole job: search, reproduce, finalize, predict."""

import csv
import json

import pytest

from tests.helpers.command import run
from tests.helpers.tiny_whisper import write_whisper
from tuning.cli.export import main as export
from tuning.cli.finalize import main as finalize
from tuning.cli.predict import main as predict
from tuning.cli.reproduce import main as reproduce
from tuning.config.errors import UserError
from tuning.data.plan import make_plan
from tuning.evaluation.saved_model import load_best
from tuning.run import main
from tuning.training.trainer import read_checkpoint

pytest.importorskip("peft")

SMALL = (
    "space=ser_encoder", "augment.enabled=false",
    "features.encoder=encoder", "features.encoder_pooling=frames", "features.num_frames=20",
    "features.normalise=none", "features.encoder_layers={grid: [0, 1]}", "training.epochs=2",
    "model.encoder_training={grid: [layers, lora]}", "model.layer_weights=learnt", "model.hidden_units=[8]",
    "model.input_dropout=0.0", "model.dropout=0.3", "loss.label_smoothing=0.0", "optim.learning_rate=0.001",
    "optim.weight_decay=0.0", "optim.encoder_learning_rate=0.0005", "search.algorithm=grid", "search.num_trials=null",
)  # fmt: skip


@pytest.fixture(scope="module")
def searched(ray_session, tmp_path_factory):
    place = tmp_path_factory.mktemp("trained")
    write_whisper(place / "encoder")
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    run(*SMALL, "name=speech", "storage=results", "data.prepared=prepared")
    yield place
    patch.undo()


@pytest.mark.slow
def test_each_way_of_training_begins_at_each_layer(searched):
    folder = searched / "results" / "speech"
    rows = list(csv.DictReader((folder / "leaderboard.csv").open()))
    assert [row["status"] for row in rows] == ["done"] * 4
    for row in rows:
        file = folder / "trials" / f"{int(row['trial']):04d}" / "checkpoints" / "best.pt"
        weights = read_checkpoint(file, "cpu")["model"]
        first, is_lora = int(row["features.encoder_layers"]), row["model.encoder_training"] == "lora"
        assert ("encoder.layers.1.fc1.weight" in weights) == (first == 0)
        assert any("lora_A" in name for name in weights) == is_lora
        assert weights["model.layer_logits"].shape == (3 - first,)


@pytest.mark.slow
def test_the_winner_is_reproduced_retrained_and_predicts(searched, capsys):
    folder = searched / "results" / "speech"
    assert reproduce([str(folder)]) == 0
    assert "equal     to the last bit" in capsys.readouterr().out
    assert finalize([str(folder), "ensemble=4"]) == 0
    assert (folder / "best" / "encoder" / "config.json").exists()
    assert not list((folder / "best" / "encoder").glob("*.safetensors"))  # the model's own file has the weights
    rows = list(csv.DictReader((folder / "best" / "test_predictions.csv").open()))[:3]
    clips = [str(searched / "prepared" / "corpora" / "demo_speech-1" / row["clip"]) for row in rows]
    capsys.readouterr()
    assert predict([str(folder / "best"), *clips, "format=json"]) == 0
    for row, found in zip(rows, json.loads(capsys.readouterr().out), strict=True):
        assert found["predicted"] == row["predicted"]
        assert found["confidence"] == pytest.approx(float(row["confidence"]), abs=1e-4)
    best = load_best(folder / "best")
    assert best.features.mean.tolist() == [0.0] * 16 and best.features.std.tolist() == [1.0] * 16
    assert finalize([str(folder), "ensemble=2", "select=greedy", "again=true"]) == 0
    assert export([str(folder / "best")]) == 0


def test_the_dry_run_says_what_is_trained(tmp_path, capsys):
    write_whisper(tmp_path / "encoder")
    common = [word for word in SMALL if "encoder=" not in word] + [f"features.encoder={tmp_path / 'encoder'}"]
    assert main([*common, f"storage={tmp_path}", f"data.prepared={tmp_path}", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    # 12 x 16 x 16 weights of a layer; LoRA has four matrices of 16 x 8.
    assert f"the last 2 of 2 layers of '{tmp_path / 'encoder'}' are trained: about 0.00614 million weights" in printed
    assert "the last 1 of 2 layers" in printed and "adapted by LoRA of rank 8: about 0.000512 million" in printed


def test_what_can_not_be_trained_is_refused(tmp_path):
    write_whisper(tmp_path / "encoder")
    common = [word for word in SMALL if "encoder=" not in word] + [f"features.encoder={tmp_path / 'encoder'}"]
    wanted = {
        "features.normalise=train": "features.normalise: expected none with model.encoder_t",
        "features.encoder_pooling=mean": "features.encoder_pooling: expected frames with model.encoder_train",
        "features.encoder_layers=2": "features.encoder_layers: expected 0 to 1 with model.encoder_training=",
        "features.encoder_layers=all": "features.encoder_layers: expected the number of a layer, from 0, with",
        "features.encoder_layers=-1": "features.encoder_layers: expected the number of a layer, from 0, with",
    }
    for new, message in wanted.items():
        others = [word for word in common if word.partition("=")[0] != new.partition("=")[0]]
        with pytest.raises(UserError, match=message):
            make_plan([*others, new])
