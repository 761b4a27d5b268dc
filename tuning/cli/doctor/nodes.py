"""Check the machines of a running cluster: whether each answers, and its versions.

Also a program of its own, which the doctor starts with a time limit, so that a cluster that does not answer can't block
it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from tuning.cli.doctor.finding import Finding, fail, ok
from tuning.search.cluster import unreachable

SECONDS, SECONDS_PER_NODE = 90, 30
PACKAGES = ("ray", "torch", "audio-emotion-tuning")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that must be equal, in this process."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def check_nodes(address: str) -> Iterator[Finding]:
    """Whether every node answers, with the same versions as this machine."""
    if silent := unreachable(address):
        yield fail("cluster", f"{address}: {silent}", "is it up, and may this machine reach it? RAY_ADDRESS names it")
        return
    command = [sys.executable, "-m", "tuning.cli.doctor.nodes", address]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    advice = "is it up, and may this machine reach it (`ray status`)? RAY_ADDRESS names it"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        yield fail("cluster", f"{address}: no answer in {SECONDS} s", advice)
        return
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        telling = next((line for line in said if "ersion mismatch" in line or "Error" in line), said[-1])
        start = said.index(telling)
        yield fail("cluster", f"{address}: {' '.join(' '.join(said[start : start + 4]).split())}", advice)
        return
    found = json.loads(lines[-1])
    yield ok("cluster", f"{address}: {found['total']}")
    here = versions()
    for name, node in found["nodes"].items():
        yield compare(name, node, here)


def compare(label: str, node: dict[str, str], here: dict[str, str]) -> Finding:
    """Compare one node's versions with this machine's; `error` in their place if it did not answer."""
    if "error" in node:
        return fail("node", f"{label}: {node['error']}", "restart it; its logs: /tmp/ray/session_latest/logs")
    differing = [f"{name} {node[name]}, here {version}" for name, version in here.items() if node[name] != version]
    if differing:
        advice = "install the same on every node (setup_commands), then restart Ray there"
        return fail("node", f"{label}: {'; '.join(differing)}", advice)
    return ok("node", f"{label}: {', '.join(f'{name} {version}' for name, version in node.items())}")


def ask(address: str) -> dict[str, Any]:
    """Versions on every node that is alive, from a task without CPUs on each."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    total = ray.cluster_resources()
    words = f"{total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"
    remote = ray.remote(num_cpus=0, max_retries=0)(versions)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            head = "head" if "node:__internal_head__" in node["Resources"] else "worker"
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            name = f"{head} {node['NodeManagerAddress']} ({node['NodeID'][:6]})"
            asked[name] = remote.options(scheduling_strategy=strategy).remote()
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=SECONDS_PER_NODE)
    found: dict[str, dict[str, str]] = {}
    for name, reference in sorted(asked.items()):
        try:
            silent = {"error": f"no answer in {SECONDS_PER_NODE} s"}
            found[name] = ray.get(reference) if reference in ready else silent
        except ray.exceptions.RayError as error:
            found[name] = {"error": str(error).strip().splitlines()[-1]}
    return {"total": f"{len(asked)} nodes, {words}", "nodes": found}


if __name__ == "__main__":
    print(json.dumps(ask(sys.argv[1])))
