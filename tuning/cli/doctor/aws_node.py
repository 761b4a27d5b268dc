"""Print the environment of a node of cluster.yaml: where results, features and recordings are kept.

`python -m tuning.cli.doctor.aws_node BUCKET` asks EC2's metadata service which account and region this machine is in.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request

from tuning.cli.doctor.aws import FOLDERS, bucket_name
from tuning.config.schema import PLACES

SERVICE = "http://169.254.169.254"


def main(given: str) -> None:
    """Print it as a line for a shell."""
    service = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", SERVICE).rstrip("/")
    # Version 2 of the service, the only one that the cluster file leaves on: a token first.
    token = _ask(f"{service}/latest/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    header = {"X-aws-ec2-metadata-token": token}
    here = json.loads(_ask(f"{service}/latest/dynamic/instance-identity/document", "GET", header))
    place = f"s3://{bucket_name(given, here['accountId'], here['region'])}"
    values = {PLACES[setting]: f"{place}/{folder}" for setting, folder in FOLDERS.items()}
    values["AWS_DEFAULT_REGION"] = here["region"]
    print("export", *(f"{name}={value}" for name, value in values.items()))


def _ask(url: str, method: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    main(sys.argv[1])
