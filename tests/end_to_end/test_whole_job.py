"""The main job whole, as a user would run it: minutes long."""

import csv
import json
import subprocess
import sys

import pytest

from tests.helpers.command import TINY, run

pytestmark = pytest.mark.slow
AT_ONCE = "search.max_concurrent=2"
# Networks of half the documented widths, whose statistics catch up within few epochs.
LEARNS = (
    "model.conv_filters=[32, 64]", "model.lstm_units=[64, 32]", "model.dense_l2=0.0001", "model.lstm_dropout=0.3",
    "model.bn_momentum=0.9", "training.batch_size=16", "training.epochs=12",
)  # fmt: skip


def command(folder, *arguments):
    """Run `python -m tuning.run` in a folder; its output."""
    line = [sys.executable, "-m", "tuning.run", *arguments]
    result = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, timeout=1500)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout


def ranking(folder):
    return list(csv.DictReader((folder / "leaderboard.csv").open()))


def test_the_demo_search_learns(tmp_path):
    """As typed after the installation, but for fewer and smaller trials."""
    smaller = ("search.num_trials=3", "model.conv_filters=[32, 64]", "model.lstm_units=[64, 32]")
    output = command(tmp_path, "space=crnn", *smaller, "training.batch_size=16", "training.epochs=25")
    rows = ranking(tmp_path / "results" / "crnn")
    assert len(rows) == 3 and {row["status"] for row in rows} == {"done"}
    constant = json.loads((tmp_path / "results" / "crnn" / "baseline.json").read_text())
    assert float(rows[0]["val_loss"]) < 0.3 * constant["val_loss"]
    assert float(rows[0]["val_r2_valence"]) > 0.5 and float(rows[0]["val_r2_arousal"]) > 0.5
    assert "features.num_frames 80 in place of 600" in output


def test_real_music_is_ranked_and_something_is_learnt(tmp_path, recordings):
    """Two trials on Emotify, artists apart, fold 1 sealed; a third of the frames to be quick."""
    command(
        tmp_path,
        "space=crnn",
        "data.corpus=manifest",
        f"data.root={recordings / 'emotify'}",
        "data.group_column=artist",
        "data.fold_column=fold",
        "split.test_fold=1",
        "features.hop_samples=2400",
        "features.num_frames=200",
        *LEARNS,
        "optim.learning_rate={grid: [0.001, 0.002]}",
        "search.algorithm=grid",
        "search.num_trials=null",
    )
    folder = tmp_path / "results" / "crnn"
    rows = ranking(folder)
    constant = json.loads((folder / "baseline.json").read_text())
    assert len(rows) == 2 and all(row["status"] == "done" for row in rows)
    assert float(rows[0]["val_loss"]) < 0.9 * constant["val_loss"]
    assert float(rows[0]["val_r2_arousal"]) > 0.15
    manifest = {row["file"]: row for row in csv.DictReader((recordings / "emotify" / "manifest.csv").open())}
    sealed = {row["artist"] for row in manifest.values() if row["fold"] == "1"}
    assert sealed and sealed.isdisjoint(row["artist"] for row in manifest.values() if row["fold"] != "1")


def test_streamed_features_train_too(ray_session, tmp_path, prepared):
    given = ("search.num_trials=1", f"storage={tmp_path}", f"data.prepared={prepared}", *TINY[:3], "training.epochs=3")
    for loading in ("streamed", "resident"):
        run(*given, f"data.loading={loading}", f"name={loading}")
    (streamed,), (resident,) = ranking(tmp_path / "streamed"), ranking(tmp_path / "resident")
    assert streamed["status"] == "done"  # another order of clips, the same clips
    assert float(streamed["val_loss"]) == pytest.approx(float(resident["val_loss"]), rel=0.1)


def test_audio_and_lyrics_together_beat_each_alone(ray_session, tmp_path, prepared):
    """On songs where neither decides: the error together is at most four fifths of the better one's alone."""
    alone = "model.modalities={grid: [both, audio, text]}"
    fixed = ("model.fusion=concat", "model.convs_per_block=1", "optim.learning_rate=0.0015")
    run("space=bimodal_grid", alone, *fixed, f"storage={tmp_path}", f"data.prepared={prepared}", AT_ONCE)
    errors = {row["model.modalities"]: float(row["val_rmse"]) for row in ranking(tmp_path / "bimodal_grid")}
    constant = json.loads((tmp_path / "bimodal_grid" / "baseline.json").read_text())["val_rmse"]
    assert errors["both"] <= 0.8 * min(errors["audio"], errors["text"])
    assert max(errors["audio"], errors["text"]) < 0.95 * constant  # and each alone says something
