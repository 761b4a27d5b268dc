"""cluster.yaml and deploy/: what each must say, checked by the programs that read them as far as they run here."""

import functools
import importlib.metadata
import re
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.aws import PARAMETER
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
def test_a_cloud_grows_and_shrinks_by_spot_workers(name):
    config = load(name)
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    text = yaml.safe_dump(head["node_config"])
    assert "spot" not in text and "preemptible" not in text
    assert config["idle_timeout_minutes"] == 10 and config["provider"]["cache_stopped_nodes"] is False
    assert all(node["min_workers"] == 0 for node in worker_types(config))
    texts = [yaml.safe_dump(node["node_config"]).lower() for node in worker_types(config)]
    spot = ["spot" in text or "preemptible: true" in text for text in texts]
    # On AWS one type on demand, for when no spot machine is to be had.
    assert sum(spot) >= 1 and len(spot) - sum(spot) <= (name == "cluster.yaml")
    assert "nvidia-cuda-mps-control -d" in commands(config, "worker_setup_commands")


def test_aws_looks_the_image_up_in_every_region():
    """No id, which belongs to one region and goes out of date, but the name of AWS's public parameter."""
    config = load("cluster.yaml")
    assert "availability_zone" not in config["provider"]  # nor zones, which belong to a region
    images = {node["node_config"]["ImageId"] for node in config["available_node_types"].values()}
    assert images == {f"resolve:ssm:{PARAMETER}"}


def test_aws_machines_are_closed_and_their_disks_encrypted():
    for node in load("cluster.yaml")["available_node_types"].values():
        assert node["node_config"]["MetadataOptions"] == {"HttpEndpoint": "enabled", "HttpTokens": "required"}
        disks = node["node_config"]["BlockDeviceMappings"]
        assert disks and all(disk["Ebs"]["Encrypted"] for disk in disks)


def test_every_step_with_apt_waits_for_its_lock():
    for name in LAUNCHED_BY_RAY:
        calls = re.findall(r"apt-get (.*?)(?:&&|;|$)", commands(load(name), "setup_commands"))
        assert calls or name == "deploy/onprem.yaml"
        assert all("-o DPkg::Lock::Timeout=300" in call for call in calls), calls


def test_all_nodes_install_the_versions_of_the_tests():
    """Every requirement has one version, within the project's range and the ranges of the packages that need it."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    pins = {}
    for line in (PROJECT / "deploy" / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            pins[name] = version
    again = "python deploy/constraints.py > deploy/constraints.txt"
    for line in [*project["dependencies"], *project["optional-dependencies"]["aws"]]:
        wanted = Requirement(line)
        version = pins.get(canonicalize_name(wanted.name))
        assert version is not None and wanted.specifier.contains(version, prereleases=True), f"{line}: {again}"
    for name, version in pins.items():
        found = [found for found in importlib.metadata.distributions(name=name) if found.version.startswith(version)]
        for line in found[0].requires or [] if found else []:
            needed = Requirement(line)
            pinned = pins.get(canonicalize_name(needed.name))
            if pinned is not None and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
                assert needed.specifier.contains(pinned, prereleases=True), f"{name} needs {line}, not {pinned}"
    for name in LAUNCHED_BY_RAY:
        installs = [line for line in commands(load(name), "setup_commands").splitlines() if "pip install" in line]
        assert installs
        assert all("-c ~/audio-emotion-tuning/deploy/constraints.txt" in line for line in installs), name


@pytest.mark.parametrize(
    "refused", [[], ["spot-3-g6"], ["spot-3-g6", "spot-2-g5"], ["spot-1-g4dn", "spot-2-g5", "spot-3-g6"]]
)
def test_the_autoscaler_goes_on_to_another_type_when_one_is_refused(refused, monkeypatch):
    """Ray's own scheduler and memory of refusals, with the scorer that the file's head names."""
    from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
    from ray.autoscaler._private.resource_demand_scheduler import ResourceDemandScheduler
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    starts = commands(load("cluster.yaml"), "head_start_ray_commands")
    assert "RAY_enable_autoscaler_v2=0" in starts
    scorer = re.search(r"RAY_AUTOSCALER_UTILIZATION_SCORER=(\S+)", starts)[1]
    types = load("cluster.yaml")["available_node_types"]
    for name, node in types.items():
        # As Ray fills them in.
        node["resources"] = node["resources"] or {"CPU": 8, "GPU": 1, f"accelerator_type:{name}": 1, "memory": 2**34}
    tracker = NodeProviderAvailabilityTracker()
    for name in refused:
        error = NodeLaunchException("InsufficientInstanceCapacity", "no capacity", None)
        tracker.update_node_availability(name, int(time.time()), error)

    def launches(scorer):
        if scorer:
            monkeypatch.setenv("RAY_AUTOSCALER_UTILIZATION_SCORER", scorer)
        scheduler = ResourceDemandScheduler(None, types, 8, "head", 1.0)
        score = functools.partial(scheduler.utilization_scorer, node_availability_summary=tracker.summary())
        needs = [{"CPU": 1, "GPU": 1}]
        found, left = get_nodes_for(types, {}, "head", 8, needs, score)
        assert left == []
        return list(found)

    from ray.autoscaler._private.resource_demand_scheduler import get_nodes_for

    monkeypatch.delenv("RAY_AUTOSCALER_UTILIZATION_SCORER", raising=False)
    assert launches(None) == ["spot-3-g6"]  # Ray's own, whatever was refused
    order = ["spot-3-g6", "spot-2-g5", "spot-1-g4dn", "on-demand-g5"]
    assert launches(scorer) == [next(name for name in order if name not in refused)]


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
