"""A search on five nodes of one machine, one of which is killed; `python cluster_search.py FOLDER` prints JSON.

A process of its own, since the other tests have a Ray without nodes to kill.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from tuning.data.plan import make_plan
from tuning.evaluation.leaderboard import write_leaderboard
from tuning.experiment.directory import SearchFolder, read_progress
from tuning.experiment.faults import whole_or_absent
from tuning.search.resources import ENVIRONMENT, Resources
from tuning.search.tuner import run_search

NODES, EPOCHS, TRIALS = 4, 8, 6


def slowly(spec, data):
    """A formula that trains its epochs slowly enough to be hit, and keeps the last one."""
    from ray import tune

    folder = Path(spec["directory"]) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "last"
    epoch = int(last.read_text()) if last.exists() else 0
    node = ray.get_runtime_context().get_node_id()
    while True:
        if epoch:
            row = {"epoch": epoch, "train_loss": 1.0, "val_loss": 1 / epoch, "seconds": 0.1}
            tune.report(row | {"val_loss_best": 1 / epoch, "best_epoch": epoch, "finished": "end" * (epoch == EPOCHS)})
        if epoch == EPOCHS:
            return
        with (folder / "trained").open("a") as stream:
            stream.write(f"{epoch + 1} {node}\n")
        time.sleep(0.5)  # stands for work
        epoch += 1
        with whole_or_absent(last) as partial:  # as a checkpoint: the process may be killed while it writes
            partial.write_text(str(epoch))


def kill_busy_node(cluster, nodes, folder, killed):
    """Kill the first node that has trained two epochs of a trial."""
    while not killed:
        for file in folder.trials.glob("*/checkpoints/trained"):
            lines = file.read_text().splitlines()
            if len(lines) == 3 and lines[-1].count(" "):
                node_id = lines[-1].split()[1]
                node = next(node for node in nodes if node.node_id == node_id)
                killed.append(node_id)
                cluster.remove_node(node, allow_graceful=False)
                return
        time.sleep(0.05)  # between two looks at the trials' files


def main(storage):
    """Search, kill, and tell what every trial trained where."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Lost nodes are noticed after three seconds, not after thirty.
    system = {"health_check_period_ms": 500, "health_check_timeout_ms": 20_000, "health_check_failure_threshold": 3}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": system}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, wait=False) for _ in range(NODES)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    arguments = [f"storage={storage}", f"search.num_trials={TRIALS}", f"training.epochs={EPOCHS}"]
    plan = make_plan(arguments)
    folder, killed = SearchFolder(storage, plan.name), []
    folder.create(plan.space, plan.overrides, {"corpus": "none", "num_clips": 0})
    killer = threading.Thread(target=kill_busy_node, args=(cluster, nodes, folder, killed), daemon=True)
    killer.start()
    try:
        reason = run_search(folder, plan, {}, Resources(1, 0.0, 1, NODES), slowly)
        ranked = write_leaderboard(folder, "val_loss", "min", {"val_loss": 1.0})
        found = {
            "reason": reason,
            "killed": killed,
            "status": {record.number: record.status for record in ranked},
            "recorded": {
                r.number: [int(row["epoch"]) for row in read_progress(folder.trial(r.number))] for r in ranked
            },
            "trained": {
                r.number: [line.split() for line in (folder.trial(r.number) / "checkpoints/trained").open()]
                for r in ranked
            },
        }
        print(json.dumps(found))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    main(sys.argv[1])
