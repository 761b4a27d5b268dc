"""An AWS account in a process of its own (`aws_server.py`), for tests of what a cloud must be asked."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.hosts import PROJECT, PYTHON
from tests.helpers.ray_heads import answers, free_port
from tests.helpers.waiting import wait_until

NUMBER, REGION = "123456789012", "us-west-2"
# The one public parameter that it has, and its value.
PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
IMAGE = "ami-0a1b2c3d4e5f60718"


@dataclass
class Account:
    """Its endpoint, and the environments of an administrator and of somebody without any right."""

    endpoint: str
    admin: dict[str, str]
    stranger: dict[str, str]

    def client(self, service: str, keys: dict[str, str] | None = None) -> Any:
        """A boto3 client of the administrator, or of other keys."""
        import boto3

        keys = keys or self.admin
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=keys.get("AWS_SESSION_TOKEN"),
        )

    def as_role(self, name: str) -> dict[str, str]:
        """Credentials of a role, as a machine has them."""
        arn = self.client("iam").get_role(RoleName=name)["Role"]["Arn"]
        given = self.client("sts").assume_role(RoleArn=arn, RoleSessionName="machine")["Credentials"]
        names = {
            "AccessKeyId": "ACCESS_KEY_ID",
            "SecretAccessKey": "SECRET_ACCESS_KEY",
            "SessionToken": "SESSION_TOKEN",
        }
        return {f"AWS_{name}": given[key] for key, name in names.items()}


@contextlib.contextmanager
def aws_account(folder: Path, host: str = "127.0.0.1", **variables: str) -> Iterator[Account]:
    """A running account, empty but for its two users."""
    pytest.importorskip("moto", reason="moto stands in for AWS (pip install -e '.[dev]')")
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "aws.log"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment = kept | {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true"} | variables
    command = [PYTHON, "-m", "tests.helpers.aws_server", host, str(port), str(folder / "keys.json")]
    with log.open("wb") as stream:
        server = subprocess.Popen(command, env=environment, cwd=PROJECT, stdout=stream, stderr=stream)
    endpoint = f"http://{host}:{port}"
    try:
        wait_until(lambda: answers(endpoint), server, log.read_text)
        keys = json.loads((folder / "keys.json").read_text())
        own = {
            name: {"AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": REGION} | found for name, found in keys.items()
        }
        yield Account(endpoint, own["admin"], own["stranger"])
    finally:
        server.kill()
        server.wait()
