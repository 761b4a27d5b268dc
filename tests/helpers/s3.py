"""An S3-compatible server in a process of its own, for tests of what lies in a bucket."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.waiting import wait_until

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def listens(port: int) -> bool:
    """Whether a process of this machine takes connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextlib.contextmanager
def s3_server(log: Path) -> Iterator[dict[str, str]]:
    """A server that knows a bucket `emotion`; the environment that leads to it, set here while it runs."""
    pytest.importorskip("moto", reason="pip install -e '.[dev]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("w") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        wait_until(lambda: listens(port), server, log.read_text)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            from pyarrow import fs

            from tuning.datasets.storage import open_storage

            open_storage.cache_clear()
            fs.FileSystem.from_uri("s3://emotion?allow_bucket_creation=true")[0].create_dir("emotion")
            yield environment | {"PATH": os.environ["PATH"]}
            open_storage.cache_clear()
    finally:
        server.kill()
        server.wait()
