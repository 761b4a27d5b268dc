"""Refuse, before a search begins on a cluster, a folder that not all of its nodes see."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tuning.config.errors import UserError
from tuning.config.schema import Config
from tuning.datasets.storage import absolute, is_uri
from tuning.search.cluster import cluster_address, full_capacity
from tuning.search.resources import start_ray

# A network file system may show a new file to other hosts a little later.
SECONDS_TO_APPEAR = 10
SECONDS_TO_ANSWER = 120
# Of a recording, so many bytes are compared.
COMPARED_BYTES = 1 << 16


def check_places(config: Config, storage: str) -> None:
    """Write a small file into each folder of a search and look from every node whether it is there.

    A corpus is not written to; one of its files is compared. Buckets are not looked at, nor anything without a cluster.
    On a cluster that has yet to grow, it waits for the first node.

    Args:
        config: of the search; names corpus and prepared features.
        storage: where searches are kept.

    Raises:
        UserError: a folder that some node does not see, with what would work.
    """
    if cluster_address() is None:
        return
    given = {"storage": storage, "data.prepared": config.data.prepared, "data.root": config.data.root or "s3://"}
    folders = {name: path for name, path in ((name, _local(place)) for name, place in given.items()) if path}
    root = folders.pop("data.root", None)
    recording = _some_file(root) if root else None
    if not folders and recording is None:
        return
    start_ray(config)
    problems = []
    with _written(list(folders.values())) as markers:
        wanted = {str(marker): _digest(marker) for marker in markers}
        if recording is not None:
            wanted[str(recording)] = _digest(recording)
        settings = [*folders.items(), *([("data.root", root)] if recording is not None else [])]
        missing = _missing(wanted)
        for (setting, path), file in zip(settings, wanted, strict=True):
            if blind := [node for node, files in missing.items() if file in files]:
                others = f" and {len(blind) - 1} more do" if len(blind) > 1 else " does"
                problems.append(
                    f"{setting}: expected a place that all nodes of the cluster see, got the folder "
                    f"'{path}', which {blind[0]}{others} not; "
                    f"give a bucket ({setting}=s3://bucket/folder) or a folder that all nodes mount (NFS)"
                )
    if problems:
        raise UserError("\n".join(problems))


def _local(place: str) -> Path | None:
    """The folder that a place is; None for a bucket."""
    place = place.removeprefix("file://")
    return None if is_uri(place) else Path(absolute(place))


def _some_file(root: Path) -> Path | None:
    """The first file of a corpus; None where there is none, which reading the corpus explains better."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        if files:
            return Path(folder) / min(files)
    return None


@contextmanager
def _written(folders: list[Path]) -> Iterator[list[Path]]:
    """Small files in some folders, which are made for it if they are missing and deleted afterwards, too."""
    made: list[Path] = []
    markers: list[Path] = []
    try:
        for folder in folders:
            made += [path for path in (folder, *folder.parents) if not path.exists()]
            marker = folder / f".seen-{uuid.uuid4().hex}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                marker.write_text(f"Is it seen by all nodes? {marker.name}\n", encoding="utf-8")
            except OSError as error:
                raise UserError(f"expected a folder to write in, got '{folder}' ({error.strerror})") from None
            markers.append(marker)
        yield markers
    finally:
        for marker in markers:
            marker.unlink(missing_ok=True)
        for path in sorted(made, key=lambda path: -len(path.parts)):
            with suppress(OSError):
                path.rmdir()


def _digest(file: Path) -> str:
    """Size and first bytes of a file, in short; empty if there is none."""
    try:
        with file.open("rb") as stream:
            return f"{file.stat().st_size} {hashlib.sha256(stream.read(COMPARED_BYTES)).hexdigest()}"
    except OSError:
        return ""


def _not_seen(wanted: dict[str, str]) -> tuple[str, list[str]]:
    """This node's address, and the files that it does not see as they are."""
    import ray

    deadline = time.monotonic() + SECONDS_TO_APPEAR
    while True:
        missing = [name for name, digest in wanted.items() if _digest(Path(name)) != digest]
        if not missing or time.monotonic() > deadline:
            return ray.util.get_node_ip_address(), missing
        time.sleep(0.5)  # between two looks


def _missing(wanted: dict[str, str]) -> dict[str, list[str]]:
    """The files that a node does not see, for every node that answers."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]
    look = ray.remote(num_cpus=0, max_retries=0)(_not_seen)
    asked = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(wanted)
        for node in alive
    ]
    ray.wait(asked, num_returns=len(asked), timeout=SECONDS_TO_ANSWER)
    workers = [node for node in alive if node["NodeID"] != here and node["Resources"].get("CPU")]
    present, full = ray.cluster_resources(), full_capacity()
    if not workers and any(size > present.get(name, 0.0) for name, size in full.items()):
        print("places    waiting for a node, to see whether it has the same folders ...", flush=True)
        asked.append(ray.remote(num_cpus=1)(_not_seen).remote(wanted))
        ray.wait(asked[-1:])
    ready, silent = ray.wait(asked, num_returns=len(asked), timeout=0)
    if silent:
        print(f"places    {len(silent)} nodes did not answer: not known whether they see the same folders", flush=True)
    found: dict[str, list[str]] = {}
    for reference in ready:
        # A node that died meanwhile is none of the cluster any more.
        with suppress(ray.exceptions.RayError):
            address, missing = ray.get(reference)
            found.setdefault(address, []).extend(missing)
    return found
