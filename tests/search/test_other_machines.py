"""Ray on machines as others have them: a home or temporary folder that does not do, a cluster that is gone, a death."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.helpers.command import TINY, run
from tests.helpers.hosts import PROJECT
from tests.helpers.ray_heads import free_port, started_head
from tests.helpers.waiting import PATIENCE, wait_until
from tuning.config.errors import UserError
from tuning.config.schema import Config
from tuning.experiment.faults import NoRayError
from tuning.search import cluster, temporary
from tuning.search.cluster import guard_token, unreachable
from tuning.search.resources import start_ray
from tuning.search.temporary import delete_private_folder, private_folder, ray_folder

NOWHERE = "/proc/none"  # can't be made or written to by any user


@pytest.fixture
def environment(monkeypatch):
    """A way to set variables, without those of Ray and with a private folder of the test's own."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    private_folder.cache_clear()
    yield monkeypatch.setenv
    os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
    delete_private_folder()


def rights(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("home", [NOWHERE, ""])
def test_without_a_home_the_token_is_in_a_private_folder(home, environment, monkeypatch):
    environment("HOME", home)
    if not home:  # nor is the user one that the machine knows, as in a container
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    guard_token(create=True)
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert len(token.read_text()) == 64
    assert (rights(token), rights(token.parent)) == (0o600, 0o700)
    guard_token(create=True)
    assert Path(os.environ["RAY_AUTH_TOKEN_PATH"]) == token


def test_ray_keeps_its_own_folder_where_that_does(environment, tmp_path):
    environment("TMPDIR", "/tmp")
    assert ray_folder() is None
    assert not private_folder.cache_info().currsize


def test_a_long_temporary_folder_gets_a_short_name(environment, tmp_path):
    long = tmp_path / ("job" * 40)
    environment("TMPDIR", str(long))
    folder = Path(ray_folder())
    assert len(str(folder)) < 30 and rights(folder.parent) == 0o700
    (folder / "spilled").write_text("")
    assert (long / "ray" / "spilled").exists()
    assert ray_folder() == str(folder)


def test_a_temporary_folder_that_can_not_be_written_is_left_alone(environment, monkeypatch):
    environment("TMPDIR", NOWHERE)
    assert Path(ray_folder()).parent == private_folder()
    delete_private_folder()
    monkeypatch.setattr(temporary, "ROOTS", (NOWHERE,))
    with pytest.raises(NoRayError, match=f"needs a temporary folder that can be written, and none of {NOWHERE} is one"):
        ray_folder()


@pytest.fixture
def mute():
    """The address of something that takes connections and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_cluster_that_is_gone(mute, monkeypatch):
    monkeypatch.setattr(cluster, "SECONDS_TO_ANSWER", 0.5)
    gone = f"127.0.0.1:{free_port()}"
    for address in (gone, f"ray://{gone}"):
        assert "Connection refused" in unreachable(address)
    assert "no connection" in unreachable("no-such-host.invalid:6379")
    assert "does not answer as Ray does" in unreachable(mute)
    assert "no connection" in unreachable("127.0.0.1:99999999")
    assert unreachable("auto") == ""


def test_a_running_ray_is_reached(ray_session):
    import ray

    assert unreachable(ray.get_runtime_context().gcs_address) == ""


def test_a_stale_address_is_refused_with_a_way_out(monkeypatch, tmp_path):
    gone = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", gone)
    error = run("space=crnn", f"storage={tmp_path / 'results'}", code=2)
    assert f"error: RAY_ADDRESS: expected the address of a running cluster, got {gone} (no connection: " in error
    assert "to run on this machine: unset RAY_ADDRESS" in error
    assert not (tmp_path / "results").exists()


def test_the_address_that_a_dead_ray_left_behind_is_refused(monkeypatch, tmp_path):
    from ray._private import services

    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(UserError, match=r"got auto \(no Ray runs on this machine\)"):
        start_ray(Config())
    gone = f"127.0.0.1:{free_port()}"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(gone)
    with pytest.raises(UserError, match=rf"got auto \(.*{gone.partition(':')[2]}\) \(no connection: .*refused"):
        start_ray(Config())


# A Ray of its own: kinds of processes that are killed, and what is said then.
WAIT_FOR_EVER = """
import os, time
from tuning.config.schema import Config
from tuning.search import ray_watch
from tuning.search.resources import start_ray

ray_watch.resume_command = "COMMAND"
start_ray(Config())
import ray
from ray._private.worker import _global_node as node

wait = ray.remote(num_cpus=0)(lambda seconds: time.sleep(seconds))
ray.get(wait.remote(0))
task = wait.remote(3600)
print(*(f"{kind}={found[0].process.pid}" for kind, found in node.all_processes.items()), flush=True)
ray.get(task)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "what"), [("gcs_server", "the GCS of Ray"), ("raylet", "the raylet of this machine")])
def test_a_ray_that_dies_is_named_with_the_command_that_resumes(kind, what):
    process = subprocess.Popen(
        [sys.executable, "-c", WAIT_FOR_EVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    started = dict(pair.split("=") for pair in process.stdout.readline().split())
    os.kill(int(started[kind]), signal.SIGKILL)
    output, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "Traceback" not in output
    assert error.splitlines() == [
        f"error: {what} has died (killed, perhaps for lack of memory); what was finished is kept",
        "resume with: COMMAND",
    ]
    for number in started.values():
        wait_until(lambda number=number: not Path("/proc", number).exists())


NO_GCS = """
import sys
from ray._private import services
from tuning.run import main

services.GCS_SERVER_EXECUTABLE = "/bin/false"
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_ray_that_does_not_start_is_named_with_the_command_that_resumes(tmp_path):
    arguments = ["space=crnn", *TINY, f"storage={tmp_path / 'results'}", f"data.prepared={tmp_path / 'prepared'}"]
    done = subprocess.run(
        [sys.executable, "-c", NO_GCS, *arguments],
        env=os.environ | {"RAY_gcs_server_port_wait_time_s": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: Ray does not start on this machine, which may be busy or out of memory (" in done.stderr
    assert "/ray/session_latest/logs; what was finished is kept" in done.stderr
    assert f"resume with: python -m tuning.run space=crnn {TINY[0]}" in done.stderr
    assert "Traceback" not in done.stderr and "  File " not in done.stderr


# 64 MB of shared memory and a quota of one CPU, as in a container, and what batch systems and shells set.
CONFINED = """
mount -t tmpfs -o size=64m none /dev/shm && mount --bind "$0" /sys/fs/cgroup && ulimit -n 256 && exec "$@"
"""
ENVIRONMENT = {
    "HOME": NOWHERE, "LC_ALL": "C", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9", "grpc_proxy": "http://127.0.0.1:9",
}  # fmt: skip


@pytest.mark.slow
def test_a_search_on_a_machine_where_nothing_is_as_at_home(tmp_path):
    """Beside another Ray: in a container, behind a proxy, in the C locale, with odd paths, one CPU and few files."""
    here = tmp_path / "Größe [1] & more"
    limits = tmp_path / "limits"
    for folder in (here, limits, long := tmp_path / ("job" * 40)):
        folder.mkdir()
    (limits / "cpu.max").write_text("100000 100000\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LC_", "LANG"))}
    kept |= ENVIRONMENT | {"TMPDIR": str(long), "PYTHONPATH": str(PROJECT)}
    confined = ["unshare", "--mount", "bash", "-c", CONFINED, str(limits)]
    if not shutil.which("unshare") or subprocess.run([*confined, "true"], capture_output=True).returncode:
        pytest.skip("a confined process needs root")
    command = [
        sys.executable,
        "-m",
        "tuning.run",
        "space=crnn",
        *TINY,
        "search.num_trials=1",
        "data.prepared=größe [2]",
    ]
    with started_head({"RAY_AUTH_MODE": "disabled"}, "--num-cpus=1"):
        done = subprocess.run(
            [*confined, *command], cwd=here, env=kept, capture_output=True, text=True, timeout=PATIENCE
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "1 CPU per trial, 1 at once" in done.stdout
    assert (here / "results" / "crnn" / "leaderboard.csv").exists() and (here / "größe [2]").is_dir()
    assert list((long / "ray").glob("session_2*")), "Ray's files are where the batch system wants them"
    links = [link for link in Path("/tmp").glob("ray-*/ray") if link.is_symlink()]
    assert long / "ray" not in [link.readlink() for link in links]
