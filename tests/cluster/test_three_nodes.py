"""The whole job on a cluster whose head computes nothing, and the same search on one machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.three_nodes import SEARCH
from tests.helpers.command import run
from tests.helpers.ranking import ranking
from tests.helpers.waiting import PATIENCE


@pytest.mark.slow
def test_a_cluster_whose_head_has_no_cpu_does_the_whole_job_as_one_machine_does(ray_session, tmp_path):
    cluster, alone = tmp_path / "cluster", tmp_path / "alone"
    command = [sys.executable, "-m", "tests.cluster.three_nodes", str(cluster)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], timeout=2 * PATIENCE
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    # Ray may print after the script has.
    found = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))
    assert found["codes"] == {"run": 0, "finalize": 0, "reproduce": 0, "predict": 0}, done.stdout + done.stderr
    assert len(found["killed"]) == 1 and "equal     to the last bit" in done.stdout
    # The same leaderboard, also of the trial that was resumed on another node.
    arguments = [f"storage={alone}", f"data.prepared={cluster}/prepared", "resources.backend=direct", *SEARCH]
    run(*arguments)
    assert ranking(cluster / "crnn") == ranking(alone / "crnn")
