"""Hosts on one machine: each has its own network address, processes, name, home and SSH server (needs root).

They are Linux namespaces, so `ray stop` on one of them stops that one's Ray alone, and the files in `cluster.yaml` and
`deploy/` run as they stand. What is not apart: the disk outside of home and /tmp/ray, memory and CPU cores.
"""

import json
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.helpers.waiting import PATIENCE, wait_until

PROJECT = Path(__file__).parents[2]
PYTHON = Path(sys.executable)
TOKEN = "0123456789abcdef" * 4
SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def run(*command: object, **options) -> subprocess.CompletedProcess[str]:
    """A command that must succeed; what it printed is in the error otherwise."""
    options = {"check": True, "timeout": PATIENCE} | options
    check = options.pop("check")
    words = [str(word) for word in command]
    done = subprocess.run(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}")
    return done


def need_hosts() -> None:
    """Skip, with the reason, where hosts can't be made."""
    missing = [tool for tool in ("ip", "unshare", "ssh", "ssh-keygen", "rsync") if shutil.which(tool) is None]
    if SSHD is None:
        missing.append("sshd")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    # A pid namespace needs more than a network one; both are tried, since containers may forbid either.
    tried = run("unshare", "--net", "--pid", "--fork", "--mount", "--uts", "true", check=False)
    bridge = f"ae{os.getpid()}t"
    linked = run("ip", "link", "add", bridge, "type", "bridge", check=False)
    run("ip", "link", "del", bridge, check=False)
    if tried.returncode or linked.returncode:
        pytest.skip(f"namespaces need root: {(tried.stdout + linked.stdout).strip()}")


@dataclass
class Host:
    """One host: `home` as seen from outside, `address` in the hosts' network."""

    name: str
    address: str
    home: Path
    process: subprocess.Popen[bytes] | None = None

    def ssh(self, key: Path, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as `ray exec` does: in a login shell that reads ~/.bashrc."""
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        script = f"bash --login -i -c {shlex.quote('source ~/.bashrc; ' + command)}"
        return run("ssh", *options, "-i", key, f"root@{self.address}", script, check=False)

    def processes(self, key: Path) -> str:
        """What runs on it."""
        return self.ssh(key, "ps ax").stdout

    def nodes(self, key: Path) -> set[str]:
        """Addresses of the Ray nodes that this head knows."""
        code = "import ray, json; ray.init(logging_level='ERROR'); print('NODES', json.dumps(ray.nodes()))"
        done = self.ssh(key, f'python -c "{code}"')
        lines = [line for line in done.stdout.splitlines() if line.startswith("NODES")]
        assert lines, done.stdout
        return {node["NodeManagerAddress"] for node in json.loads(lines[0].removeprefix("NODES")) if node["Alive"]}

    def wait_for_nodes(self, key: Path, wanted: set[str]) -> None:
        """Wait until exactly these nodes make up the cluster of this head."""
        # Each look starts a Python with Ray, on a machine that has nodes to start.
        wait_until(lambda: self.nodes(key) == wanted, told=self.autoscaler_log, pause=3)

    def was_set_up(self) -> None:
        """Check what the setup commands of our files leave on every node."""
        assert (self.home / "audio-emotion-tuning" / "tuning" / "run.py").exists()
        assert not (self.home / "audio-emotion-tuning" / ".git").exists()
        token = self.home / ".ray" / "auth_token"
        assert (token.read_text(), token.stat().st_mode & 0o777) == (TOKEN, 0o600)
        assert "ray[default,tune,train,data]==2.60.0" in (self.home / "pip.log").read_text()

    def autoscaler_log(self) -> str:
        """The end of what the autoscaler of this head wrote down."""
        files = sorted(self.home.glob("ray/session_2*/logs/monitor*"))
        return "".join(f"{file.name}:\n{file.read_text()[-6000:]}\n" for file in files)


@dataclass
class Hosts:
    """A network 10.199.x.0/24 of hosts; `close` takes everything down again."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    hosts: list[Host] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tag = f"ae{os.getpid() % 100000}"
        number = os.getpid() % 250 + 1
        self.network = f"10.199.{number}"
        self.gateway = f"{self.network}.1"
        self.key = self.folder / "key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / "hostkey")
        run("ip", "link", "add", f"{self.tag}b", "type", "bridge")
        run("ip", "addr", "add", f"{self.gateway}/24", "dev", f"{self.tag}b")
        run("ip", "link", "set", f"{self.tag}b", "up")

    def add(self) -> Host:
        """A host that is up: its SSH server answers."""
        number = len(self.hosts)
        name, address = f"{self.tag}h{number}", f"{self.network}.{number + 10}"
        home = self.folder / f"host{number}"
        host = Host(name, address, home)
        self.hosts.append(host)
        (home / "ray").mkdir(parents=True)
        (home / ".bashrc").write_text("# as delivered\n")
        (home / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())
        _own_environment(home)
        (home / "sshd_config").write_text(
            textwrap.dedent(f"""\
                Port 22
                HostKey {self.folder / "hostkey"}
                AuthorizedKeysFile {home / "authorized_keys"}
                PermitRootLogin prohibit-password
                StrictModes no
                UsePAM no
                PidFile none
                """)
            + (f"SetEnv {' '.join(f'{key}={value}' for key, value in self.variables.items())}\n" * bool(self.variables))
        )
        run("ip", "netns", "add", name)
        run("ip", "link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", f"{name}v", "master", f"{self.tag}b", "up")
        up = ("link set eth0 up", "link set lo up", "route add default dev eth0")
        for command in (f"addr add {address}/24 dev eth0", *up):
            run("ip", "-n", name, *command.split())
        Path("/tmp/ray").mkdir(exist_ok=True)
        Path("/run/sshd").mkdir(exist_ok=True)
        # Programs, our files and this folder stay where they are, even where they lie in the home that is covered.
        covered = Path(pwd.getpwuid(os.getuid()).pw_dir)
        needed = {Path(sys.prefix), Path(sys.base_prefix).resolve(), PYTHON.resolve().parents[1], PROJECT, self.folder}
        kept = [path for path in needed if path.is_relative_to(covered)]
        mounts = [(path, home / path.relative_to(covered)) for path in kept]
        script = " && ".join(
            [
                *(f"mkdir -p {inside} && mount --bind {path} {inside}" for path, inside in mounts),
                f"mount --bind {home}/ray /tmp/ray && mount --rbind {home} {covered} && hostname {name}",
                f"exec {SSHD} -D -e -f {home}/sshd_config",
            ]
        )
        with (home / "sshd.log").open("wb") as log:
            host.process = subprocess.Popen(
                ["ip", "netns", "exec", name, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts",
                 "sh", "-c", script],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_until(lambda: host.ssh(self.key, "true").returncode == 0, told=(home / "sshd.log").read_text)
        return host

    def answer_to(self, host: Host, *addresses: str) -> None:
        """Give a host further addresses, reachable from this machine and from the other hosts."""
        for address in addresses:
            run("ip", "-n", host.name, "addr", "add", f"{address}/32", "dev", "eth0")
            run("ip", "route", "add", f"{address}/32", "dev", f"{self.tag}b")

    def close(self) -> None:
        """Stop all that runs on the hosts and remove them."""
        for host in self.hosts:
            if host.process is not None:
                # The first process of its pid namespace: the kernel ends all others with it.
                os.killpg(host.process.pid, signal.SIGKILL)
                host.process.wait()
            run("ip", "netns", "del", host.name, check=False)
            run("ip", "link", "del", f"{host.name}v", check=False)  # else the kernel does so later, when it has time
        run("ip", "link", "del", f"{self.tag}b", check=False)


def _own_environment(home: Path) -> None:
    """~/venv as the setup commands leave it, but with this session's packages and a `pip` that only writes down."""
    folder = home / "venv" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "python3", "ray"):
        (folder / name).write_text(f'#!/bin/sh\nexec {PYTHON.parent / name} "$@"\n')
    (folder / "pip").write_text(f'#!/bin/sh\necho "$@" >> {home / "pip.log"}\n')
    for file in folder.iterdir():
        file.chmod(0o755)


def users_machine(home: Path) -> dict[str, str]:
    """The environment of the user's own machine: a home with a token, as readable as Ray writes it."""
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(TOKEN)
    (home / ".ray" / "auth_token").chmod(0o644)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    return kept | {"HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}


def copy_project(target: Path) -> Path:
    """The project's files, as a checkout: what git ignores is left behind."""
    excluded = [".git", ".venv*", "results", "prepared", "__pycache__", ".*_cache"]
    run("rsync", "-a", *(f"--exclude={name}" for name in excluded), f"{PROJECT}/", f"{target}/")
    return target
