"""A search seen from outside: what is shown of one that runs, ended or was cut off; looking leaves no trace."""

import io
import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from tests.helpers.waiting import PATIENCE, wait_until
from tuning.cli import status
from tuning.data.plan import make_plan
from tuning.experiment import bucket_sync, locking
from tuning.experiment.bucket_sync import open_folder
from tuning.experiment.directory import SIGN_SECONDS, SearchFolder, TrialRecord, write_json, write_text
from tuning.search.callbacks.progress_table import Standing, draw
from tuning.search.status import StatusReader

HOLD = """
import sys, time
from tuning.experiment.directory import SearchFolder
with SearchFolder(sys.argv[1], "s"):
    print("held", flush=True)
    time.sleep(600)
"""
ARGUMENTS = ("space=crnn", "name=s", "search.num_trials=4", "model.conv_filters=[8, 8]", "training.epochs=8")


def write_trial(folder, number, losses, ended=True, status="done"):
    write_json(folder.trial(number) / "params.json", {"searched": {"optim.learning_rate": 0.01}, "config": {}})
    best = losses.index(min(losses)) + 1 if losses else None
    rows = ["epoch,seconds,best_epoch,val_loss,finished"]
    for epoch, loss in enumerate(losses, start=1):
        rows.append(f"{epoch},2.0,{losses.index(min(losses[:epoch])) + 1},{loss},")
    write_text(folder.trial(number) / "progress.csv", "\n".join(rows) + "\n")
    if ended:
        metrics = {"val_loss": min(losses)} if losses else {}
        record = TrialRecord(number, {}, status, "all epochs", best, len(losses), 2.0 * len(losses), metrics)
        write_json(folder.trial(number) / "result.json", record.written())


def write_search(folder, num_ended=2):
    plan = make_plan([*ARGUMENTS, f"storage={folder.storage}"])
    folder.create(plan.space, plan.overrides, {"corpus": "none", "num_clips": 0})
    folder.begin_run(4, 0, "1 CPU per trial, 2 at once")
    for number in range(1, num_ended + 1):
        write_trial(folder, number, [0.9, 0.5 / number, 0.8])
    if num_ended < 4:
        write_trial(folder, num_ended + 1, [0.7], ended=False)
    return plan


@pytest.fixture
def folder(tmp_path):
    return SearchFolder(tmp_path, "s")


@contextmanager
def held(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder.storage)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def shown(capsys, place, *options, code=0):
    assert status.main([str(place), *options]) == code
    found = capsys.readouterr()
    return found.err if code else found.out


def content(root):
    return {str(f): (f.stat().st_mtime_ns, f.stat().st_size) for f in sorted(Path(root).rglob("*")) if f.is_file()}


def test_a_search_that_another_process_runs(folder, capsys):
    write_search(folder)
    with held(folder) as process:
        before = {name: stamp for name, stamp in content(folder.storage).items() if not name.endswith(".holder")}
        output = shown(capsys, folder.path)
        after = {name: stamp for name, stamp in content(folder.storage).items() if not name.endswith(".holder")}
    assert before == after
    assert "2/4 trials  1 running  0 failed" in output
    assert "best val_loss 0.2500  trial 2, in epoch 2" in output and "learning_rate=0.01" in output
    assert "trial    3  epoch 1/8  val_loss 0.7000" in output
    assert "1 CPU per trial, 2 at once" in output
    assert "trials a minute" in output or "trials an hour" in output
    assert f"process {process.pid} on {socket.gethostname()} works on it" in output


def test_a_searched_number_of_epochs_is_each_trials_own(folder, capsys):
    epochs = "training.epochs={choice: [2, 70]}"
    plan = make_plan([*ARGUMENTS[:-1], epochs, f"storage={folder.storage}"])
    folder.create(plan.space, plan.overrides, {"corpus": "none", "num_clips": 0})
    folder.begin_run(4, 0, "1 CPU per trial, 2 at once")
    for number, params in enumerate(({"training.epochs": 2}, {"training.epochs": 70}, {}), start=1):
        write_trial(folder, number, [0.7], ended=False)
        write_json(folder.trial(number) / "params.json", {"searched": params, "config": {}})
    output = shown(capsys, folder.path)
    for line in ("trial    1  epoch 1/2", "trial    2  epoch 1/70", "trial    3  epoch 1/70"):
        assert line in output


def test_a_search_that_was_killed_says_how_to_go_on(folder, capsys):
    plan = write_search(folder)
    with held(folder):
        pass  # killed on leaving
    assert folder.holder.exists()
    output = shown(capsys, folder.path)
    assert "2/4 trials  1 cut off  0 failed" in output and "elapsed" not in output
    command = shlex.split(output[output.index("python -m tuning.run") :].strip())
    again = make_plan(command[3:])
    assert again.name == "s" and again.run.storage == str(folder.storage)
    folder.check_identity(again.space, {"corpus": "none", "num_clips": 0})
    assert again.total == plan.total


def test_a_search_that_ended(folder, capsys):
    write_search(folder, num_ended=4)
    output = shown(capsys, folder.path)
    assert "4/4 trials  0 failed" in output and "ended: all 4 trials" in output and "go on" not in output


def test_before_the_first_trial_it_says_who_prepares(folder, capsys):
    with held(folder) as process:
        assert f"no trial yet: process {process.pid} on" in shown(capsys, folder.path)


def test_another_machine_is_judged_by_its_signs_of_life(folder, capsys):
    write_search(folder)
    folder.holder.write_text("process 7 on elsewhere")
    assert "process 7 on elsewhere works on it" in shown(capsys, folder.path)
    long_ago = time.time() - 10 * SIGN_SECONDS
    os.utime(folder.holder, (long_ago, long_ago))
    assert "cut off: nobody works on it" in shown(capsys, folder.path)
    with folder:
        wait_until(lambda: time.time() - folder.holder.stat().st_mtime < SIGN_SECONDS)  # the thread has written
        assert "works on it" in shown(capsys, folder.path)


def test_a_bucket_is_read_without_the_lease(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(locking, "RENEWAL_SECONDS", 0.2)
    monkeypatch.setattr(bucket_sync, "INTERVAL_SECONDS", 0.05)
    bucket = f"file://{tmp_path}/bucket"
    with open_folder(bucket, "s") as folder:
        write_search(folder)
        folder.flush()
        output = shown(capsys, f"{bucket}/s")
        assert "2/4 trials  1 running" in output and "works on it" in output
        leases = content(tmp_path / "bucket" / ".s.lease")
        assert sum(name.endswith(".held") for name in leases) == 1  # the driver's own
    before = content(tmp_path / "bucket")
    assert "cut off: nobody works on it" in shown(capsys, f"{bucket}/s")
    assert content(tmp_path / "bucket") == before
    assert "this machine's mirror" in shown(capsys, folder.path, code=2)


def test_a_terminal_is_refreshed_in_place_until_the_search_ends(folder):
    write_search(folder)
    terminal, inside = pty.openpty()
    command = [sys.executable, "-m", "tuning", "status", str(folder.path), "watch=0.2"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    with held(folder):
        process = subprocess.Popen(command, stdout=inside, stderr=inside, env=environment)
        os.close(inside)
        output = b""

        def drawn_thrice():
            nonlocal output
            output += os.read(terminal, 4096)
            return output.count(b"2/4 trials") >= 3

        wait_until(drawn_thrice, process)
        for number in (3, 4):
            write_trial(folder, number, [0.4])
    while b"ended: all" not in output:
        output += os.read(terminal, 4096)
    assert process.wait(PATIENCE) == 0
    os.close(terminal)
    assert b"\x1b[1A" in output  # each picture is drawn over the last


def test_ctrl_c_is_how_one_stops_looking(folder):
    write_search(folder)
    terminal, inside = pty.openpty()
    with held(folder):
        process = subprocess.Popen(
            [sys.executable, "-m", "tuning", "status", str(folder.path), "watch=5"],
            stdout=inside,
            stderr=inside,
            # Where tests run in the background, a shell has told them to ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(inside)
        output = b""
        while b"works on it" not in output:
            output += os.read(terminal, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    os.close(terminal)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 12)])
def test_many_trials_fit_on_one_screen(width, height):
    params = {f"model.setting_{number}": 0.123456 for number in range(20)}
    records = {number: TrialRecord(number, params) for number in range(1, 200)}
    records |= {number: TrialRecord(number, params, "failed", "x" * 300) for number in range(200, 230)}
    records[300] = TrialRecord(300, params, "done", "", 3, 5, 1.0, {"val_loss": 0.1})
    standing = Standing("s", 1000, "val_loss", "min", 50, "1 CPU per trial", records, 0, 60.0, "a note" * 50)
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(draw(standing, console.height))
    lines = console.file.getvalue().splitlines()
    assert height - 2 <= len(lines) < height and max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert " more" in text and "trial  229  failed" in text and "a note" in text and "best val_loss 0.1000" in text


def test_settings_that_share_a_name_are_told_apart():
    params = {"model.name": "crnn", "optim.name": "adam", "optim.learning_rate": 0.001}
    record = TrialRecord(1, params, "done", "", 3, 5, 1.0, {"val_loss": 0.1})
    console = Console(width=120, file=io.StringIO(), color_system=None)
    console.print(draw(Standing("s", 2, "val_loss", "min", 5, "", {1: record})))
    assert "model.name=crnn  optim.name=adam  learning_rate=0.001" in console.file.getvalue()


def test_no_ray_and_no_torch(folder):
    write_search(folder)
    code = "import sys, tuning.cli.status as m; m.main(sys.argv[1:]); print({'ray', 'torch'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True, check=True)
    assert found.stdout.endswith("set()\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one folder of a search"),
        (["{tmp}/nothing"], "expected the folder of a search"),
        (["{tmp}/s", "watch=0"], "watch: expected seconds"),
        (["{tmp}/s", "wach=3"], "did you mean 'watch'"),
        (["{tmp}/s", "--watch"], "watch: expected a value, got none"),
        (["nosuch://bucket/s"], "nosuch://bucket/s: expected a search that can be read"),
    ],
)
def test_what_is_refused(tmp_path, capsys, arguments, message):
    assert status.main([argument.format(tmp=tmp_path) for argument in arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_command_that_resumes_leaves_out_what_no_trial_reads(tmp_path):
    folder = SearchFolder(tmp_path, "older")
    write_search(folder)
    # As an earlier version took it.
    write_text(folder.path / "overrides.yaml", "space: crnn\nloss.delta: 2.0\noptim.learning_rate: 0.01\n")
    command = StatusReader(str(folder.path)).command()
    assert "loss.delta" not in command and "optim.learning_rate=0.01" in command
