"""End this process with a message when Ray has died below it.

Without its GCS or its raylet a process that uses Ray is lost. It hangs until Ray ends it, up to a minute later, with a
message for Ray's developers or with none.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path

from tuning.search.cluster import cluster_address, refusal
from tuning.search.temporary import delete_private_folder

log = logging.getLogger("tuning.search")

# Between two looks at processes of this machine, which are quicker than Ray's own, and at a cluster.
SECONDS, SECONDS_OF_CLUSTER = 0.2, 5.0
# The GCS of a cluster may be started again meanwhile. Ray gives up after a minute.
PATIENCE_SECONDS = 40.0
# For a search that ends in order. Whoever ends all processes of a job at once, as batch systems do, ends Ray's, too.
SECONDS_TO_END = 10.0

FAILED = 1

# The command that resumes what this process does, if it is one.
resume_command = ""

# Set while this process ends by itself.
ending = threading.Event()


def watch_ray() -> None:
    """Watch the Ray to which this process is connected, in a thread, until it is shut down."""
    threading.Thread(target=_watch, name="watch Ray", daemon=True).start()


def _watch() -> None:
    import ray

    from tuning.search.ray_internals import raylet_socket

    address = cluster_address()
    if address is None:
        while ray.is_initialized():
            end_if_lost()
            time.sleep(SECONDS)
    elif "://" not in address:
        gcs, raylet = ray.get_runtime_context().gcs_address, raylet_socket()
        is_seen, answered = _listens(raylet), time.monotonic()
        while ray.is_initialized():
            if not refusal(gcs):
                answered = time.monotonic()
            if time.monotonic() - answered > PATIENCE_SECONDS:
                _end(f"the GCS of Ray at {gcs}")
            if is_seen and not _listens(raylet):
                _end("the raylet of this machine")
            time.sleep(SECONDS_OF_CLUSTER)


def end_if_lost() -> None:
    """End this process if the Ray that it has started is dead, which explains any error that it meets."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    from tuning.search.ray_internals import dead_parts

    dead = dead_parts()
    if "gcs_server" in dead:
        _end("the GCS of Ray")
    if "raylet" in dead:
        _end("the raylet of this machine")


def _listens(socket: str) -> bool:
    """Whether a process on this machine listens at a path, as far as this process can see."""
    table = Path("/proc/net/unix")
    return table.exists() and socket in table.read_text(encoding="utf-8", errors="replace")


def _end(what: str) -> None:
    """Say what died and how to resume, and end this process, whose other threads wait for Ray for ever."""
    import ray

    if ending.is_set():
        time.sleep(SECONDS_TO_END)
    if not ray.is_initialized():
        return
    message = f"{what} has died (killed, perhaps for lack of memory); what was finished is kept"
    if log.hasHandlers():
        log.error(message)
    if sys.stderr.isatty():
        print("\x1b[?25h", end="", file=sys.stderr)  # the cursor, which the panel hides
    print(f"error: {message}", file=sys.stderr)
    if resume_command:
        print(f"resume with: {resume_command}", file=sys.stderr)
    sys.stderr.flush()
    delete_private_folder()
    os._exit(FAILED)
