"""A trial on two workers: what it computes is what one worker computes, and it leaves nothing when it is stopped.

SyncBatchNorm raises on CPU and batch-norm's statistics are a worker's own, so models are compared without batch-norm.
"""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from tests.helpers.waiting import PATIENCE
from tests.training.test_trainer import Clips, config_of, rows_of, without_seconds
from tuning.models.crnn import CRNN
from tuning.models.crnn_settings import CRNNSettings
from tuning.models.ser import SER
from tuning.models.ser_settings import SERSettings
from tuning.search.trainable import worker_error
from tuning.training.tasks import task_of
from tuning.training.trainer import Trainer

MODELS = {
    "crnn": lambda: CRNN(
        CRNNSettings(
            conv_filters=[4], lstm_units=[4], dense_units=[4], batch_norm=False, conv_dropout=[0.0], lstm_dropout=0.0,
            recurrent_dropout=0.0, dense_dropout=0.0, dense_l2=0.1,
        ), 4, 2,
    ),
    "ser": lambda: SER(
        SERSettings(conv_channels=[4], lstm_hidden=4, attention_heads=2, batch_norm=False, dropout=0.0), 4, 2
    ),
}  # fmt: skip


def training(name, rank=0, world_size=1, folder=None):
    torch.manual_seed(0)
    config = config_of(training__epochs=4, training__patience=None, optim__clip_norm=0.5)
    run = Trainer(
        MODELS[name](), Clips(), task_of(config), config, "min", rank=rank, world_size=world_size, checkpoints=folder
    )
    return run


class Dropped(torch.nn.Module):
    """A model that keeps which inputs its dropout took away, by batch."""

    def __init__(self):
        super().__init__()
        self.dropout, self.output, self.masks = torch.nn.Dropout(0.5), torch.nn.Linear(4, 2), []

    def forward(self, features):
        kept = self.dropout(features)
        if self.training:
            self.masks.append(kept == 0)  # no feature is 0 by itself
        return self.output(kept.mean(dim=1))

    def penalty(self):
        return 0.0


def dropping(rank=0, world_size=1, folder=None):
    """Batches of 4 clips, so that both workers have 2 of each."""
    torch.manual_seed(0)
    config = config_of(training__epochs=4, training__patience=None, training__batch_size=4)
    return Trainer(
        Dropped(), Clips(), task_of(config), config, "min", rank=rank, world_size=world_size, checkpoints=folder
    )


class CutOffError(Exception):
    """The workers were lost."""


def worker(rank, folder):
    """Every model on two workers: first gradients, all rows, final weights; then again, lost after the second epoch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name in MODELS:
        run = training(name, rank, 2)
        run.forward.train()
        run._gradients(run.parts.of(next(iter(run.data.train_batches(1, 5, 42, rank, 2)))))
        gradients = [parameter.grad.clone() for parameter in run.model.parameters()]
        run = training(name, rank, 2)
        found = {"rows": rows_of(run), "gradients": gradients, "weights": run.model.state_dict()}

        def cut(row):
            if row["epoch"] == 2:
                raise CutOffError

        try:
            training(name, rank, 2, Path(folder) / name).fit(cut)
        except CutOffError:
            found["rest"] = rows_of(training(name, rank, 2, Path(folder) / name))
        torch.save(found, f"{folder}/{name}-{rank}.pt")
    found = {}
    for cut_after in (None, 2):
        kept = Path(folder) / "dropped" if cut_after else None
        run = dropping(rank, 2, kept)
        run.resume()
        while not run.finished and run.epoch != cut_after:
            run.one_epoch()
        if cut_after:
            run = dropping(rank, 2, kept)
            rows_of(run)
        found[cut_after] = {"masks": run.model.masks, "weights": run.model.state_dict()}
    torch.save(found, f"{folder}/dropped-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group")
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("name", list(MODELS))
def test_two_workers_compute_what_one_computes(group, name):
    """12 clips in batches of 5 are shares of 3 and 2, 3 and 2, 1 and 1: uneven ones count by their clips."""
    run = training(name)
    run.forward.train()
    run._gradients(run.parts.of(next(iter(run.data.train_batches(1, 5, 42)))))
    expected = [parameter.grad.clone() for parameter in run.model.parameters()]
    run = training(name)
    rows = rows_of(run)
    found = [torch.load(group / f"{name}-{rank}.pt", weights_only=False) for rank in (0, 1)]
    for rank in (0, 1):
        for one, two in zip(expected, found[rank]["gradients"], strict=True):
            torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-7)
        for weight, value in run.model.state_dict().items():
            torch.testing.assert_close(found[rank]["weights"][weight], value, rtol=1e-3, atol=1e-5)
        for row, other in zip(rows, found[rank]["rows"], strict=True):
            for metric in ("train_loss", "val_loss", "val_rmse", "penalty"):
                assert math.isclose(row[metric], other[metric], rel_tol=1e-4), metric
    assert without_seconds(found[0]["rows"]) == without_seconds(found[1]["rows"])


@pytest.mark.parametrize("name", list(MODELS))
def test_two_workers_go_on_from_their_last_checkpoint(group, name):
    for rank in (0, 1):
        found = torch.load(group / f"{name}-{rank}.pt", weights_only=False)
        assert without_seconds(found["rest"])[-2:] == without_seconds(found["rows"])[-2:]


def test_workers_draw_different_dropout_and_the_same_again_after_resuming(group):
    """Three batches an epoch, four epochs; the second time cut off after two."""
    zero, one = (torch.load(group / f"dropped-{rank}.pt", weights_only=False) for rank in (0, 1))
    masks = [*zero[None]["masks"], *one[None]["masks"]]
    assert len(masks) == 24 and {mask.shape for mask in masks} == {(2, 8, 4)}
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(masks, 2))
    for found in (zero, one):
        assert len(found[2]["masks"]) == 6
        assert all(torch.equal(a, b) for a, b in zip(found[None]["masks"][6:], found[2]["masks"], strict=True))
    for name, value in zero[None]["weights"].items():
        assert torch.equal(value, one[None]["weights"][name]) and torch.equal(value, one[2]["weights"][name])


def test_of_several_workers_errors_the_one_that_tells_most_is_passed_on():
    from ray.exceptions import RayActorError
    from ray.train.v2.api.exceptions import WorkerGroupError

    echo = RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4242")
    for own in (
        FloatingPointError("train_loss is nan"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RayActorError(error_msg="its node has died"),
        OSError(28, "No space left on device"),
    ):
        assert worker_error(WorkerGroupError("text", {0: echo, 1: own})) is own
    assert worker_error(WorkerGroupError("text", {0: echo})) is echo


@pytest.mark.slow
def test_a_search_with_groups_stops_trials_survives_a_lost_worker_and_leaves_no_group(tmp_path):
    script = Path(__file__).with_name("group_search.py")
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=script.parents[2], timeout=PATIENCE)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))
    assert found["killed"] == 1 and "resumes from its last checkpoint: its worker died" in done.stdout
    # One at a time: what follows a stopped trial trains on the CPUs that its group gave back.
    assert list(found["status"].values()) == ["done", "stopped", "done", "done"]
    for number, epochs in found["epochs"].items():
        assert epochs == list(range(1, len(epochs) + 1)) and (len(epochs) == 6) == (found["status"][number] == "done")
    assert found["groups"] == [] and found["cpus"] == 2.0
