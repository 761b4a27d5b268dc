"""What a cluster file needs of an AWS account: a bucket, two roles, and the rights of each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# In initialization_commands, the only place for a value of our own that reaches every node: Ray refuses unknown keys.
BUCKET_COMMAND = re.compile(r"echo\s+([\w.-]+)\s*>\s*~/bucket$")
DEFAULT_BUCKET = "default"
# The folders in the bucket that are the nodes' defaults of these settings.
FOLDERS = {"storage": "results", "data.prepared": "prepared", "data.root": "data"}
PARAMETER = "resolve:ssm:"

TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
# Without it no account can have a spot machine. Whoever may create roles makes it once; the head may not.
SPOT_SERVICE = "spot.amazonaws.com"


def bucket_name(given: str, account: str, region: str) -> str:
    """The bucket of an account in a region, unless the cluster file gives another."""
    return f"audio-emotion-{account}-{region}" if given == DEFAULT_BUCKET else given


@dataclass(frozen=True)
class Right:
    """Actions on resources, and the facts of a request that has to be allowed.

    Args:
        actions: as in a policy.
        resources: ARNs.
        facts: condition keys with the value that each must have.
    """

    actions: tuple[str, ...]
    resources: tuple[str, ...]
    facts: tuple[tuple[str, str], ...] = ()

    def statement(self) -> dict[str, Any]:
        """The right as a statement of a policy."""
        said: dict[str, Any] = {"Effect": "Allow", "Action": list(self.actions), "Resource": list(self.resources)}
        return said | ({"Condition": {"StringEquals": dict(self.facts)}} if self.facts else {})


@dataclass(frozen=True)
class Account:
    """A cluster file in one AWS account.

    Args:
        content: the cluster file.
        number: the account's number.
    """

    content: dict[str, Any]
    number: str

    @property
    def region(self) -> str:
        """The region of all machines and of the bucket."""
        return str(self.content["provider"].get("region", ""))

    @property
    def bucket(self) -> str:
        """The bucket that all nodes get as their default place."""
        return bucket_name(bucket_of(self.content) or DEFAULT_BUCKET, self.number, self.region)

    @property
    def types(self) -> dict[str, dict[str, Any]]:
        """Node types by name, the head's first."""
        head = self.content.get("head_node_type")
        types = {name: node for name, node in (self.content.get("available_node_types") or {}).items() if node}
        return dict(sorted(types.items(), key=lambda item: item[0] != head))

    def config(self, name: str) -> dict[str, Any]:
        """What a node type passes on to EC2."""
        return self.types[name].get("node_config") or {}

    def is_spot(self, name: str) -> bool:
        """Whether machines of a node type are spot machines."""
        return (self.config(name).get("InstanceMarketOptions") or {}).get("MarketType") == "spot"

    def profile(self, name: str) -> str | None:
        """The instance profile of a node type, whose role has the same name."""
        return (self.config(name).get("IamInstanceProfile") or {}).get("Name")

    @property
    def head_role(self) -> str | None:
        """The head's role; None where Ray would make one, which may launch no workers."""
        return self.profile(self.content["head_node_type"])

    @property
    def worker_roles(self) -> list[str]:
        """The workers' roles."""
        names = (self.profile(name) for name in self.types if name != self.content["head_node_type"])
        return list(dict.fromkeys(name for name in names if name))

    @property
    def images(self) -> list[str]:
        """The images of all node types, ids or parameters."""
        return list(dict.fromkeys(str(self.config(name).get("ImageId", "")) for name in self.types))

    def role_arn(self, name: str) -> str:
        """The ARN of a role."""
        return f"arn:aws:iam::{self.number}:role/{name}"

    def bucket_rights(self) -> Iterator[Right]:
        """Read, write and delete in the bucket, and nowhere else."""
        yield Right(("s3:ListBucket", "s3:GetBucketLocation"), (f"arn:aws:s3:::{self.bucket}",))
        files = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload")
        yield Right(files, (f"arn:aws:s3:::{self.bucket}/*",))

    def head_rights(self) -> Iterator[Right]:
        """Launch, tag and end this cluster's machines, with the workers' role and the file's image, and the bucket."""
        yield Right(("ec2:DescribeInstances", "ec2:DescribeInstanceTypes"), ("*",))
        here = f"arn:aws:ec2:{self.region}:{self.number}"
        tag = ("ray-cluster-name", str(self.content.get("cluster_name")))
        new, own = (f"aws:RequestTag/{tag[0]}", tag[1]), (f"aws:ResourceTag/{tag[0]}", tag[1])
        kinds = ("volume", "network-interface", "subnet", "security-group", "key-pair", "spot-instances-request")
        around = (*(f"{here}:{kind}/*" for kind in kinds), f"arn:aws:ec2:{self.region}::image/*")
        yield Right(("ec2:RunInstances",), around)
        yield Right(("ec2:RunInstances",), (f"{here}:instance/*",), (new,))
        yield Right(("ec2:CreateTags",), (f"{here}:instance/*",), (new, ("ec2:CreateAction", "RunInstances")))
        yield Right(("ec2:CreateTags", "ec2:TerminateInstances"), (f"{here}:instance/*",), (own,))
        passed = tuple(self.role_arn(name) for name in self.worker_roles)
        if passed:
            yield Right(("iam:PassRole",), passed, (("iam:PassedToService", "ec2.amazonaws.com"),))
        parameters = [image.removeprefix(PARAMETER) for image in self.images if image.startswith(PARAMETER)]
        if parameters:
            public = tuple(f"arn:aws:ssm:{self.region}::parameter{name}" for name in parameters)
            yield Right(("ssm:GetParameters",), public)
        yield from self.bucket_rights()

    def rights(self) -> dict[str, list[Right]]:
        """Each role with what it may do."""
        found = {name: list(self.bucket_rights()) for name in self.worker_roles}
        return ({self.head_role: list(self.head_rights())} if self.head_role else {}) | found


def policy(rights: list[Right]) -> dict[str, Any]:
    """The policy of a role."""
    return {"Version": "2012-10-17", "Statement": [right.statement() for right in rights]}


def bucket_of(content: dict[str, Any]) -> str | None:
    """The bucket that a cluster file gives its nodes, possibly `default`; None if it gives none."""
    for command in content.get("initialization_commands") or []:
        if found := BUCKET_COMMAND.search(str(command)):
            return found[1]
    return None
