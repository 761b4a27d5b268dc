"""cluster.yaml through `ray up` and `ray down` with moto in EC2's place.

What is real: Ray, boto3, SSH, rsync, every command of the file. What is not: EC2 (moto keeps books of instances; each
gets one of our hosts, at the addresses that moto gave it), the image, the packages (pip writes down what it was asked
for), a GPU.
"""

import subprocess
import threading
from dataclasses import dataclass, field

import pytest
import yaml

from tests.helpers.hosts import PROJECT, PYTHON, Host, Hosts, copy_project, need_hosts, run, users_machine
from tests.helpers.ray_heads import answers, free_port
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.cluster

REGION = "us-west-2"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": REGION}


@dataclass
class Cloud:
    """moto, and hosts that stand behind its instances."""

    hosts: Hosts
    port: int
    user_home: object
    by_instance: dict[str, Host] = field(default_factory=dict)
    failed: list[BaseException] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def endpoint(self) -> str:
        return f"http://{self.hosts.gateway}:{self.port}"

    def ec2(self):
        import boto3

        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        return boto3.client("ec2", region_name=REGION, endpoint_url=self.endpoint, **keys)

    def instances(self) -> list[dict]:
        return [found for group in self.ec2().describe_instances()["Reservations"] for found in group["Instances"]]

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
                        self.hosts.answer_to(host, found["PrivateIpAddress"], found["PublicIpAddress"])
                        self.by_instance[found["InstanceId"]] = host
        except BaseException as error:
            self.failed.append(error)


@pytest.fixture
def cloud(tmp_path):
    pytest.importorskip("moto", reason="moto stands in for EC2 (pip install -e '.[dev]')")
    need_hosts()
    hosts = Hosts(tmp_path / "hosts")
    cloud = Cloud(hosts, free_port(), tmp_path / "home")
    server = None
    try:
        command = [PYTHON, "-m", "moto.server", "-H", hosts.gateway, "-p", str(cloud.port)]
        environment = users_machine(tmp_path / "home") | {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true"}
        with (tmp_path / "moto.log").open("wb") as log:
            server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        hosts.variables = KEYS | {"AWS_ENDPOINT_URL": cloud.endpoint}
        for _ in range(2):
            hosts.add()
        wait_until(lambda: answers(cloud.endpoint), server, (tmp_path / "moto.log").read_text)
        booting = threading.Thread(target=cloud.boot, daemon=True)
        booting.start()
        yield cloud
        cloud.stopped.set()
        booting.join()
    finally:
        if server is not None:
            server.kill()
            server.wait()
        hosts.close()


def test_every_step_of_up_and_down(cloud, tmp_path):
    project = copy_project(tmp_path / "project")
    config = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    config["cluster_name"] = cloud.hosts.tag
    # Our hosts know root alone; moto has images of its own.
    config["auth"]["ssh_user"] = "root"
    image = cloud.ec2().describe_images()["Images"][0]["ImageId"]
    for node in config["available_node_types"].values():
        node["node_config"]["ImageId"] = image
    # One worker at once, so that the head has to launch it, reach it and set it up.
    config["available_node_types"]["gpu"]["min_workers"] = 1
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(config))
    environment = users_machine(tmp_path / "user") | KEYS
    environment |= {"HOME": str(cloud.user_home), "AWS_ENDPOINT_URL": cloud.endpoint}
    (cloud.user_home / ".ssh").mkdir()
    options = {"cwd": project, "env": environment}
    ray = PYTHON.parent / "ray"

    up = run(ray, "up", "-y", file, **options).stdout
    print(up)
    assert not cloud.failed, cloud.failed
    for step in range(1, 8):
        assert f"[{step}/7]" in up
    head = cloud.hosts.hosts[0]
    head.was_set_up()
    # Ray finds the hosts' first addresses, not those that moto gave them.
    head.wait_for_nodes(cloud.hosts.key, {host.address for host in cloud.hosts.hosts})
    instances = cloud.instances()
    assert len(instances) == 2
    # Wherever in its list the worker is: it alone is a spot instance.
    assert sorted(found.get("InstanceLifecycle", "on demand") for found in instances) == ["on demand", "spot"]
    worker = cloud.hosts.hosts[1]
    worker.was_set_up()
    assert "MPS" not in up
    capacity = "from tuning.search.resources import *; from tuning.config.schema import Config; start_ray(Config()); "
    capacity += "print(cluster_resources())"
    done = run(ray, "exec", file, f"python -c '{capacity}'", **options).stdout
    # One worker is there, eight of 8 CPUs and a GPU each may come.
    assert "(64.0, 8.0)" in done

    print(run(ray, "down", "-y", file, **options).stdout)
    assert {found["State"]["Name"] for found in cloud.instances()} <= {"shutting-down", "terminated"}
