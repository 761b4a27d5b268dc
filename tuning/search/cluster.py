"""What a search needs on a cluster and not on one machine: our code on every node, a safe token, the full size."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import sysconfig
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from tuning.config.errors import UserError
from tuning.config.schema import Config

OUR_PACKAGE = "tuning"

# A cluster that has to start a machine first is silent for minutes. Neither preparation nor a group of workers may
# give up before.
CLUSTER_ENVIRONMENT = {
    "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "1800",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900",
}

# The size of a cluster that `ray up` did not start, such as {"CPU": 56, "GPU": 7}. On Kubernetes the operator knows it.
CAPACITY_VARIABLE = "TUNING_CLUSTER_CAPACITY"

# Where `ray up` puts the completed cluster file on the head, for its autoscaler.
AUTOSCALER_FILE = Path("~/ray_bootstrap_config.yaml")


def runtime_env(config: Config, variables: Iterable[str]) -> dict[str, Any]:
    """Ray's runtime environment that sends our package and the user's own modules to every worker.

    What is sent takes precedence over what is installed on a node, which may be an older copy or another package of the
    same name. Fields that a submitted job has set in its own runtime environment are left out, because Ray refuses two
    values for one field.

    Args:
        config: names the user's own model, corpus and functions, if any.
        variables: names of environment variables to pass on to workers.
    """
    named = (config.model.name, config.data.corpus, *(path for _, path in config.own))
    own = [path.partition(":")[0] for path in named if ":" in path]
    modules = dict.fromkeys([OUR_PACKAGE, *(name.partition(".")[0] for name in own)])
    places = [place for name in modules if (place := _place_of(name)) is not None]
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    values = {name: os.environ[name] for name in variables if name not in job.get("env_vars", {})}
    return {name: value for name, value in {"py_modules": places}.items() if name not in job} | {"env_vars": values}


def _place_of(module: str) -> str | None:
    """The folder or file of a top-level module; None for an installed package, which every node has."""
    spec = importlib.util.find_spec(module)
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or [])
    place = folders[0] if folders else spec.origin
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    if place is None or (module != OUR_PACKAGE and str(Path(place).parent) in installed):
        return None
    return str(place)


def guard_token(create: bool) -> None:
    """Make the cluster's token readable by its owner alone: whoever has it can run code here.

    Ray 2.60 writes it with the rights of the umask, for everyone to read. With `create` a missing token is written
    here, before Ray does.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    if mode != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    # A home that can't be written to is for Ray to complain about, if it minds.
    with suppress(OSError):
        if path.exists():
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
        elif create and not named:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w") as file:
                    file.write(secrets.token_hex(32))


def full_capacity() -> dict[str, float]:
    """CPUs and GPUs of the connected cluster once it has grown as far as it may; empty where that is not known.

    Taken from TUNING_CLUSTER_CAPACITY if it is set, else from the file that `ray up` leaves on the head, if this
    process runs there and RAY_ADDRESS connects it to that cluster: another Ray on the head is not that large. Ray has
    no public call for it (ray#52033, ray#37838): its internal one answers with nothing, since only hosted clusters
    report their limits.

    Raises:
        UserError: TUNING_CLUSTER_CAPACITY is no such table.
    """
    declared = os.environ.get(CAPACITY_VARIABLE)
    if declared:
        return _declared(declared)
    if os.environ.get("RAY_ADDRESS", "local") in ("", "local"):
        return {}
    import ray  # late, since this module is read before a refusal, too

    file = AUTOSCALER_FILE.expanduser()
    head = ray.get_runtime_context().gcs_address.rpartition(":")[0]
    if head not in ("127.0.0.1", ray.util.get_node_ip_address()) or not file.exists():
        return {}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return capacity_of(yaml.safe_load(file.read_text(encoding="utf-8")), nodes)


def _declared(text: str) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError):
        raise UserError(f'{CAPACITY_VARIABLE}: expected a table such as {{"CPU": 56, "GPU": 7}}, got {text}') from None


def capacity_of(autoscaler: Mapping[str, Any], alive: list[dict[str, float]]) -> dict[str, float]:
    """Sum up CPUs and GPUs of the head and of as many workers as an autoscaler's configuration allows.

    A type of unknown size (on-premises hosts) counts as the largest node that has joined. Too many trials would only
    wait; too few would leave hosts idle for the whole search.

    Args:
        autoscaler: the cluster file as `ray up` completes it.
        alive: resources of the nodes that have joined.
    """
    largest = max(alive, key=_by_size, default={})
    types = autoscaler.get("available_node_types", {})
    head = autoscaler.get("head_node_type")
    left = autoscaler.get("max_workers", 0)
    sizes = {name: node.get("resources") or largest for name, node in types.items()}
    total = dict.fromkeys(("CPU", "GPU"), 0.0)

    def add(size: Mapping[str, float], count: int) -> None:
        for name in total:
            total[name] += size.get(name, 0.0) * count

    if head in sizes:
        add(sizes[head], 1)
    # The largest first, since `max_workers` bounds all types together.
    for name in sorted(sizes, key=lambda name: _by_size(sizes[name]), reverse=True):
        count = min(types[name].get("max_workers", 0 if name == head else left), left)
        add(sizes[name], count)
        left -= count
    return total


def _by_size(size: Mapping[str, float]) -> tuple[float, float]:
    return size.get("GPU", 0.0), size.get("CPU", 0.0)
