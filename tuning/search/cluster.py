"""What a search needs on a cluster and not on one machine: our code on every node, a safe token, the full size."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import socket
import sysconfig
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from tuning.config.errors import UserError
from tuning.config.schema import Config
from tuning.search.temporary import private_folder

OUR_PACKAGE = "tuning"

# A cluster that has to start a machine first is silent for minutes. Neither preparation nor a group of workers may
# give up before.
CLUSTER_ENVIRONMENT = {
    "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "1800",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900",
}

# The size of a cluster that `ray up` did not start, such as {"CPU": 56, "GPU": 7}. On Kubernetes the operator knows it.
CAPACITY_VARIABLE = "TUNING_CLUSTER_CAPACITY"

# How long a cluster may take to answer, each time that it is asked: it is asked twice, and Ray would ask for minutes.
SECONDS_TO_ANSWER = 4

# Where `ray up` puts the completed cluster file on the head, for its autoscaler.
AUTOSCALER_FILE = Path("~/ray_bootstrap_config.yaml")


def cluster_address() -> str | None:
    """The address of the cluster that RAY_ADDRESS names; None where Ray runs on this machine alone."""
    address = os.environ.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


def unreachable(address: str) -> str:
    """Say why no Ray answers at an address, within seconds; empty if one does or, as for `auto`, no port is named."""
    host, port = _host_and_port(address)
    if why := refusal(address):
        return f"no connection: {why}"
    if not host or not port.isdigit() or os.environ.get("RAY_USE_TLS") == "1":
        return ""
    import grpc  # late, since this module is read before a refusal, too

    # As Ray's own connections: through no proxy.
    with grpc.insecure_channel(address.rpartition("://")[2], options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=SECONDS_TO_ANSWER)
        except grpc.FutureTimeoutError:
            return "something listens there, but it does not answer as Ray does"
    return ""


def refusal(address: str) -> str:
    """Say why nothing takes a connection at an address; empty if something does or no port is named."""
    host, port = _host_and_port(address)
    if not host or not port.isdigit():
        return ""
    try:
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:  # of a number that is no port
        return str(error)
    return ""


def _host_and_port(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    return host.strip("[]"), port


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
    here, before Ray does: where the home can't be written, into a private folder for as long as this process runs.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    if mode != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if named:
        with suppress(OSError):
            _guard(Path(named))
        return
    try:
        path = Path.home() / ".ray" / "auth_token"
        if create:
            _write_token(path)
        _guard(path)
        if create:
            path.read_text()
    except (OSError, RuntimeError):  # this user has no home, or one that is not his
        if create:
            path = private_folder() / "auth_token"
            _write_token(path)
            os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def _guard(path: Path) -> None:
    """Take the rights of others on a file away, if there is one."""
    if path.exists() and path.stat().st_mode & 0o077:
        path.chmod(0o600)


def _write_token(path: Path) -> None:
    """Write a new token, unless there is one."""
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
    if cluster_address() is None:
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
