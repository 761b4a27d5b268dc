"""What `DataModule.share` keeps in memory on nodes of one machine: `python -m tests.data.share_on_nodes FOLDER`.

Prints JSON. A process of its own, since the other tests have a Ray with one node.
"""

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import ray
from ray.cluster_utils import Cluster

from tests.helpers.recordings import RATE, encode, tone
from tuning.data.data_module import DataModule, fetch
from tuning.data.plan import make_plan
from tuning.search.resources import ENVIRONMENT

MB = 1 << 20
SETTINGS = (
    "space=crnn_lr", "data.corpus=manifest", "task.targets=[valence]", "features.window_samples=256",
    "features.hop_samples=200", "features.num_mels=64", "features.num_mfcc=40", "features.sample_rate_hz=8000",
    "features.num_frames=20000",
)  # fmt: skip


def main(folder: Path) -> None:
    """Share 67 MB with a head of 400 MB without CPUs, and nodes of 300 and 80 MB, of which the last is then gone."""
    os.environ |= {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    (folder / "songs").mkdir()
    rows = [[f"{number}.wav", np.sin(number)] for number in range(25)]
    for number in range(25):
        (folder / "songs" / f"{number}.wav").write_bytes(encode(tone(0.3, seed=number), RATE))
    with (folder / "songs" / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "valence"], *rows])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 400 * MB})
    cluster.add_node(num_cpus=2, object_store_memory=300 * MB)
    small = cluster.add_node(num_cpus=2, object_store_memory=80 * MB)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    plan = make_plan([*SETTINGS, f"data.root={folder / 'songs'}", f"data.prepared={folder / 'prepared'}"])
    data = DataModule.read(plan.space).prepare()
    found = {}
    for name in ("with the small node", "without"):
        if name == "without":
            cluster.remove_node(small)
        shared, _ = data.share()
        (parts,) = shared.values()
        found[name] = type(fetch(parts)).__name__
    print(json.dumps(found), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
