"""Population-based training: poor trials take over weights and changed settings, and a kill changes nothing."""

import json
from types import SimpleNamespace

import pytest
import torch
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from tests.helpers.command import TINY, run
from tests.helpers.ranking import ranking
from tests.search import test_tuner as test_search
from tuning.config.distributions import Distribution
from tuning.config.errors import UserError
from tuning.config.population import may_change
from tuning.data.plan import make_plan
from tuning.evaluation.leaderboard import as_rows
from tuning.experiment.directory import read_progress, read_record, write_json
from tuning.experiment.exploits import current_params, exploits, params_in
from tuning.experiment.recorded import config_of
from tuning.experiment.trial_spec import TrialSpec
from tuning.search.callbacks.results import Recorder
from tuning.search.population_based_training import Population, _moved, explore

SPACE = (
    "model.conv_filters=[4, 4]", "model.lstm_units=[8, 4]", "model.dense_l2=0.001", "training.batch_size=32",
    "training.patience=null", "search.scheduler=pbt", "search.perturb_epochs=2", "search.num_trials=4",
    "model.lstm_dropout={uniform: [0.1, 0.5]}", "optim.learning_rate={loguniform: [0.00001, 0.1]}",
)  # fmt: skip


def last(folder):
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


@pytest.mark.slow
def test_a_poor_trial_takes_over_in_a_search(ray_session, tmp_path, prepared):
    fewer = (*(a for a in SPACE if "num_trials" not in a), "search.num_trials=2", "search.exploit_share=0.5")
    run(*fewer, TINY[0], "training.epochs=3", f"storage={tmp_path}", f"data.prepared={prepared}")
    trials = tmp_path / "crnn" / "trials"
    rows = {number: read_progress(trials / f"{number:04d}") for number in (1, 2)}
    scores = {number: float(found[1]["val_loss"]) for number, found in rows.items()}
    loser, best = max(scores, key=scores.__getitem__), min(scores, key=scores.__getitem__)
    [entry] = exploits(trials / f"{loser:04d}")
    assert (entry["epoch"], entry["trial"]) == (2, best) and not exploits(trials / f"{best:04d}")
    after = float(rows[loser][2]["val_loss"])
    assert abs(after - scores[best]) < abs(after - scores[loser])
    assert float(rows[loser][2]["learning_rate"]) == pytest.approx(entry["after"]["optim.learning_rate"])


@pytest.mark.slow
def test_a_population_takes_the_same_course_at_any_concurrency_and_is_extended(ray_session, tmp_path, prepared):
    arguments = (*SPACE, TINY[0], "training.epochs=5", f"storage={tmp_path}", f"data.prepared={prepared}")
    run(*arguments, "name=one", "search.max_concurrent=1")
    trials = tmp_path / "one" / "trials"
    rows = {number: read_progress(trials / f"{number:04d}") for number in range(1, 5)}
    assert all([int(row["epoch"]) for row in found] == [1, 2, 3, 4, 5] for found in rows.values())
    taken = {(number, e["epoch"]): e for number in rows for e in exploits(trials / f"{number:04d}")}
    assert {epoch for _, epoch in taken} == {2, 4}
    for epoch in (2, 4):
        scores = {number: float(found[epoch - 1]["val_loss"]) for number, found in rows.items()}
        [(loser, _)] = [key for key in taken if key[1] == epoch]
        entry = taken[loser, epoch]
        assert loser == max(scores, key=scores.__getitem__) and entry["trial"] == min(scores, key=scores.__getitem__)
        assert entry["before"] != entry["after"]
        assert float(rows[loser][epoch]["learning_rate"]) == pytest.approx(entry["after"]["optim.learning_rate"])
    shown = {int(row["trial"]): row for row in ranking(tmp_path / "one")}
    for number in {number for number, _ in taken}:
        entries = exploits(trials / f"{number:04d}")
        final = entries[-1]["after"]
        best = next((e["before"] for e in entries if int(shown[number]["best_epoch"]) <= e["epoch"]), final)
        assert {path: float(shown[number][path]) for path in best} == pytest.approx(best)
        params = json.loads((trials / f"{number:04d}" / "params.json").read_text())
        assert params["searched"] == final
        assert params["config"]["optim"]["learning_rate"] == final["optim.learning_rate"]
        assert params["config"]["model"]["lstm_dropout"] == final["model.lstm_dropout"]

    run(*arguments, "name=two", "search.max_concurrent=2")  # waiting for each other, they take the same course
    assert ranking(tmp_path / "two") == ranking(tmp_path / "one")

    # More trials are a population of their own.
    more = [a for a in arguments if "num_trials" not in a]
    run(*more, "name=one", "search.num_trials=6")
    assert [row["status"] for row in ranking(tmp_path / "one")] == ["done"] * 6
    assert {int(row["trial"]): row for row in ranking(tmp_path / "one")}[1]["val_loss"] == shown[1]["val_loss"]
    assert {e["epoch"] for n in (5, 6) for e in exploits(trials / f"{n:04d}")} == {2, 4}


class Few:
    """A population without Ray, whose trials report by hand and whose checkpoints are one number."""

    def __init__(self, tmp_path):
        self.plan, self.folder = test_search.begin(tmp_path, *SPACE, "training.epochs=9")
        self.scheduler = Population(
            self.plan.space, self.plan.config, "min", self.folder, self.folder.records(), 4, 4, self.spec
        )
        self.trials = {}

    def spec(self, number, params):
        return TrialSpec(self.plan.space.config(params).model_dump(mode="json"), number=number, params=params)

    def begin(self, number):
        drawn = {"model.lstm_dropout": 0.1 * number, "optim.learning_rate": 0.001 * number}
        path = self.folder.trial(number)
        params = current_params(path) or drawn
        trial = SimpleNamespace(
            config=self.spec(number, params).as_dict(), status=Trial.RUNNING, should_recover=lambda: False
        )
        trial.set_config = lambda spec: setattr(trial, "config", spec)
        write_json(path / "params.json", {"searched": params, "config": trial.config["config"]})
        self.trials[number] = trial
        self.scheduler.on_trial_add(None, trial)

    def report(self, number, epoch, loss, finished=""):
        path = self.folder.trial(number)
        if not finished:
            own = {"epoch": epoch, "steps": epoch * 10 + number, "wait": number, "mark": loss, "base_rate": 1.0}
            own |= {"best": loss, "best_epoch": epoch, "recent": [{"epoch": epoch}], "finished": ""}
            state = {"model": {"w": torch.tensor(float(number))}, "own": own, "random_state": {"torch": number}}
            (path / "checkpoints").mkdir(exist_ok=True)
            torch.save(state, path / "checkpoints" / "last.pt")
        return self.hand_on(number, epoch, loss, finished)

    def hand_on(self, number, epoch, loss, finished=""):
        decision = self.scheduler.on_trial_result(
            None, self.trials[number], {"epoch": epoch, "val_loss": loss, "finished": finished}
        )
        path = self.folder.trial(number)
        if epoch > len(known := [float(row["val_loss"]) for row in read_progress(path)]):
            header = "" if epoch > 1 else "epoch,seconds,best_epoch,finished,val_loss\n"
            best = min(range(epoch), key=[*known, loss].__getitem__) + 1
            with (path / "progress.csv").open("a") as stream:
                stream.write(f"{header}{epoch},0.1,{best},{finished},{loss}\n")
        return decision

    def to_the_wait(self):
        for number in range(1, 5):
            self.begin(number)
            assert self.report(number, 1, number) == TrialScheduler.CONTINUE
        return [self.report(number, 2, float(number)) for number in (4, 3, 2)]


def test_trials_wait_for_each_other_and_the_poorest_takes_over(tmp_path):
    few = Few(tmp_path)
    assert few.to_the_wait() == [TrialScheduler.PAUSE] * 3
    assert few.scheduler.num_waiting() == 3 and not exploits(few.folder.trial(4))
    assert few.report(1, 2, 1.0) == TrialScheduler.CONTINUE  # the last one, and not the poorest, goes on at once
    state = last(few.folder.trial(4))
    assert state["model"]["w"] == 1 and state["random_state"]["torch"] == 4
    own = state["own"]
    assert (own["steps"], own["wait"], own["mark"]) == (21, 1, 1.0) and own["best"] == 4.0
    [entry] = exploits(few.folder.trial(4))
    assert (entry["epoch"], entry["trial"]) == (2, 1)
    assert entry["before"] == {"model.lstm_dropout": 0.4, "optim.learning_rate": 0.004}
    rates = entry["after"]["optim.learning_rate"] / 0.001
    assert own["base_rate"] == pytest.approx(rates) and entry["after"] == few.scheduler.params[4]
    for number in (2, 3, 4):
        few.trials[number].status = Trial.PAUSED
    controller = SimpleNamespace(get_trials=lambda: list(few.trials.values()))
    chosen = few.scheduler.choose_trial_to_run(controller)
    assert chosen is few.trials[2]
    few.trials[2].status = few.trials[3].status = Trial.RUNNING
    assert few.scheduler.choose_trial_to_run(controller).config["params"] == entry["after"]


def test_a_trial_has_its_best_value_with_the_settings_of_that_epoch(tmp_path):
    few = Few(tmp_path)
    few.to_the_wait()
    few.report(1, 2, 1.0)
    path = few.folder.trial(4)
    [entry] = exploits(path)
    before, after = entry["before"], entry["after"]
    few.begin(4)  # it goes on, from where the corpus lies now
    params = json.loads((path / "params.json").read_text())
    params["config"]["data"]["prepared"] = "elsewhere"
    write_json(path / "params.json", params)

    def shown():
        [row] = [row for row in as_rows(few.folder.records(), "val_loss", "min") if row["trial"] == 4]
        config = config_of(few.folder, 4)
        assert config.data.prepared == "elsewhere"
        # The dense layers' dropout follows that of the others.
        assert config.model.dense_dropout == config.model.lstm_dropout
        assert row["model.lstm_dropout"] == config.model.lstm_dropout
        assert row["optim.learning_rate"] == config.optim.learning_rate
        return row["val_loss"], row["best_epoch"], {path: row[path] for path in after}

    assert shown() == (4.0, 1, before)
    few.report(4, 3, 9.0)
    assert shown() == (4.0, 1, before)
    assert few.spec(4, current_params(path)).params == after == Few(tmp_path).scheduler.params[4]
    write_json(path / "result.json", read_record(path).written())
    assert shown() == (4.0, 1, before)
    (path / "result.json").unlink()
    few.report(4, 4, 0.5)
    assert shown() == (0.5, 4, after)
    assert [params_in(path, epoch) for epoch in (1, 2, 3, None)] == [before, before, after, after]
    assert params_in(few.folder.trial(1), 1) == {}


def test_the_live_view_shows_the_settings_of_the_best_epoch(tmp_path):
    few, seen = Few(tmp_path), []
    recorder = Recorder(few.folder, "val_loss", "min", lambda record, event: seen.append((event, dict(record.params))))
    first, other = ({"model.lstm_dropout": d, "optim.learning_rate": 0.001} for d in (0.2, 0.3))
    trial = SimpleNamespace(trial_id="a", config=few.spec(1, first).as_dict())

    def row(epoch, loss, best):
        result = {"epoch": epoch, "seconds": 0.1, "best_epoch": best, "finished": "", "val_loss": loss}
        recorder.on_trial_result(0, [], trial, result)
        return seen[-1]

    recorder.on_trial_start(0, [], trial)
    assert row(1, 1.0, 1) == ("epoch", first)
    trial.config = few.spec(1, other).as_dict()
    recorder.on_trial_start(0, [], trial)
    assert row(2, 2.0, 1) == ("epoch", first)
    assert row(3, 0.5, 3) == ("epoch", other)


def test_a_trial_that_ends_is_not_waited_for(tmp_path):
    few = Few(tmp_path)
    few.to_the_wait()
    few.scheduler.on_trial_error(None, few.trials[1])
    assert few.scheduler.released == 2 and exploits(few.folder.trial(4))[0]["trial"] == 2


@pytest.mark.parametrize("moment", ["waiting", "weights", "record", "all but the mark", "gone on"])
def test_a_kill_while_trials_take_over_changes_nothing(tmp_path, moment, monkeypatch):
    calm = Few(tmp_path / "calm")
    calm.to_the_wait()
    calm.report(1, 2, 1.0)
    expected, weights = exploits(calm.folder.trial(4)), last(calm.folder.trial(4))

    few = Few(tmp_path / "cut")
    few.to_the_wait()
    if moment != "waiting":
        from tuning.search import population_based_training as population

        stops = {"weights": "exploits.json", "record": "params.json", "all but the mark": "population.json"}
        original = population.write_json

        def killed(file, content):
            if file.name == stops.get(moment):
                raise KeyboardInterrupt
            original(file, content)

        monkeypatch.setattr(population, "write_json", killed)
        if moment == "gone on":
            few.report(1, 2, 1.0)
            few.report(1, 3, 0.5)
        else:
            with pytest.raises(KeyboardInterrupt):
                few.report(1, 2, 1.0)
        monkeypatch.setattr(population, "write_json", original)
    else:
        few.report(1, 2, 1.0)
    again = Few(tmp_path / "cut")
    if moment not in ("gone on", "waiting"):  # the last one's row was judged, not recorded: it says it again
        assert not again.scheduler.released
        again.begin(1)
        assert again.hand_on(1, 2, 1.0) == TrialScheduler.CONTINUE
    assert exploits(again.folder.trial(4)) == expected
    found = last(again.folder.trial(4))
    assert found["own"] == weights["own"] and found["model"] == weights["model"]
    assert again.scheduler.released == 2
    again.begin(4)
    assert again.trials[4].config["params"] == expected[0]["after"]
    assert again.hand_on(4, 2, 4.0) == TrialScheduler.CONTINUE


def test_only_what_can_change_while_training_may_be_searched():
    common = [a for a in SPACE if "scheduler" not in a and "lstm_units" not in a]
    with pytest.raises(UserError, match=r"^model.lstm_units: expected one value for scheduler pbt"):
        make_plan([*common, "search.scheduler=pbt", "model.lstm_units={choice: [[8, 4], [16, 8]]}"])
    others = [argument for argument in common if "perturb_epochs" not in argument]
    make_plan([*others, "search.scheduler=asha", "model.lstm_units={choice: [[8, 4], [16, 8]]}"])
    spectrograms = ["features.name=mel", "augment.mask_prob={choice: [0.0, 0.5]}"]
    with pytest.raises(UserError, match=r"^augment.synthetic_share: expected one value for scheduler pbt"):
        make_plan([*SPACE, *spectrograms, "augment.synthetic_share={choice: [0.0, 0.5]}"])
    with pytest.raises(UserError, match=r"^augment.synthetic_share: .*, got one that depends on augment.mask_prob$"):
        make_plan([*SPACE, *spectrograms, "augment.synthetic_share=${augment.mask_prob}"])
    with pytest.raises(UserError, match=r"^optim.alpha: .*, got one that depends on model.lstm_dropout$"):
        make_plan([*SPACE, "optim.schedule=cosine", "optim.alpha=${model.lstm_dropout}"])
    make_plan([*SPACE, *spectrograms, "augment.synthetic_share=0.5"])
    cases = {
        "search.perturb_epochs: expected below training.epochs": ["training.epochs=2"],
        "split.inner_folds: expected null": ["split.inner_folds=3"],
        "resources.workers_per_trial: expected 1": ["resources.workers_per_trial=2"],
        "resources.backend: expected auto or direct": ["resources.backend=train"],
    }
    for message, arguments in cases.items():
        with pytest.raises(UserError, match=message):
            make_plan([*SPACE, *arguments])
    with pytest.raises(UserError, match=r"search.num_trials: expected at least 2"):
        make_plan([*(a for a in SPACE if "num_trials" not in a), "search.num_trials=1"])
    assert may_change("augment.noise_prob") and may_change("model.dense_dropouts") and may_change("model.dense_l1")
    assert not any(map(may_change, ["augment.versions", "features.num_mfcc", "optim.name", "model.dropout_kind"]))


def test_settings_move_within_their_distributions():
    assert _moved(Distribution("uniform", (0.1, 0.5)), 0.45, up=True) == 0.5
    assert _moved(Distribution("loguniform", (1e-5, 1.0)), 0.01, up=False) == pytest.approx(0.008)
    assert _moved(Distribution("int", (1, 4)), 2, up=True) == 3 and _moved(Distribution("int", (1, 4)), 1, False) == 1
    listed = Distribution("choice", (1, 2, 3))
    assert [_moved(listed, value, up) for value in (1, 3) for up in (False, True)] == [1, 2, 2, 3]
    space = make_plan([*SPACE]).space
    params = {"model.lstm_dropout": 0.3, "optim.learning_rate": 0.001}
    moved = [explore(space, params, 1, number, 2, resample=0.0) for number in range(40)]
    assert {round(p["model.lstm_dropout"], 6) for p in moved} == {0.24, 0.36}
    assert {round(p["optim.learning_rate"], 8) for p in moved} == {0.0008, 0.0012}
    assert moved == [explore(space, params, 1, number, 2, resample=0.0) for number in range(40)]
    anew = {explore(space, params, 1, number, 2, resample=1.0)["model.lstm_dropout"] for number in range(40)}
    assert len(anew) == 40 and all(0.1 <= value <= 0.5 for value in anew)
