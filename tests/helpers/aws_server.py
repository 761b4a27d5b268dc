"""moto's server with what it lacks of AWS: rights by resource and condition, images by parameter, quotas, metadata.

`python -m tests.helpers.aws_server HOST PORT FILE` writes the keys of an administrator and of a stranger without rights
into FILE, as JSON. moto itself knows of IAM no more than whether a policy names an action. Here the rights that a
request needs are those of AWS's "Service Authorization Reference", and policies are read as IAM does for one account:
an explicit Deny, else an Allow whose action, resource and conditions all match.
"""

import fnmatch
import json
import os
import sys
from datetime import UTC, datetime, timedelta

from moto import settings
from moto.core.exceptions import _RESTError
from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends
from moto.ec2.responses.instances import InstanceResponse
from moto.iam import access_control
from moto.iam.models import iam_backends
from moto.iam.responses import IamResponse
from moto.server import DomainDispatcherApplication, create_backend_app
from moto.servicequotas.models import ServiceQuotasBackend
from moto.ssm.models import Parameter, ssm_backends
from moto.sts.models import sts_backends
from werkzeug.serving import run_simple

from tests.helpers.aws import IMAGE, NUMBER, PARAMETER, REGION

# vCPUs: G and VT spot, G and VT on demand, standard on demand. A test names others, and spot types that are sold out.
QUOTAS = json.loads(os.environ.get("QUOTAS", '{"L-3819A6DF": 64, "L-DB2E81BA": 16, "L-1216C47A": 5}'))
SOLD_OUT = json.loads(os.environ.get("SOLD_OUT", "[]"))


def matches(patterns, text):
    """Whether a text matches one of IAM's patterns with * and ?."""
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatch.fnmatchcase(text, pattern.replace("[", "[[]")) for pattern in patterns)


def holds(conditions, context):
    """Whether all conditions of a statement hold; a key that the request lacks does not match."""
    for operator, wanted in conditions.items():
        assert operator in ("StringEquals", "StringLike"), operator
        for key, values in wanted.items():
            values = [values] if isinstance(values, str) else values
            if key not in context:
                return False
            found = context[key]
            if not (found in values if operator == "StringEquals" else matches(values, found)):
                return False
    return True


def decision(policies, action, resource, context):
    """IAM's decision in its own words."""
    allowed = False
    for policy in policies:
        statements = policy["Statement"] if isinstance(policy["Statement"], list) else [policy["Statement"]]
        for statement in statements:
            # Actions are compared without regard to case.
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            if not matches([name.lower() for name in actions], action.lower()):
                continue
            if matches(statement["Resource"], resource) and holds(statement.get("Condition", {}), context):
                if statement["Effect"] == "Deny":
                    return "explicitDeny"
                allowed = True
    return "allowed" if allowed else "implicitDeny"


def documents(found):
    """Policies as moto keeps them, as mappings."""
    texts = []
    for policy in found:
        if isinstance(policy, str):
            texts.append(policy)
        elif isinstance(policy, dict):
            texts.append(policy["policy_document"])
        else:
            texts.append(next(version.document for version in policy.versions if version.is_default))
    return [json.loads(text) for text in texts]


def values_of(data, prefix):
    """Values of a request's parameters by name, below a prefix."""
    flat = {name: value[0] if isinstance(value, list) else value for name, value in data.items()}
    return {name.removeprefix(prefix): value for name, value in flat.items() if name.startswith(prefix)}


def request_tags(data):
    given = values_of(data, "TagSpecification.1.") or data
    keys = values_of(given, "Tag.")
    return {value: keys[name.replace("Key", "Value")] for name, value in keys.items() if name.endswith(".Key")}


def role_of_profile(name):
    """The role in an instance profile; None if there is no such profile, which EC2 says itself."""
    profiles = {found.name: found for found in iam_backends[NUMBER]["aws"].get_instance_profiles()}
    return profiles[name].roles[0] if name in profiles and profiles[name].roles else None


def needed(action, resource, data):
    """The rights that a request needs: action, resource, context."""
    here = f"arn:aws:ec2:{REGION}:{NUMBER}"
    flat = values_of(data, "")
    if action == "ec2:RunInstances":
        tags = {f"aws:RequestTag/{name}": value for name, value in request_tags(data).items()}
        yield action, f"{here}:instance/*", tags
        for kind in ("volume/*", "network-interface/*"):
            yield action, f"{here}:{kind}", {}
        for name, kind in (("SubnetId", "subnet"), ("SecurityGroupId.1", "security-group"), ("KeyName", "key-pair")):
            if name in flat:
                yield action, f"{here}:{kind}/{flat[name]}", {}
        image = flat["ImageId"]
        if image.startswith("resolve:ssm:"):
            parameter = image.removeprefix("resolve:ssm:")
            # A public parameter belongs to no account.
            yield "ssm:GetParameters", f"arn:aws:ssm:{REGION}::parameter{parameter}", {}
            image = IMAGE
        yield action, f"arn:aws:ec2:{REGION}::image/{image}", {}
        if flat.get("InstanceMarketOptions.MarketType") == "spot":
            yield action, f"{here}:spot-instances-request/*", {}
        if tags:
            yield "ec2:CreateTags", f"{here}:instance/*", {**tags, "ec2:CreateAction": "RunInstances"}
        profile = flat.get("IamInstanceProfile.Name") or flat.get("IamInstanceProfile.Arn", "").rpartition("/")[2]
        if profile and (role := role_of_profile(profile)):
            yield "iam:PassRole", role.arn, {"iam:PassedToService": "ec2.amazonaws.com"}
    elif action in ("ec2:TerminateInstances", "ec2:CreateTags"):
        prefix = "InstanceId." if action == "ec2:TerminateInstances" else "ResourceId."
        for instance in values_of(data, prefix).values():
            found = ec2_backends[NUMBER][REGION].get_instance(instance)
            tags = {f"aws:ResourceTag/{tag['key']}": tag["value"] for tag in found.get_tags()}
            yield action, f"{here}:instance/{instance}", tags
    else:
        yield action, resource, {}


class RefusedError(_RESTError):
    code = 403


def check_action_permitted(self, resource):
    if self._action == "sts:GetCallerIdentity":
        return
    policies = documents(self._access_key.collect_policies())
    for action, where, context in needed(self._action, resource, self._data):
        if decision(policies, action, where, context) != "allowed":
            print("refused", self._access_key.arn, action, where, context, flush=True)
            message = f"{self._access_key.arn} is not authorized to perform: {action} on resource: {where}"
            if self._service == "ec2":
                raise RefusedError("UnauthorizedOperation", message)
            if self._service in ("ssm", "servicequotas"):
                raise RefusedError("AccessDeniedException", message).to_json()
            self._raise_access_denied()


def simulate_principal_policy(self):
    """IAM's SimulatePrincipalPolicy for one action and resource after the other."""
    arn, data = self._get_param("PolicySourceArn"), self._get_param
    kind, _, name = arn.rpartition(":")[2].partition("/")
    key = access_control.AssumedRoleAccessKey if kind == "role" else access_control.IAMUserAccessKey
    owner = object.__new__(key)
    owner.account_id, owner.partition = NUMBER, "aws"
    setattr(owner, "_owner_role_name" if kind == "role" else "_owner_user_name", name)
    policies = documents(owner.collect_policies())
    context = {entry["ContextKeyName"]: entry["ContextKeyValues"][0] for entry in data("ContextEntries") or []}
    results = [
        {
            "EvalActionName": action,
            "EvalResourceName": where,
            "EvalDecision": decision(policies, action, where, context),
        }
        for action in data("ActionNames")
        for where in data("ResourceArns") or ["*"]
    ]
    return ActionResult({"EvaluationResults": results, "IsTruncated": False})


def run_instances(self):
    image = self._get_param("ImageId")
    if image.startswith("resolve:ssm:"):
        if image != f"resolve:ssm:{PARAMETER}":
            raise EC2ClientError("InvalidParameterValue", f"no parameter {image}")
        self._get_param = lambda name, *args, **kwargs: (
            IMAGE if name == "ImageId" else type(self)._get_param(self, name, *args, **kwargs)
        )
    spot = self._get_param("InstanceMarketOptions.MarketType") == "spot"
    if spot and self._get_param("InstanceType") in SOLD_OUT and not self._get_param("DryRun"):
        raise EC2ClientError("InsufficientInstanceCapacity", "There is no Spot capacity available")
    return plain_run_instances(self)


def get_service_quota(self, service_code, quota_code):
    return {"ServiceCode": service_code, "QuotaCode": quota_code, "Value": float(QUOTAS[quota_code])}


def metadata(environment, start_response):
    """The metadata service of the host that asks; the test has tagged its instance with the host's address."""
    path, method = environment["PATH_INFO"].rstrip("/"), environment["REQUEST_METHOD"]
    instance = next(
        found
        for group in ec2_backends[NUMBER][REGION].describe_instances()
        for found in group.instances
        if ("host", environment["REMOTE_ADDR"]) in {(tag["key"], tag["value"]) for tag in found.get_tags()}
    )
    content = None
    if path == "/latest/api/token" and method == "PUT":
        content = "token"
    elif environment.get("HTTP_X_AWS_EC2_METADATA_TOKEN") == "token":  # version 2 alone
        role = role_of_profile(instance.iam_instance_profile["Arn"].rpartition("/")[2])
        credentials = "/latest/meta-data/iam/security-credentials"
        if path == "/latest/dynamic/instance-identity/document":
            content = json.dumps({"accountId": NUMBER, "region": REGION, "instanceId": instance.id}, indent=2)
        elif path == credentials:
            content = role.name
        elif path == f"{credentials}/{role.name}":
            given = sts_backends[NUMBER]["aws"].assume_role(REGION, instance.id, role.arn, "", 3600, "")
            content = json.dumps({
                "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": given.access_key_id,
                "SecretAccessKey": given.secret_access_key, "Token": given.session_token,
                "LastUpdated": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
                "Expiration": f"{datetime.now(UTC) + timedelta(hours=6):%Y-%m-%dT%H:%M:%SZ}",
            })  # fmt: skip
    start_response("404 Not Found" if content is None else "200 OK", [("Content-Type", "text/plain")])
    return [(content or "").encode()]


def main(host, port, file):
    """Serve until killed."""
    iam, rights = iam_backends[NUMBER]["aws"], {"Effect": "Allow", "Action": "*", "Resource": "*"}
    keys = {}
    for name, statements in (("admin", [rights]), ("stranger", [])):
        iam.create_user(REGION, name)
        if statements:
            iam.put_user_policy(name, "all", json.dumps({"Version": "2012-10-17", "Statement": statements}))
        key = iam.create_access_key(name)
        keys[name] = {"AWS_ACCESS_KEY_ID": key.access_key_id, "AWS_SECRET_ACCESS_KEY": key.secret_access_key}
    now = datetime.now(UTC)
    parameter = Parameter(NUMBER, PARAMETER, IMAGE, "String", None, None, None, now, 1, "text")
    ssm_backends[NUMBER][REGION]._parameters[PARAMETER] = [parameter]
    access_control.IAMRequestBase.check_action_permitted = check_action_permitted
    access_control.IAMRequestBase.check_signature = lambda self: None
    IamResponse.simulate_principal_policy = simulate_principal_policy
    ServiceQuotasBackend.get_service_quota = get_service_quota
    InstanceResponse.run_instances = run_instances
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    moto = DomainDispatcherApplication(create_backend_app)

    def application(environment, start_response):
        serve = metadata if environment["PATH_INFO"].startswith("/latest/") else moto
        return serve(environment, start_response)

    with open(file, "w") as stream:
        json.dump(keys, stream)
    run_simple(host, int(port), application, threaded=True)


plain_run_instances = InstanceResponse.run_instances

if __name__ == "__main__":
    main(*sys.argv[1:])
