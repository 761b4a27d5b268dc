"""Helpers of the benchmarks: Markdown tables, the machine, and output."""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

from tuning.datasets.corpora.layout import AUDIO_SUFFIXES
from tuning.experiment.directory import SearchFolder, TrialRecord
from tuning.experiment.machine import num_cpus


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; its first `left` columns are aligned left, others right."""
    alignment = [":--"] * left + ["--:"] * (len(header) - left)
    lines = [header, alignment, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Sequence[float], digits: int) -> list[str]:
    """Median, minimum and maximum as text."""
    return [f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))]


def recordings(folder: Path, count: int) -> list[Path]:
    """So many recordings of a folder, or all if there are fewer, at even distances from the first on."""
    files = [file for file in sorted(folder.rglob("*")) if file.suffix in AUDIO_SUFFIXES]
    step = max(1.0, len(files) / count)
    return [files[int(step * number)] for number in range(min(count, len(files)))]


def machine(*packages: str) -> str:
    """Processor, number of CPUs, system and versions in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return f"{num_cpus()} CPUs ({model}), {platform.system()}, Python {platform.python_version()}, {versions}"


def whole_records(folder: SearchFolder, metric: str) -> list[TrialRecord]:
    """All trials of a search.

    Raises:
        SystemExit: a trial has no result.
    """
    records = folder.records()
    if failed := [record.number for record in records if metric not in record.metrics]:
        raise SystemExit(f"{folder.path}: trials without a result: {failed}")
    return records


def publish(text: str, out: str | None) -> None:
    """Print a text, and write it to the file `out`, if any."""
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(text + "\n", encoding="utf-8")
    print(text)
