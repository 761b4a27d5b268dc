"""Which failures end a trial, and which it survives: workers that die, memory that is short, actors that die idle."""

import os
import signal
import sys
import threading
import time

import pytest
import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError

from tests.search.test_tuner import begin, study_of
from tuning.evaluation.leaderboard import write_leaderboard
from tuning.experiment.directory import read_progress
from tuning.experiment.faults import whole_or_absent
from tuning.search.fault_tolerance import Failures
from tuning.search.resources import Resources
from tuning.search.tuner import run_search

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

EPOCHS = 6


def counting(spec, data):
    """A trial that keeps its last epoch in its folder, as a training does, and fails in the way that `data` says."""
    from pathlib import Path

    from ray import tune

    folder = Path(spec["directory"]) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starts").open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    starts = len((folder / "starts").read_text().splitlines())
    last = folder / "last"
    epoch = int(last.read_text()) if last.exists() else 0
    fault = data.get(spec["number"], {})
    while True:
        if epoch:
            row = {"epoch": epoch, "train_loss": 1.0, "val_loss": 1 / epoch, "val_rmse": 1.0, "seconds": 0.1}
            finished = "all epochs" if epoch == EPOCHS else ""
            tune.report(row | {"val_loss_best": 1 / epoch, "best_epoch": epoch, "finished": finished})
        if epoch == EPOCHS:
            if fault.get("after"):  # dies while it waits for its next trial, or is made ready for it
                threading.Timer(fault["after"], os._exit, [1]).start()
            return
        if epoch == fault.get("epoch") and starts <= fault["times"]:
            fail(fault["how"])
        epoch += 1
        with (folder / "trained").open("a") as stream:
            stream.write(f"{epoch}\n")
        with whole_or_absent(last) as partial:  # as a checkpoint: the process may be killed while it writes
            partial.write_text(str(epoch))


def fail(how):
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # until the signal comes
    import torch  # here, since the trials that need none begin sooner without it

    raise {
        "nan": FloatingPointError("train_loss is nan in epoch 3"),
        "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried"),
    }[how]


def search(tmp_path, faults, *arguments, concurrent=1):
    plan, folder = begin(tmp_path, f"training.epochs={EPOCHS}", f"search.max_concurrent={concurrent}", *arguments)
    resources = Resources(cpus=1, gpus_per_worker=0.0, workers=1, concurrent=concurrent)
    reason = run_search(folder, plan, faults, resources, counting)
    assert reason == ""
    return folder, {record.number: record for record in write_leaderboard(folder, "val_loss", "min", {"val_loss": 1})}


def trained(folder, number):
    return [int(line) for line in (folder.trial(number) / "checkpoints" / "trained").read_text().split()]


@pytest.mark.parametrize("scheduler", [pytest.param("none", marks=pytest.mark.slow), "asha"])
def test_a_killed_worker_s_trial_goes_on_from_its_checkpoint(ray_session, tmp_path, capsys, scheduler):
    faults = {2: {"how": "killed", "epoch": 3, "times": 2}}
    folder, records = search(tmp_path, faults, "search.num_trials=3", f"search.scheduler={scheduler}", concurrent=2)
    assert records[2].status == "done" and records[2].epochs == EPOCHS
    assert [int(row["epoch"]) for row in read_progress(folder.trial(2))] == list(range(1, EPOCHS + 1))
    assert trained(folder, 2) == list(range(1, EPOCHS + 1)), "no epoch is trained again"
    assert not (folder.trial(2) / "error.txt").exists()
    assert study_of(folder).trials[1].state.name == "COMPLETE"
    assert capsys.readouterr().out.count("trial 2 resumes from its last checkpoint: its worker died") == 2


@pytest.mark.slow
def test_a_worker_that_is_killed_again_and_again_is_given_up(ray_session, tmp_path):
    faults = {1: {"how": "killed", "epoch": 2, "times": 99}}
    folder, records = search(tmp_path, faults, "search.num_trials=2", "resources.max_restarts=1")
    assert records[1].status == "failed" and records[2].status == "done"
    assert records[1].reason == "its worker died (killed, perhaps for lack of memory) after 1 restart"
    assert (folder.trial(1) / "error.txt").exists()
    assert len((folder.trial(1) / "checkpoints" / "starts").read_text().splitlines()) == 2


def test_failures_of_their_own_end_trials_at_once_and_not_the_search(ray_session, tmp_path):
    faults = {2: {"how": "nan", "epoch": 2, "times": 99}, 3: {"how": "cuda", "epoch": 2, "times": 99}}
    folder, records = search(tmp_path, faults, "search.num_trials=4")
    assert [records[number].status for number in (1, 2, 3, 4)] == ["done", "failed", "failed", "done"]
    assert list(records)[2:] == [2, 3], "they rank last"
    assert records[2].reason == "FloatingPointError: train_loss is nan in epoch 3"
    assert records[3].reason == "out of memory: CUDA out of memory. Tried"
    assert "in counting" in (folder.trial(2) / "error.txt").read_text()
    for number in (2, 3):
        assert records[number].epochs == 2
        assert len((folder.trial(number) / "checkpoints" / "starts").read_text().splitlines()) == 1
    states = [trial.state.name for trial in study_of(folder).trials]
    assert states == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.05])
def test_an_actor_that_dies_between_two_trials_costs_no_trial(ray_session, tmp_path, seconds):
    faults = {1: {"after": seconds}, 2: {"after": seconds}}
    folder, records = search(tmp_path, faults, "search.num_trials=5")
    assert {record.status for record in records.values()} == {"done"}
    for number in records:
        epochs = trained(folder, number)
        assert [int(row["epoch"]) for row in read_progress(folder.trial(number))] == list(range(1, EPOCHS + 1))
        assert sorted(set(epochs)) == list(range(1, EPOCHS + 1))
        # An actor may die a moment later, too, in the first epoch of the next trial: that epoch alone is repeated.
        assert len(epochs) <= EPOCHS + (number in (2, 3))


class FakeTrial:
    def __init__(self, share):
        self.config = {"number": 7, "gpus_per_worker": share}
        self.why_failed = ""


def judge(error, share=0.0, max_restarts=1, workers=1):
    stopped, said = [], []
    failures = Failures(Resources(2, share, workers, 4), max_restarts, stopped.append, said.append)
    trial = FakeTrial(share)
    decisions = []
    while len(decisions) < 6:
        decisions.append(failures.retries(trial, error))
        if not decisions[-1]:
            break
    return decisions, trial, stopped


def test_short_memory_on_a_share_of_a_gpu_leads_to_a_larger_one_up_to_the_whole():
    import torch

    decisions, trial, _ = judge(torch.OutOfMemoryError("CUDA out of memory"), share=0.3)
    assert decisions == [True, True, False]
    assert trial.config["gpus_per_worker"] == 1.0
    assert trial.placement_group_factory.required_resources == {"CPU": 2.0, "GPU": 1.0}
    assert trial.config["note"] == "out of memory on 0.6 of a GPU, resumed with 1"
    assert trial.why_failed.startswith("out of memory: ")


@pytest.mark.parametrize(
    ("error", "times", "why"),
    [
        (OutOfMemoryError("1 worker(s) were killed due to the node running low on memory."), 1, "out of memory: Ray"),
        (NodeDiedError("The node died"), 1, "its node died"),
        (RayActorError(error_msg="The actor died because its node has died."), 1, "its node died"),
        (RayActorError(actor_init_failed=True), 0, ""),
        (ValueError("of the trial"), 0, ""),
        (OSError(2, "No such file"), 0, ""),
    ],
)
def test_only_losses_of_machines_are_retried(error, times, why):
    decisions, trial, stopped = judge(error)
    assert decisions == [True] * times + [False] and not stopped
    assert trial.why_failed.startswith(why) and (bool(trial.why_failed) == bool(why))
    if times:
        assert trial.why_failed.endswith("after 1 restart")


def test_preempted_nodes_do_not_count():
    decisions, _, _ = judge(RayActorError(error_msg="its node has died", preempted=True))
    assert decisions == [True] * 6


def test_a_full_disk_stops_the_search_and_fails_no_trial():
    decisions, trial, stopped = judge(OSError(28, "No space left on device", "/results/last.pt"))
    assert all(decisions) and not trial.why_failed
    assert set(stopped) == {"/results/last.pt: No space left on device"}
