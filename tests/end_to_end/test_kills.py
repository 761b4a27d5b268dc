"""The command killed while it runs, at instants that a seed draws, and gone on with to the same end."""

import os
import random

import pytest

from benchmarks.kills import ALGORITHMS, COMMON, Found, Search
from tests.helpers.command import run

FEWER = {
    "grid": ("model.lstm_dropout={grid: [0.1, 0.2, 0.3]}", "model.dense_l2={grid: [0.0001, 0.01]}"),
    "optuna": ("search.num_trials=8",),
}


def settings(algorithm, tmp_path, epochs):
    smaller = ("features.num_frames=16", "model.conv_filters=[4, 4]", "model.lstm_units=[8, 4]")
    given = [*COMMON, *ALGORITHMS[algorithm], *FEWER[algorithm], *smaller, f"training.epochs={epochs}"]
    given += [f"data.prepared={tmp_path / 'prepared'}"]
    return list({argument.partition("=")[0]: argument for argument in given}.values())


def killed(search, kills, seconds):
    """The search after some kills, gone on with in this process; what was measured at each."""
    found, ended = Found(), {}
    drawn = random.Random(f"{search.root.name}/1")
    for _ in range(kills):
        search.kill_after(drawn.uniform(0, seconds), True, found)
        ended |= {trial: result for trial, result in search.ended().items() if trial not in ended}
    before = search.begun()
    final = {trial: (result, before[trial]) for trial, result in ended.items()}
    os.environ["KILLS_EPOCHS_FILE"] = str(search.lines_file)
    try:
        run(*search.arguments)
    finally:
        del os.environ["KILLS_EPOCHS_FILE"]
    results, begun = search.ended(), search.begun()
    assert {trial: (results[trial], begun[trial]) for trial in final} == final
    return found


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grid", "optuna"])
def test_a_killed_search_ends_as_an_undisturbed_one(ray_session, tmp_path, algorithm):
    arguments = settings(algorithm, tmp_path, epochs=20)
    calm = Search(tmp_path / "calm", arguments)
    run(*calm.arguments)
    cut = Search(tmp_path / algorithm, arguments)
    found = killed(cut, 2, 1.5)
    assert found.kills == 2
    assert all(0 <= epochs <= 1 for epochs in found.lost), found
    rows = cut.ranking()
    assert sorted(int(row["trial"]) for row in rows) == list(range(1, {"grid": 7, "optuna": 9}[algorithm]))
    assert {row["status"] for row in rows} <= {"done", "stopped"}
    assert rows == calm.ranking()  # Optuna with ASHA, too: one trial at a time
