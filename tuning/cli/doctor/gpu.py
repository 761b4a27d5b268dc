"""Check the GPUs, whether PyTorch can use them, and MPS if trials share one."""

from __future__ import annotations

import importlib.util
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tuning.cli.doctor.finding import Finding, fail, ok, warn

# Runs in a process of its own: a driver that hangs, or a broken CUDA, must not stop the doctor.
PROBE = """
import torch
print(torch.ones(2, device="cuda").sum().item(), torch.cuda.device_count(), sep=",")
"""


def check_gpus(gpus_per_worker: float | None, elsewhere: bool) -> Iterator[Finding]:
    """The GPUs of this machine.

    Args:
        gpus_per_worker: `resources.gpus_per_worker`.
        elsewhere: whether the trials run on a cluster, so that this machine needs no GPU.
    """
    names, problem = driver()
    build = cuda_build()
    if problem:
        yield fail("gpu", problem, "nvidia-smi must work: (re)install the NVIDIA driver, or reboot after an update")
        return
    if not names:
        if gpus_per_worker and not elsewhere:
            asked = f"none here, but resources.gpus_per_worker={gpus_per_worker:g}"
            yield fail("gpu", asked, "omit that setting, or use machines with GPUs (cluster.yaml)")
        else:
            yield ok("gpu", "none here; trials on this machine run on its CPUs")
        return
    found = f"{len(names)}: {', '.join(dict.fromkeys(names))}"
    if build is None:
        advice = "install the build of PyTorch 2.13 for CUDA (pytorch.org), in this virtual environment"
        yield fail("gpu", f"{found}; but this PyTorch is built for CPUs only", advice)
        return
    yield _usable(found, build)
    if gpus_per_worker and gpus_per_worker < 1:
        yield check_mps(gpus_per_worker)


def driver() -> tuple[list[str], str]:
    """Names and driver versions from nvidia-smi, and what is wrong with it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        there = any(Path("/dev").glob("nvidia[0-9]*"))
        return [], "a GPU is there (/dev/nvidia0), but nvidia-smi is not on PATH" if there else ""
    try:
        done = subprocess.run(
            [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except subprocess.TimeoutExpired:
        return [], "nvidia-smi does not answer"
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not lines:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        # Images for GPUs have the tool on machines without one, too.
        absent = "No devices were found" in said
        return [], "" if absent else f"nvidia-smi says: {said}"
    return [f"{name} (driver {version})" for name, _, version in (line.rpartition(", ") for line in lines)], ""


def cuda_build() -> str | None:
    """The CUDA version that the installed PyTorch is built for, without importing it; None if for CPUs only."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    found: str | None = runpy.run_path(str(Path(spec.origin).parent / "version.py"))["cuda"]
    return found


def _usable(found: str, build: str) -> Finding:
    try:
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return fail("gpu", f"{found}; PyTorch got no answer from it in two minutes", "see dmesg; reboot")
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        advice = f"this PyTorch needs a driver for CUDA {build} or later; is another program holding the GPU?"
        return fail("gpu", f"{found}; PyTorch can't use it: {said}", advice)
    visible = int(done.stdout.rpartition(",")[2])
    return ok("gpu", f"{found}; PyTorch for CUDA {build} computes on it, {visible} visible")


def check_mps(gpus_per_worker: float) -> Finding:
    """Whether the daemon is running that lets trials on one GPU compute at the same time."""
    if any(_command(process).startswith(b"nvidia-cuda-mps-control") for process in Path("/proc").glob("[0-9]*")):
        return ok("mps", f"is running; {1 / gpus_per_worker:.0f} trials share a GPU")
    return warn(
        "mps",
        f"is not running; {1 / gpus_per_worker:.0f} trials on one GPU would take turns",
        "nvidia-cuda-mps-control -d before the search (before `ray start` on every node)",
    )


def _command(process: Path) -> bytes:
    """The name of a process's program; empty after it has ended."""
    try:
        return (process / "cmdline").read_bytes().partition(b"\0")[0].rpartition(b"/")[2]
    except OSError:
        return b""
