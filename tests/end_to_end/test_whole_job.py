"""The main job whole, as a user would run it: minutes long."""

import csv
import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


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
    output = command(tmp_path, "space=crnn")
    rows = ranking(tmp_path / "results" / "crnn")
    assert len(rows) == 20 and {row["status"] for row in rows} == {"done"}
    constant = json.loads((tmp_path / "results" / "crnn" / "baseline.json").read_text())
    assert float(rows[0]["val_loss"]) < 0.3 * constant["val_loss"]
    assert float(rows[0]["val_r2_valence"]) > 0.5 and float(rows[0]["val_r2_arousal"]) > 0.5
    assert "features.num_frames 80 in place of 600" in output


def test_real_music_is_ranked_and_something_is_learnt(tmp_path, recordings):
    """Five trials on Emotify, artists apart, fold 1 sealed; a third of the frames to be quick."""
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
        "search.num_trials=5",
    )
    folder = tmp_path / "results" / "crnn"
    rows = ranking(folder)
    constant = json.loads((folder / "baseline.json").read_text())
    assert len(rows) == 5 and all(row["status"] == "done" for row in rows)
    assert float(rows[0]["val_loss"]) < 0.9 * constant["val_loss"]
    assert float(rows[0]["val_r2_arousal"]) > 0.15
    manifest = {row["file"]: row for row in csv.DictReader((recordings / "emotify" / "manifest.csv").open())}
    sealed = {row["artist"] for row in manifest.values() if row["fold"] == "1"}
    assert sealed and sealed.isdisjoint(row["artist"] for row in manifest.values() if row["fold"] != "1")


def test_two_workers_train_one_trial(tmp_path):
    small = ("features.num_frames=16", "model.conv_filters=[4, 4]", "model.lstm_units=[8, 4]", "training.epochs=3")
    command(tmp_path, "search.num_trials=2", "resources.workers_per_trial=2", *small)
    rows = ranking(tmp_path / "results" / "crnn")
    assert [(row["status"], row["epochs"]) for row in rows] == [("done", "3")] * 2


def test_streamed_features_train_too(tmp_path):
    small = ("features.num_frames=16", "model.conv_filters=[4, 4]", "model.lstm_units=[8, 4]", "training.epochs=3")
    command(tmp_path, "search.num_trials=2", "data.loading=streamed", "name=streamed", *small)
    command(tmp_path, "search.num_trials=2", "data.loading=resident", "name=resident", *small)
    streamed, resident = ranking(tmp_path / "results" / "streamed"), ranking(tmp_path / "results" / "resident")
    assert [row["status"] for row in streamed] == ["done"] * 2
    for one, other in zip(streamed, resident, strict=True):  # another order of clips, the same clips
        assert float(one["val_loss"]) == pytest.approx(float(other["val_loss"]), rel=0.1)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_audio_and_lyrics_together_beat_each_alone(tmp_path, seed):
    """On songs where neither decides: the error together is at most four fifths of the better one's alone."""
    alone = "model.modalities={grid: [both, audio, text]}"
    fixed = ("model.fusion=concat", "model.convs_per_block=1", "optim.learning_rate=0.0015")
    command(tmp_path, "space=bimodal_grid", alone, *fixed, f"seed={seed}")
    errors = {row["model.modalities"]: float(row["val_rmse"]) for row in ranking(tmp_path / "results" / "bimodal_grid")}
    constant = json.loads((tmp_path / "results" / "bimodal_grid" / "baseline.json").read_text())["val_rmse"]
    assert errors["both"] <= 0.8 * min(errors["audio"], errors["text"])
    assert max(errors["audio"], errors["text"]) < 0.95 * constant  # and each alone says something
