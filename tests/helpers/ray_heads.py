"""A Ray head as `ray start --head` makes it, beside whatever Ray runs on this machine."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.helpers.hosts import PYTHON
from tests.helpers.waiting import PATIENCE, wait_until

MARK = "TUNING_TEST_CLUSTER"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Head:
    """Addresses of a running head, and the environment in which it was started."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.port, self.dashboard_port = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.dashboard = f"http://127.0.0.1:{self.dashboard_port}"


@contextmanager
def started_head(
    environment: dict[str, str],
    *options: str,
    dashboard: bool = False,
    before: Callable[[Head], object] = lambda head: None,
) -> Iterator[Head]:
    """Start a head; at the end all that it has started is gone, and nothing else. `before` gets its addresses.

    Never by `ray stop`, which ends every Ray of the machine: our processes carry a mark in their environment.
    """
    mark = uuid.uuid4().hex
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    kept |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "300", "RAY_worker_niceness": "0"}
    head = Head(kept | environment | {MARK: mark})
    before(head)
    # The path of a socket below it has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="aeray", dir="/tmp"))
    command = [
        str(PYTHON.parent / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={head.port}",
        f"--dashboard-port={head.dashboard_port}", f"--include-dashboard={str(dashboard).lower()}",
        f"--ray-client-server-port={free_port()}", "--min-worker-port=0", "--max-worker-port=0",
        "--dashboard-agent-listen-port=0", f"--temp-dir={folder}", "--object-store-memory=200000000", *options,
    ]  # fmt: skip
    log = folder / "start.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=head.environment, stdout=stream, stderr=stream, start_new_session=True)
    try:
        wait_until(
            lambda: "Ray runtime started" in log.read_text() and (not dashboard or answers(head.dashboard)),
            process,
            log.read_text,
        )
        yield head
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        for number in marked(mark):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait(timeout=PATIENCE)
        shutil.rmtree(folder, ignore_errors=True)


def answers(url: str) -> bool:
    """Whether something speaks HTTP there, whatever it says."""
    try:
        urllib.request.urlopen(url, timeout=2)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def marked(mark: str) -> list[int]:
    """Processes that a head with this mark has started."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"{MARK}={mark}".encode() in file.read_bytes():
                found.append(int(file.parent.name))
    return found
