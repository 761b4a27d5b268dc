"""Check what a search or `ray up` needs, and say what to do about what is missing: `tuning doctor [cluster.yaml]`."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tuning.cli.command import DONE, FAILED, Parser, run_command
from tuning.cli.doctor import cluster_yaml, credentials, environment, gpu, nodes, storage
from tuning.cli.doctor.finding import Finding
from tuning.config.errors import UserError
from tuning.data.plan import Plan, make_plan
from tuning.datasets.storage import is_uri
from tuning.experiment.bucket_sync import mirror_root

PARSER = Parser(
    "tuning doctor [cluster.yaml] [key=value ...]",
    """\
Check Python and packages, memory, disks, GPUs, and whether results and features can be written to the places that the
search uses; the settings are those of python -m tuning.run (the same command line). With a cluster file check also that
file, the credentials, SSH and rsync; with RAY_ADDRESS the versions on every node of that cluster.

Each finding is one line: ok, warn (it works, but), fail (it would not work), with what to do. The exit code is 1 if
anything fails. Changes nothing and leaves nothing behind.""",
    settings=True,
)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code: 0 nothing failed, 1 something did, 2 the user's input."""
    return run_command(PARSER, _doctor, words)


def _doctor(options: Namespace) -> int:
    files = [word for word in options.settings if "=" not in word]
    if len(files) > 1:
        raise UserError(f"expected at most one cluster file and key=value settings, got {' '.join(files)}")
    plan = make_plan([word for word in options.settings if "=" in word])
    counts = {"ok": 0, "warn": 0, "fail": 0}
    for finding in examine(plan, Path(files[0]) if files else None):
        print(finding, flush=True)
        counts[finding.level] += 1
    print(f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed")
    return FAILED if counts["fail"] else DONE


def examine(plan: Plan, cluster_file: Path | None) -> Iterator[Finding]:
    """All findings, the quick ones first.

    Raises:
        UserError: no such cluster file.
    """
    content, problems = cluster_yaml.read_cluster(cluster_file) if cluster_file else (None, [])
    address = os.environ.get("RAY_ADDRESS", "")
    running = address not in ("", "local")
    yield from environment.check_packages()
    yield from environment.check_memory()
    yield from environment.check_room(_folders(plan) | {environment.RAY_TEMP: environment.ray_temp()})
    yield from gpu.check_gpus(plan.config.resources.gpus_per_worker, elsewhere=running or cluster_file is not None)
    for setting, location in _locations(plan).items():
        yield from storage.check_store(setting, location, cluster=running or cluster_file is not None)
    yield from _clouds(plan, content)
    yield from credentials.check_token(needed=cluster_file is not None)
    if cluster_file:
        yield from credentials.check_tools(content)
        yield from problems
        if content is not None:
            yield from cluster_yaml.check_cluster(cluster_file, content)
    if running:
        yield from nodes.check_nodes(address)


def _locations(plan: Plan) -> dict[str, str]:
    return {"storage": plan.run.storage, "data.prepared": plan.config.data.prepared}


def _folders(plan: Plan) -> dict[str, Path]:
    """The folders on this machine that a search writes to."""
    return {
        setting: mirror_root(location) if is_uri(location) else Path(location)
        for setting, location in _locations(plan).items()
        if setting == "storage" or not is_uri(location)
    }


def _clouds(plan: Plan, content: dict[str, Any] | None) -> Iterator[Finding]:
    """Credentials that a cluster file or a bucket needs; for other S3 stores writing a file tells enough."""
    provider = (content or {}).get("provider", {})
    used = {
        location.partition("://")[0] for location in _locations(plan).values() if "endpoint_override" not in location
    }
    own_endpoint = bool(os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL_S3"))
    if provider.get("type") == "aws" or ("s3" in used and not own_endpoint):
        yield credentials.check_aws(provider.get("region"), starts_machines=provider.get("type") == "aws")
    if provider.get("type") == "gcp" or "gs" in used:
        yield credentials.check_gcp(starts_machines=provider.get("type") == "gcp")
