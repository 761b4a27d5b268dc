"""A search whose results and prepared features lie in a bucket of an S3-compatible server."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.helpers.command import ONE_AT_A_TIME, TINY
from tests.helpers.s3 import s3_server
from tests.helpers.waiting import PATIENCE, wait_until
from tuning.datasets import storage
from tuning.experiment.bucket_sync import mirror_root
from tuning.experiment.checkpoint_upload import TrialUploads
from tuning.experiment.directory import read_progress

EPOCHS = 20
STORAGE = "s3://emotion/searches"
SEARCH = (
    "data.prepared=s3://emotion/prepared",
    "search.num_trials=4",
    "name=far",
    *TINY[:-1],
    ONE_AT_A_TIME,  # so that a kill comes between two of them
    f"training.epochs={EPOCHS}",
    "training.patience=null",
)


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """Environment of a machine that knows the server and nothing else."""
    with s3_server(tmp_path / "server.log") as environment:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield os.environ | environment


def command(module, *arguments):
    return [sys.executable, "-m", module, *arguments]


def complete(s3, module, *arguments):
    done = subprocess.run(command(module, *arguments), env=s3, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows_in_bucket(trial):
    text = storage.read_bytes(f"{STORAGE}/far", f"trials/{trial:04d}/progress.csv").decode()
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.slow
def test_a_search_in_a_bucket_goes_on_elsewhere_after_a_kill(s3, tmp_path):
    arguments = (*SEARCH, f"storage={STORAGE}")
    driver = subprocess.Popen(
        command("tuning.run", *arguments), env=s3, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )

    def in_the_middle():
        files = storage.list_files(f"{STORAGE}/far")
        ended = [name for name in files if name.endswith("result.json")]
        begun = [name for name in files if name.endswith("last.pt")]
        return len(ended) >= 1 and len(begun) > len(ended)

    wait_until(in_the_middle, driver)
    driver.kill()
    driver.communicate()
    before = {name: storage.read_bytes(f"{STORAGE}/far", name) for name in storage.list_files(f"{STORAGE}/far")}
    ended = [name for name in before if name.endswith("result.json")]
    assert 1 <= len(ended) < 4
    shutil.rmtree(mirror_root(STORAGE))  # another machine

    output = complete(s3, "tuning.run", *arguments)
    # One more where the kill came between a trial's last row and its result, which the row is enough for.
    done = re.search(r"(\d) of them done before", output)
    assert len(ended) <= int(done[1]) < 4 and "nothing to prepare" in output
    assert "storage   s3://emotion/searches/far; mirrored in" in output
    after = {name: storage.read_bytes(f"{STORAGE}/far", name) for name in storage.list_files(f"{STORAGE}/far")}
    for name in ended:
        assert after[name] == before[name]
        progress = name.replace("result.json", "progress.csv")
        assert after[progress] == before[progress]
    board = list(csv.DictReader(io.StringIO(after["leaderboard.csv"].decode())))
    assert sorted(int(row["trial"]) for row in board) == [1, 2, 3, 4]
    assert all(row["status"] == "done" and row["epochs"] == str(EPOCHS) for row in board)
    for trial in range(1, 5):
        assert [int(row["epoch"]) for row in rows_in_bucket(trial)] == list(range(1, EPOCHS + 1))
    assert f"trials/{int(board[0]['trial']):04d}/checkpoints/best.pt" in after
    assert not any(name.startswith(".ray") for name in after)
    assert storage.list_files("s3://emotion/searches/.far.lease") == {}

    # The same on a disk, never interrupted: the same trials and, to the last bit, the same rows.
    complete(s3, "tuning.run", *SEARCH, f"storage={tmp_path}/near")
    for trial in range(1, 5):
        near = read_progress(tmp_path / "near" / "far" / "trials" / f"{trial:04d}")
        assert [row | {"seconds": ""} for row in near] == [row | {"seconds": ""} for row in rows_in_bucket(trial)]

    shutil.rmtree(mirror_root(STORAGE))
    output = complete(s3, "tuning", "finalize", f"{STORAGE}/far")
    assert "40 sealed clips" in output
    assert "best/model.safetensors" in storage.list_files(f"{STORAGE}/far")
    refused = subprocess.run(command("tuning", "finalize", f"{STORAGE}/far"), env=s3, capture_output=True, text=True)
    assert refused.returncode == 2 and "nobody has looked at" in refused.stderr


def test_a_trial_goes_on_from_the_bucket(s3, tmp_path):
    """Its checkpoints and rows come back, here over what the machine's disk has from another search."""
    place = "s3://emotion/searches/one/trials/0001/checkpoints"
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "last.pt").write_bytes(b"of another search")
    here, said = TrialUploads(tmp_path / "here", place), []

    def recorded(row):
        assert storage.read_bytes(place, "last.pt") == b"weights of %d" % row["epoch"]
        said.append(row)

    report = here.begin(recorded)
    assert not (tmp_path / "here" / "last.pt").exists()
    for epoch in (1, 2):
        (here.folder / "last.pt").write_bytes(b"weights of %d" % epoch)
        (here.folder / "best.pt").write_bytes(b"best")
        report({"epoch": epoch, "val_loss": 1 / epoch})
    assert set(storage.list_files(place)) == {".claim", "last.pt", "best.pt", "rows.json"}

    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "last.pt").write_bytes(b"of another search")
    there, again = TrialUploads(tmp_path / "there", place), []
    report = there.begin(again.append)
    assert (there.folder / "last.pt").read_bytes() == b"weights of 2"
    assert again == said == [{"epoch": 1, "val_loss": 1.0}, {"epoch": 2, "val_loss": 0.5}]
    report({"epoch": 2, "val_loss": 0.5})  # a training that was cut off says its last epoch again
    assert len(again) == 2
    report({"epoch": 3, "val_loss": 0.3})
    assert [row["epoch"] for row in json.loads(storage.read_bytes(place, "rows.json"))] == [1, 2, 3]

    second = TrialUploads(tmp_path / "there", place, rank=1)
    second.begin(again.append)
    (second.folder / "last.pt").write_bytes(b"nonsense")
    second.upload()
    assert storage.read_bytes(place, "last.pt") == b"weights of 2"
