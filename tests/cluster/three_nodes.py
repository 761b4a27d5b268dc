"""A whole job on three nodes of one machine, whose head has no CPU; as a module with a FOLDER it prints JSON.

Preparation, search by Ray Train with streamed features, finalize, reproduce and predict. A worker node is killed in the
middle of the search, and another one joins. In this process, which stands for the head, no training can be made.
"""

import json
import os
import sys
import threading
from pathlib import Path

from tests.helpers.waiting import wait_until

SEARCH = (
    "search.num_trials=3", "features.num_frames=16", "model.conv_filters=[4, 4]", "model.lstm_units=[8, 4]",
    "training.epochs=6", "training.patience=null", "data.loading=streamed",
)  # fmt: skip


def main(storage):
    """Run all commands, and tell how they ended."""
    import ray
    from ray.cluster_utils import Cluster

    from tuning.search.resources import ENVIRONMENT

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Lost nodes are noticed after three seconds, not after thirty.
    system = {"health_check_period_ms": 500, "health_check_timeout_ms": 20_000, "health_check_failure_threshold": 3}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": system}
    )
    nodes = [cluster.add_node(num_cpus=2, wait=False) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    try:
        print(json.dumps(job(cluster, nodes, Path(storage))))
    finally:
        ray.shutdown()
        cluster.shutdown()


def job(cluster, nodes, storage):
    """The exit code of every command, and what was killed."""
    from tuning import run
    from tuning.cli import finalize, predict, reproduce
    from tuning.training.trainer import Trainer

    def refused(self, *arguments, **options):
        raise AssertionError("a training in the head's process")

    Trainer.__init__ = refused
    killed = []
    arguments = [f"storage={storage}", f"data.prepared={storage}/prepared", "resources.backend=train", *SEARCH]
    threading.Thread(target=replace_a_node, args=(cluster, nodes, storage / "crnn", killed), daemon=True).start()
    codes = {"run": run.main(arguments)}
    found = str(storage / "crnn")
    codes["finalize"] = finalize.main([found, "top=2", "seeds=1"])
    codes["reproduce"] = reproduce.main([found])
    recording = next((storage / "prepared" / "corpora").glob("*/**/*.wav"))
    codes["predict"] = predict.main([f"{found}/best", str(recording)])
    return {"codes": codes, "killed": killed}


def replace_a_node(cluster, nodes, search, killed):
    """Kill a worker node once a trial has two epochs, and start another one, as an autoscaler does."""
    wait_until(lambda: any(len(file.read_text().splitlines()) > 2 for file in search.glob("trials/*/progress.csv")))
    killed.append(nodes[0].node_id)
    cluster.remove_node(nodes[0], allow_graceful=False)
    cluster.add_node(num_cpus=2, wait=False)


if __name__ == "__main__":
    main(sys.argv[1])
