"""deploy/onprem.yaml on several hosts: up, a search over all of them, down."""

import csv
import functools

import pytest
import yaml

from tests.helpers.hosts import PROJECT, PYTHON, Hosts, copy_project, need_hosts, run, users_machine
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.cluster

TRIALS = 4

# Writes down which host trained it and whose code that host imported, and waits for company from the other hosts:
# else the first host to be ready would be done with all trials before the others have started.
MODEL = """
import socket
import time
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel

import tuning


class Mean(torch.nn.Module):
    class Settings(BaseModel, extra="forbid"):
        name: Literal["own_model:Mean"] = "own_model:Mean"
        width: int = 8
        places: str = ""

    def __init__(self, settings, num_features, num_outputs):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(num_features, settings.width), torch.nn.ReLU(), torch.nn.Linear(settings.width, num_outputs)
        )
        with open(settings.places, "a") as file:
            file.write(f"{socket.gethostname()} {Path(tuning.__file__).parent} {tuning.MARK}\\n")
        for _ in range(1800):
            if len({line.split()[0] for line in open(settings.places)}) >= 3:
                break
            time.sleep(0.5)

    def forward(self, features, num_frames=None):
        return self.layers(features.mean(dim=1))

    def penalty(self):
        return torch.zeros(())
"""


@pytest.fixture
def hosts(tmp_path):
    need_hosts()
    network = Hosts(tmp_path / "hosts")
    try:
        for _ in range(3):
            network.add()
        yield network
    finally:
        network.close()


def test_a_search_over_three_hosts(hosts, tmp_path):
    head, *workers = hosts.hosts
    project = copy_project(tmp_path / "project")
    # A folder that all hosts see, as NFS is.
    shared = tmp_path / "nfs"
    shared.mkdir()
    (project / "own_model.py").write_text(MODEL)
    (project / "own.yaml").write_text(
        f"model: {{name: 'own_model:Mean', places: {shared}/places, width: {{choice: [2, 3, 4, 5, 6, 7, 8]}}}}\n"
        f"features: {{num_frames: 16}}\ntraining: {{epochs: 3}}\nsearch: {{num_trials: {TRIALS}}}\n"
    )
    with (project / "tuning" / "__init__.py").open("a") as file:
        file.write("MARK = 'synced'\n")
    config = yaml.safe_load((PROJECT / "deploy" / "onprem.yaml").read_text())
    config["cluster_name"] = hosts.tag
    config["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address for worker in workers]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        # Each host sees all cores of this machine.
        config[commands][-1] += " --num-cpus=1"
    file = tmp_path / "onprem.yaml"
    file.write_text(yaml.safe_dump(config))
    options = {"cwd": project, "env": users_machine(tmp_path / "home")}
    ray = PYTHON.parent / "ray"

    print(run(ray, "up", "-y", file, **options).stdout)
    head.wait_for_nodes(hosts.key, {host.address for host in hosts.hosts})
    for host in hosts.hosts:
        host.was_set_up()

    # The head's home is its own, as the other hosts' are: refused before anything is made there.
    home = head.home / "audio-emotion-tuning"
    (home / "corpus").mkdir()
    (home / "corpus" / "a.wav").write_bytes(b"some sound")
    (home / "corpus" / "manifest.csv").write_text("file,valence,arousal\na.wav,0,0\n")
    before = {path for path in home.rglob("*") if "__pycache__" not in path.parts}
    own_places = "python -m tuning.run space=own.yaml data.corpus=manifest data.root=corpus data.prepared=new/prepared"
    refused = run(ray, "exec", file, f"{own_places} 2>&1; echo code $?", **options).stdout
    print(refused)
    assert "code 2" in refused
    lines = [line for line in refused.splitlines() if "expected a place that all nodes of the cluster see" in line]
    folders = {"storage": "/results", "data.prepared": "/new/prepared", "data.root": "/corpus"}
    assert len(lines) == len(folders), refused
    for line, (setting, folder) in zip(lines, folders.items(), strict=True):
        assert f"{setting}: expected" in line and f"audio-emotion-tuning{folder}'" in line
        assert any(worker.address in line for worker in workers) and head.address not in line
        assert "s3://bucket/folder" in line and "NFS" in line
    after = {path for path in home.rglob("*") if "__pycache__" not in path.parts}
    assert after == before

    command = f"python -m tuning.run space=own.yaml storage={shared}/results data.prepared={shared}/prepared"
    searched = run(ray, "exec", file, command, **options).stdout
    print(searched)
    assert "1 CPU per trial, 3 at once" in searched
    with (shared / "results" / "own" / "leaderboard.csv").open() as stream:
        assert [row["status"] for row in csv.DictReader(stream)] == ["done"] * TRIALS
    trained = [line.split() for line in (shared / "places").read_text().splitlines()]
    assert {place[0] for place in trained} >= {host.name for host in hosts.hosts}
    assert {place[2] for place in trained} == {"synced"}

    arguments = command.removeprefix("python -m tuning.run ").split()
    again = run(ray, "submit", file, "tuning/run.py", *arguments, check=False, **options).stdout
    assert f"all {TRIALS} trials were done before" in again, again

    print(run(ray, "down", "-y", file, **options).stdout)
    # `ray down` stops the head; the other hosts miss it within a minute and stop by themselves.
    for host in hosts.hosts:
        processes = functools.partial(host.processes, hosts.key)
        wait_until(lambda now=processes: "raylet/raylet" not in now(), told=processes)
