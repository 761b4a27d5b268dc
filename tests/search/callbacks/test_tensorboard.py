"""What TensorBoard itself shows of a search, while it runs and after it, asked through its own API."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.helpers.command import TINY, start
from tests.helpers.waiting import PATIENCE, wait_until

STATUSES = [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]


class Board:
    """TensorBoard's server over a folder."""

    def __init__(self, logdir):
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", "0"]
        command += ["--reload_interval", "1", "--load_fast", "false"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in self.process.stdout:
            if found := re.search(r"http://localhost:(\d+)/", line):
                self.address = f"http://localhost:{found.group(1)}"
                break

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/data/plugin/{path}", data=data)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def scalars(self, tag):
        """Runs that have the tag, each with its (step, value)."""
        found = {}
        for run, tags in self.ask("scalars/tags").items():
            if tag in tags:
                points = self.ask(f"scalars/scalars?tag={tag.replace('/', '%2F')}&run={run.replace('/', '%2F')}")
                found[run] = [(step, value) for _, step, value in points]
        return found

    def sessions(self):
        """Rows of the HParams table: name, hyperparameters, best metrics."""
        try:
            tags = self.ask("hparams/experiment", {"experimentName": ""})["metricInfos"]
        except (urllib.error.HTTPError, KeyError):
            return {}
        columns = [{"metric": info["name"]} for info in tags]
        answer = self.ask(
            "hparams/session_groups",
            {
                "experimentName": "",
                "allowedStatuses": STATUSES,
                "colParams": columns,
                "startIndex": 0,
                "sliceSize": 100,
            },
        )
        groups = [group["sessions"][0] | {"hparams": group["hparams"]} for group in answer.get("sessionGroups", [])]
        return {
            group["name"]: (
                group["hparams"],
                {value["name"]["tag"]: value["value"] for value in group.get("metricValues", [])},
            )
            for group in groups
        }


@pytest.fixture
def board(tmp_path):
    folder = tmp_path / "crnn"
    folder.mkdir()
    server = Board(folder)
    yield server
    server.process.terminate()
    server.process.wait()


@pytest.mark.slow
def test_curves_and_hyperparameters_of_every_trial(tmp_path, board):
    arguments = (f"storage={tmp_path}", f"data.prepared={tmp_path}/prepared", *TINY[:-1], "training.epochs=120")
    process = start(*arguments, "search.num_trials=3", "training.patience=null")
    trials = tmp_path / "crnn" / "trials"

    def one_runs():
        begun = (trials / "0001" / "progress.csv").exists()
        return begun and len(board.scalars("val/loss").get("trials/0001", [])) >= 2 and len(board.sessions()) >= 1

    wait_until(one_runs, process)
    live = board.sessions()
    assert not (trials / "0003" / "result.json").exists(), "the search was over before TensorBoard was asked"
    assert "model.lstm_dropout" in live["trials/0001"][0] and "best/val_loss" in live["trials/0001"][1]

    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output + errors
    server = Board(tmp_path / "crnn")

    def all_is_read():
        points = server.scalars("val/loss").values()
        return len(points) == len(server.sessions()) == 3 and all(len(curve) == 120 for curve in points)

    try:
        wait_until(all_is_read, server.process)  # it answers before it has read every run
        curves, sessions = server.scalars("val/loss"), server.sessions()
    finally:
        server.process.terminate()
        server.process.wait()
    assert set(curves) == set(sessions) == {"trials/0001", "trials/0002", "trials/0003"}
    for name, (hparams, metrics) in sessions.items():
        result = json.loads((tmp_path / "crnn" / name / "result.json").read_text())
        searched = json.loads((tmp_path / "crnn" / name / "params.json").read_text())["searched"]
        assert hparams == pytest.approx(searched)
        assert [step for step, _ in curves[name]] == list(range(1, 121))
        assert min(value for _, value in curves[name]) == pytest.approx(result["metrics"]["val_loss"])
        assert metrics["best/val_loss"] == pytest.approx(result["metrics"]["val_loss"])
        assert metrics["best/val_r2"] == pytest.approx(result["metrics"]["val_r2"])
