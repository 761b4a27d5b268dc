"""A search whose trials train on two workers each, one of which is killed; `python group_search.py FOLDER` prints JSON.

A process of its own, with 2 CPUs whatever the machine has, beside another Ray: Ray's own watcher of groups fails there.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tuning.experiment.directory import SearchFolder, read_progress
from tuning.run import main

OTHER = "import ray; ray.init(address='local', num_cpus=1, include_dashboard=False); print('up', flush=True); input()"


def kill_a_worker(folder, killed):
    """Kill one worker of the first trial that has two epochs."""
    while not killed:
        for file in folder.trials.glob("*/progress.csv"):
            if len(file.read_text().splitlines()) >= 3:
                for process in Path("/proc").glob("[0-9]*"):
                    if is_worker_of_ours(process):
                        os.kill(int(process.name), signal.SIGKILL)
                        killed.append(int(process.name))
                        return
        time.sleep(0.05)  # between two looks at the trials' files


def is_worker_of_ours(process):
    """Whether a process trains in a group of this script's Ray, and not of another on this machine."""
    import ray

    session = ray._private.worker._global_node.get_session_dir_path().encode()
    try:
        if b"RayTrainWorker" not in (process / "cmdline").read_bytes():
            return False
        return session in (process / "environ").read_bytes() + os.fsencode(os.readlink(process / "fd" / "1"))
    except OSError:  # it has ended
        return False


def groups():
    """States of the placement groups that are there, and the CPUs that are free, once they came to rest."""
    import ray

    for _ in range(600):
        left = [g["state"] for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]
        free = ray.available_resources().get("CPU", 0.0)
        if not left and free == 2.0:
            break
        time.sleep(0.5)  # until the cluster has taken note
    return left, free


def search(storage):
    """Search, kill, and tell how every trial ended and what is left."""
    import ray

    from tuning.search.resources import ENVIRONMENT

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
    other = subprocess.Popen([sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    folder, killed = SearchFolder(storage, "crnn"), []
    threading.Thread(target=kill_a_worker, args=(folder, killed), daemon=True).start()
    arguments = [
        f"storage={storage}", f"data.prepared={storage}/prepared", "search.num_trials=4", "features.num_frames=16",
        "model.conv_filters=[4, 4]", "model.lstm_units=[8, 4]", "training.epochs=6", "search.scheduler=asha",
        "search.grace_epochs=1", "resources.workers_per_trial=2",
    ]  # fmt: skip
    assert main(arguments) == 0
    left, free = groups()
    other.communicate(b"\n")
    records = folder.records()
    found = {
        "killed": len(killed),
        "status": {record.number: record.status for record in records},
        "epochs": {r.number: [int(row["epoch"]) for row in read_progress(folder.trial(r.number))] for r in records},
        "groups": left,
        "cpus": free,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    search(Path(sys.argv[1]))
