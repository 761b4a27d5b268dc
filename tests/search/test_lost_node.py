"""A node is killed in the middle of a search."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.waiting import PATIENCE


@pytest.mark.slow
def test_trials_of_a_killed_node_go_on_elsewhere_from_their_checkpoints(tmp_path):
    script = Path(__file__).with_name("cluster_search.py")
    command = [sys.executable, str(script), str(tmp_path)]
    root = script.parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]
    # Ray may print after the script has.
    found = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))
    assert found["reason"] == "" and len(found["killed"]) == 1
    assert set(found["status"].values()) == {"done"} and len(found["status"]) == 6
    (killed,) = found["killed"]
    moved = 0
    for number, lines in found["trained"].items():
        epochs, nodes = [int(epoch) for epoch, _ in lines], [node for _, node in lines]
        assert found["recorded"][number] == list(range(1, 9))
        assert sorted(set(epochs)) == list(range(1, 9))
        assert len(epochs) <= (9 if killed in nodes else 8), "at most the epoch in hand is repeated"
        if killed in nodes and set(nodes) != {killed}:
            moved += 1
            assert killed not in nodes[nodes.index(killed) + nodes.count(killed) :]
    assert moved == 1
