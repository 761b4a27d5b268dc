"""A pretrained vision transformer through the whole job: stages, reproduce, finalize, predict; what must not happen."""

import csv
import json
import shutil

import pytest
import torch

from tests.helpers.command import run
from tests.helpers.tiny_vit import write_image_encoder
from tuning.cli.predict import main as predict
from tuning.config.errors import UserError
from tuning.config.schema import parse_config
from tuning.data.plan import make_plan
from tuning.experiment.directory import read_progress
from tuning.search.estimate import fewest_epochs

SMALL = (
    "space=vit", "training.epochs=5", "training.patience=1", "features.num_frames=24", "features.num_mels=16",
    "training.batch_size=16", "resources.gpus_per_worker=0", "model.pretrained=true",
)  # fmt: skip
STAGES = "model.unfreeze_epochs={choice: [[2, 3], [2, 4]]}"


@pytest.fixture(scope="module")
def searched(ray_session, tmp_path_factory):
    """A search whose encoder is named by a relative path, which trials in other folders don't know."""
    place = tmp_path_factory.mktemp("vit")
    write_image_encoder(place / "encoder")
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    weights = "loss.weights={grid: [[0.5, 0.5], [0.6, 0.4]]}"
    run(*SMALL, STAGES, weights, "model.image_encoder=encoder", "search.num_trials=2", "name=pictures",
        "storage=results", "data.prepared=prepared")  # fmt: skip
    yield place
    patch.undo()


@pytest.mark.slow
def test_every_trial_goes_through_its_stages(searched):
    rows = list(csv.DictReader((searched / "results" / "pictures" / "leaderboard.csv").open()))
    assert [row["status"] for row in rows] == ["done", "done"]
    for row in rows:
        trial = searched / "results" / "pictures" / "trials" / f"{int(row['trial']):04d}"
        first, second = json.loads(row["model.unfreeze_epochs"])
        progress = read_progress(trial)
        assert second <= len(progress) <= 5
        for epoch, line in enumerate(progress, start=1):
            for stage, begins in ((1, first), (2, second)):
                rate = float(line[f"learning_rate_stage_{stage}"])
                wave = (float(line["learning_rate"]) - 1e-6) / (1e-4 - 1e-6)
                expected = 1e-6 + wave * (1e-5 - 1e-6) if epoch >= begins else 0
                assert rate == pytest.approx(expected)


@pytest.mark.slow
def test_the_winner_is_reproduced_retrained_and_predicts_without_the_encoder_s_folder(searched, tmp_path, capsys):
    from tuning.cli.finalize import main as finalize
    from tuning.cli.reproduce import main as reproduce

    folder = searched / "results" / "pictures"
    assert reproduce([str(folder)]) == 0
    assert "equal     to the last bit" in capsys.readouterr().out
    assert finalize([str(folder)]) == 0
    moved = tmp_path / "best"
    shutil.copytree(folder / "best", moved)
    assert sorted(file.name for file in (moved / "image_encoder").iterdir()) == [
        "config.json", "preprocessor_config.json",
    ]  # fmt: skip
    row = next(csv.DictReader((moved / "test_predictions.csv").open()))
    song = searched / "prepared" / "corpora" / "demo-1" / row["clip"]
    capsys.readouterr()
    hidden = searched / "encoder"
    hidden.rename(searched / "away")
    try:
        assert predict([str(moved), str(song), "format=json"]) == 0
        found = json.loads(capsys.readouterr().out)[0]
        for target in ("valence", "arousal"):
            assert found[target] == pytest.approx(float(row[f"predicted_{target}"]), abs=1e-5)
    finally:
        (searched / "away").rename(hidden)


def test_the_saved_model_is_that_which_was_trained(tmp_path):
    from tuning.datasets.store.reader import FeatureStatistics
    from tuning.evaluation.final_test_files import write_model
    from tuning.evaluation.saved_model import load_best
    from tuning.training.trial import build_model

    encoder = write_image_encoder(tmp_path / "encoder", "DeiT")
    model = {"name": "vit", "image_encoder": encoder}
    config = parse_config({"model": model, "features": {"name": "mel", "num_mels": 8, "num_frames": 20}})
    torch.manual_seed(1)
    built = build_model(config, 8)
    statistics = FeatureStatistics(torch.zeros(8).numpy(), torch.ones(8).numpy())
    write_model(tmp_path / "best", config, encoder, built, statistics, 20)
    shutil.rmtree(encoder)
    best = load_best(tmp_path / "best")
    features = torch.randn(2, 20, 8)
    assert torch.equal(best.model(features), built.eval()(features))
    # One that began with random weights of given sizes has nothing beside it.
    sizes = {"image_encoder": None, "pretrained": False, "unfreeze_epochs": [], "image_size": 32, "hidden_size": 48}
    config = parse_config({"model": model | sizes, "features": {"name": "mel", "num_mels": 8, "num_frames": 20}})
    built = build_model(config, 8)
    write_model(tmp_path / "random", config, "", built, statistics, 20)
    assert not (tmp_path / "random" / "image_encoder").exists()
    assert torch.equal(load_best(tmp_path / "random").model(features), built.eval()(features))


def test_what_is_missing_is_said_before_the_search(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    good = write_image_encoder(tmp_path / "good")
    empty = write_image_encoder(tmp_path / "empty")
    (tmp_path / "empty" / "model.safetensors").unlink()

    def refused(message, *arguments):
        with pytest.raises(UserError, match=message):
            make_plan([*SMALL, *arguments])

    make_plan([*SMALL, STAGES, f"model.image_encoder={good}"])
    refused("model.image_encoder: 'google/vit-none' is no folder", "model.image_encoder=google/vit-none", STAGES)
    refused("model.image_encoder: expected weights", f"model.image_encoder={{choice: [{good}, {empty}]}}", STAGES)
    refused("did you mean '.*/good'", f"model.image_encoder={tmp_path}/goood", STAGES)
    stages = "model.unfreeze_epochs={choice: [[2], [1, 2, 3, 4, 5]]}"
    refused(r"at most 4 epochs, one for each layer .*\[1, 2, 3, 4, 5\]", stages, f"model.image_encoder={good}")
    sometimes = "model.unfreeze_epochs={choice: [[2], [1, 2, 3, 4, 5]], when: {optim.weight_decay: 0.1}}"
    longer = (*(a for a in SMALL if "epochs" not in a), "optim.weight_decay={choice: [0.0, 0.1]}", sometimes)
    with pytest.raises(UserError, match=r"at most 4 epochs, one for each layer .*\[1, 2, 3, 4, 5\]"):
        make_plan([*longer, f"model.image_encoder={good}"])
    with pytest.raises(UserError, match=r"unfreeze_epochs: expected \[\] with pretrained=false"):
        make_plan(["space=vit", STAGES])  # the demo's ViT begins with random weights
    refused("model.unfreeze_epochs: expected one value for scheduler pbt", STAGES, f"model.image_encoder={good}",
            "search.scheduler=pbt")  # fmt: skip
    refused("search.metric: expected a metric that is comparable", STAGES, f"model.image_encoder={good}",
            "search.metric=val_loss")  # fmt: skip


def test_the_demo_s_sizes_are_not_those_of_a_user_s_own_model(tmp_path, monkeypatch):
    (tmp_path / "own_sizes.py").write_text(
        "from pydantic import BaseModel\n\nclass Own:\n    class Settings(BaseModel):\n"
        "        name: str = 'own_sizes:Own'\n        num_layers: int = 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plan = make_plan(["model.name=own_sizes:Own", "space=" + _bare(tmp_path)])
    assert plan.config.model.num_layers == 7 and plan.config.features.num_frames == 80
    assert make_plan(["space=vit"]).config.model.num_layers == 4


def _bare(folder):
    (folder / "bare.yaml").write_text("data: {corpus: demo}\nsearch: {num_trials: 1}\n")
    return str(folder / "bare.yaml")


def test_no_trial_ends_before_patience_after_the_last_unfreezing():
    model = {"name": "vit", "unfreeze_epochs": [8, 12, 16]}
    for patience, fewest in ((1, 16), (5, 20), (9, 24), (30, 24), (None, 24)):
        config = parse_config({"model": model, "training": {"epochs": 24, "patience": patience}})
        assert fewest_epochs(config) == fewest
