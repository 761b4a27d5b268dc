"""Check what is needed to reach a cloud and its machines: credentials, SSH, rsync, Ray's token."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuning.cli.doctor.finding import Finding, fail, ok, warn

SECONDS = 5


def check_tools(cluster: dict[str, Any] | None) -> Iterator[Finding]:
    """Whether `ray up` finds ssh and rsync, and the private key of a cluster file."""
    for tool, use in (("ssh", "reach its machines"), ("rsync", "copy the project to them")):
        place = shutil.which(tool)
        if place:
            yield ok(tool, place)
        elif cluster is not None:
            package = {"ssh": "openssh-client"}.get(tool, tool)
            yield fail(tool, "not on PATH", f"`ray up` needs it to {use}: apt-get install {package}")
    named = ((cluster or {}).get("auth") or {}).get("ssh_private_key")
    if named:
        yield check_key(Path(str(named)).expanduser())


def check_key(key: Path) -> Finding:
    """Whether ssh will accept a private key."""
    if not key.is_file():
        return fail("ssh key", f"auth.ssh_private_key: no such file '{key}'", f"ssh-keygen -t ed25519 -f {key}")
    if open_to_others(key):
        return fail("ssh key", f"{key} has mode {mode(key)}; ssh refuses keys that others may read", f"chmod 600 {key}")
    return ok("ssh key", f"{key}, readable by its owner only")


def check_token(needed: bool) -> Iterator[Finding]:
    """Ray's token: whoever can read it can run code on the cluster."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        yield ok("ray token", "set in RAY_AUTH_TOKEN")
        return
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token"))
    if not os.path.exists(file):
        if needed:
            advice = "ray get-auth-token --generate, then chmod 600 ~/.ray/auth_token"
            yield fail("ray token", f"no such file '{file}', which all nodes need", advice)
        return
    if open_to_others(file):
        advice = f"chmod 600 {file}: whoever reads it can run code on the cluster"
        yield fail("ray token", f"{file} has mode {mode(file)}, so others may read it", advice)
    else:
        yield ok("ray token", f"{file}, readable by its owner only")


def open_to_others(file: Path) -> bool:
    """Whether group or others have any permission on a file."""
    return bool(file.stat().st_mode & 0o077)


def mode(file: Path) -> str:
    """A file's permissions in octal, as for chmod."""
    return f"{stat.S_IMODE(file.stat().st_mode):o}"


@dataclass(frozen=True)
class Access:
    """Credentials that AWS accepts.

    Args:
        session: boto3's.
        account: the account's number.
        who: the ARN of the user or role.
        region: the region of the clients.
    """

    session: Any
    account: str
    who: str
    region: str

    def client(self, service: str) -> Any:
        """A client that gives up soon."""
        from botocore.config import Config

        quick = Config(connect_timeout=SECONDS, read_timeout=4 * SECONDS, retries={"total_max_attempts": 2})
        return self.session.client(service, region_name=self.region, config=quick)

    def __str__(self) -> str:
        return f"{self.who} (credentials from {self.session.get_credentials().method})"


def open_aws(region: str | None) -> Access | Finding:
    """Credentials for AWS, or the finding that says why there are none."""
    if not importlib.util.find_spec("boto3"):
        return fail("aws", "boto3 is not installed", "pip install boto3: `ray up` needs it for AWS")
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        session = boto3.Session(region_name=region)
        if session.get_credentials() is None:
            advice = "aws configure, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            return fail("aws", "no credentials in the environment, in ~/.aws or of this machine", advice)
        access = Access(session, "", "", session.region_name or "us-east-1")
        found = access.client("sts").get_caller_identity()
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        return fail("aws", f"credentials are refused: {code or error}", "aws configure, or renew them: aws sso login")
    except BotoCoreError as error:
        return fail("aws", f"can't reach AWS: {' '.join(str(error).split())}", "does the network allow it?")
    return replace(access, account=found["Account"], who=found["Arn"])


def check_aws() -> Finding:
    """Whether there are credentials that AWS accepts, for a bucket."""
    if not importlib.util.find_spec("boto3"):
        return warn("aws", "not checked: boto3 is not installed", "pip install boto3 to check the credentials")
    access = open_aws(None)
    return access if isinstance(access, Finding) else ok("aws", str(access))


def check_gcp(starts_machines: bool) -> Finding:
    """Whether there are credentials; Google is not asked."""
    modules = ("googleapiclient", "google.auth") if starts_machines else ()
    missing = [name for name in modules if not _installed(name)]
    if missing:
        return fail("gcp", f"not installed: {', '.join(missing)}", "pip install google-api-python-client google-auth")
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    file = Path(named) if named else Path.home() / ".config" / "gcloud" / "application_default_credentials.json"
    if file.exists():
        return ok("gcp", f"{file}; not tried with Google")
    if named:
        return fail("gcp", f"GOOGLE_APPLICATION_CREDENTIALS: no such file '{named}'", "name an existing key file")
    return warn("gcp", f"no credentials in {file}", "gcloud auth application-default login")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
