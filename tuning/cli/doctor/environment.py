"""This machine: Python and packages, cores, memory, room on disk, shared memory."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tuning.cli.doctor.finding import Finding, fail, in_words, ok, warn
from tuning.experiment.machine import num_cpus

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PROJECT = "audio-emotion-tuning"

# Ray writes no more objects to a disk that is fuller than this (RAY_local_fs_capacity_threshold).
FULL_FOR_RAY = 0.95
LITTLE_ROOM, NO_ROOM = 10e9, 1e9
LITTLE_MEMORY_PER_CPU = 1e9
# Of memory, as Ray sizes its object store where nothing else is set.
STORE_SHARE, STORE_MOST = 0.3, 200e9


def check_packages(extras: frozenset[str] = frozenset()) -> Iterator[Finding]:
    """Python and every package that the project asks for, against its ranges; extras where they are used."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    python, lines, optional = _wanted()
    version = platform.python_version()
    if SpecifierSet(python).contains(version, prereleases=True):
        yield ok("python", f"{version} on {platform.platform(terse=True)}")
    else:
        yield fail("python", f"{version}, expected {python}", "make the virtual environment with another Python")
    wanted = [Requirement(line) for line in lines]
    wanted += [Requirement(line) for extra in sorted(extras) for line in optional.get(extra, [])]
    wrong = list(_wrong(wanted))
    yield from wrong
    if not wrong:
        shown = ("ray", "torch", "optuna", "librosa", "pyarrow", "numpy")
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in shown)
        yield ok("packages", f"all {len(wanted)} in their ranges: {versions}")


def _wanted() -> tuple[str, list[str], Mapping[str, list[str]]]:
    """Python's range, the packages' and the extras': of the source tree, or where there is none as installed."""
    file = Path(__file__).parents[2] / "pyproject.toml"
    if file.exists():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        return project["requires-python"], project["dependencies"], project.get("optional-dependencies", {})
    distribution = importlib.metadata.distribution(PROJECT)
    lines = [line for line in distribution.requires or [] if "extra ==" not in line]
    return distribution.metadata["Requires-Python"], lines, {}


def _wrong(wanted: list[Requirement]) -> Iterator[Finding]:
    for requirement in wanted:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield fail(requirement.name, f"not installed, expected {requirement}", f"pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield fail(requirement.name, f"{version}, expected {requirement.specifier}", f"pip install '{requirement}'")


def check_memory() -> Iterator[Finding]:
    """Cores, memory that is free, and the size of shared memory, where Ray keeps the features of all trials."""
    cpus = num_cpus()
    total, free = memory()
    words = f"{cpus} CPU{'s' if cpus > 1 else ''}, {in_words(free)} of {in_words(total)} memory free"
    if free < cpus * LITTLE_MEMORY_PER_CPU:
        advice = f"fewer trials at once, search.max_concurrent={max(1, int(free / LITTLE_MEMORY_PER_CPU))}"
        yield warn("memory", words, f"each trial takes about 1 GB: {advice}, or end other programs")
    else:
        yield ok("memory", words)
    if not Path("/dev/shm").is_dir():
        return
    store, size = min(STORE_SHARE * total, STORE_MOST), shutil.disk_usage("/dev/shm").total
    if size < store:
        yield warn(
            "/dev/shm",
            f"{in_words(size)}, less than the {in_words(store)} that Ray's object store takes",
            f"Ray would use the disk instead, slowly; in a container: docker run --shm-size={store / 1e9:.0f}g",
        )
    else:
        yield ok("/dev/shm", f"{in_words(size)}, room for Ray's object store of {in_words(store)}")


def memory() -> tuple[float, float]:
    """Total and free bytes, of the container where there is a limit."""
    total = free = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    table = Path("/proc/meminfo")
    if table.exists():
        lines = (line.split() for line in table.read_text(encoding="utf-8").splitlines())
        free = next(float(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and used.exists() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
        free = min(free, int(text) - int(used.read_text()))
    return total, max(free, 0)


def check_room(folders: Mapping[str, Path]) -> Iterator[Finding]:
    """Room on the disks where folders lie or would be made, by what they are for; a disk is named once."""
    disks: dict[int, list[str]] = {}
    place: dict[int, Path] = {}
    for what, folder in folders.items():
        there = existing(folder)
        device = there.stat().st_dev
        disks.setdefault(device, []).append(what)
        place[device] = there
    for device, uses in disks.items():
        usage = shutil.disk_usage(place[device])
        words = f"{in_words(usage.free)} of {in_words(usage.total)} free for {', '.join(uses)} ({place[device]})"
        if usage.free < NO_ROOM:
            yield fail("disk", words, "make room, or choose another disk: storage=, data.prepared=, RAY_TMPDIR")
        elif RAY_TEMP in uses and usage.used / (usage.used + usage.free) > FULL_FOR_RAY:
            yield fail("disk", f"{words}: over 95 % full", "Ray writes no more objects there: make room")
        elif usage.free < LITTLE_ROOM:
            yield warn("disk", words, "features take about 100 MB per thousand clips: make room")
        else:
            yield ok("disk", words)


RAY_TEMP = "Ray's temporary files"


def ray_temp() -> Path:
    """Where Ray writes while it runs."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.expanduser().absolute()
    while not path.exists():
        path = path.parent
    return path
