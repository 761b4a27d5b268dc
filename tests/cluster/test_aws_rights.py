"""What head and workers of cluster.yaml may do on AWS, with rights enforced by resource and condition."""

import json
import os
import subprocess

import pytest
import yaml

from tests.helpers.aws import IMAGE, REGION, aws_account
from tests.helpers.hosts import PROJECT, PYTHON
from tuning.cli.doctor import aws_checks, credentials
from tuning.cli.doctor import main as doctor
from tuning.cli.doctor.aws import Account

ClientError = pytest.importorskip("botocore.exceptions", reason="pip install boto3").ClientError

pytestmark = pytest.mark.cluster

# As `ray up` does on the user's machine: Ray completes the file and makes what it lacks, roles among them.
BOOTSTRAP = """
import json, sys, yaml
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config

config = prepare_config(yaml.safe_load(open(sys.argv[1])))
validate_config(config)
json.dump(AWSNodeProvider.bootstrap_config(config), open(sys.argv[2], "w"))
"""

# As the autoscaler does on the head: launch one node, tag it, end it.
LAUNCH = """
import json, sys
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

config = json.load(open(sys.argv[1]))
provider = AWSNodeProvider(config["provider"], config["cluster_name"])
node_config = config["available_node_types"][sys.argv[2]]["node_config"]
made = provider.create_node(node_config, {"ray-node-type": "worker", "ray-user-node-type": sys.argv[2]}, 1)
(node,) = provider.non_terminated_nodes({})
assert [node] == list(made)
provider.set_node_tags(node, {"ray-node-status": "up-to-date"})
provider.terminate_node(node)
assert provider.non_terminated_nodes({}) == []
"""


SPOT_WORKERS = {"spot-1-g4dn", "spot-2-g5", "spot-3-g6"}
BUCKET = "audio-emotion-123456789012-us-west-2"


def python(code, *arguments, **environment):
    command = [PYTHON, "-c", code, *map(str, arguments)]
    kept = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(PROJECT), "HOME": environment.pop("HOME")}
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=False)


@pytest.fixture
def account(tmp_path, monkeypatch):
    """An empty account; this process is its administrator."""
    with aws_account(tmp_path / "aws") as found:
        become(found.admin, monkeypatch)
        yield found


def become(keys, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in keys.items():
        monkeypatch.setenv(name, value)


def examined(file=PROJECT / "cluster.yaml"):
    """The doctor's findings about the account, as (what, level, text with the advice)."""
    content = yaml.safe_load(file.read_text())
    access = credentials.open_aws(content["provider"]["region"])
    found = aws_checks.check_account(Account(content, access.account), access.client)
    return [(finding.what, finding.level, f"{finding.found} {finding.advice}") for finding in found]


def changed(tmp_path, change):
    """The cluster file after a change of its content."""
    content = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    change(content)
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def bootstrapped(account, tmp_path, file=PROJECT / "cluster.yaml"):
    """The file as Ray completes it, and the name of the head's role."""
    done = python(BOOTSTRAP, file, tmp_path / "full.json", HOME=str(tmp_path), **account.admin)
    assert done.returncode == 0, done.stdout + done.stderr
    config = json.loads((tmp_path / "full.json").read_text())
    head = config["available_node_types"][config["head_node_type"]]["node_config"]
    profile = head.get("IamInstanceProfile") or config["head_node"]["IamInstanceProfile"]
    name = profile.get("Name") or profile["Arn"].rpartition("/")[2]
    found = account.client("iam").get_instance_profile(InstanceProfileName=name)
    return config, found["InstanceProfile"]["Roles"][0]["RoleName"]


def launched(account, tmp_path, role, worker):
    """Launch a worker with the credentials of a role."""
    own = {"AWS_ENDPOINT_URL": account.endpoint, "AWS_DEFAULT_REGION": REGION} | account.as_role(role)
    return python(LAUNCH, tmp_path / "full.json", worker, HOME=str(tmp_path), **own)


def test_the_head_may_launch_every_kind_of_worker(account, tmp_path):
    assert list(doctor.fix(PROJECT / "cluster.yaml"))
    config, role = bootstrapped(account, tmp_path)
    workers = set(config["available_node_types"]) - {config["head_node_type"]}
    assert workers == SPOT_WORKERS | {"on-demand-g5"}
    for worker in sorted(workers):
        done = launched(account, tmp_path, role, worker)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_role_that_ray_makes_may_launch_no_worker_with_a_role(account, tmp_path):
    """Why the file gives the head a role of its own; once Ray's may pass roles on, it can have Ray's."""
    list(doctor.fix(PROJECT / "cluster.yaml"))

    def change(content):
        for node in content["available_node_types"].values():
            node["node_config"]["ImageId"] = IMAGE  # which Ray's role may not look up, either
        del content["available_node_types"]["head"]["node_config"]["IamInstanceProfile"]

    file = changed(tmp_path, change)
    _, role = bootstrapped(account, tmp_path, file)
    assert role == "ray-autoscaler-v1"
    done = launched(account, tmp_path, role, "on-demand-g5")
    assert done.returncode != 0 and "not authorized to perform: iam:PassRole" in done.stderr
    found = {level: text for what, level, text in examined(file) if what == "role of head"}
    assert "no iam:PassRole" in found["fail"]


def refused(call):
    with pytest.raises(ClientError) as caught:
        call()
    return caught.value.response["Error"]["Code"] in ("UnauthorizedOperation", "AccessDenied")


def test_the_roles_may_nothing_else(account, tmp_path):
    list(doctor.fix(PROJECT / "cluster.yaml"))
    head, worker = account.as_role("audio-emotion-head"), account.as_role("audio-emotion-worker")
    machine = {"ImageId": IMAGE, "InstanceType": "m5.xlarge", "MinCount": 1, "MaxCount": 1}

    def tagged(cluster):
        return [{"ResourceType": "instance", "Tags": [{"Key": "ray-cluster-name", "Value": cluster}]}]

    (foreign,) = account.client("ec2").run_instances(**machine, TagSpecifications=tagged("other"))["Instances"]
    ec2 = account.client("ec2", head)
    (own,) = ec2.run_instances(**machine, TagSpecifications=tagged("audio-emotion"))["Instances"]
    assert refused(lambda: ec2.run_instances(**machine, TagSpecifications=tagged("other")))
    assert refused(lambda: ec2.run_instances(**machine))
    as_head = {"IamInstanceProfile": {"Name": "audio-emotion-head"}}
    assert refused(lambda: ec2.run_instances(**machine, **as_head, TagSpecifications=tagged("audio-emotion")))
    assert refused(lambda: ec2.terminate_instances(InstanceIds=[foreign["InstanceId"]]))
    assert refused(lambda: account.client("iam", head).create_role(RoleName="x", AssumeRolePolicyDocument="{}"))
    assert refused(lambda: account.client("ec2", worker).terminate_instances(InstanceIds=[own["InstanceId"]]))
    ec2.terminate_instances(InstanceIds=[own["InstanceId"]])
    account.client("s3").create_bucket(Bucket="another", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    for keys in (head, worker):
        s3 = account.client("s3", keys)
        s3.put_object(Bucket=BUCKET, Key="results/a", Body=b"x")
        assert s3.get_object(Bucket=BUCKET, Key="results/a")["Body"].read() == b"x"
        assert refused(lambda s3=s3: s3.put_object(Bucket="another", Key="a", Body=b"x"))


def test_fix_makes_what_is_missing_once(account):
    made = list(doctor.fix(PROJECT / "cluster.yaml"))
    assert made == [
        f"bucket {BUCKET} in us-west-2",
        *("role audio-emotion-head", "instance profile audio-emotion-head"),
        *("role audio-emotion-worker", "instance profile audio-emotion-worker"),
        "the account's role for spot machines",
    ]
    assert list(doctor.fix(PROJECT / "cluster.yaml")) == []
    s3 = account.client("s3")
    assert s3.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] == "us-west-2"
    assert set(s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"].values()) == {True}


def test_the_doctor_before_and_after_the_fix(account, monkeypatch):
    before = examined()
    failed = {(what, text) for what, level, text in before if level == "fail"}
    assert {what for what, _ in failed} == {"role", "spot machines", "bucket", "launch"}
    assert all("--fix" in text for _, text in failed), failed
    list(doctor.fix(PROJECT / "cluster.yaml"))
    after = examined()
    assert [finding for finding in after if finding[1] != "ok"] == []
    said = [text for _, _, text in after]
    assert any("audio-emotion-head may " in text and "iam:PassRole" in text for text in said)
    assert sum("EC2 would start it" in text for text in said) == 5

    become(account.stranger, monkeypatch)
    refusals = [text for what, level, text in examined() if what == "launch" and level == "fail"]
    assert len(refusals) == 5
    assert all("iam:PassRole for arn:aws:iam::123456789012:role/audio-emotion-" in text for text in refusals)


def test_the_doctor_misses_a_right(account):
    list(doctor.fix(PROJECT / "cluster.yaml"))
    iam = account.client("iam")
    name = {"RoleName": "audio-emotion-head", "PolicyName": "audio-emotion-tuning"}
    policy = iam.get_role_policy(**name)["PolicyDocument"]
    policy["Statement"] = [said for said in policy["Statement"] if "iam:PassRole" not in said["Action"]]
    iam.put_role_policy(**name, PolicyDocument=json.dumps(policy))
    wrong = [text for what, level, text in examined() if level == "fail"]
    assert len(wrong) == 1, wrong
    assert "audio-emotion-head may not iam:PassRole on arn:aws:iam::123456789012:role/audio-emotion-worker" in wrong[0]


def test_the_doctor_knows_the_image_and_the_bucket(account, tmp_path):
    def change(content):
        for node in content["available_node_types"].values():
            node["node_config"]["ImageId"] = "resolve:ssm:/aws/service/none"
        content["initialization_commands"] = ["echo my-own > ~/bucket"]

    failed = {what: text for what, level, text in examined(changed(tmp_path, change)) if level == "fail"}
    assert "/aws/service/none" in failed["image"] and "no bucket 'my-own'" in failed["bucket"]


@pytest.mark.parametrize(
    ("quotas", "levels", "message"),
    [
        # 8 workers of 8 vCPUs each: 64.
        ({"L-3819A6DF": 0, "L-DB2E81BA": 0, "L-1216C47A": 5}, ["fail", "fail", "ok"], "--desired-value 64"),
        ({"L-3819A6DF": 0, "L-DB2E81BA": 8, "L-1216C47A": 5}, ["warn", "warn", "ok"], "no machine of spot-"),
        ({"L-3819A6DF": 32, "L-DB2E81BA": 16, "L-1216C47A": 5}, ["warn", "ok", "ok"], "the file may use 64"),
        ({"L-3819A6DF": 64, "L-DB2E81BA": 16, "L-1216C47A": 1}, ["ok", "ok", "fail"], "too few for the head"),
    ],
)
def test_quotas(quotas, levels, message, tmp_path, monkeypatch):
    with aws_account(tmp_path / "aws", QUOTAS=json.dumps(quotas)) as account:
        become(account.admin, monkeypatch)
        found = [(level, text) for what, level, text in examined() if what == "quota"]
    by_code = {text.split("(")[1][:10]: level for level, text in found}
    assert [by_code[code] for code in ("L-3819A6DF", "L-DB2E81BA", "L-1216C47A")] == levels
    assert any(message in text for _, text in found), found
