"""The doctor finds what is wrong: each fault is made for real, and so is its opposite."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.helpers.s3 import s3_server
from tests.helpers.waiting import wait_until
from tuning.cli.doctor import cluster_yaml as cluster_file
from tuning.cli.doctor import credentials as access
from tuning.cli.doctor import environment as machine
from tuning.cli.doctor import gpu as gpus
from tuning.cli.doctor import main as doctor
from tuning.cli.doctor import nodes
from tuning.cli.doctor import storage as stores

PROJECT = Path(__file__).parents[2]


def levels(findings, what):
    return [finding.level for finding in findings if finding.what == what]


def only(findings, level):
    """The one finding of that level, as text."""
    found = [str(finding) for finding in findings if finding.level == level]
    assert len(found) == 1, found
    return found[0]


def tree(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_machine_in_order(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    assert doctor.main([f"storage={tmp_path}/a", f"data.prepared={tmp_path}/b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith(" 0 failed")
    assert {line.split()[1] for line in lines if line.startswith(("ok", "warn"))} >= {
        *("python", "packages", "memory", "disk", "gpu", "storage", "data.prepared")
    }
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.yaml", "b.yaml"], "expected at most one cluster file"),
        (["--all"], "--all: no such option"),
        (["none.yaml"], "none.yaml: expected a cluster file (YAML), got no such file"),
        (["storag=x"], "storag: no such setting; did you mean 'storage'?"),
        (["--fix"], "--fix: expected a cluster file with provider: {type: aws}"),
        (["deploy/onprem.yaml", "--fix"], "--fix: expected a cluster file with provider: {type: aws}"),
    ],
)
def test_wrong_arguments(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(PROJECT)
    assert doctor.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_version_out_of_range_and_a_missing_package(tmp_path, monkeypatch):
    (tmp_path / "ray-1.13.0.dist-info").mkdir()
    (tmp_path / "ray-1.13.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 1.13.0\n")
    assert "fail" not in {finding.level for finding in machine.check_packages()}
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "ray           1.13.0, expected <2.61,>=2.60" in only(machine.check_packages(), "fail")
    monkeypatch.undo()
    monkeypatch.setattr(machine, "_wanted", lambda: (">=3.99", [Requirement("no-such-package>=1")]))
    found = {finding.what: finding for finding in machine.check_packages()}
    assert found["no-such-package"].level == found["python"].level == "fail"
    assert "pip install 'no-such-package>=1'" in found["no-such-package"].advice


def test_room_on_a_disk(tmp_path, monkeypatch):
    assert only(machine.check_room({"storage": tmp_path / "not" / "yet"}), "ok")
    usage = shutil._ntuple_diskusage
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage(100e9, 99.9e9, 0.1e9))
    assert "100 MB of 100.0 GB free for storage" in only(machine.check_room({"storage": tmp_path}), "fail")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage(1000e9, 970e9, 30e9))
    assert "over 95 % full" in only(machine.check_room({machine.RAY_TEMP: tmp_path}), "fail")
    assert only(machine.check_room({"storage": tmp_path}), "ok")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage(0.064e9, 0, 0.064e9))
    assert "docker run --shm-size=" in only([f for f in machine.check_memory() if f.what == "/dev/shm"], "warn")


def test_little_memory(monkeypatch):
    monkeypatch.setattr(machine, "memory", lambda: (8e9, 0.5e9))
    assert "search.max_concurrent=1" in str(next(iter(machine.check_memory())))
    monkeypatch.undo()
    total, free = machine.memory()
    assert 1e8 < free <= total


def test_a_folder_that_can_be_written(tmp_path):
    assert levels(stores.check_store("storage", f"{tmp_path}/not/yet", cluster=False), "storage") == ["ok"]
    assert "nodes do not see each other's disks" in only(stores.check_store("storage", str(tmp_path), True), "warn")
    assert tree(tmp_path) == []


def test_folders_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("/proc/none", f"{tmp_path}/file", f"{tmp_path}/file/below", "file:///proc/none", "s3:///"):
        found = only(stores.check_store("storage", place, cluster=False), "fail")
        assert found.startswith(f"fail  storage       {place}: can't be used: ")
    assert tree(tmp_path) == [str(tmp_path / "file")]


def test_a_full_disk(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(OSError, match="No space"):
            (tmp_path / "filling").write_bytes(b"x" * 100_000)
        assert "No space left" in only(stores.check_store("storage", str(tmp_path), cluster=False), "fail")
        assert tree(tmp_path) == [str(tmp_path / "filling")]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_bucket(tmp_path, capsys):
    with s3_server(tmp_path / "log"):
        found = stores.check_store("storage", "s3://emotion/searches", cluster=True)
        assert "writes, reads back and deletes" in only(found, "ok")
        assert "NO_SUCH_BUCKET" in only(stores.check_store("storage", "s3://not-there/x", cluster=True), "fail")
        from tuning.datasets.storage import list_files

        assert list_files("s3://emotion") == {}
        if importlib.util.find_spec("boto3"):
            assert "credentials from env" in str(access.check_aws())


def test_aws_without_credentials_or_network(tmp_path, monkeypatch):
    pytest.importorskip("boto3", reason="pip install boto3")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "no credentials" in str(access.open_aws(None))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    assert "Partial credentials" in str(access.open_aws(None))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "two")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    found = access.open_aws(None)
    assert found.level == "fail" and "can't reach AWS" in found.found


def test_tools_on_path(tmp_path, monkeypatch):
    assert {finding.level for finding in access.check_tools({})} <= {"ok", "fail"}
    (tmp_path / "ssh").write_text("#!/bin/sh\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "rsync         not on PATH" in only(access.check_tools({}), "fail")
    (tmp_path / "ssh").rename(tmp_path / "rsync")
    assert "apt-get install openssh-client" in only(access.check_tools({}), "fail")


def test_a_key_that_ssh_refuses(tmp_path):
    key = tmp_path / "id"
    cluster = {"auth": {"ssh_private_key": str(key)}}
    assert levels(access.check_tools(cluster), "ssh key") == ["fail"]
    key.write_text("secret")
    key.chmod(0o644)
    assert "has mode 644; ssh refuses" in str(access.check_key(key))
    key.chmod(0o600)
    assert levels(access.check_tools(cluster), "ssh key") == ["ok"]


def test_a_token_that_others_may_read(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    token = tmp_path / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert list(access.check_token(needed=False)) == []
    assert "ray get-auth-token --generate" in only(access.check_token(needed=True), "fail")
    token.write_text("secret")
    token.chmod(0o640)
    assert f"chmod 600 {token}" in only(access.check_token(needed=False), "fail")
    token.chmod(0o600)
    assert only(access.check_token(needed=False), "ok")


def program(folder, name, script):
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_gpus_as_nvidia_smi_has_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    program(tmp_path, "nvidia-smi", "echo 'No devices were found'; exit 6")
    assert only(gpus.check_gpus(None, elsewhere=False), "ok")
    assert "resources.gpus_per_worker=0.5" in only(gpus.check_gpus(0.5, elsewhere=False), "fail")
    assert only(gpus.check_gpus(0.5, elsewhere=True), "ok")
    program(tmp_path, "nvidia-smi", "echo 'Driver/library version mismatch' >&2; exit 18")
    assert "nvidia-smi says: Driver/library version mismatch" in only(gpus.check_gpus(None, False), "fail")
    program(tmp_path, "nvidia-smi", "echo 'NVIDIA L4, 570.1'; echo 'NVIDIA L4, 570.1'")
    monkeypatch.setattr(gpus, "cuda_build", lambda: None)
    assert "2: NVIDIA L4 (driver 570.1); but this PyTorch is built for CPUs" in only(gpus.check_gpus(1, False), "fail")


def test_pytorch_that_does_not_get_to_the_gpu(tmp_path, monkeypatch):
    program(tmp_path, "nvidia-smi", "echo 'NVIDIA L4, 570.1'")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(gpus, "cuda_build", lambda: "13.0")
    assert "PyTorch can't use it: " in only(gpus.check_gpus(1, elsewhere=False), "fail")


def test_the_build_of_pytorch_without_importing_it():
    found = gpus.cuda_build()
    import torch

    assert found == torch.version.cuda


def test_mps_where_trials_share_a_gpu(tmp_path):
    assert "nvidia-cuda-mps-control -d" in gpus.check_mps(0.25).advice
    shutil.copy(shutil.which("sleep"), tmp_path / "nvidia-cuda-mps-control")
    daemon = subprocess.Popen([tmp_path / "nvidia-cuda-mps-control", "60"])
    try:
        wait_until(lambda: gpus.check_mps(0.25).level == "ok")  # one that has just begun has no name for a moment
        assert gpus.check_mps(0.25) == ("ok", "mps", "is running; 4 trials share a GPU", "")
    finally:
        daemon.kill()
        daemon.wait()


def filled(name):
    """A cluster file of the project with its placeholders filled in."""
    text = (PROJECT / name).read_text()
    for _, placeholder in cluster_file.placeholders(yaml.safe_load(text)):
        text = text.replace(placeholder, "10.0.0.1")
    return text


def examined(tmp_path, text):
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    content, problems = cluster_file.read_cluster(file)
    return problems if content is None else list(cluster_file.check_cluster(file, content))


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/onprem.yaml"])
def test_the_projects_own_cluster_files(name, tmp_path, capfd):
    pytest.importorskip("boto3", reason="pip install boto3")
    found = examined(tmp_path, filled(name))
    assert {finding.level for finding in found} == {"ok"} and len(found) >= 4
    shipped = {finding.what for finding in examined(tmp_path, (PROJECT / name).read_text())}
    assert ("to fill in" in shipped) == (name != "cluster.yaml")  # which works as it is
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("there", "wrong", "message"),
    [
        ("InstanceType: g6", "InstanceTyp: g6", "spot-3-g6.node_config.InstanceTyp: no such setting; did you mean"),
        ("VolumeSize: 150", "VolumeSize: big", "BlockDeviceMappings[0].Ebs.VolumeSize: expected integer, got big"),
        ("IamInstanceProfile: {Name: ", "IamInstanceProfile: {Nam: ", "IamInstanceProfile.Nam: no such setting"),
        ("upscaling_speed:", "upscaling_sped:", "'upscaling_sped' was unexpected); did you mean 'upscaling_speed'?"),
        ("max_workers: 8\nup", "max_workers: many\nup", "max_workers: 'many' is not of type 'integer'"),
        ("head_node_type: head", "head_node_type: boss", "`head_node_type` must be one of"),
        ("provider:", "provider: [", "not YAML: "),
        ("provider:\n  type: aws", "provider:\n  typ: aws", "expected settings with provider: {type"),
        ("dashboard-host=127.0.0.1", "dashboard-host=0.0.0.0", "listens on every network of the head"),
        ("RAY_AUTH_MODE=token ~/venv/bin/ray start --addr", "~/venv/bin/ray start --addr", "worker_start_ray_co"),
        ("train,data]==2.60.0", "train,data]", "install Ray without a version"),
        ("train,data]==2.60.0", "train,data]==2.40.0", "install ray==2.40.0, here is 2.60.0"),
        (
            '"ray[default,tune,train,data]==2.60.0"',
            "https://s3/ray-3.0.0.dev0-cp311.whl",
            "a wheel that is no release",
        ),
        ("resources: {CPU: 0, GPU: 0}", "resources: {CPU: 0}", "runs trials on its GPUs"),
        ("region: us-west-2", "region: YOUR-REGION", "provider.region: 'YOUR-REGION'"),
    ],
)
def test_faults_of_a_cluster_file(there, wrong, message, tmp_path):
    pytest.importorskip("boto3", reason="pip install boto3")
    text = filled("cluster.yaml")
    assert text.count(there) >= 1
    bad = [str(f) for f in examined(tmp_path, text.replace(there, wrong)) if f.level != "ok"]
    assert any(message in line for line in bad), bad


def test_a_fault_makes_the_exit_code_1(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    file = tmp_path / "cluster.yaml"
    file.write_text("provider: [\n")
    assert doctor.main([str(file), f"storage={tmp_path}", f"data.prepared={tmp_path}"]) == 1
    assert "fail  cluster file" in capsys.readouterr().out
    assert doctor.main(["storage=/proc/none", f"data.prepared={tmp_path}"]) == 1


def test_versions_of_a_node():
    here = nodes.versions()
    assert here["ray"] == "2.60.0" and here["python"].startswith("3.")
    assert nodes.compare("worker 10.0.0.2", here, here).level == "ok"
    found = nodes.compare("worker 10.0.0.2", here | {"torch": "2.12.0"}, here)
    assert found.level == "fail" and found.found == f"worker 10.0.0.2: torch 2.12.0, here {here['torch']}"
    assert nodes.compare("worker", {"error": "no answer in 30 s"}, here).level == "fail"


@pytest.mark.slow
def test_a_cluster_whose_worker_has_another_version(tmp_path, monkeypatch):
    """Two nodes with Ray processes of their own; the second finds another PyTorch before the installed one."""
    from ray.cluster_utils import Cluster

    other = tmp_path / "torch-1.13.1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.13.1\n")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        with monkeypatch.context() as there:
            there.setenv("PYTHONPATH", str(tmp_path))
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        address = cluster.address
        found = list(nodes.check_nodes(address))
    finally:
        cluster.shutdown()
    assert [finding.level for finding in found] == ["ok", "ok", "fail"]
    assert found[0].found == f"{address}: 2 nodes, 2 CPUs, 0 GPUs"
    assert found[1].found.startswith("head ") and ": torch 1.13.1, here 2.13.0" in found[2].found


def test_a_cluster_that_is_not_there():
    assert "127.0.0.1:9: no connection: [Errno 111] Connection refused" in only(
        nodes.check_nodes("127.0.0.1:9"), "fail"
    )
