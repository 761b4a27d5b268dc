"""cluster.yaml through `ray up` and `ray down` with a simulated AWS that enforces the roles' rights.

What is real: Ray, boto3, SSH, rsync, every command of the file, the roles that the doctor makes and what they may do.
What is not: AWS (`tests/helpers/aws_server.py` keeps books of instances; each gets one of our hosts, at the addresses
that it was given, and credentials by the metadata service), the image, the packages (pip writes down what it was asked
for), a GPU.
"""

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.helpers.aws import NUMBER, REGION, Account, aws_account
from tests.helpers.hosts import PROJECT, PYTHON, Host, Hosts, copy_project, need_hosts, run, users_machine
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.cluster

BUCKET = f"audio-emotion-{NUMBER}-{REGION}"


@dataclass
class Cloud:
    """An account, and hosts that stand behind its instances."""

    hosts: Hosts
    account: Account
    user_home: object
    by_instance: dict[str, Host] = field(default_factory=dict)
    failed: list[BaseException] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def instances(self) -> list[dict]:
        return [
            found
            for group in self.account.client("ec2").describe_instances()["Reservations"]
            for found in group["Instances"]
        ]

    def boot(self) -> None:
        """Give each new instance a host, which lets in the key pair that Ray made, as EC2 does."""
        free = list(self.hosts.hosts)
        try:
            while not self.stopped.wait(0.5):
                for found in self.instances():
                    running = found["State"]["Name"] in ("pending", "running")
                    if found["InstanceId"] not in self.by_instance and running:
                        host = free.pop(0)
                        key = self.user_home / ".ssh" / f"ray-autoscaler_{REGION}.pem"
                        with (host.home / "authorized_keys").open("a") as file:
                            file.write(run("ssh-keygen", "-y", "-f", key).stdout)
                        private = found["PrivateIpAddress"]
                        self.hosts.answer_to(host, private, found["PublicIpAddress"])
                        # By it Ray knows its node, as on EC2; the autoscaler compares it with AWS's.
                        run("ip", "-n", host.name, "route", "replace", "default", "dev", "eth0", "src", private)
                        # The metadata service knows it by the address from which it asks.
                        tags = [{"Key": "host", "Value": host.address}]
                        self.account.client("ec2").create_tags(Resources=[found["InstanceId"]], Tags=tags)
                        self.by_instance[found["InstanceId"]] = host
        except BaseException as error:
            self.failed.append(error)


@pytest.fixture
def cloud(tmp_path):
    need_hosts()
    hosts = Hosts(tmp_path / "hosts")
    sold_out = json.dumps(["g6.2xlarge"])
    try:
        with aws_account(tmp_path / "aws", hosts.gateway, SOLD_OUT=sold_out) as account:
            hosts.variables = {
                "AWS_ENDPOINT_URL": account.endpoint,
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": account.endpoint,
                # In place of the installation, which `pip` only writes down.
                "PYTHONPATH": f"{Path.home()}/audio-emotion-tuning",
            }
            # On a busy machine Ray may be too slow to start for its own limits; the head then replaces the worker.
            for _ in range(6):
                hosts.add()
            cloud = Cloud(hosts, account, tmp_path / "home")
            booting = threading.Thread(target=cloud.boot, daemon=True)
            booting.start()
            yield cloud
            cloud.stopped.set()
            booting.join()
    finally:
        hosts.close()


def test_every_step_from_an_empty_account(cloud, tmp_path):
    project = copy_project(tmp_path / "project")
    config = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    # Our hosts know root alone, and Ray keeps what it has found of a cluster under its name; all else is as shipped.
    config["auth"]["ssh_user"] = "root"
    config["cluster_name"] += cloud.hosts.tag
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(config))
    environment = users_machine(cloud.user_home) | cloud.account.admin | {"PYTHONPATH": str(project)}
    (cloud.user_home / ".ssh").mkdir()
    (cloud.user_home / ".ray" / "auth_token").chmod(0o600)
    options = {"cwd": project, "env": environment}
    ray = PYTHON.parent / "ray"

    fixed = run(PYTHON, "-m", "tuning", "doctor", file, "--fix", **options).stdout
    print(fixed)
    assert "made  role audio-emotion-head" in fixed and " 0 failed" in fixed

    (cloud.user_home / ".ray" / "auth_token").chmod(0o644)
    up = run(ray, "up", "-y", file, **options).stdout
    print(up)
    assert not cloud.failed, cloud.failed
    for step in range(1, 8):
        assert f"[{step}/7]" in up
    head = cloud.hosts.hosts[0]
    head.was_set_up()
    places = (head.home / "places.sh").read_text()
    assert f"TUNING_STORAGE=s3://{BUCKET}/results TUNING_PREPARED=s3://{BUCKET}/prepared" in places
    assert f"TUNING_DATA=s3://{BUCKET}/data AWS_DEFAULT_REGION={REGION}" in places

    # A trial waits for a GPU: the first type is sold out, the next is launched, by the head with its own role.
    wanted = (
        "import ray; ray.init(logging_level='ERROR'); from ray.autoscaler.sdk import request_resources as request; "
    )
    run(ray, "exec", file, f"python -c \"{wanted}request(bundles=[{{'GPU': 1}}])\"", **options)

    def running():
        return [one for one in cloud.instances() if one["State"]["Name"] == "running"]

    def joined():
        addresses = {one["PrivateIpAddress"] for one in running()}
        return cloud.failed or (len(addresses) == 2 and head.nodes(cloud.hosts.key) == addresses)

    wait_until(joined, told=head.autoscaler_log)
    assert not cloud.failed, cloud.failed
    found = {(one["InstanceType"], one.get("InstanceLifecycle", "on demand")) for one in running()}
    assert found == {("m5.xlarge", "on demand"), ("g5.2xlarge", "spot")}
    profiles = {one["InstanceType"]: one["IamInstanceProfile"]["Arn"].rpartition("/")[2] for one in running()}
    assert profiles == {"m5.xlarge": "audio-emotion-head", "g5.2xlarge": "audio-emotion-worker"}
    assert "InsufficientInstanceCapacity" in head.autoscaler_log()
    (worker,) = (cloud.by_instance[one["InstanceId"]] for one in running() if one["InstanceType"] == "g5.2xlarge")
    worker.was_set_up()
    assert (worker.home / "places.sh").read_text() == places
    assert "MPS" not in up

    # Both reach the bucket as their default place, by their roles.
    code = "import os; from tuning.datasets.storage import *; place = os.environ['TUNING_STORAGE']; "
    written = f"{code}write_bytes(place, 'a', b'seen by all')"
    assert head.ssh(cloud.hosts.key, f'python -c "{written}"').returncode == 0
    read = worker.ssh(cloud.hosts.key, f"python -c \"{code}print(read_bytes(place, 'a'))\"").stdout
    assert "seen by all" in read, read

    capacity = "from tuning.search.resources import *; from tuning.config.schema import Config; start_ray(Config()); "
    capacity += "print(cluster_resources())"
    done = run(ray, "exec", file, f"python -c '{capacity}'", **options).stdout
    # One worker is there, eight of 8 CPUs and a GPU each may come.
    assert "(64.0, 8.0)" in done

    print(run(ray, "down", "-y", file, **options).stdout)
    assert {found["State"]["Name"] for found in cloud.instances()} <= {"shutting-down", "terminated"}
