"""A search in MLflow: read back by MLflow's own client, the figures are those of progress.csv, each of them once."""

import csv
import importlib.util
import json

import pytest

from tests.cli.test_status import ARGUMENTS, write_search, write_trial
from tests.helpers.waiting import wait_until
from tuning.config.errors import UserError
from tuning.data.plan import make_plan
from tuning.experiment.directory import SearchFolder, read_progress
from tuning.search.callbacks.mlflow import NO_METRICS, Tracking

mlflow = pytest.importorskip("mlflow", reason="pip install -e '.[dev]'")


@pytest.fixture
def uri(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def folder(tmp_path):
    return SearchFolder(tmp_path, "s")


def look(uri, folder, closing=False):
    """What one run of the search logs."""
    notes = []
    Tracking(uri, folder, notes.append).bring_up_to_date(closing)
    assert notes == []


def runs_of(uri):
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("s")
    return client, {int(run.data.tags["trial"]): run for run in client.search_runs([experiment.experiment_id])}


def check_figures(client, run, trial):
    """Every cell of progress.csv is there at its epoch, and nothing else."""
    rows = read_progress(trial)
    wanted = {
        name: [(int(row["epoch"]), float(row[name])) for row in rows if row[name]]
        for name in rows[0]
        if name not in NO_METRICS
    }
    assert run.data.metrics.keys() == {name for name, values in wanted.items() if values}
    for name in run.data.metrics:
        found = [(entry.step, entry.value) for entry in client.get_metric_history(run.info.run_id, name)]
        assert found == wanted[name], name


def test_a_run_for_each_trial_with_the_figures_of_its_folder(uri, folder):
    write_search(folder)
    write_trial(folder, 4, [0.3], status="failed")
    look(uri, folder)
    client, runs = runs_of(uri)
    assert sorted(runs) == [1, 2, 3, 4]
    for number, run in runs.items():
        check_figures(client, run, folder.trial(number))
        assert run.data.params == {"optim.learning_rate": "0.01"}
        assert run.data.tags["search"] == "s" and run.info.run_name == f"s-{number:04d}"
    assert [runs[n].info.status for n in (1, 2, 3, 4)] == ["FINISHED", "FINISHED", "RUNNING", "FAILED"]


def test_cells_without_a_number_are_no_figures(uri, folder):
    write_search(folder)
    file = folder.trial(3) / "progress.csv"
    rows = read_progress(folder.trial(3))
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0], "val_r2", "remark"], restval="")
        writer.writeheader()
        writer.writerows([*rows[:-1], rows[-1] | {"val_r2": 0.5, "remark": "calm"}])
    look(uri, folder)
    client, runs = runs_of(uri)
    metrics = runs[3].data.metrics
    assert metrics["val_r2"] == 0.5 and "remark" not in metrics
    history = client.get_metric_history(runs[3].info.run_id, "val_r2")
    assert [entry.step for entry in history] == [len(rows)]


def test_a_search_that_goes_on_logs_nothing_twice(uri, folder):
    write_search(folder)
    look(uri, folder, closing=True)  # cut off
    assert runs_of(uri)[1][3].info.status == "KILLED"
    look(uri, folder)
    assert runs_of(uri)[1][3].info.status == "RUNNING"
    write_trial(folder, 3, [0.7, 0.6, 0.5])
    look(uri, folder)
    look(uri, folder)
    client, runs = runs_of(uri)
    assert sorted(runs) == [1, 2, 3] and runs[3].info.status == "FINISHED"
    for number, run in runs.items():
        check_figures(client, run, folder.trial(number))


def test_another_search_of_the_same_name_has_runs_of_its_own(uri, folder):
    write_search(folder)
    look(uri, folder)
    folder.archive()
    write_search(folder, num_ended=1)
    look(uri, folder)
    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("s").experiment_id])
    assert len(found) == 3 + 2 and len({run.data.tags["search_id"] for run in found}) == 2


def test_the_thread_logs_to_the_end(uri, folder):
    write_search(folder, num_ended=4)
    with Tracking(uri, folder, print):
        pass
    assert len(runs_of(uri)[1]) == 4


def test_a_server_that_is_gone_is_one_note(folder, monkeypatch):
    monkeypatch.setattr("tuning.search.callbacks.mlflow.FAILURE_PAUSE_SECONDS", 0.05)
    write_search(folder)
    notes = []
    with Tracking("http://127.0.0.1:9", folder, notes.append):
        wait_until(lambda: bool(notes))  # the thread has tried
    assert len(notes) == 1 and notes[0].startswith("mlflow: not logged, tried again later")


def test_without_the_package_it_is_refused_and_it_is_no_part_of_the_search(monkeypatch, uri):
    plan = make_plan([*ARGUMENTS, f"mlflow={uri}"])
    assert plan.space.written() == make_plan(list(ARGUMENTS)).space.written() and plan.run.mlflow == uri
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else find(name))
    with pytest.raises(UserError, match=r"mlflow: expected null unless .*audio-emotion-tuning\[mlflow\]"):
        make_plan([*ARGUMENTS, f"mlflow={uri}"])


def test_a_populations_trial_shows_the_settings_that_it_began_with(uri, folder):
    """Whenever MLflow first sees it, before or after it took others over."""
    write_search(folder)
    taken = {"epoch": 1, "trial": 2, "before": {"optim.learning_rate": 0.08}, "after": {"optim.learning_rate": 0.002}}
    (folder.trial(1) / "exploits.json").write_text(json.dumps([taken]))
    look(uri, folder)
    _, runs = runs_of(uri)
    assert runs[1].data.params == {"optim.learning_rate": "0.08"}
