"""cluster.yaml and deploy/: what each must say, checked by the programs that read them as far as they run here."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helpers.hosts import PROJECT

LAUNCHED_BY_RAY = ("cluster.yaml", "deploy/onprem.yaml", "deploy/gcp.yaml")


def load(name: str) -> dict:
    return yaml.safe_load((PROJECT / name).read_text())


def worker_types(config: dict) -> list[dict]:
    return [node for name, node in config.get("available_node_types", {}).items() if name != config["head_node_type"]]


def commands(config: dict, ending: str) -> str:
    return "\n".join(line for name, lines in config.items() if name.endswith(ending) for line in lines)


def prepared(name: str) -> dict:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load(name)
    if config["provider"]["type"] == "local":
        config["provider"] |= {"head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]}
    config = prepare_config(config)
    validate_config(config)
    return config


@pytest.mark.parametrize("name", LAUNCHED_BY_RAY)
def test_ray_accepts_the_file(name):
    pytest.importorskip("boto3")
    config = prepared(name)
    assert config["max_workers"] >= 2


@pytest.mark.parametrize("name", LAUNCHED_BY_RAY)
def test_ray_would_refuse_a_misspelt_key(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    pytest.importorskip("boto3")
    config = load(name) | {"idle_timeout_minuets": 10}
    if config["provider"]["type"] == "local":
        config["provider"] |= {"head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}
    with pytest.raises(Exception, match="idle_timeout_minuets"):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("name", LAUNCHED_BY_RAY)
def test_a_token_is_asked_for_and_the_dashboard_is_not_open(name):
    config = load(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in commands(config, "setup_commands")
    starts = [line for line in commands(config, "start_ray_commands").splitlines() if "ray start" in line]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0] and "0.0.0.0" not in (PROJECT / name).read_text()


@pytest.mark.parametrize("name", LAUNCHED_BY_RAY)
def test_the_project_and_a_pinned_ray_are_on_every_node(name):
    config = load(name)
    assert config["file_mounts"]["~/audio-emotion-tuning"] == "."
    for kept_back in ("/.git", "/.venv*", "/results", "/prepared", "/data"):
        assert kept_back in config["rsync_exclude"]
    installed = re.findall(r"ray\[default,tune,train,data\]==(\S+?)\"", commands(config, "setup_commands"))
    import ray

    assert installed == [ray.__version__]
    assert "-e ~/audio-emotion-tuning" in commands(config, "setup_commands")
    assert "nightly" not in (PROJECT / name).read_text() and "latest.whl" not in (PROJECT / name).read_text()


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/gcp.yaml"])
def test_a_cloud_grows_and_shrinks_by_spot_workers_alone(name):
    config = load(name)
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    text = yaml.safe_dump(head["node_config"])
    assert "spot" not in text and "preemptible" not in text
    assert config["idle_timeout_minutes"] == 10 and config["provider"]["cache_stopped_nodes"] is False
    for node in worker_types(config):
        text = yaml.safe_dump(node["node_config"]).lower()
        assert node["min_workers"] == 0 and ("spot" in text or "preemptible: true" in text)
    assert "nvidia-cuda-mps-control -d" in commands(config, "worker_setup_commands")


def test_aws_refuses_the_image_until_one_is_filled_in():
    """No image id is invented; EC2's own format tells the text in its place from an id."""
    config = load("cluster.yaml")
    images = {node["node_config"]["ImageId"] for node in config["available_node_types"].values()}
    assert len(images) == 1 and not re.fullmatch(r"ami-[0-9a-f]{8,17}", images.pop())


@pytest.mark.parametrize("name", [*LAUNCHED_BY_RAY, "deploy/slurm.sh", "deploy/kuberay.yaml"])
def test_a_file_says_where_it_was_never_launched(name):
    head = (PROJECT / name).read_text()[:1500]
    assert re.search(r"[Nn]ever launched", head), head


@pytest.mark.parametrize("name", LAUNCHED_BY_RAY)
def test_setup_commands_are_shell(name):
    config = load(name)
    for line in (commands(config, "setup_commands") + "\n" + commands(config, "start_ray_commands")).splitlines():
        done = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_the_slurm_script_is_shell():
    script = PROJECT / "deploy" / "slurm.sh"
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if (checker := shutil.which("shellcheck")) is not None:
        done = subprocess.run([checker, script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_kuberay_says_the_same_to_head_and_workers():
    documents = list(yaml.safe_load_all((PROJECT / "deploy" / "kuberay.yaml").read_text()))
    cluster = next(document for document in documents if document["kind"] == "RayCluster")
    assert cluster["apiVersion"] == "ray.io/v1"
    spec = cluster["spec"]
    import ray

    assert spec["rayVersion"] == ray.__version__ and spec["enableInTreeAutoscaling"] is True
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert spec["authOptions"] == {"mode": "token"}
    images = set()
    for group in groups:
        containers = group["template"]["spec"]["containers"]
        images |= {container["image"] for container in containers}
        assert all("resources" in container for container in containers)
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert {mount["name"] for container in containers for mount in container["volumeMounts"]} <= volumes
    assert len(images) == 1 and "latest" not in images.pop()
    head, worker = groups
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert worker["minReplicas"] == 0 and worker["maxReplicas"] >= 1
    limits = worker["template"]["spec"]["containers"][0]["resources"]["limits"]
    declared = {e["name"]: e.get("value") for e in head["template"]["spec"]["containers"][0]["env"]}
    full = yaml.safe_load(declared["TUNING_CLUSTER_CAPACITY"])
    assert full == {
        "CPU": int(limits["cpu"]) * worker["maxReplicas"],
        "GPU": int(limits["nvidia.com/gpu"]) * worker["maxReplicas"],
    }


def test_every_checkpoint_is_read_as_weights_alone():
    """torch.load unpickles, that is, runs what the file says, unless told not to."""
    calls = 0
    for folder in ("tuning", "models", "datasets"):
        for file in sorted((PROJECT / folder).rglob("*.py")):
            text = file.read_text()
            for found in re.finditer(r"\btorch\.load\(", text):
                calls += 1
                assert "weights_only=True" in _call(text, found.end()), f"{file}: {text[found.start() :][:80]}"
            for unsafe in (r"\bpickle\.loads?\(", r"\bjoblib\.load\(", r"allow_pickle=True", r"\byaml\.load\("):
                assert not re.search(unsafe, text), f"{file}: {unsafe}"
    assert calls > 0


def _call(text: str, start: int) -> str:
    """The arguments of a call whose opening bracket ends at `start`."""
    depth, end = 1, start
    while depth:
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    return text[start:end]


def test_the_page_names_every_file_and_says_whom_to_trust():
    page = (PROJECT / "docs" / "cluster.md").read_text()
    for file in ["cluster.yaml", *(f"deploy/{path.name}" for path in Path(PROJECT / "deploy").iterdir())]:
        assert file in page, file
    for word in ("ray get-auth-token", "ray dashboard", "ray down", "tensorboard", "trust"):
        assert word in page, word
