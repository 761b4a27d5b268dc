"""Which node's memory decides whether trials read from memory or from disk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.waiting import PATIENCE


@pytest.mark.slow
def test_the_memory_of_the_smallest_node_with_cpus_decides(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.data.share_on_nodes", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]
    # Ray may print after the script has.
    found = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))
    assert found == {"with the small node": "StreamedData", "without": "ResidentData"}
