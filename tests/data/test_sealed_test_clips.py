"""No code path of a search opens a shard with a test clip: with those shards made unreadable, it ends the same."""

import csv
import json

import pytest

from tests.helpers.command import run

TINY = [
    "space=ser_demo", "search.num_trials=1", "training.epochs=2", "model.conv_channels=[4]", "model.lstm_hidden=4",
    "model.lstm_layers=1", "model.attention_heads=0", "model.pooling=mean", "features.num_frames=40",
    "augment.pitch_prob=0", "augment.stretch_prob=0", "resources.gpus_per_worker=0",
]  # fmt: skip


@pytest.mark.parametrize("inner", [[], pytest.param(["split.inner_folds=3"], marks=pytest.mark.slow)])
def test_a_search_ends_the_same_without_the_test_shards(ray_session, tmp_path, inner):
    arguments = [*TINY, *inner, f"data.prepared={tmp_path / 'prepared'}", f"storage={tmp_path / 'results'}"]
    run(*arguments, "name=before")
    shards = list((tmp_path / "prepared" / "features").glob("*/test-*.parquet"))
    assert shards
    for shard in shards:
        shard.write_bytes(b"sealed".ljust(shard.stat().st_size))
    # Nor was a version of a test clip ever made for the bank.
    kept = [json.loads(file.read_text()) for file in (tmp_path / "prepared" / "augmented").glob("*/*-*.json")]
    assert kept and not [record["cell"] for record in kept if record["cell"] == "test"]
    output = run(*arguments, "name=after")
    assert "nothing to prepare" in output
    before, after = (tmp_path / "results" / name / "leaderboard.csv" for name in ("before", "after"))
    unlike = {"seconds"}
    assert rows(before, unlike) == rows(after, unlike)


def rows(file, unlike):
    return [{k: v for k, v in row.items() if k not in unlike} for row in csv.DictReader(file.open())]
