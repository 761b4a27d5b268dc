"""The search around the trials, with a formula in the model's place: who is proposed, stopped, ranked, recorded."""

import csv
import json
import math
import sys
import time

import optuna
import pytest
import ray

from tuning.data.plan import make_plan, planned_points
from tuning.evaluation.leaderboard import write_leaderboard
from tuning.experiment.directory import SearchFolder, read_progress
from tuning.experiment.trial_spec import TrialSpec
from tuning.search.resources import Resources
from tuning.search.searcher import StudySearcher, open_study
from tuning.search.tuner import run_search

# Ray's workers can't import a test module: the formula travels by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

BASELINE = {"val_loss": 1.0}
ONE_AT_A_TIME = Resources(cpus=1, gpus_per_worker=0.0, workers=1, concurrent=1)


def spec_of(number, params):
    return TrialSpec({}, number=number, params=params)


def curve(spec, epoch):
    """A learning curve that falls towards a floor, which the learning rate and the dropout set."""
    rate, dropout = spec["config"]["optim"]["learning_rate"], spec["config"]["model"]["lstm_dropout"]
    return abs(math.log10(rate) + 3) + abs(dropout - 0.3) + 1 / epoch


def formula(spec, data):
    """A trial in milliseconds."""
    from ray import tune

    best, epochs = math.inf, spec["config"]["training"]["epochs"]
    for epoch in range(1, epochs + 1):
        time.sleep(data.get("seconds", 0))  # stands for work
        value = curve(spec, epoch)
        best = min(best, value)
        row = {"epoch": epoch, "train_loss": value, "val_loss": value, "val_rmse": math.sqrt(value), "seconds": 0.1}
        finished = "all epochs" if epoch == epochs else ""
        tune.report(row | {"val_loss_best": best, "best_epoch": epoch, "finished": finished})


def begin(tmp_path, *arguments):
    plan = make_plan([*arguments, f"storage={tmp_path}"])
    folder = SearchFolder(tmp_path, plan.name)
    if not folder.exists:
        folder.create(plan.space, plan.overrides, {"corpus": "none", "num_clips": 0})
    return plan, folder


def search(tmp_path, *arguments, data=None):
    """One trial at a time: another process takes longer to begin than these trials."""
    plan, folder = begin(tmp_path, "search.max_concurrent=1", *arguments)
    reason = run_search(folder, plan, data or {}, ONE_AT_A_TIME, formula)
    return plan, folder, write_leaderboard(folder, "val_loss", "min", BASELINE), reason


def study_of(folder):
    return optuna.load_study(
        study_name=folder.name,
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(folder.path / "study.journal"))
        ),
    )


def test_a_grid_runs_every_configuration_once(ray_session, tmp_path):
    plan, folder, ranked, reason = search(tmp_path, "space=crnn_grid", "training.epochs=2")
    assert reason == ""
    run = [json.dumps(record.params, sort_keys=True) for record in folder.records()]
    assert sorted(run) == sorted(json.dumps(p, sort_keys=True) for p in planned_points(plan.space, plan.config))
    assert len(set(run)) == 24
    expected = sorted((curve({"config": nested(r.params)}, 2), r.number) for r in ranked)
    assert [r.number for r in ranked] == [number for _, number in expected]
    assert all((r.status, r.best_epoch, r.epochs) == ("done", 2, 2) for r in ranked)
    rows = list(csv.DictReader((folder.path / "leaderboard.csv").open()))
    leading = ["rank", "trial", "status", "reason", "best_epoch", "epochs", "val_loss", "val_rmse", "seconds"]
    assert list(rows[0]) == leading + list(plan.space.distributions)
    assert [int(row["rank"]) for row in rows] == list(range(1, 25))
    assert len(study_of(folder).trials) == 24
    # Whatever the trial said but the running best, and nothing that Tune adds.
    columns = ["epoch", "train_loss", "seconds", "best_epoch", "finished", "val_loss", "val_rmse"]
    assert list(read_progress(folder.trial(1))[0]) == columns


def nested(params):
    return {
        "optim": {"learning_rate": params["optim.learning_rate"]},
        "model": {"lstm_dropout": params["model.lstm_dropout"]},
    }


def test_what_ended_is_not_run_again_and_more_trials_extend(ray_session, tmp_path):
    arguments = ("search.num_trials=3", "training.epochs=2")
    _, folder, first, _ = search(tmp_path, *arguments)
    (folder.trial(2) / "result.json").unlink()
    before = {n: (folder.trial(n) / "result.json").stat().st_mtime_ns for n in (1, 3)}
    _, _, again, _ = search(tmp_path, "search.num_trials=5", "training.epochs=2")
    assert {n: (folder.trial(n) / "result.json").stat().st_mtime_ns for n in (1, 3)} == before
    assert sorted(record.number for record in again) == [1, 2, 3, 4, 5]
    assert all(record.status == "done" for record in again)
    assert {r.number: r.params for r in first}.items() <= {r.number: r.params for r in again}.items()
    assert len(read_progress(folder.trial(2))) == 2


def test_asha_stops_poor_trials_early(ray_session, tmp_path):
    arguments = ("search.num_trials=12", "training.epochs=9", "search.scheduler=asha", "search.grace_epochs=1")
    _, folder, ranked, _ = search(tmp_path, *arguments)
    stopped = [record for record in ranked if record.status == "stopped"]
    assert stopped and all(record.epochs in (1, 3) and record.reason == "scheduler" for record in stopped)
    assert ranked[0].status == "done" and ranked[0].epochs == 9
    states = {trial.state.name for trial in study_of(folder).trials}
    assert states == {"COMPLETE", "PRUNED"}


def test_rungs_reach_the_most_epochs_of_any_trial_and_none_is_stopped_in_its_grace(ray_session, tmp_path):
    """Trials of 2 and of 9 epochs: the short ones end by themselves, the poor long one after its 4 of grace."""
    (tmp_path / "bare.yaml").write_text("data: {corpus: demo}\nmodel: {name: crnn}\n")
    _, folder, _, _ = search(
        tmp_path, f"space={tmp_path}/bare.yaml", "search.algorithm=grid", "training.epochs={grid: [2, 9]}",
        "optim.learning_rate={grid: [0.001, 0.1]}", "search.scheduler=hyperband", "search.grace_epochs=4",
    )  # fmt: skip
    found = [(record.params["training.epochs"], record.status, record.epochs) for record in folder.records()]
    assert found == [(2, "done", 2), (2, "done", 2), (9, "done", 9), (9, "stopped", 4)]


def test_a_known_point_comes_first(ray_session, tmp_path):
    _, folder, ranked, _ = search(tmp_path, *KNOWN, "search.sampler=tpe", "search.num_trials=4")
    assert len(ranked) == 4
    first = folder.records()[0]
    assert first.params["optim.learning_rate"] == 0.001 and ranked[0].number == 1
    assert all(isinstance(record.params["model.lstm_units"], list) for record in ranked)


KNOWN = (
    "search.algorithm=optuna", "training.epochs=1", "optim.learning_rate={loguniform: [1e-5, 1]}",
    "search.points_to_evaluate=[{optim.learning_rate: 0.001, model.lstm_dropout: 0.3}]",
)  # fmt: skip


def suggested(tmp_path, count, *arguments):
    """What a searcher proposes one after the other, each told the value of its curve, without Ray; and the values."""
    plan, folder = begin(tmp_path, f"search.num_trials={count}", *arguments)
    study = open_study(folder.path / "study.journal", plan.name, "min")
    searcher = StudySearcher(plan.space, plan.config, study, count, set(), spec_of, limit=1)
    found = []
    for number in range(1, count + 1):
        params = searcher.suggest(str(number))["params"]
        value = curve({"config": nested(params)}, 1)
        row = {"epoch": 1, "val_loss": value, "val_loss_best": value, "finished": "all epochs"}
        searcher.on_trial_complete(str(number), row)
        found.append((params, value))
    return plan, found


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "random"])
def test_optuna_samplers_by_name_stay_within_the_space(tmp_path, sampler):
    plan, found = suggested(tmp_path, 12, *KNOWN, f"search.sampler={sampler}")
    assert found[0][0]["optim.learning_rate"] == 0.001
    assert len({params["optim.learning_rate"] for params, _ in found}) == 12
    assert all(plan.space.distributions[path].contains(value) for params, _ in found for path, value in params.items())


def test_a_point_s_conditional_settings_are_enqueued_whole(tmp_path):
    """The study's own record has every setting of a point as a fixed one, so that no sampler draws the rest."""
    given = (
        "search.algorithm=optuna", "optim.name={choice: [adam, sgd]}",
        "optim.momentum={uniform: [0.8, 0.99], when: {optim.name: sgd}}",
        "search.points_to_evaluate=[{}, {optim.name: sgd, optim.momentum: 0.9}]",
    )  # fmt: skip
    plan, found = suggested(tmp_path, 4, *given)
    default = {
        "model.conv_filters": [64, 128], "model.lstm_units": [128, 64], "model.lstm_dropout": 0.3,
        "model.dense_l2": 0.01, "optim.learning_rate": 0.001, "training.batch_size": 32, "optim.name": "adam",
    }  # fmt: skip
    assert [params for params, _ in found[:2]] == [default, default | {"optim.name": "sgd", "optim.momentum": 0.9}]
    journal = tmp_path / plan.name / "study.journal"
    trials = open_study(journal, plan.name, "min").get_trials()
    assert [set(trial.system_attrs["fixed_params"]) == set(trial.params) for trial in trials[:2]] == [True, True]
    assert all("fixed_params" not in trial.system_attrs for trial in trials[2:])


def test_tpe_finds_a_better_floor_than_random_draws(tmp_path):
    """Over eight seeds: one search of 25 trials says little."""
    space = ("optim.learning_rate={loguniform: [1e-8, 1]}", "model.conv_filters=[8, 8]", "model.lstm_units=[8, 4]")
    space += ("model.dense_l2=0", "training.batch_size=32")
    later = {"optuna": 0.0, "random": 0.0}
    for seed in range(8):
        for algorithm in later:
            named = (f"search.algorithm={algorithm}", f"seed={seed}", f"name={algorithm}-{seed}")
            _, found = suggested(tmp_path, 25, *space, *named)
            later[algorithm] += sum(value for _, value in found[15:])
    assert later["optuna"] < 0.8 * later["random"]


def test_conditional_settings_under_optuna(tmp_path):
    conditional = ("optim.name={choice: [adam, sgd]}", "optim.momentum={uniform: [0.8, 0.99], when: {optim.name: sgd}}")
    _, found = suggested(tmp_path, 8, "search.algorithm=optuna", *conditional)
    assert {params["optim.name"] for params, _ in found} == {"adam", "sgd"}
    assert all(("optim.momentum" in params) == (params["optim.name"] == "sgd") for params, _ in found)


def test_a_time_budget_ends_the_search_and_it_goes_on(ray_session, tmp_path):
    arguments = ("search.num_trials=3", "training.epochs=80")
    for minutes in (0.06, 0.3, 1.5, 7.5):  # on a busy machine no trial may have begun within the first
        budget = f"search.time_budget_minutes={minutes}"
        # One trial alone would take four times the budget.
        _, folder, ranked, reason = search(tmp_path, *arguments, budget, data={"seconds": 3 * minutes})
        assert reason == "time budget"
        if ranked:
            break
    assert {record.status for record in ranked} == {"running"} and {r.reason for r in ranked} == {"time budget"}
    _, folder, ranked, reason = search(tmp_path, *arguments)
    assert reason == "" and [record.status for record in ranked] == ["done"] * 3
    assert all([int(row["epoch"]) for row in read_progress(folder.trial(n))] == list(range(1, 81)) for n in (1, 2, 3))
