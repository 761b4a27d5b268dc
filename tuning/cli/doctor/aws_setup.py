"""Make what a cluster file needs of an AWS account and what costs nothing by itself: bucket, roles, profiles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from tuning.cli.doctor.aws import SPOT_SERVICE, TRUST, Account, bucket_of, policy

POLICY_NAME = "audio-emotion-tuning"


def make(account: Account, client: Callable[[str], Any]) -> Iterator[str]:
    """Make what is missing, set the roles' rights to those of the file, and say what was made. Can be repeated.

    Args:
        account: the cluster file in its account.
        client: a boto3 client of a service.
    """
    if bucket_of(account.content) and _make_bucket(client("s3"), account.bucket, account.region):
        yield f"bucket {account.bucket} in {account.region}"
    iam = client("iam")
    for name, rights in account.rights().items():
        if _new(iam.create_role, RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST)):
            yield f"role {name}"
        iam.put_role_policy(RoleName=name, PolicyName=POLICY_NAME, PolicyDocument=json.dumps(policy(rights)))
        if _new(iam.create_instance_profile, InstanceProfileName=name):
            yield f"instance profile {name}"
        # A profile holds one role at most.
        _new(iam.add_role_to_instance_profile, InstanceProfileName=name, RoleName=name)
    spot = any(account.is_spot(name) for name in account.types)
    if spot and _new(iam.create_service_linked_role, AWSServiceName=SPOT_SERVICE):
        yield "the account's role for spot machines"


# What AWS calls a thing that is there already.
THERE = {"EntityAlreadyExists", "LimitExceeded", "InvalidInput", "BucketAlreadyOwnedByYou"}


def _new(create: Callable[..., Any], **parameters: Any) -> bool:
    """Create something; False if it is there already."""
    from botocore.exceptions import ClientError

    try:
        create(**parameters)
    except ClientError as error:
        if error.response["Error"]["Code"] not in THERE:
            raise
        return False
    return True


def _make_bucket(s3: Any, name: str, region: str) -> bool:
    """Create a bucket that is closed to the public."""
    from botocore.exceptions import ClientError

    try:
        s3.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["Error"]["Code"] != "404":
            raise
    else:
        return False
    # S3 does not take its first region as a place.
    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    if not _new(s3.create_bucket, Bucket=name, **place):
        return False
    settings = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=dict.fromkeys(settings, True))
    return True
