"""deploy/slurm.sh on two hosts; `srun` and `scontrol` are stand-ins that reach the hosts by SSH."""

import csv

import pytest

from tests.helpers.command import TINY
from tests.helpers.hosts import PYTHON, Hosts, copy_project, need_hosts

pytestmark = pytest.mark.cluster

# Like Slurm's, it runs in the same folder with the same environment, on the node of --nodelist.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do
    [[ $1 == --nodelist=* ]] && node=${1#--nodelist=}
    shift
done
variables=$(export -p | grep -E ' (RAY_|PATH)' | tr '\\n' ';')
# A terminal's end is how a step that goes on is told that the job is over; without one, output is left as it is.
[[ $1 == ray ]] && terminal=-tt || terminal=-T
exec ssh $terminal -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -i KEY "root@$node" \\
    "cd $PWD; $variables exec $*"
"""


@pytest.fixture
def hosts(tmp_path):
    need_hosts()
    network = Hosts(tmp_path / "hosts")
    try:
        for _ in range(2):
            network.add()
        yield network
    finally:
        network.close()


def test_a_search_within_one_job(hosts, tmp_path):
    project = copy_project(tmp_path / "project")
    programs = tmp_path / "bin"
    programs.mkdir()
    addresses = [host.address for host in hosts.hosts]
    (programs / "srun").write_text(SRUN.replace("KEY", str(hosts.key)))
    (programs / "scontrol").write_text("#!/bin/sh\necho " + "; echo ".join(addresses) + "\n")
    for file in programs.iterdir():
        file.chmod(0o755)
    variables = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "VENV": str(PYTHON.parents[1]),
        "SLURM_SUBMIT_DIR": str(project),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": "4711",
        "SLURM_CPUS_PER_TASK": "1",
    }
    given = " ".join(f"{name}='{value}'" for name, value in variables.items())
    command = f"env {given} bash {project}/deploy/slurm.sh space=crnn search.num_trials=3 {' '.join(map(repr, TINY))}"
    # The batch script itself runs on the first node.
    done = hosts.hosts[0].ssh(hosts.key, command)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    assert "1 CPU per trial, 2 at once" in done.stdout
    with (project / "results" / "crnn" / "leaderboard.csv").open() as stream:
        assert [row["status"] for row in csv.DictReader(stream)] == ["done"] * 3
    # The steps end with the job.
    assert "raylet/raylet" not in hosts.hosts[1].ssh(hosts.key, "sleep 5; ps ax").stdout
