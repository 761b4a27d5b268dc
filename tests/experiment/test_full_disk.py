"""A disk that fills up or becomes read-only in the middle of a search: real ones, in memory."""

import contextlib
import csv
import json
import os
import subprocess
import sys

import pytest
import ray
import torch

from tests.helpers.command import ONE_AT_A_TIME, TINY
from tests.search.test_tuner import ONE_AT_A_TIME as RESOURCES
from tests.search.test_tuner import begin
from tuning.evaluation.leaderboard import write_leaderboard
from tuning.experiment.directory import read_progress
from tuning.experiment.faults import QuietFile, StorageError, storage_fault, whole_or_absent
from tuning.run import main
from tuning.search.tuner import run_search
from tuning.training.trainer import write_checkpoint

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def mounted(*arguments):
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or not mounted("-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)):
        pytest.skip("needs root, to mount a small file system")
    yield place
    while subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False).returncode == 0:
        pass


def fill(place):
    with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(512))


def make_read_only(place):
    """A read-only view on top: the file system itself can't be remounted while a file is open for writing."""
    assert mounted("--bind", str(place), str(place)) and mounted("-o", "remount,bind,ro", str(place))


BREAK = {"full": fill, "read-only": make_read_only}
REPAIR = {
    "full": lambda place: (place / "filler").unlink(),
    "read-only": lambda place: subprocess.run(["umount", str(place)], check=True),
}
SAID = {"full": "No space left on device", "read-only": "Read-only file system"}


def saving(spec, data):
    """A formula that writes checkpoints, and breaks the disk at the end of an epoch of a trial."""
    from pathlib import Path

    from ray import tune

    last = Path(spec["directory"]) / "checkpoints" / "last.pt"
    epoch = torch.load(last)["epoch"] if last.exists() else 0
    if epoch:
        tune.report(row_of(epoch))
    while epoch < 4:
        epoch += 1
        at, before, place, how = data["break"]
        marker = Path(place).parent / "broken"
        breaks = (spec["number"], epoch) == tuple(at) and not marker.exists()
        if breaks and before:
            marker.touch()
            BREAK[how](Path(place))
        write_checkpoint(last, {"epoch": epoch, "weights": torch.zeros(1000)})
        if breaks and not before:
            marker.touch()
            BREAK[how](Path(place))
        tune.report(row_of(epoch))


def row_of(epoch):
    row = {"epoch": epoch, "train_loss": 1.0, "val_loss": 1 / epoch, "seconds": 0.1, "note": "x" * 600}
    return row | {"val_loss_best": 1 / epoch, "best_epoch": epoch, "finished": "all epochs" if epoch == 4 else ""}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "how"),
    [(False, "full"), (True, "read-only")],
    ids=["row-full", "checkpoint-read-only"],
)
def test_a_search_stops_and_goes_on_when_there_is_room_again(ray_session, disk, how, before, capfd):
    """The trial's checkpoint is the first that the disk refuses, or the driver's row of an epoch."""
    arguments = ("search.num_trials=3", "training.epochs=4")
    plan, folder = begin(disk, *arguments)
    data = {"break": ((2, 3), before, str(disk), how)}
    with pytest.raises(StorageError, match=SAID[how]) as raised:
        run_search(folder, plan, data, RESOURCES, saving)
    assert str(folder.path) in str(raised.value)
    assert "Traceback" not in "".join(capfd.readouterr())
    kept = (folder.trial(1) / "result.json").read_bytes()
    assert json.loads(kept)["status"] == "done"
    assert torch.load(folder.trial(2) / "checkpoints" / "last.pt")["epoch"] == (2 if before else 3), "the earlier one"
    REPAIR[how](disk)
    plan, folder = begin(disk, *arguments)
    assert run_search(folder, plan, data, RESOURCES, saving) == ""
    records = write_leaderboard(folder, "val_loss", "min", {"val_loss": 1.0})
    assert {record.number: record.status for record in records} == {1: "done", 2: "done", 3: "done"}
    assert (folder.trial(1) / "result.json").read_bytes() == kept
    for number in (1, 2, 3):
        assert [int(row["epoch"]) for row in read_progress(folder.trial(number))] == [1, 2, 3, 4]


def test_a_full_disk_leaves_the_earlier_file_and_nothing_of_the_new_one(disk):
    file = disk / "last.pt"
    write_checkpoint(file, {"epoch": 1})
    fill(disk)
    for write in (
        lambda: write_checkpoint(file, {"epoch": 2, "weights": torch.zeros(100_000)}),
        lambda: _write(file, bytes(100_000)),
    ):
        with pytest.raises(OSError, match="No space left on device") as raised:
            write()
        assert raised.value.filename == str(file)
        assert {path.name for path in disk.iterdir()} == {"last.pt", "filler"}
    assert torch.load(file) == {"epoch": 1}


def _write(file, content):
    with whole_or_absent(file) as partial:
        partial.write_bytes(content)


def test_a_log_on_a_full_disk_is_quiet(disk):
    stream = QuietFile((disk / "log").open("w"))
    fill(disk)
    assert stream.write("x" * 100_000) == 100_000
    stream.flush()
    stream.close()


def test_storage_is_found_behind_other_errors():
    error = RuntimeError("unexpected pos 576 vs 534")
    error.__cause__ = OSError(28, "No space left on device", "/a/b")
    assert storage_fault(error) == "/a/b: No space left on device"
    assert storage_fault(RuntimeError("OSError: [Errno 30] Read-only file system: 'x'")) == "Read-only file system"
    assert storage_fault(OSError(2, "No such file or directory", "x")) == ""
    assert storage_fault(ValueError("[Errno 2] x")) == ""


@pytest.mark.slow
def test_the_command_says_so_in_two_lines_and_goes_on(ray_session, disk, prepared, capsys):
    arguments = (f"storage={disk}", f"data.prepared={prepared}", "search.num_trials=3", *TINY, ONE_AT_A_TIME)
    command = [*arguments, "model.dense_units=[256, 256]"]
    (disk / "filler").write_bytes(bytes(2_000_000))
    code, said = main(command), capsys.readouterr()
    lines = said.err.strip().splitlines()
    assert code == 1 and len(lines) == 2, said.err
    assert lines[0].startswith("error: ") and "No space left on device" in lines[0] and str(disk) in lines[0]
    assert lines[1].startswith("once it can be written there again, resume with: python -m tuning.run ")
    assert "Traceback" not in said.out
    (disk / "filler").unlink()
    mounted("-o", "remount,size=30m", str(disk))
    assert main(command) == 0, capsys.readouterr().err
    rows = list(csv.DictReader((disk / "crnn" / "leaderboard.csv").open()))
    assert [row["status"] for row in rows] == ["done"] * 3
