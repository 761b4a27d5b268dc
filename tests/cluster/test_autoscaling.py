"""A search on a cluster that has no CPU when it begins: it gets nodes, uses them, and gives them back.

The nodes are processes of Ray's fake provider on this machine; the autoscaler that asks for them and lets them go is
the real one.
"""

import csv
import subprocess
import sys
import threading

import pytest
import yaml

from tests.helpers.ray_heads import started_head
from tests.helpers.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.cluster

WORKERS = 2
# Trials that train once nodes for all of them are there, however long these take on a busy machine.
MODEL = f"""
import time
from pathlib import Path
from typing import Literal

import ray
import torch
from pydantic import BaseModel


class Mean(torch.nn.Module):
    class Settings(BaseModel, extra="forbid"):
        name: Literal["own_model:Mean"] = "own_model:Mean"
        width: int = 8
        places: str = ""

    def __init__(self, settings, num_features, num_outputs):
        super().__init__()
        self.layer = torch.nn.Linear(num_features, num_outputs)
        places = Path(settings.places)
        with places.open("a") as file:
            file.write(ray.get_runtime_context().get_node_id() + "\\n")
        deadline = time.monotonic() + {PATIENCE}
        while len(set(places.read_text().split())) < {WORKERS} and time.monotonic() < deadline:
            time.sleep(0.2)

    def forward(self, features, num_frames=None):
        return self.layer(features.mean(dim=1))

    def penalty(self):
        return torch.zeros(())
"""


def alive(address):
    from ray._raylet import GcsClient

    nodes = GcsClient(address=address).get_all_node_info(timeout=10)
    return sum(node.state == 0 for node in nodes.values())  # GcsNodeInfo.ALIVE


def test_the_cluster_grows_with_the_search_and_shrinks_after_it(tmp_path):
    autoscaling = tmp_path / "ray_bootstrap_config.yaml"  # where `ray up` puts it, in the home of the search
    environment = {
        "HOME": str(tmp_path),
        "RAY_AUTH_MODE": "disabled",
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    # The provider reports its head under this name, and the file is read while the head starts.
    environment |= {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": "f" * 51 + "00000"}
    (tmp_path / "own_model.py").write_text(MODEL)
    (tmp_path / "own.yaml").write_text(
        f"model: {{name: 'own_model:Mean', places: {tmp_path}/places, width: {{choice: [2, 3, 4, 5, 6, 7]}}}}\n"
        "features: {num_frames: 16}\ntraining: {epochs: 2}\nsearch: {num_trials: 6}\n"
    )
    command = [sys.executable, "-m", "tuning.run", "space=own.yaml"]
    with started_head(
        environment,
        "--num-cpus=0",
        f"--autoscaling-config={autoscaling}",
        before=lambda head: autoscaling.write_text(yaml.safe_dump(configuration(head.address))),
    ) as head:
        assert alive(head.address) == 1
        sizes, ended = [1], threading.Event()

        def watch():
            while not ended.wait(0.5):
                sizes.append(alive(head.address))

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=head.environment | {"RAY_ADDRESS": head.address},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        print(done.stdout)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"1 CPU per trial, {WORKERS} at once" in done.stdout
        wait_until(lambda: alive(head.address) == 1)  # the nodes are given back
        ended.set()
        watching.join()
        assert max(sizes) == 1 + WORKERS
    with (tmp_path / "results" / "own" / "leaderboard.csv").open() as stream:
        assert [row["status"] for row in csv.DictReader(stream)] == ["done"] * 6


def configuration(address):
    return {
        "cluster_name": "fake",
        "max_workers": WORKERS,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            # All nodes have one address, and nothing has to be installed on them.
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": WORKERS},
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }
