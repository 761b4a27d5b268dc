"""Check that results and prepared features can be written to their places."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

from tuning.cli.doctor.finding import Finding, fail, ok, warn
from tuning.datasets import storage
from tuning.experiment.machine import existing

CONTENT = b"written by tuning doctor, which deletes it\n"
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "lustre", "ceph", "gpfs", "beegfs", "glusterfs", "sshfs"}


def check_store(setting: str, location: str, cluster: bool) -> Iterator[Finding]:
    """Write a small file, read it back, delete it.

    Args:
        setting: `storage` or `data.prepared`.
        location: its value, a folder or a URI.
        cluster: whether other machines need to see it, too.
    """
    try:
        where = location if storage.is_uri(location) else str(existing(Path(location)))
        _try(where)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        advice = "name a folder or bucket that you may write to; does the bucket exist, in this region?"
        yield fail(setting, f"{location}: can't be used: {reason}", advice)
        return
    if storage.is_uri(location):
        yield ok(setting, f"{location}: writes, reads back and deletes")
        return
    kind = file_system(existing(Path(location)))
    words = f"{Path(location).expanduser().absolute()}: writes, reads back and deletes ({kind})"
    if cluster and kind.removeprefix("fuse.") not in NETWORK:
        advice = f"{setting}=s3://bucket/folder, or a folder on NFS: nodes do not see each other's disks"
        yield warn(setting, words, advice)
    else:
        yield ok(setting, words)


def _try(folder: str) -> None:
    if not storage.is_uri(folder) and not Path(folder).is_dir():
        raise NotADirectoryError(f"'{folder}' is no folder")
    name = f".doctor-{uuid.uuid4().hex}"
    storage.write_bytes(folder, name, CONTENT)
    try:
        found = storage.read_bytes(folder, name)
    finally:
        storage.delete(folder, name)
    if found != CONTENT:
        raise OSError("other content was read back than was written")


def file_system(folder: Path) -> str:
    """The file system type of a folder, from /proc/mounts; 'disk' on systems without it."""
    table = Path("/proc/mounts")
    if not table.exists():
        return "disk"
    mounts = [line.split()[1:3] for line in table.read_text(encoding="utf-8").splitlines()]
    path = str(folder.resolve())
    holding = [(point, kind) for point, kind in mounts if path == point or path.startswith(point.rstrip("/") + "/")]
    return max(holding, key=lambda mount: len(mount[0]))[1] if holding else "disk"
