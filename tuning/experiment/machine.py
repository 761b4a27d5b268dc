"""The CPUs, the memory and the folders of this machine, as far as this process may use them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")

# Files with the limit and the use of memory in a container: of control groups version 2, then 1.
_MEMORY = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def num_cpus() -> int:
    """The number of CPUs that this process may use: by affinity, by a container's quota, by LOKY_MAX_CPU_COUNT."""
    import joblib  # imports numpy

    return int(joblib.cpu_count())


def memory() -> tuple[float, float]:
    """Total and free bytes of this machine, or of the container if that has a lower limit."""
    total = free = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    table = Path("/proc/meminfo")
    if table.exists():
        lines = (line.split() for line in table.read_text(encoding="utf-8").splitlines())
        free = next(float(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")
    for names in _MEMORY:
        limit, used = (CGROUPS / name for name in names)
        # Without a limit version 2 says "max", and version 1 a number above every machine's memory.
        if limit.exists() and used.exists() and (text := limit.read_text().strip()).isdigit():
            total = min(total, int(text))
            free = min(free, int(text) - int(used.read_text()))
    return total, max(free, 0)


def ensure_home() -> None:
    """Set HOME to `/`, as Docker does, for a user without one whom the machine does not know: Ray can't do without."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.expanduser().absolute()
    while not os.path.exists(path):  # which a folder that may not be entered does not break
        path = path.parent
    return path


def can_write(folder: str | Path) -> bool:
    """Whether this process can write a file into a folder; it tries."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
