"""The CPUs and memory that a container or a batch system leaves to this process."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tuning.config.errors import UserError
from tuning.experiment.bucket_sync import mirror_root

# What a process sees in a container: its own control group, mounted over that of the machine.
ROOT = "/sys/fs/cgroup"

ASK = """
import json, os
import ray._common.utils
from tuning.experiment.machine import memory, num_cpus
total, free = memory()
print(json.dumps([num_cpus(), total, free, ray._common.utils.get_system_memory()]))
"""

MB = 1 << 20


def version_2(cpus, limit, used):
    return {"cpu.max": f"{cpus} 100000", "memory.max": limit, "memory.current": used}


def version_1(cpus, limit, used):
    return {
        "cpu/cpu.cfs_quota_us": cpus, "cpu/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": limit, "memory/memory.usage_in_bytes": used,
    }  # fmt: skip


def seen_in(folder, files, command=(sys.executable, "-c", ASK)):
    """What a process finds in a container whose control group has these files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")
    mounted = ["unshare", "--mount", "sh", "-c", f'mount --bind "$0" {ROOT} && exec "$@"', str(folder), *command]
    if not shutil.which("unshare") or subprocess.run([*mounted[:6], "true"], capture_output=True).returncode:
        pytest.skip("mounting control groups needs root")
    done = subprocess.run(mounted, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", [version_1, version_2])
def test_limits_of_a_container_count(version, tmp_path):
    cpus, total, free, of_ray = seen_in(tmp_path, version("50000", str(900 * MB), str(700 * MB)))
    assert cpus == 1  # half a CPU, of which a trial takes one
    assert (total, free) == (900 * MB, 200 * MB)
    assert of_ray == total  # by which it sizes the store of features


@pytest.mark.parametrize(
    "files", [version_1("-1", "9223372036854771712", "4096"), version_2("max", "max", "4096")], ids=["1", "2"]
)
def test_a_container_without_limits_has_the_whole_machine(files, tmp_path):
    cpus, total, free, _ = seen_in(tmp_path, files)
    assert cpus == len(os.sched_getaffinity(0))
    assert total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free <= total


def test_without_a_home_a_search_in_a_bucket_asks_for_a_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(UserError, match=r"XDG_CACHE_HOME: expected a folder .* s3://bucket, got /proc/none/\.cache"):
        mirror_root("s3://bucket")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert mirror_root("s3://bucket").is_relative_to(tmp_path)


def test_a_user_whom_the_machine_does_not_know_gets_a_home():
    code = "import os; from tuning.experiment.machine import ensure_home; os.setuid(4_000_000_000); ensure_home(); "
    code += "print(os.environ['HOME'])"
    kept = {name: value for name, value in os.environ.items() if name != "HOME"}
    done = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True)
    if "PermissionError" in done.stderr:
        pytest.skip("another user needs root, and files that it can read")
    assert done.stdout == "/\n", done.stderr


def test_a_process_bound_to_one_cpu_counts_one():
    one = min(os.sched_getaffinity(0))
    code = "from tuning.experiment.machine import num_cpus; print(num_cpus())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {one})
    )
    assert done.stdout == "1\n", done.stderr
