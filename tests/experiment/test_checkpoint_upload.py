"""Trials that keep their checkpoints in an object store and go on elsewhere; pyarrow's local file system plays it."""

import json

import pytest
import torch

from tests.helpers.folds import folds_in_memory, plan_of
from tuning.datasets import storage
from tuning.experiment import checkpoint_upload
from tuning.experiment.checkpoint_claim import SupersededError
from tuning.experiment.checkpoint_upload import TrialUploads
from tuning.experiment.trial_spec import TrialSpec
from tuning.training.trainer import Trainer
from tuning.training.trial import train


class KilledError(Exception):
    pass


def spec_of(directory, bucket):
    config = plan_of().config.model_dump(mode="json")
    return TrialSpec(config, str(directory), 1, remote=f"file://{bucket}/checkpoints")


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.parametrize("call", [2, 4, 5, 9])
def test_a_cross_validation_goes_on_on_another_machine(tmp_path, monkeypatch, call):
    """Killed once an epoch is saved and not uploaded: in fold 1, at the begin of fold 2, within it, at the end."""
    folds, whole = folds_in_memory(), []
    train(spec_of(tmp_path / "whole", tmp_path / "other"), folds, whole.append)
    save, calls, rows = Trainer.save, [], []

    def killed(*arguments, **named):
        save(*arguments, **named)
        calls.append(1)
        if len(calls) == call:
            raise KilledError

    monkeypatch.setattr(Trainer, "save", killed)
    with pytest.raises(KilledError):
        train(spec_of(tmp_path / "here", tmp_path / "bucket"), folds, rows.append)
    assert without_seconds(rows) == without_seconds(whole[: (call - 1) // 3])
    torch.manual_seed(999)  # another process's random state
    again = []
    train(spec_of(tmp_path / "there", tmp_path / "bucket"), folds, again.append)
    assert without_seconds(again) == without_seconds(whole)
    assert len(calls) == 10  # one epoch was trained twice, the one that was not uploaded
    last = json.loads(storage.read_bytes(f"file://{tmp_path}/bucket/checkpoints", "rows.json"))
    assert without_seconds(last) == without_seconds(whole)


def test_weights_are_never_two_rows_ahead(tmp_path, monkeypatch, caplog):
    """However often uploads fail, and of whichever file."""
    place, write, failing = f"file://{tmp_path}/bucket", storage.write_bytes, set()

    def sometimes(location, name, content):
        if name in failing:
            raise OSError("out of reach")
        write(location, name, content)

    monkeypatch.setattr(checkpoint_upload.storage, "write_bytes", sometimes)
    kept = TrialUploads(tmp_path / "here", place)
    report = kept.begin(lambda row: None)
    faults = [set(), {"rows.json"}, {"rows.json"}, set(), {"last.pt"}, {"last.pt"}, {"rows.json"}, {"rows.json"}, set()]
    for epoch, fault in enumerate(faults, start=1):
        failing.clear()
        failing.update(fault)
        (kept.folder / "last.pt").write_text(str(epoch))
        report({"epoch": epoch})
        weights = int(storage.read_bytes(place, "last.pt"))
        rows = len(json.loads(storage.read_bytes(place, "rows.json")))
        assert weights <= rows + 1, (epoch, weights, rows)
    assert (weights, rows) == (9, 9) and "tried again after the next epoch: out of reach" in caplog.text


def test_a_trial_that_another_process_goes_on_with_uploads_nothing_more(tmp_path):
    place = f"file://{tmp_path}/bucket"
    orphan = TrialUploads(tmp_path / "here", place)
    report = orphan.begin(lambda row: None)
    (orphan.folder / "last.pt").write_text("1")
    report({"epoch": 1})
    TrialUploads(tmp_path / "there", place).begin(lambda row: None)
    (orphan.folder / "last.pt").write_text("2")
    with pytest.raises(SupersededError, match="another process has resumed this trial"):
        report({"epoch": 2})
    assert storage.read_bytes(place, "last.pt") == b"1"
