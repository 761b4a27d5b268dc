"""What schedulers, searchers and files know after a kill: the same as if there had been none."""

import inspect
import json
import math
import random
from types import SimpleNamespace

import optuna
import pytest
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler

from tests.search import test_tuner as test_search
from tuning.experiment.directory import read_progress, read_record, repair_progress, write_json
from tuning.experiment.trial_spec import TrialSpec
from tuning.search.callbacks.results import Recorder, settle
from tuning.search.schedulers import SCHEDULERS, CurveScheduler, bracket_of, make_scheduler, recorded_curves
from tuning.search.searcher import StudySearcher, _encode, _suggest, open_study, reconcile

ASHA = ("search.num_trials=12", "training.epochs=27", "search.scheduler=asha", "search.grace_epochs=1")


def begin(tmp_path, *arguments):
    """A search's plan and folder; of settings that are given twice the last counts."""
    return test_search.begin(tmp_path, *{a.partition("=")[0]: a for a in arguments}.values())


def trial(number):
    return SimpleNamespace(
        trial_id=f"tune-{random.random()}", config=spec(number, {}).as_dict(), last_result={}, error_file=None,
        run_metadata=SimpleNamespace(),
    )  # fmt: skip


def spec(number, params):
    return TrialSpec({}, number=number, params=params)


def scheduler_of(plan, folder=None):
    curves = recorded_curves(folder, folder.records(), "val_loss") if folder else {}
    return make_scheduler(plan.space, plan.config, plan.mode, curves)


def losses(number, epochs):
    """A curve that differs by trial, goes down and up again, and is the same in every call."""
    floor = random.Random(number).uniform(0, 2)
    return [floor + 1 / epoch + 0.3 * (epoch > 4) for epoch in range(1, epochs + 1)]


class Search:
    """Trials under a scheduler and a recorder, row by row, without Ray; `kill` leaves what a process leaves."""

    def __init__(self, tmp_path, *arguments):
        self.plan, self.folder = begin(tmp_path, *arguments)
        self.epochs = self.plan.config.training.epochs
        self.scheduler = scheduler_of(self.plan, self.folder)
        self.recorder = Recorder(
            self.folder, "val_loss", "min", lambda *_: None, getattr(self.scheduler, "stopping", ())
        )
        self.trials, self.done = {}, {record.number for record in self.folder.records() if record.is_final}

    def row(self, number, epoch):
        values = losses(number, epoch)
        best = min(range(epoch), key=values.__getitem__)
        row = {"epoch": epoch, "val_loss": values[-1], "val_loss_best": values[best], "best_epoch": best + 1}
        return row | {"seconds": 0.1, "finished": "all epochs" if epoch == self.epochs else ""}

    def step(self, number, epoch):
        """One row as Tune hands it on; the decision."""
        if number not in self.trials:
            self.trials[number] = trial(number)
            self.scheduler.on_trial_add(None, self.trials[number])
            self.recorder.on_trial_start(0, [], self.trials[number])
        row = self.row(number, epoch)
        decision = self.scheduler.on_trial_result(None, self.trials[number], row)
        self.recorder.on_trial_result(0, [], self.trials[number], row)
        self.trials[number].last_result = row
        if decision == TrialScheduler.STOP or row["finished"]:
            self.end(number)
        return decision

    def end(self, number):
        self.done.add(number)
        self.scheduler.on_trial_complete(None, self.trials[number], self.trials[number].last_result)
        self.recorder.on_trial_complete(0, [], self.trials[number])


def interleaved(plan, seed=3):
    """Which trial reports which epoch next, three trials at a time."""
    drawn, waiting, live = random.Random(seed), list(range(1, plan.total + 1)), {}
    while waiting or live:
        while waiting and len(live) < 3:
            live[waiting.pop(0)] = 0
        number = drawn.choice(sorted(live))
        live[number] += 1
        stopped = yield number, live[number]
        if stopped or live[number] == plan.config.training.epochs:
            del live[number]


def run_all(search, kills=(), again=None):
    """Every trial to its end, killed and begun again before the given steps; decisions by trial and epoch."""
    steps, decisions, count = interleaved(search.plan), {}, 0
    number, epoch = next(steps)
    while True:
        if count in kills:
            search = again()
        decisions[number, epoch] = search.step(number, epoch)
        count += 1
        try:
            number, epoch = steps.send(decisions[number, epoch] == TrialScheduler.STOP)
        except StopIteration:
            return search, decisions


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("kills", [(5,), (3, 20, 21, 33, 40)])
def test_a_scheduler_decides_after_kills_as_if_there_had_been_none(tmp_path, name, kills):
    arguments = (*ASHA, f"search.scheduler={name}")
    calm, expected = run_all(Search(tmp_path / "calm", *arguments))
    cut, decisions = run_all(Search(tmp_path / "cut", *arguments), kills, lambda: Search(tmp_path / "cut", *arguments))
    assert decisions == expected and TrialScheduler.STOP in decisions.values()
    assert cut.scheduler.curves == calm.scheduler.curves
    shown = [[(r.number, r.status, r.epochs, r.metrics) for r in s.folder.records()] for s in (calm, cut)]
    assert shown[0] == shown[1]


RAYS = {
    "asha": lambda **given: ASHAScheduler(time_attr="epoch", stop_last_trials=False, brackets=1, **given),
    "hyperband": lambda **given: ASHAScheduler(time_attr="epoch", stop_last_trials=False, **given),
    "median": lambda grace_period, **_: MedianStoppingRule(
        time_attr="epoch", grace_period=grace_period, min_samples_required=3, min_time_slice=math.inf
    ),
}


class OfObjects(SimpleNamespace):
    """Ray's median stopping keeps trials as keys."""

    __hash__ = object.__hash__


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("first", "longest", "factor"), [(1, 27, 3.0), (2, 40, 2.5), (5, 12, 1.1), (4, 4, 3.0)])
@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_a_scheduler_stops_whom_rays_own_stops(name, first, longest, factor, mode):
    drawn = random.Random(f"{name} {first} {factor} {mode}")
    rungs = int(math.log(longest / first) / math.log(factor)) + 1
    brackets = min(3, rungs)
    theirs = RAYS[name](grace_period=first, max_t=longest, reduction_factor=factor, **(
        {"brackets": brackets} if name == "hyperband" else {}
    ))  # fmt: skip
    assert theirs.set_search_properties("score", mode)
    options = {"grace_epochs": first, "longest": longest, "reduction_factor": factor, "brackets": 3, "seed": 7}
    names = inspect.signature(SCHEDULERS[name]).parameters
    given = {name: value for name, value in options.items() if name in names}
    ours = CurveScheduler(lambda curves, n: SCHEDULERS[name](curves, n, **given), "epoch", "loss", mode, {})
    members, stopped, live, waiting = {}, [], {}, list(range(1, 61))
    while live or waiting:
        while waiting and len(live) < 5:
            live[number := waiting.pop(0)] = []
            members[number] = OfObjects(trial_id=f"{number:04d}")
            theirs.on_trial_add(None, members[number])
            if name == "hyperband":  # Ray draws it from numpy's global generator
                theirs._trial_info[f"{number:04d}"] = theirs._brackets[bracket_of(number, 7, rungs, brackets)]
        number = drawn.choice(sorted(live))
        curve = live[number]
        curve.append(
            (min if mode == "min" else max)(
                *curve[-1:], drawn.gauss(0, 1) + number % 5 / 5, 9.0 if mode == "min" else -9.0
            )
        )
        row = {"epoch": len(curve), "score": curve[-1], "loss_best": curve[-1]}
        expected = theirs.on_trial_result(None, members[number], row)
        trial = SimpleNamespace(config={"number": number})
        assert ours.on_trial_result(None, trial, row) == expected, (number, len(curve))
        stopped += [number] if expected == TrialScheduler.STOP else []
        if expected == TrialScheduler.STOP or len(curve) == longest:
            theirs.on_trial_complete(None, members[number], row) if name != "median" else None
            del live[number]
    assert (len(stopped) > 5) and ours.stopping == set(stopped)


def test_more_trials_are_judged_by_those_of_the_finished_search(tmp_path):
    _, expected = run_all(Search(tmp_path / "whole", *ASHA, "search.max_concurrent=1"))
    first = Search(tmp_path / "two", *ASHA, "search.num_trials=12", "search.max_concurrent=1")
    steps = [key for key in expected if key[0] <= 9]
    for number, epoch in steps:
        first.step(number, epoch)
    later = Search(tmp_path / "two", *ASHA, "search.num_trials=12")
    assert len(later.scheduler.curves) == 9
    poor = {"epoch": 1, "val_loss": 9.0, "val_loss_best": 9.0, "best_epoch": 1, "finished": ""}
    assert later.scheduler.on_trial_result(None, trial(13), poor) == TrialScheduler.STOP
    assert scheduler_of(later.plan).on_trial_result(None, trial(13), poor) == TrialScheduler.CONTINUE


def test_brackets_of_hyperband_are_drawn_by_seed_and_number():
    drawn = [bracket_of(number, 42, 4, 3) for number in range(1, 3001)]
    assert drawn != [bracket_of(number, 43, 4, 3) for number in range(1, 3001)]
    weights = [math.exp(4), math.exp(3), math.exp(2)]
    assert [drawn.count(k) / 3000 for k in range(3)] == pytest.approx([w / sum(weights) for w in weights], abs=0.03)


def test_a_trial_that_the_scheduler_is_about_to_stop_is_stopped_after_a_kill(tmp_path):
    search = Search(tmp_path, *ASHA)
    search.end = lambda number: None  # killed after the row, before the end was written
    stopped = next(
        (n, e) for n, e in ((n, e) for n in range(1, 13) for e in (1, 2, 3)) if search.step(n, e) == TrialScheduler.STOP
    )
    folder = search.folder.trial(stopped[0])
    assert not (folder / "result.json").exists()
    record = read_record(folder)
    assert (record.status, record.reason, record.epochs) == ("stopped", "scheduler", stopped[1])
    settle(search.folder, search.folder.records())
    assert json.loads((folder / "result.json").read_text())["status"] == "stopped"


def test_a_finished_trial_without_result_is_done_with_its_best_row(tmp_path):
    search = Search(tmp_path, "search.num_trials=12", "training.epochs=27")
    search.end = lambda number: None
    for epoch in range(1, 28):
        search.step(1, epoch)
    settle(search.folder, search.folder.records())
    result = json.loads((search.folder.trial(1) / "result.json").read_text())
    values = losses(1, 27)
    assert min(values) < values[-1] and values.index(min(values)) == 3  # the best is not the last
    assert (result["status"], result["reason"], result["best_epoch"]) == ("done", "all epochs", 4)
    assert result["metrics"] == {"val_loss": min(values)} and result["epochs"] == 27


def test_a_row_that_a_kill_tore_is_cut_off_and_said_again(tmp_path):
    search = Search(tmp_path, *ASHA)
    for epoch in (1, 2, 3):
        search.step(1, epoch)
    file = search.folder.trial(1) / "progress.csv"
    whole = file.read_bytes()
    header = whole.index(b"\n") + 1
    for length in (*range(0, header + 2, 7), header, header + 1, len(whole) - 9, len(whole) - 1):
        file.write_bytes(whole[:length])
        again = Search(tmp_path, *ASHA)
        known = len(read_progress(search.folder.trial(1)))
        for epoch in range(known + 1, 4):
            again.step(1, epoch)
        assert file.read_bytes() == whole, length
        for events in file.parent.glob("events*"):
            events.unlink()
    assert repair_progress(tmp_path) == []


class Sparse(Search):
    """A metric that is not defined before the third epoch, and names that nobody knows, one of them of no number."""

    def row(self, number, epoch):
        row = super().row(number, epoch) | {"pid": 4242, "config": {}, "done": False, "training_iteration": epoch}
        row |= {"val_r2": 1 / epoch} if epoch >= 3 else {}
        row |= {"gradient_norm": 0.5 * epoch} if epoch in (2, 5) else {}
        return row | ({"remark": "a, b"} if epoch == 4 else {})


NO_SCHEDULER = ("search.num_trials=12", "training.epochs=6")


@pytest.mark.parametrize("kill_after", [1, 2, 3, 5])
def test_what_is_first_reported_in_a_later_epoch_is_kept_with_and_without_a_kill(tmp_path, kill_after):
    calm, cut = Sparse(tmp_path / "calm", *NO_SCHEDULER), Sparse(tmp_path / "cut", *NO_SCHEDULER)
    for epoch in range(1, 7):
        calm.step(1, epoch)
        cut.step(1, epoch)
        if epoch == kill_after:
            cut = Sparse(tmp_path / "cut", *NO_SCHEDULER)
    one, two = ((s.folder.trial(1) / "progress.csv").read_bytes() for s in (calm, cut))
    assert one == two
    rows = read_progress(calm.folder.trial(1))
    columns = ["epoch", "seconds", "best_epoch", "finished", "val_loss", "gradient_norm", "val_r2", "remark"]
    assert list(rows[0]) == columns
    assert [row["val_r2"] for row in rows] == ["", "", *(repr(1 / epoch) for epoch in (3, 4, 5, 6))]
    assert [row["gradient_norm"] for row in rows] == ["", "1.0", "", "", "2.5", ""]
    assert [row["remark"] for row in rows] == ["", "", "", "a, b", "", ""]
    assert [r.metrics for r in calm.folder.records()] == [r.metrics for r in cut.folder.records()]
    told = calm.folder.records()[0].metrics
    assert told.keys() == {"val_loss", "val_r2"}  # the fourth epoch is the best
    (calm.folder.trial(1) / "result.json").unlink()
    assert read_record(calm.folder.trial(1)).metrics == told


def test_a_kill_before_a_longer_header_stands_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    search = Sparse(tmp_path, *NO_SCHEDULER)
    search.step(1, 1)
    file = search.folder.trial(1) / "progress.csv"
    before = file.read_bytes()

    def kill(*paths):
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr("os.replace", kill)
        with pytest.raises(KeyboardInterrupt):
            search.step(1, 2)
    assert file.read_bytes() == before
    again = Sparse(tmp_path, *NO_SCHEDULER)
    for epoch in range(2, 7):
        again.step(1, epoch)
    assert [row["gradient_norm"] for row in read_progress(file.parent)] == ["", "1.0", "", "", "2.5", ""]


def searcher_of(plan, folder):
    study = open_study(folder.path / "study.journal", folder.name, plan.mode)
    records = folder.records()
    settle(folder, records)
    reconcile(study, folder, records, "val_loss")
    ended = {record.number for record in records if record.is_final}
    return StudySearcher(plan.space, plan.config, study, plan.total, ended, spec, limit=1)


OPTUNA = ("search.algorithm=optuna", "search.num_trials=14", "optim.learning_rate={loguniform: [1e-5, 1]}")
OPTUNA += ("search.points_to_evaluate=[{optim.learning_rate: 0.01}]", "training.epochs=3")


def propose(tmp_path, arguments, kill_in=lambda number: None):
    """A whole search one trial after the other; `kill_in` says at which of its steps a trial's process is killed."""
    plan, folder = begin(tmp_path, *arguments)
    searcher, proposed, number = searcher_of(plan, folder), {}, 1
    while number <= plan.total:
        where = kill_in(number)
        if where is not None and number not in proposed:
            proposed[number] = None
            kill(searcher, plan, folder, number, where)
            searcher = searcher_of(plan, folder)
            continue
        trial_id = f"run-{number}"
        found = searcher.suggest(trial_id)
        if found == StudySearcher.FINISHED:
            break
        number = found["number"]
        proposed[number] = found["params"]
        finish(searcher, folder, number, found["params"], trial_id)
        number += 1
    records = {record.number: record.params for record in folder.records()}
    return records, searcher.study.get_trials()


def value(params):
    return abs(math.log10(params["optim.learning_rate"]) + 3)


def finish(searcher, folder, number, params, trial_id, until=None):
    """Three epochs and the end, or up to a moment of it."""
    path = folder.trial(number)
    if until == "asked":
        return
    write_json(path / "params.json", {"searched": params, "config": {}})
    row = {"val_loss": value(params), "val_loss_best": value(params), "best_epoch": 1, "seconds": 0.1}
    for epoch in (1, 2, 3):
        end = "all epochs" if epoch == 3 else ""
        searcher.on_trial_result(trial_id, row | {"epoch": epoch, "finished": end})
        text = "" if epoch > 1 else "epoch,seconds,best_epoch,finished,val_loss\n"
        with (path / "progress.csv").open("a") as stream:
            stream.write(f"{text}{epoch},0.1,1,{end},{value(params)!r}\n")
    if until == "trained":
        return
    searcher.on_trial_complete(trial_id, row | {"epoch": 3, "finished": "all epochs"})
    if until == "told":
        return
    write_json(path / "result.json", read_record(path).written())


def kill(searcher, plan, folder, number, where):
    """What a process leaves that is killed at a moment of a trial."""
    if where in ("enqueued", "drawing"):
        if number <= len(searcher.points):
            searcher.study.enqueue_trial({path: _encode(v) for path, v in searcher.points[number - 1].items()})
        if where == "drawing":
            searcher._set_sampler(number)
            asked = searcher.study.ask()
            first = searcher.order[0]
            _suggest(asked, first, searcher.distributions[first])
    else:
        found = searcher.suggest("killed")
        assert found["number"] == number
        finish(searcher, folder, number, found["params"], "killed", until=where)
    journal = folder.path / "study.journal"
    with journal.open("ab") as stream:
        stream.write(b'{"op_code":6,"worker_id":"tor')
    journal.with_name("study.journal.lock").symlink_to(journal)


MOMENTS = ["enqueued", "drawing", "asked", "trained", "told"]


@pytest.mark.parametrize("where", MOMENTS)
@pytest.mark.parametrize("algorithm", ["optuna", "random"])
def test_a_searcher_proposes_after_a_kill_what_it_would_have_without(tmp_path, where, algorithm):
    arguments = (*OPTUNA, f"search.algorithm={algorithm}")
    calm, _ = propose(tmp_path / "calm", arguments)
    numbers = (1,) if where == "enqueued" else (1, 3, 12)
    cut, trials = propose(tmp_path / "cut", arguments, lambda n: where if n in numbers else None)
    assert list(calm) == list(cut) == list(range(1, 15))
    if (algorithm, where) == ("optuna", "drawing"):  # the settings drawn before the kill stay, the others are drawn
        assert list(cut[3]) == list(calm[3]) and cut[3]["model.conv_filters"] == calm[3]["model.conv_filters"]
        calm = cut
    assert cut == calm
    assert [t.state for t in trials] == [optuna.trial.TrialState.COMPLETE] * 14
    assert all(t.intermediate_values == {e: value(calm[t.number + 1]) for e in (1, 2, 3)} for t in trials)
    assert [t.value for t in trials] == [value(calm[t.number + 1]) for t in trials]
    drawn = [json.dumps(params) for params in cut.values()]
    assert len(set(drawn)) == 14


def test_the_study_learns_the_whole_curve_of_a_trial_that_was_stopped_before_a_kill(tmp_path):
    plan, folder = begin(tmp_path, *OPTUNA)
    searcher = searcher_of(plan, folder)
    params = searcher.suggest("killed")["params"]
    searcher.on_trial_result("killed", {"epoch": 1, "val_loss": 0.75})  # Tune does not hand on the last row
    path = folder.trial(1)
    write_json(path / "params.json", {"searched": params, "config": {}})
    (path / "progress.csv").write_text(
        "epoch,seconds,best_epoch,finished,val_loss\n1,0.1,1,,0.75\n2,0.1,1,scheduler,0.875\n"
    )
    [told] = searcher_of(plan, folder).study.get_trials()
    assert told.state == optuna.trial.TrialState.PRUNED and told.intermediate_values == {1: 0.75, 2: 0.875}
