"""What the benchmarks print: Markdown tables, and the machine that they ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuning.experiment.directory import SearchFolder, TrialRecord


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose first `left` columns are text and whose others are figures."""
    marks = [":--"] * left + ["--:"] * (len(header) - left)
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Sequence[float], digits: int) -> list[str]:
    """Median, minimum and maximum."""
    return [f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))]


def machine(*packages: str) -> str:
    """Processor, number of CPUs, system and versions in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return f"{cpus} CPUs ({model}), {platform.system()}, Python {platform.python_version()}, {versions}"


def whole_records(folder: SearchFolder, metric: str) -> list[TrialRecord]:
    """The trials of a search that came to a result, every one.

    Raises:
        SystemExit: a trial failed.
    """
    records = folder.records()
    if failed := [record.number for record in records if metric not in record.metrics]:
        raise SystemExit(f"{folder.path}: trials without a result: {failed}")
    return records


def publish(text: str, out: str | None) -> None:
    """Write to a file where one is named, and print."""
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(text + "\n", encoding="utf-8")
    print(text)
