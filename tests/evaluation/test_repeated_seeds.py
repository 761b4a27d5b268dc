"""A search whose best trials have equal settings: who is repeated, retrained and tested, and what is left in best/."""

import csv
import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.helpers.command import TINY, run
from tests.helpers.written_search import write_search
from tuning.cli import finalize, predict
from tuning.datasets.splits.split import Split
from tuning.evaluation.repeated_seeds import candidates, replicate_space
from tuning.experiment.directory import SearchFolder, read_progress, write_json
from tuning.experiment.faults import folder_anew
from tuning.experiment.recorded import config_of, space_of

RATES = [0.0003, 0.001, 0.003, 0.01]
SEEDS = [43, 44]


@pytest.fixture(scope="module")
def searched(ray_session, tmp_path_factory, prepared):
    """Folder of a search by TPE over four listed values, so that its eight trials repeat some."""
    folder = tmp_path_factory.mktemp("repeats")
    space = space_file(folder, f"optim: {{learning_rate: {{choice: {RATES}}}}}")
    search = ("search.algorithm=optuna", "search.num_trials=8")
    run(f"space={space}", f"storage={folder}", f"data.prepared={prepared}", "name=s", *search, *TINY)
    return folder / "s"


def space_file(folder, text):
    """A space that searches nothing else."""
    file = folder / "space.yaml"
    file.write_text(text)
    return file


@pytest.fixture
def copied(searched, tmp_path):
    return shutil.copytree(searched, tmp_path / "s", ignore=shutil.ignore_patterns("best", "test_looks.json"))


def rate_of(folder, number):
    """The learning rate that a trial was trained with."""
    return json.loads((folder / "trials" / f"{int(number):04d}" / "params.json").read_text())["config"]["optim"][
        "learning_rate"
    ]


def best_rates(folder):
    """The different rates by their best trial's loss, as the leaderboard has them."""
    rows = csv.DictReader((folder / "leaderboard.csv").open())
    return list(dict.fromkeys(float(row["optim.learning_rate"]) for row in rows))


def repeated_values(folder):
    """The loss of each repetition by rate and seed, from the folders that they were trained in."""
    found = {}
    for params in folder.glob("replicates/*/trials/*/params.json"):
        config = json.loads(params.read_text())["config"]
        result = json.loads((params.parent / "result.json").read_text())
        found[config["optim"]["learning_rate"], config["seed"]] = result["metrics"]["val_loss"]
    return found


def judged(folder):
    """Paths of the test clips and the predictions, as text."""
    rows = list(csv.DictReader((folder / "best" / "test_predictions.csv").open()))
    return {row["clip"]: [row["predicted_valence"], row["predicted_arousal"]] for row in rows}


def predicted(folder, prepared, tmp_path):
    """What `predict` says of the test clips, as text."""
    root = next((prepared / "corpora").glob("demo-*"))
    clips = list(judged(folder))
    out = tmp_path / "predicted.csv"
    assert predict.main([str(folder / "best"), *(str(root / clip) for clip in clips), f"out={out}"]) == 0
    rows = csv.DictReader(out.open())
    return {clip: [row["valence"], row["arousal"]] for clip, row in zip(clips, rows, strict=True)}


@pytest.mark.slow
def test_each_of_the_best_has_the_scores_of_its_own_repetitions(copied, capsys):
    assert len({rate_of(copied, number) for number in range(1, 9)}) < 8, "a search with repeats"
    assert finalize.main([str(copied), "top=3", "seeds=2", "ensemble=2"]) == 0
    printed = capsys.readouterr().out
    metrics = json.loads((copied / "best" / "metrics.json").read_text())
    values = repeated_values(copied)
    top = best_rates(copied)[:3]
    scores = {rate_of(copied, number): found for number, found in metrics["repeated"]["scores"].items()}
    assert scores == {rate: [values[rate, seed] for seed in SEEDS] for rate in top}
    by_mean = sorted(top, key=lambda rate: np.mean([values[rate, seed] for seed in SEEDS]))
    assert rate_of(copied, metrics["trial"]) == by_mean[0] and metrics["trial"] == metrics["repeated"]["winner"]
    assert [rate_of(copied, number) for number in metrics["ensemble"]] == by_mean[:2]
    repeats = [line for line in printed.splitlines() if "have equal settings: one candidate" in line]
    assert repeats and all(line.startswith("note      trials ") for line in repeats)
    # Each is retrained for the epochs that its repetitions took, not those of its one training in the search.
    for member in metrics["members"]:
        epochs = [best_epoch(copied, rate_of(copied, member["trial"]), seed) for seed in SEEDS]
        assert member["epochs"] == int(np.floor(np.mean(epochs) + 0.5))


def best_epoch(folder, rate, seed):
    for params in folder.glob("replicates/*/trials/*/params.json"):
        config = json.loads(params.read_text())["config"]
        if (config["optim"]["learning_rate"], config["seed"]) == (rate, seed):
            return int(read_progress(params.parent)[-1]["best_epoch"])
    raise AssertionError(f"no repetition of {rate} with {seed}")


@pytest.mark.slow
def test_an_ensemble_holds_no_network_twice(copied):
    assert finalize.main([str(copied), "ensemble=3"]) == 0
    folders = [copied / "best", *(copied / "best" / "members").iterdir()]
    weights = [
        np.concatenate([w.numpy().ravel() for w in load_file(f / "model.safetensors").values()]) for f in folders
    ]
    assert len(weights) == 3
    assert min(np.abs(a - b).max() for i, a in enumerate(weights) for b in weights[:i]) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "commands",
    [
        [["ensemble=2"], []],
        [["top=2", "seeds=2", "ensemble=3"], ["ensemble=2"], ["top=2", "seeds=2"]],
    ],
    ids=lambda commands: " then ".join(" ".join(command) or "alone" for command in commands),
)
def test_predictions_are_those_of_the_test_after_any_finalize_commands(copied, prepared, tmp_path, commands):
    for command in commands:
        assert finalize.main([str(copied), "again=true", *command]) == 0
        assert predicted(copied, prepared, tmp_path) == judged(copied)


@pytest.mark.slow
def test_nothing_of_an_earlier_best_is_left(copied):
    assert finalize.main([str(copied), "ensemble=2"]) == 0
    for leftover in ("model.onnx", "members/0009/config.yaml"):
        (copied / "best" / leftover).parent.mkdir(exist_ok=True)
        (copied / "best" / leftover).write_text("of another model")
    assert finalize.main([str(copied), "again=true"]) == 0
    assert not (copied / "best" / "members").exists() and not (copied / "best" / "model.onnx").exists()


@pytest.mark.slow
def test_settings_without_effect_do_not_make_another_member(ray_session, tmp_path, prepared, capsys):
    """No error comes near either of Huber's deltas: two of the trials are the same network."""
    space = space_file(tmp_path, "optim: {learning_rate: 0.01}\nloss: {name: huber, delta: {grid: [1000.0, 2000.0]}}")
    search = ("search.algorithm=grid", "search.metric=val_rmse")
    run(f"space={space}", f"storage={tmp_path}", f"data.prepared={prepared}", "name=idle", *search, *TINY)
    assert finalize.main([str(tmp_path / "idle"), "ensemble=2"]) == 0
    assert "has the network of trial" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "idle" / "best" / "metrics.json").read_text())
    assert [member["seed"] for member in metrics["members"]] == [42, 43]
    first, second = (
        load_file(next((tmp_path / "idle" / "best").glob(f"{place}model.safetensors"))) for place in ("", "members/*/")
    )
    assert any((first[name] != second[name]).any() for name in first)


LISTED = ("optim.learning_rate={choice: [0.001, 0.01]}", "model.kernel_size={choice: [3, 5]}")


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """Folder of a search of twelve trials over listed values, its space, and its four configurations by values."""
    folder, _ = write_search(tmp_path_factory.mktemp("s"), "search.num_trials=12", *LISTED, timed=False)
    space = space_of(folder)
    params = [{"optim.learning_rate": rate, "model.kernel_size": kernel} for rate in (0.001, 0.01) for kernel in (3, 5)]
    configs = {tuple(each.values()): (each, space.config(each).model_dump(mode="json")) for each in params}
    return folder, space, configs


@settings(max_examples=15)
@given(
    drawn=st.lists(st.tuples(st.sampled_from([0.001, 0.01]), st.sampled_from([3, 5])), min_size=1, max_size=12),
    top=st.integers(1, 5),
    seeds=st.lists(st.integers(43, 60), min_size=1, max_size=4, unique=True),
)
def test_every_candidate_is_repeated_with_every_seed_whatever_repeats(tmp_path_factory, listed, drawn, top, seeds):
    from tuning.data.plan import planned_points

    whole, space, configs = listed
    folder = SearchFolder(tmp_path_factory.mktemp("s"), whole.name)
    shutil.copytree(whole.path, folder.path)
    for number in range(1, 13):
        if number > len(drawn):
            shutil.rmtree(folder.trial(number))
        else:
            params, written = configs[drawn[number - 1]]
            write_json(folder.trial(number) / "params.json", {"searched": params, "config": written})
    found = candidates(folder, space)
    of_trial = {number: config_of(folder, number) for number in range(1, len(drawn) + 1)}
    ranked = [of_trial[each.number] for each in found]
    assert len({config.model_dump_json() for config in ranked}) == len(ranked)
    for each in found:
        assert all(of_trial[number] == each.config for number in each.repeats)
    chosen = found[:top]
    if not chosen:
        return
    asked = replicate_space(space, chosen, seeds)
    points = planned_points(asked, asked.fixed())
    wanted = [(drawn[each.number - 1], seed) for each in chosen for seed in seeds]
    trained = [((p["optim.learning_rate"], p["model.kernel_size"]), p["seed"]) for p in points]
    assert sorted(trained) == sorted(wanted)


def test_where_data_lie_and_how_they_are_loaded_makes_no_other_candidate(tmp_path):
    """What may change when a search goes on is no part of a configuration."""
    folder, _ = write_search(tmp_path, "search.num_trials=12", *LISTED, count=3, timed=False)
    space, params = space_of(folder), {"optim.learning_rate": 0.01, "model.kernel_size": 3}
    moved = ({}, {"root": "elsewhere"}, {"verify": True, "loading": "resident", "prepared": "there"})
    for number, changed in enumerate(moved, start=1):
        written = space.config(params).model_dump(mode="json")
        written["data"] |= changed
        write_json(folder.trial(number) / "params.json", {"searched": params, "config": written})
    (found,) = candidates(folder, space)
    assert sorted([found.number, *found.repeats]) == [1, 2, 3]


def test_a_member_with_another_seed_draws_from_the_searchs_gan(tmp_path, monkeypatch):
    """Other weights on the same data."""
    from tuning.data.data_module import DataModule
    from tuning.evaluation import final_test

    asked, trained = [], []

    class StopError(Exception):
        pass

    def stop(config, function, number, trains, encoder, course, source, heard_by):
        trained.append(trains.seed)
        raise StopError

    monkeypatch.setattr(DataModule, "final_source", lambda self, config: asked.append(config.seed) or DATA)
    monkeypatch.setattr(final_test, "compute", stop)
    config = space_of(write_search(tmp_path, *LISTED, count=1, timed=False)[0]).fixed()
    known, course = DataModule(None, None, None), final_test.Course(1, [], 1)
    for seed in (None, 43):
        with pytest.raises(StopError):
            final_test._train_member(tmp_path / "best", 1, config, course, known, seed)
    assert asked == [42, 42] and trained == [42, 43]


DATA = SimpleNamespace(split=Split([], [], [], "by hand"))


@pytest.mark.parametrize("fails", ["first", "second"])
def test_an_error_while_folders_are_renamed_leaves_the_earlier_best(tmp_path, monkeypatch, fails):
    best, rename = tmp_path / "best", Path.rename
    best.mkdir()
    (best / "model").write_text("earlier")
    calls = []

    def failing(self, target):
        calls.append(self.name)
        if len(calls) == ("first", "second").index(fails) + 1:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output"), folder_anew(best) as fresh:
        (fresh / "model").write_text("new")
    assert [file.name for file in tmp_path.iterdir()] == ["best"] and (best / "model").read_text() == "earlier"


def test_a_kill_between_the_renamings_is_mended_by_the_next_command(copied, capsys):
    """The next finalize finds the earlier best/ again, even one that it refuses to write anew."""
    assert finalize.main([str(copied)]) == 0
    (copied / "best").rename(copied / ".best.earlier")
    assert finalize.main([str(copied)]) == 2
    assert "again=true looks once more" in capsys.readouterr().err
    assert (copied / "best" / "config.yaml").exists() and not (copied / ".best.earlier").exists()


def test_a_terminal_that_goes_away_does_not_cost_the_model_of_a_look(copied, monkeypatch):
    from tuning.evaluation import final_test
    from tuning.evaluation.final_test import finalize as finalize_search

    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr(final_test, "print_scores", gone)
    with pytest.raises(BrokenPipeError):
        finalize_search(SearchFolder(copied.parent, copied.name))
    looks = json.loads((copied / "test_looks.json").read_text())
    metrics = json.loads((copied / "best" / "metrics.json").read_text())
    assert len(looks) == 1 and looks[0]["metrics"] == metrics["test"]
