"""Check this machine: Python and packages, cores, memory, shared memory, free disk space."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tuning.cli.doctor.finding import Finding, fail, in_words, ok, warn
from tuning.experiment.machine import existing, memory, num_cpus

PROJECT = "audio-emotion-tuning"

# Ray stops writing objects to a disk that is fuller than this (RAY_local_fs_capacity_threshold).
FULL_FOR_RAY = 0.95
LITTLE_ROOM, NO_ROOM = 10e9, 1e9
LITTLE_MEMORY_PER_CPU = 1e9
# Ray's default size of its object store: a share of the memory, up to a most.
STORE_SHARE, STORE_MOST = 0.3, 200e9


def check_packages() -> Iterator[Finding]:
    """Python and every package that the project requires, against its version ranges."""
    python, wanted = _wanted()
    version = platform.python_version()
    if SpecifierSet(python).contains(version, prereleases=True):
        yield ok("python", f"{version} on {platform.platform(terse=True)}")
    else:
        yield fail("python", f"{version}, expected {python}", "create the virtual environment with another Python")
    wrong = list(_wrong(wanted))
    yield from wrong
    if not wrong:
        shown = ("ray", "torch", "optuna", "librosa", "pyarrow", "numpy")
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in shown)
        yield ok("packages", f"all {len(wanted)} in their ranges: {versions}")


def _wanted() -> tuple[str, list[Requirement]]:
    """Version range of Python and requirements: of the source tree or, without one, of the installed project."""
    file = Path(__file__).parents[3] / "pyproject.toml"
    if file.exists():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        return project["requires-python"], [Requirement(line) for line in project["dependencies"]]
    distribution = importlib.metadata.distribution(PROJECT)
    lines = [line for line in distribution.requires or [] if "extra ==" not in line]
    return distribution.metadata["Requires-Python"], [Requirement(line) for line in lines]


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
    """Cores, free memory, and the size of shared memory, where Ray keeps the features of all trials."""
    cpus = num_cpus()
    total, free = memory()
    words = f"{cpus} CPU{'s' if cpus > 1 else ''}, {in_words(free)} of {in_words(total)} memory free"
    if free < cpus * LITTLE_MEMORY_PER_CPU:
        advice = f"run fewer at once (search.max_concurrent={max(1, int(free / LITTLE_MEMORY_PER_CPU))})"
        yield warn("memory", words, f"each trial takes about 1 GB: {advice}, or end other programs")
    else:
        yield ok("memory", words)
    if not Path("/dev/shm").is_dir():
        return
    store, size = min(STORE_SHARE * total, STORE_MOST), shutil.disk_usage("/dev/shm").total
    if size < store:
        yield warn(
            "/dev/shm",
            f"{in_words(size)}, less than the {in_words(store)} of Ray's object store",
            f"Ray would use the disk instead, which is slow; in a container: docker run --shm-size={store / 1e9:.0f}g",
        )
    else:
        yield ok("/dev/shm", f"{in_words(size)}, room for Ray's object store of {in_words(store)}")


def check_room(folders: Mapping[str, Path]) -> Iterator[Finding]:
    """Free space on the disks of some folders, or of the folders that they would be created in; each disk once."""
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
            yield fail("disk", words, "free some space, or choose another disk: storage=, data.prepared=, RAY_TMPDIR")
        elif RAY_TEMP in uses and usage.used / (usage.used + usage.free) > FULL_FOR_RAY:
            yield fail("disk", f"{words}: over 95 % full", "Ray stops writing objects there: free some space")
        elif usage.free < LITTLE_ROOM:
            yield warn("disk", words, "features take about 100 MB per thousand clips: free some space")
        else:
            yield ok("disk", words)


RAY_TEMP = "Ray's temporary files"
