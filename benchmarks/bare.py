"""Train a search's configurations in a bare PyTorch loop, one process per core: no Ray, reports or checkpoints.

`python -m benchmarks.bare JOB RESULT` runs a pickled `Job` and writes JSON; `benchmarks.overhead` calls it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tuning.config.schema import Config, parse_config
from tuning.datasets.features.audio import segment_slice
from tuning.datasets.loaders.in_memory import ResidentData
from tuning.datasets.settings import Segment
from tuning.datasets.splits.split import Split
from tuning.datasets.store.build import Prepared
from tuning.models.crnn import CRNN
from tuning.training.optimizers import adam

VALIDATION_BATCH = 128
# That of Ray's workers, so that other work on the machine slows both alike.
NICENESS = int(os.environ.get("RAY_worker_niceness", "15"))  # noqa: SIM112


@dataclass(frozen=True)
class Job:
    """The configurations to train as plain values, their shards and split, and the number of processes."""

    configs: list[dict[str, Any]]
    prepared: Prepared
    split: Split
    processes: int


@dataclass(frozen=True)
class Arrays:
    """Normalised features [clips, frames, features] and targets [clips, targets] of both splits."""

    train_x: torch.Tensor
    train_y: torch.Tensor
    val_x: torch.Tensor
    val_y: torch.Tensor


def normalised(data: ResidentData, frames: int, segment: Segment) -> Arrays:
    """A segment of `frames` of each clip, normalised; zeros after shorter clips."""
    mean, scale = data.statistics.mean, 1 / data.statistics.std
    both = []
    for part in (data.train, data.val):
        features = np.zeros((len(part), frames, part.features.shape[2]), dtype=np.float32)
        for out, values, num_valid in zip(features, part.features, part.num_frames.tolist(), strict=True):
            kept = values[segment_slice(num_valid, frames, segment)]
            out[: len(kept)] = (kept - mean) * scale
        both += [torch.from_numpy(features), torch.from_numpy(part.targets)]
    return Arrays(*both)


def train(config: Config, arrays: Arrays) -> list[float]:
    """Train one configuration; return the validation loss of each epoch.

    Only for the mean squared error and Adam, in float32 on CPU.
    """
    assert (config.loss.name, config.optim.name, config.optim.clip_norm) == ("mse", "adam", None)
    torch.manual_seed(config.seed)
    model = CRNN(config.model, arrays.train_x.shape[2], arrays.train_y.shape[1])
    optim = config.optim
    optimizer = adam(
        model.parameters(), optim.learning_rate, beta_1=optim.beta_1, beta_2=optim.beta_2, epsilon=optim.epsilon
    )
    count = len(arrays.train_x)
    starts = list(range(0, count, config.training.batch_size))
    if len(starts) > 1 and count - starts[-1] < 2:  # batch normalisation can't train on one clip
        starts.pop()
    losses = []
    for epoch in range(1, config.training.epochs + 1):
        model.train()
        order = torch.from_numpy(np.random.default_rng([config.seed, epoch]).permutation(count))
        for start, stop in zip(starts, [*starts[1:], count], strict=True):
            rows = order[start:stop]
            outputs = model(arrays.train_x[rows])
            per_clip = (outputs - arrays.train_y[rows]).square().mean(dim=1)
            loss = per_clip.sum() * (1 / len(rows)) + model.penalty()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            batches = zip(arrays.val_x.split(VALIDATION_BATCH), arrays.val_y.split(VALIDATION_BATCH), strict=True)
            validation = torch.cat([(model(x) - y).square().mean(dim=1) for x, y in batches])
        losses.append(float(validation.numpy().astype(np.float64).mean()))
    return losses


_arrays: Arrays | None = None


def _start(job: Job) -> None:
    """Read the shards once in a process of the pool, for all its trials."""
    global _arrays
    os.nice(max(0, NICENESS - os.nice(0)))
    torch.set_num_threads(1)
    inputs = {(config["features"]["num_frames"], config["features"]["segment"]) for config in job.configs}
    assert len(inputs) == 1, f"expected one length and one segment for all trials, got {inputs}"
    _arrays = normalised(ResidentData.read(job.prepared, job.split), *inputs.pop())


def _train(config: dict[str, Any]) -> tuple[float, float]:
    """Train one configuration in a process of the pool; its last validation loss, and the seconds."""
    assert _arrays is not None
    began = time.perf_counter()
    loss = train(parse_config(config), _arrays)[-1]
    return loss, time.perf_counter() - began


def run(job: Job) -> dict[str, Any]:
    """Train all configurations, in order.

    Returns:
        `losses` of each trial's last epoch, `trial_seconds`, and `seconds` from the start of the processes to the last
        result.
    """
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(job.processes, _start, (job,)) as pool:
        results = list(pool.imap(_train, job.configs, chunksize=1))
        seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "losses": [loss for loss, _ in results],
        "trial_seconds": [trial_seconds for _, trial_seconds in results],
    }


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as job_file:
        found = run(pickle.load(job_file))
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")
