"""Check a cluster file against its AWS account, by AWS's own dry runs and simulations; nothing is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tuning.cli.doctor.aws import PARAMETER, SPOT_SERVICE, Account, Right, bucket_of
from tuning.cli.doctor.finding import Finding, fail, ok, warn

FIX = "tuning doctor cluster.yaml --fix makes it"
# Limits on vCPUs at once, by the letter of the instance family and whether it is spot: code and AWS's name.
QUOTAS = {
    ("g", True): ("L-3819A6DF", "All G and VT Spot Instance Requests"),
    ("g", False): ("L-DB2E81BA", "Running On-Demand G and VT instances"),
    ("p", True): ("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests"),
    ("p", False): ("L-417A185B", "Running On-Demand P instances"),
    ("", True): ("L-34B43A08", "All Standard Spot Instance Requests"),
    ("", False): ("L-1216C47A", "Running On-Demand Standard instances"),
}


def check_account(account: Account, client: Callable[[str], Any]) -> Iterator[Finding]:
    """Image, roles and their rights, bucket, quotas, and whether EC2 would start each kind of machine.

    Args:
        account: the cluster file in its account.
        client: a boto3 client of a service.
    """
    yield from _check_images(account, client("ssm"))
    yield from _check_roles(account, client("iam"))
    yield from _check_bucket(account, client("s3"))
    ec2 = client("ec2")
    yield from _check_launches(account, ec2)
    yield from _check_quotas(account, ec2, client("service-quotas"))


def _ask(call: Callable[..., Any], **parameters: Any) -> tuple[Any, str, str]:
    """The answer of a call, or AWS's code and message for why there is none."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return call(**parameters), "", ""
    except ClientError as error:
        said = error.response.get("Error", {})
        return None, said.get("Code") or "Unknown", " ".join(str(said.get("Message") or error).split())
    except BotoCoreError as error:
        return None, type(error).__name__, " ".join(str(error).split())


def _check_images(account: Account, ssm: Any) -> Iterator[Finding]:
    for image in account.images:
        if not image.startswith(PARAMETER):
            continue
        name = image.removeprefix(PARAMETER)
        answer, code, message = _ask(ssm.get_parameter, Name=name)
        if answer:
            yield ok("image", f"{answer['Parameter']['Value']} in {account.region} ({name})")
        else:
            advice = "aws ssm get-parameters-by-path --path /aws/service/deeplearning/ami/x86_64 --recursive lists them"
            if code != "ParameterNotFound":
                advice = "your user needs ssm:GetParameter and ssm:GetParameters on it, for `ray up`, too"
            yield fail("image", f"{name}: {message}", advice)


def _check_roles(account: Account, iam: Any) -> Iterator[Finding]:
    if account.head_role is None:
        advice = "give the head's node_config an IamInstanceProfile: {Name: ...}, as this project's cluster.yaml does"
        yield fail("role of head", "none: the one that Ray makes has no iam:PassRole and can launch no workers", advice)
    for name, rights in account.rights().items():
        answer, code, message = _ask(iam.get_instance_profile, InstanceProfileName=name)
        if code == "NoSuchEntity" or (answer and not answer["InstanceProfile"]["Roles"]):
            yield fail("role", f"no instance profile '{name}' with a role", FIX)
        elif code:
            yield warn("role", f"{name}: not checked: {message}", "your user needs iam:GetInstanceProfile")
        else:
            yield from _check_rights(iam, name, answer["InstanceProfile"]["Roles"][0]["Arn"], rights)
    if any(account.is_spot(name) for name in account.types):
        answer, _, _ = _ask(iam.list_roles, PathPrefix=f"/aws-service-role/{SPOT_SERVICE}/")
        if answer and not answer["Roles"]:
            yield fail("spot machines", "the account has no role for them yet, and the head may not make it", FIX)


def _check_rights(iam: Any, name: str, arn: str, rights: list[Right]) -> Iterator[Finding]:
    """Whether IAM would let a role do what it has to."""
    denied: list[str] = []
    for right in rights:
        facts = [
            {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
            for key, value in right.facts
        ]
        # A pattern of resources is tried with one name that it matches.
        resources = [where if where == "*" else where.replace("*", "example") for where in right.resources]
        answer, code, message = _ask(
            iam.simulate_principal_policy,
            PolicySourceArn=arn,
            ActionNames=list(right.actions),
            ResourceArns=resources,
            ContextEntries=facts,
        )
        if code:
            advice = "your user needs iam:SimulatePrincipalPolicy to check it"
            yield warn("role", f"{name}: rights not checked: {message}", advice)
            return
        denied += [
            f"{found['EvalActionName']} on {found['EvalResourceName']}"
            for found in answer["EvaluationResults"]
            if found["EvalDecision"] != "allowed"
        ]
    if denied:
        advice = "tuning doctor cluster.yaml --fix gives it; what an organisation denies, its administrator must allow"
        yield fail("role", f"{name} may not {', '.join(dict.fromkeys(denied))}", advice)
    else:
        actions = [action for right in rights for action in right.actions if not action.startswith("ec2:Describe")]
        yield ok("role", f"{name} may {', '.join(dict.fromkeys(actions))}")


def _check_bucket(account: Account, s3: Any) -> Iterator[Finding]:
    if not bucket_of(account.content):
        return
    answer, code, message = _ask(s3.head_bucket, Bucket=account.bucket)
    if answer is None and code == "404":
        yield fail("bucket", f"no bucket '{account.bucket}'", FIX)
    elif answer is None:
        advice = "is it another account's? Name your own in initialization_commands"
        yield fail("bucket", f"{account.bucket}: {message or code}", advice)
    elif (region := answer.get("BucketRegion") or account.region) != account.region:
        advice = f"every byte would cost: name a bucket in {account.region} in initialization_commands"
        yield warn("bucket", f"{account.bucket} is in {region}, the machines in {account.region}", advice)
    else:
        yield ok("bucket", f"{account.bucket} in {account.region}")


def _check_launches(account: Account, ec2: Any) -> Iterator[Finding]:
    """EC2's dry run for each node type: it checks names, image and profile, and this user's rights."""
    tags = [{"Key": "ray-cluster-name", "Value": str(account.content.get("cluster_name"))}]
    for name in account.types:
        given = account.config(name) | {"TagSpecifications": [{"ResourceType": "instance", "Tags": tags}]}
        if subnets := given.pop("SubnetIds", None):  # Ray's own; EC2 takes one
            given["SubnetId"] = subnets[0]
        _, code, message = _ask(ec2.run_instances, DryRun=True, MinCount=1, MaxCount=1, **given)
        what = f"{given.get('InstanceType')}{', spot' if account.is_spot(name) else ''}"
        if code == "DryRunOperation":
            yield ok("launch", f"{name} ({what}): EC2 would start it")
        elif code == "UnauthorizedOperation":
            profile = account.profile(name)
            advice = "your user needs ec2:RunInstances, ec2:CreateTags and ssm:GetParameters"
            advice += f", and iam:PassRole for {account.role_arn(profile)}" if profile else ""
            yield fail("launch", f"{name} ({what}): {message}", advice)
        else:
            advice = f"correct available_node_types.{name}.node_config"
            if code == "VPCIdNotSpecified":
                advice = "aws ec2 create-default-vpc, or give each node_config SubnetIds: [subnet-...]"
            elif "instance profile" in message.lower():
                advice = f"{FIX}; one that was made a minute ago may not be known yet"
            yield fail("launch", f"{name} ({what}): {code}: {message}", advice)


def _check_quotas(account: Account, ec2: Any, quotas: Any) -> Iterator[Finding]:
    """Whether the account's limits leave room for one machine of each type, and for all of them."""
    kinds = {name: str(account.config(name).get("InstanceType")) for name in account.types}
    answer, code, message = _ask(ec2.describe_instance_types, InstanceTypes=sorted(set(kinds.values())))
    if code:
        yield warn("quota", f"not checked: {message}", "do these instance types exist in this region?")
        return
    sizes = {found["InstanceType"]: found["VCpuInfo"]["DefaultVCpus"] for found in answer["InstanceTypes"]}
    groups: dict[tuple[str, bool], dict[str, int]] = {}
    for name, kind in kinds.items():
        family = kind[0] if kind[0] in "gp" else ""
        groups.setdefault((family, account.is_spot(name)), {})[name] = sizes[kind]
    found = [_check_quota(account, *QUOTAS[group], cpus, quotas) for group, cpus in groups.items()]
    # One kind of worker is enough to begin with; the others are for when it is sold out.
    some_worker = any(has_room for finding, has_room in found)
    for finding, _ in found:
        yield finding if some_worker or finding.level == "ok" else fail(*finding[1:])


def _check_quota(account: Account, code: str, title: str, cpus: dict[str, int], quotas: Any) -> tuple[Finding, bool]:
    """One limit against the node types that count towards it, and whether it leaves room for a worker.

    Args:
        account: the cluster file in its account.
        code: the limit's code.
        title: the limit's name.
        cpus: vCPUs of a machine, by node type.
        quotas: the client.
    """
    head = account.content["head_node_type"]
    workers = {name: size for name, size in cpus.items() if name != head}
    answer, problem, message = _ask(quotas.get_service_quota, ServiceCode="ec2", QuotaCode=code)
    if problem:
        advice = "your user needs servicequotas:GetServiceQuota"
        return warn("quota", f"{title}: not checked: {message}", advice), bool(workers)
    limit, wanted, left = answer["Quota"]["Value"], cpus.get(head, 0), account.content.get("max_workers", 0)
    for name, size in sorted(workers.items(), key=lambda item: -item[1]):
        count = min(account.types[name].get("max_workers", left), left)
        wanted, left = wanted + size * count, left - count
    said = f"{title} ({code}): {limit:g} vCPUs in {account.region}"
    advice = (
        f"aws service-quotas request-service-quota-increase --region {account.region} --service-code ec2 "
        f"--quota-code {code} --desired-value {wanted}; AWS answers within hours or days"
    )
    has_room = any(size <= limit for size in workers.values())
    if limit < cpus.get(head, 0):
        return fail("quota", f"{said}: too few for the head", advice), has_room
    if workers and not has_room:
        return warn("quota", f"{said}: no machine of {', '.join(workers)}", advice), False
    if limit < wanted:
        return warn("quota", f"{said}, the file may use {wanted}", advice), has_room
    return ok("quota", said), has_room
