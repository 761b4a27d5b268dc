"""A search whose trials train on two workers each, one of which is killed; `python group_search.py FOLDER` prints JSON.

A process of its own, since groups of workers need a Ray with its dashboard.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from tests.command import TINY
from tuning.run import main
from tuning.search.folder import SearchFolder, read_progress


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

    for _ in range(60):
        left = [g["state"] for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]
        free = ray.available_resources().get("CPU", 0.0)
        if not left and free == 2.0:
            break
        time.sleep(0.5)  # until the cleaners have run
    return left, free


def search(storage):
    """Search, kill, and tell how every trial ended and what is left."""
    import ray

    from tuning.search.resources import ENVIRONMENT

    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # on a machine that others use
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray.init(address="local", num_cpus=2, include_dashboard=True, log_to_driver=False, logging_level="ERROR")
    folder, killed = SearchFolder(storage, "crnn"), []
    threading.Thread(target=kill_a_worker, args=(folder, killed), daemon=True).start()
    arguments = [f"storage={storage}", f"data.prepared={storage}/prepared", "search.num_trials=4", *TINY[:-1]]
    arguments += [
        "training.epochs=6",
        "search.scheduler=asha",
        "search.grace_epochs=1",
        "resources.workers_per_trial=2",
    ]
    assert main(arguments) == 0
    left, free = groups()
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
