"""Time a search in a Ray that already runs; `benchmarks.overhead` calls it.

`python -m benchmarks.timed_search (crnn|formula) RESULT key=value ...` writes seconds and trials at once as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune

from tuning import run
from tuning.data.plan import make_plan
from tuning.experiment.directory import SearchFolder
from tuning.search.resources import Resources, cluster_resources, plan_resources, start_ray
from tuning.search.tuner import run_search


def formula(spec: dict[str, Any], data: dict[str, Any]) -> None:
    """A trial without model, that reports one epoch computed from its number."""
    loss = 1 / spec["number"]
    row = {"epoch": 1, "val_loss": loss, "val_loss_best": loss, "best_epoch": 1, "seconds": 0.0}
    tune.report(row | {"finished": "all epochs"})


def main(kind: str, result: str, arguments: list[str]) -> int:
    """Time one search; the exit code."""
    plan = make_plan(arguments)
    start_ray(plan.config)
    resources: Resources = plan_resources(plan.config, *cluster_resources())
    # One task per worker that Ray starts in advance: then all of them run.
    ray.get([ray.remote(_nothing).remote() for _ in range(int(cluster_resources()[0]))])
    if kind == "formula":
        with SearchFolder(plan.run.storage, plan.name) as folder:
            folder.create(plan.space, plan.overrides, {"corpus": "formula", "num_clips": 0})
            began = time.perf_counter()
            reason = run_search(folder, plan, {}, resources, trainable=formula)
            seconds = time.perf_counter() - began
        code = run.FAILED if reason else run.DONE
    else:
        began = time.perf_counter()
        code = run.main(arguments)
        seconds = time.perf_counter() - began
    found = {"seconds": seconds, "concurrent": resources.concurrent}
    Path(result).write_text(json.dumps(found), encoding="utf-8")
    return code


def _nothing() -> None:
    pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
