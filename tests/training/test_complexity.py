"""A second metric: what a model costs."""

import csv
import json
import random

import optuna
import pytest
import torch

from tests.helpers.command import TINY, run
from tuning.config.errors import UserError
from tuning.data.plan import make_plan
from tuning.evaluation.leaderboard import pareto_front
from tuning.experiment.directory import TrialRecord
from tuning.models.crnn import CRNN
from tuning.models.crnn_settings import CRNNSettings
from tuning.training.complexity import cost_of


def record(number, value, cost, **other):
    return TrialRecord(number, {}, **({"status": "done", "metrics": {"val_uar": value, "parameters": cost}} | other))


def test_the_front_is_that_of_optuna():
    drawn = random.Random(0)
    study = optuna.create_study(directions=["maximize", "minimize"])
    records = []
    for number in range(1, 201):
        value, cost = drawn.randint(0, 30) / 30, float(drawn.randint(1, 30))  # with ties
        records.append(record(number, value, cost))
        study.add_trial(optuna.trial.create_trial(values=[value, cost]))
    expected = {trial.number + 1 for trial in study.best_trials}
    assert pareto_front(records, "val_uar", "max", "parameters") == expected and len(expected) > 3
    mirrored = [record(r.number, -r.metrics["val_uar"], r.metrics["parameters"]) for r in records]
    assert pareto_front(mirrored, "val_uar", "min", "parameters") == expected


def test_failed_trials_and_those_without_all_folds_are_on_no_front():
    records = [record(1, 0.9, 1.0, status="failed"), record(2, 0.9, 2.0, folds=3, epochs=2), record(3, 0.1, 9.0)]
    assert pareto_front(records, "val_uar", "max", "parameters") == {3}


def test_costs_of_a_model_whose_weights_can_be_counted():
    model = torch.nn.Sequential(torch.nn.Linear(10, 4), torch.nn.BatchNorm1d(8), torch.nn.Flatten())
    weights = 10 * 4 + 4 + 2 * 8
    assert cost_of(model, "parameters", 8, 10) == weights
    # batch-norm's mean, variance (4 bytes each) and count (8 bytes)
    assert cost_of(model, "size_mb", 8, 10) == pytest.approx((4 * (weights + 16) + 8) / 1e6)
    model[0].weight.requires_grad = False
    assert cost_of(model, "parameters", 8, 10) == weights - 40
    crnn = CRNN(CRNNSettings(conv_filters=[4, 4], lstm_units=[4], dense_units=[4]), 10, 2)
    assert 0.01 < cost_of(crnn, "latency_ms", 100, 10) < 1000


@pytest.mark.slow
def test_a_search_for_two_metrics(ray_session, tmp_path, tmp_path_factory):
    prepared = tmp_path_factory.getbasetemp() / "for-costs"
    arguments = [
        "space=crnn",
        *TINY[:2],
        TINY[3],
        f"storage={tmp_path}",
        f"data.prepared={prepared}",
        "search.algorithm=optuna",
        "search.num_trials=5",
    ]
    arguments += ["search.second_metric=parameters", "model.lstm_units={choice: [[8, 4], [4, 4], [6, 4]]}"]
    output = run(*arguments, "search.scheduler=asha", "search.grace_epochs=1")
    rows = list(csv.DictReader((tmp_path / "crnn" / "leaderboard.csv").open()))
    front = {int(row["trial"]) for row in rows if row["pareto"] == "yes"}
    assert rows[0]["pareto"] == "yes" and f"trials {', '.join(map(str, sorted(front)))}" in output
    by_units = {row["model.lstm_units"]: float(row["parameters"]) for row in rows}
    assert by_units.get("[8, 4]", 1e9) > by_units.get("[6, 4]", 1e8) > by_units.get("[4, 4]", 0)
    journal = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "crnn" / "study.journal"))
    )
    study = optuna.load_study(study_name="crnn", storage=journal)
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MINIMIZE"]
    for trial in study.trials:
        result = json.loads((tmp_path / "crnn" / "trials" / f"{trial.number + 1:04d}" / "result.json").read_text())
        if result["status"] == "done":
            assert trial.values == [result["metrics"]["val_loss"], result["metrics"]["parameters"]]
        else:
            assert trial.state.name == "PRUNED"


def test_what_does_not_go_together_is_said():
    for given in ("search.algorithm=optuna", "search.sampler=cmaes"), ("search.scheduler=pbt", "search.num_trials=4"):
        with pytest.raises(UserError, match=r"expected .* with search.second_metric"):
            make_plan(["space=crnn", "search.second_metric=size_mb", *given])
    with pytest.raises(UserError, match="second_metric"):
        make_plan(["space=crnn", "search.second_metric=speed"])
