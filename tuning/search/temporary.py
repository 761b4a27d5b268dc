"""Find a folder for Ray's files where the temporary one has too long a path or can't be written."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tuning.experiment.faults import NoRayError
from tuning.experiment.machine import can_write, existing

# The longest name of a socket that Ray makes below its folder, and the longest path that a socket may have on macOS.
_SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_LONGEST_PATH = 103

ROOTS = ("/tmp", "/var/tmp", "/dev/shm")


def ray_temp() -> Path:
    """The folder that Ray writes to while it runs, unless `ray_folder` gives it another."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp").absolute() / "ray"


def ray_folder() -> str | None:
    """A folder for Ray's files where its own choice does not work; None where it does.

    Where that has too long a path for a socket, it is a short link to it: what Ray writes is where the user wants it.
    """
    chosen = ray_temp()
    works = can_write(existing(chosen))
    if works and len(os.fsencode(chosen)) + len(_SOCKET) <= _LONGEST_PATH:
        return None
    folder = private_folder() / "ray"
    if works and not folder.is_symlink():
        chosen.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(chosen)
    return str(folder)


@functools.cache
def private_folder() -> Path:
    """A folder with a short path that its owner alone can open; it is deleted when this process ends.

    Raises:
        NoRayError: there is no temporary folder that can be written.
    """
    root = next(filter(can_write, ROOTS), None)
    if root is None:
        raise NoRayError(f"Ray needs a temporary folder that can be written, and none of {', '.join(ROOTS)} is one")
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=root))
    atexit.register(_at_exit, os.getpid())
    return folder


def _at_exit(owner: int) -> None:
    if os.getpid() != owner:  # in a process that was forked from it
        return
    with suppress(Exception):  # end what still writes there; whatever it says, the folder is deleted
        sys.modules["ray"].shutdown()
    delete_private_folder()


def delete_private_folder() -> None:
    """Delete the folder of `private_folder`, if it was made."""
    if private_folder.cache_info().currsize:
        shutil.rmtree(private_folder(), ignore_errors=True)
        private_folder.cache_clear()
