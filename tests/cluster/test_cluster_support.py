"""What a search does differently on a cluster: its size, our code on every node, the token."""

import json
import os
import stat
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml

from tests.helpers.hosts import PROJECT, copy_project
from tests.helpers.ray_heads import started_head
from tests.helpers.waiting import PATIENCE
from tuning.config.errors import UserError
from tuning.config.schema import Config, parse_config
from tuning.search import cluster
from tuning.search.cluster import capacity_of, full_capacity, guard_token, runtime_env

HEAD, WORKER = {"CPU": 0, "GPU": 0}, {"CPU": 8, "GPU": 1}


def autoscaler(**types):
    nodes = {name: {"resources": resources, "max_workers": count} for name, (resources, count) in types.items()}
    return {"head_node_type": "head", "max_workers": 8, "available_node_types": nodes}


@pytest.mark.parametrize(
    ("types", "cpus", "gpus"),
    [
        ({"head": (HEAD, 0), "gpu": (WORKER, 8)}, 64, 8),
        ({"head": ({"CPU": 4}, 0), "gpu": (WORKER, 2)}, 20, 2),
        # `max_workers` of the whole file bounds the sum; the larger type comes first.
        ({"head": (HEAD, 0), "cpu": ({"CPU": 4}, 8), "gpu": (WORKER, 6)}, 6 * 8 + 2 * 4, 6),
        # A head of the workers' type, as on premises, counts beside them.
        ({"head": ({"CPU": 4}, 2)}, 12, 0),
    ],
)
def test_the_full_size_of_a_cluster_that_grows(types, cpus, gpus):
    assert capacity_of(autoscaler(**types), []) == {"CPU": cpus, "GPU": gpus}


def test_hosts_of_unknown_size_count_as_the_largest_that_is_there():
    alive = [{"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}]
    assert capacity_of(autoscaler(head=({}, 3)), alive) == {"CPU": 8, "GPU": 4}


def test_the_size_of_the_file_that_ray_up_writes():
    """cluster.yaml as Ray prepares it, with what it fills in from the instance type."""
    from ray.autoscaler._private.util import prepare_config

    config = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    for name, node in config["available_node_types"].items():
        node["resources"] = HEAD if name == config["head_node_type"] else WORKER
    pytest.importorskip("boto3")
    assert capacity_of(prepare_config(config), []) == {"CPU": 64, "GPU": 8}


def test_the_head_reads_the_file_that_ray_up_left_there(ray_session, tmp_path, monkeypatch):
    import ray

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TUNING_CLUSTER_CAPACITY", raising=False)
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(autoscaler(head=(HEAD, 0), gpu=(WORKER, 8))))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert full_capacity() == {}, "a Ray of its own is not the cluster"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert full_capacity() == {"CPU": 64, "GPU": 8}
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="10.255.0.9:6379"))
    assert full_capacity() == {}, "the head is another machine"


def test_a_declared_size_is_believed_and_checked(monkeypatch):
    monkeypatch.setenv("TUNING_CLUSTER_CAPACITY", '{"CPU": 56, "GPU": 7}')
    assert full_capacity() == {"CPU": 56, "GPU": 7}
    monkeypatch.setenv("TUNING_CLUSTER_CAPACITY", "56 CPUs")
    with pytest.raises(UserError, match=r'TUNING_CLUSTER_CAPACITY: expected a table such as \{"CPU": 56, "GPU": 7\}'):
        full_capacity()


def test_one_machine_is_as_large_as_it_is(ray_session):
    from tuning.search.resources import cluster_resources

    assert full_capacity() == {}
    assert cluster_resources()[0] == 2


def test_workers_get_our_packages_and_the_users_own_module(tmp_path, monkeypatch):
    (tmp_path / "my_model.py").write_text("from tuning.models.crnn import CRNN as Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    config = Config().model_copy(update={"data": Config().data.model_copy(update={"corpus": "my_model:load"})})
    sent = runtime_env(config, ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"])
    assert sent["py_modules"] == [str(PROJECT / "tuning"), str(tmp_path / "my_model.py")]
    assert sent["env_vars"] == {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3"}
    # What comes from a package index is not sent.
    config = Config().model_copy(update={"data": Config().data.model_copy(update={"corpus": "optuna.study:load"})})
    assert runtime_env(config, [])["py_modules"] == [str(PROJECT / "tuning")]


def test_the_environment_of_a_submitted_job_is_left_alone(monkeypatch):
    job = {"runtime_env": {"py_modules": ["gcs://a.zip"], "env_vars": {"A": "1"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    monkeypatch.setenv("A", "2")
    monkeypatch.setenv("B", "3")
    assert runtime_env(parse_config({}), ["A", "B"]) == {"env_vars": {"B": "3"}}


def rights(file):
    return stat.S_IMODE(file.stat().st_mode)


def test_the_token_is_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.Path, "home", lambda: tmp_path)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    token = tmp_path / ".ray" / "auth_token"
    guard_token(create=False)
    assert not token.exists()
    guard_token(create=True)
    written = token.read_text()
    assert len(written) == 64 and rights(token) == 0o600
    guard_token(create=True)
    assert token.read_text() == written
    token.chmod(0o644)
    guard_token(create=False)
    assert rights(token) == 0o600
    other = tmp_path / "token"
    other.write_text("x")
    other.chmod(0o664)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(other))
    guard_token(create=True)
    assert rights(other) == 0o600
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    other.chmod(0o644)
    guard_token(create=True)
    assert rights(other) == 0o644


@pytest.mark.cluster
def test_starting_ray_here_leaves_a_guarded_token(tmp_path):
    """In a process and a home of its own, since the token is read once."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    code = "import ray; from tuning.config.schema import Config; from tuning.search.resources import start_ray; "
    code += "start_ray(Config()); print(ray.get(ray.remote(lambda: 'works').remote()))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0 and "works" in done.stdout, done.stderr
    assert rights(tmp_path / ".ray" / "auth_token") == 0o600


@pytest.mark.cluster
def test_a_worker_imports_what_the_driver_has(tmp_path):
    """Ours are generic names; the head was started without our folder, and another one is installed there."""
    project = copy_project(tmp_path / "project")
    with (project / "tuning" / "__init__.py").open("a") as file:
        file.write("MARK = 'of the driver'\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = "import ray; from tuning.config.schema import Config; from tuning.search.resources import start_ray; "
    code += "start_ray(Config()); print(ray.get(ray.remote(lambda: __import__('tuning').MARK).remote()))"
    with started_head({"RAY_AUTH_MODE": "disabled"}, "--num-cpus=1") as head:
        environment = head.environment | {"RAY_ADDRESS": head.address, "PYTHONPATH": str(project)}
        command = [sys.executable, "-c", code]
        options = {"cwd": elsewhere, "env": environment, "capture_output": True, "text": True, "check": False}
        done = subprocess.run(command, timeout=PATIENCE, **options)
    assert done.returncode == 0 and "of the driver" in done.stdout, done.stderr
