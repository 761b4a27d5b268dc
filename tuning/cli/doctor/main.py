"""Check what a search or `ray up` needs, and say what to do about what is missing: `tuning doctor [cluster.yaml]`."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tuning.cli.command import DONE, FAILED, Parser, run_command
from tuning.cli.doctor import aws, aws_checks, aws_setup, cluster_yaml, credentials, environment, gpu, nodes, storage
from tuning.cli.doctor.finding import Finding, ok
from tuning.config.errors import UserError
from tuning.data.plan import Plan, make_plan
from tuning.datasets.storage import is_uri
from tuning.experiment.bucket_sync import mirror_root
from tuning.search.cluster import cluster_address
from tuning.search.temporary import ray_temp

PARSER = Parser(
    "tuning doctor [cluster.yaml] [key=value ...] [--fix]",
    """\
Check Python and packages, memory, disks, GPUs, and whether results and features can be written to the places that the
search uses; the settings are those of python -m tuning.run (the same command line). With a cluster file check also that
file, the credentials, SSH and rsync, and what the file needs of an AWS account; with RAY_ADDRESS the versions on every
node of that cluster.

Each finding is one line: ok, warn (it works, but), fail (it would not work), with what to do. The exit code is 1 if
anything fails. Changes nothing and leaves nothing behind, but for --fix.""",
    settings=True,
)
PARSER.flag("fix", "make the bucket and the roles that a cluster file needs of an AWS account; may be repeated")


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code: 0 nothing failed, 1 something did, 2 the user's input."""
    return run_command(PARSER, _doctor, words)


def _doctor(options: Namespace) -> int:
    files = [word for word in options.settings if "=" not in word]
    if len(files) > 1:
        raise UserError(f"expected at most one cluster file and key=value settings, got {' '.join(files)}")
    plan = make_plan([word for word in options.settings if "=" in word])
    counts = {"ok": 0, "warn": 0, "fail": 0}
    file = Path(files[0]) if files else None
    if options.fix:
        for made in fix(file):
            print(f"made  {made}", flush=True)
    for finding in examine(plan, file):
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
    address = cluster_address()
    running = address is not None
    yield from environment.check_packages()
    yield from environment.check_memory()
    locations = _locations(plan, content or {})
    yield from environment.check_room(_folders(locations) | {environment.RAY_TEMP: ray_temp()})
    yield from gpu.check_gpus(plan.config.resources.gpus_per_worker, elsewhere=running or cluster_file is not None)
    for setting, location in locations.items():
        yield from storage.check_store(setting, location, cluster=running or cluster_file is not None)
    yield from _clouds(locations, content)
    yield from credentials.check_token(needed=cluster_file is not None)
    if cluster_file:
        yield from credentials.check_tools(content)
        yield from problems
        if content is not None:
            yield from cluster_yaml.check_cluster(cluster_file, content)
    if address is not None:
        yield from nodes.check_nodes(address)


def fix(cluster_file: Path | None) -> Iterator[str]:
    """Make what a cluster file lacks in an AWS account; a line for each thing that was made.

    Raises:
        UserError: no cluster file of AWS, no credentials, or AWS refuses.
    """
    content = cluster_yaml.read_cluster(cluster_file)[0] if cluster_file else None
    if content is None or content["provider"]["type"] != "aws":
        raise UserError("--fix: expected a cluster file with provider: {type: aws}, such as cluster.yaml")
    access = credentials.open_aws(content["provider"].get("region"))
    if isinstance(access, Finding):
        raise UserError(f"--fix: {access.found}; {access.advice}")
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield from aws_setup.make(aws.Account(content, access.account), access.client)
    except (BotoCoreError, ClientError) as error:
        raise UserError(f"--fix: {' '.join(str(error).split())}; your user needs rights on IAM and S3") from None


def _locations(plan: Plan, content: dict[str, Any]) -> dict[str, str]:
    """Where results and features go; without those that will go to the bucket of a cluster file, checked apart."""
    found = {"storage": plan.run.storage, "data.prepared": plan.config.data.prepared}
    return {
        setting: place for setting, place in found.items() if setting in plan.overrides or not aws.bucket_of(content)
    }


def _folders(locations: dict[str, str]) -> dict[str, Path]:
    """The folders on this machine that a search writes to."""
    return {
        setting: mirror_root(location) if is_uri(location) else Path(location)
        for setting, location in locations.items()
        if setting == "storage" or not is_uri(location)
    }


def _clouds(locations: dict[str, str], content: dict[str, Any] | None) -> Iterator[Finding]:
    """Credentials that a cluster file or a bucket needs; for other S3 stores writing a file tells enough."""
    provider = (content or {}).get("provider", {})
    used = {location.partition("://")[0] for location in locations.values() if "endpoint_override" not in location}
    own_endpoint = bool(os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL_S3"))
    if content is not None and provider.get("type") == "aws":
        access = credentials.open_aws(provider.get("region"))
        if isinstance(access, Finding):
            yield access
        else:
            yield ok("aws", str(access))
            yield from aws_checks.check_account(aws.Account(content, access.account), access.client)
    elif "s3" in used and not own_endpoint:
        yield credentials.check_aws()
    if provider.get("type") == "gcp" or "gs" in used:
        yield credentials.check_gcp(starts_machines=provider.get("type") == "gcp")
