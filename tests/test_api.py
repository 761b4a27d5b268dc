"""Search, finalize and predict from a script: the same as by command, as tables."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from tests.helpers.command import SMALL_SEARCH, run
from tuning import api
from tuning.cli import finalize as finalize_command
from tuning.cli import predict as predict_command
from tuning.config.loader import parse_overrides


@pytest.fixture(scope="module")
def found(ray_session, tmp_path_factory, prepared):
    """A search of one trial and of one more."""
    storage = tmp_path_factory.mktemp("api")
    settings = {"storage": str(storage), "data.prepared": str(prepared), "name": "s", "search.num_trials": 1}
    few = api.search("crnn", SMALL_SEARCH | settings)
    assert len(few.leaderboard) == 1
    return few.extend(1)


def test_an_extended_search_is_the_commands(found, tmp_path, prepared):
    words = [f"{path}={json.dumps(value)}" for path, value in SMALL_SEARCH.items()]
    run(*words, f"storage={tmp_path}", f"data.prepared={prepared}", "name=s", "search.num_trials=2")
    rows = list(csv.DictReader((tmp_path / "s" / "leaderboard.csv").open()))
    table = found.leaderboard
    assert table["trial"].tolist() == [int(row["trial"]) for row in rows]
    for name in ("val_loss", "val_ccc", "optim.learning_rate"):
        np.testing.assert_array_equal(table[name], [float(row[name]) for row in rows])
    assert found.stopped == "" and found.metric == "val_loss"


def test_best_curves_and_figures_are_those_of_the_folder(found):
    assert found.best.number == found.leaderboard["trial"][0]
    assert found.best.metrics["val_loss"] == found.leaderboard["val_loss"][0]
    curves = found.curves
    progress = pd.read_csv(found.path / "trials" / f"{found.best.number:04d}" / "progress.csv")
    own = curves[curves["trial"] == found.best.number].reset_index(drop=True)
    np.testing.assert_array_equal(own["val_loss"], progress["val_loss"])
    assert own["val_loss"].min() == found.best.metrics["val_loss"]
    figures = found.figures()
    assert set(figures) == {"history", "curves"}
    drawn = [value for trace in figures["history"].data for value in (() if trace.y is None else trace.y)]
    assert any(value == pytest.approx(found.best.metrics["val_loss"]) for value in drawn if value is not None)


def test_any_trial_of_a_search_predicts_and_the_best_are_drawn(found, prepared):
    assert (found.path / "history.png").read_bytes().startswith(b"\x89PNG")
    recording = next((prepared / "corpora").glob("demo-*/**/*.wav"))
    predictions = [api.load_trial(found, number).predict(recording) for number in (1, 2)]
    assert [list(table) for table in predictions] == [
        ["file", "start_seconds", "end_seconds", "valence", "arousal"]
    ] * 2
    assert not predictions[0].equals(predictions[1])
    assert api.load_trial(found).predict(recording).equals(predictions[found.best.number - 1])


def test_a_search_that_is_opened_has_its_leaderboard_and_no_settings_to_extend_it_by(found):
    again = api.open_search(found.path)
    pd.testing.assert_frame_equal(again.leaderboard, found.leaderboard)
    with pytest.raises(api.UserError, match="expected a search that search"):
        again.extend(1)


def test_finalize_and_predict_are_the_commands(found, tmp_path, prepared, capsys):
    metrics = api.finalize(found)
    said = json.loads((found.path / "best" / "metrics.json").read_text())
    assert metrics == said["test"]
    with pytest.raises(api.UserError, match="again=true looks once more"):
        api.finalize(found)
    rows = list(csv.DictReader((found.path / "best" / "test_predictions.csv").open()))
    root = next((prepared / "corpora").glob("demo-*"))
    files = [root / row["clip"] for row in rows]
    table = api.load(found.path / "best").predict(files)
    for target in ("valence", "arousal"):
        np.testing.assert_array_equal(table[target], [float(row[f"predicted_{target}"]) for row in rows])
    capsys.readouterr()
    out = tmp_path / "out.csv"
    assert predict_command.main([str(found.path / "best"), *map(str, files), f"out={out}"]) == 0
    pd.testing.assert_frame_equal(pd.read_csv(out), table)
    assert finalize_command.main([str(found.path)]) == 2


def test_what_the_command_refuses_is_raised_with_its_words(tmp_path):
    with pytest.raises(api.UserError, match=r"did you mean 'crnn'\?"):
        api.search("crn")
    with pytest.raises(api.UserError, match=r"optim.learning_rat: no such setting; did you mean 'learning_rate'\?"):
        api.search("crnn", {"optim.learning_rat": 1})
    with pytest.raises(api.UserError, match="expected the folder of a search"):
        api.open_search(tmp_path)
    with pytest.raises(api.UserError, match=r"config\.yaml"):
        api.load(tmp_path)


def test_the_corpus_is_looked_at_before_training(prepared):
    settings = {"data.prepared": str(prepared)}
    clips, counted = api.corpus("ser_demo", settings), api.split("ser_demo", settings)
    assert set(clips["part"]) == {"train", "val", "test"} and counted["clips"].sum() == len(clips)
    for part, each in clips.groupby("part"):
        of_part = counted[counted["part"] == part].set_index("label")["clips"]
        assert of_part.to_dict() == each["label"].value_counts().to_dict()
    assert (clips.groupby("group")["part"].nunique() == 1).all()
    assert {"valence", "arousal"} <= set(api.corpus("crnn", settings).columns)


def test_a_balance_counts_the_clips_of_the_corpus_and_names_problems(prepared):
    settings = {"data.prepared": str(prepared)}
    balance, clips = api.balance("ser_demo", settings), api.corpus("ser_demo", settings)
    counted = {(count.part, count.name): count.num_clips for count in balance.counts}
    assert counted == clips.groupby(["part", "label"]).size().to_dict()
    assert [hint.partition(",")[0] for hint in balance.hints] == [
        f"{part} has two speakers or artists" for part in ("validation", "test")
    ]
    few = api.balance("ser_demo", settings | {"split.val_share": 0.05})
    assert any("one speaker" in hint for hint in few.hints)


def test_a_search_is_looked_at_reported_and_reproduced(found, capsys):
    status = api.status(found)
    assert status.worker == "" and status.standing.ended == 2
    assert status.standing.best().number == found.best.number
    before = found.path / "report.html"
    before.unlink()
    assert api.report(found) == before and before.exists()
    assert api.reproduce(found, 1)
    assert "equal     to the last bit" in capsys.readouterr().out


def test_text_that_looks_like_a_number_stays_text():
    given = {"split.test_fold": "03", "data.root": "1e3", "training.epochs": 2, "model.kernel_size": {"choice": [3, 5]}}
    assert parse_overrides(api.arguments_of("crnn", given)) == {"space": "crnn", **given}


def test_numbers_and_paths_arrive_as_they_were_given(tmp_path):
    given = {
        "optim.learning_rate": 0.00123456789, "optim.epsilon": 1e-7, "loss.delta": 1 / 3, "data.root": tmp_path,
        "search.num_trials": np.int64(3), "training.patience": None, "augment.versions": np.float64(2.0),
    }  # fmt: skip
    found = parse_overrides(api.arguments_of("crnn", given))
    assert found == {"space": "crnn", **given, "data.root": str(tmp_path)}
    with pytest.raises(api.UserError, match="expected values that JSON has, got set"):
        api.arguments_of("crnn", {"model.kernel_size": {3, 5}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ensemble": 0}, "ensemble: expected a number from 1, got 0"),
        ({"top": 2, "seeds": 0}, "seeds: expected a number from 1, got 0"),
        ({"seeds": 7}, "seeds: expected top=K with at least 2 trials"),
    ],
)
def test_finalize_refuses_what_the_command_refuses(found, options, message):
    with pytest.raises(api.UserError, match=message):
        api.finalize(found, again=True, **options)


@pytest.mark.parametrize("step", [0, -1, float("nan"), float("inf")])
def test_predict_refuses_steps_that_are_none(found, prepared, step):
    if not (found.path / "best").exists():
        api.finalize(found)
    file = next((prepared / "corpora").glob("demo-*/**/*.wav"))
    model = api.load(found.path / "best")
    with pytest.raises(api.UserError, match="step_seconds: expected seconds"):
        model.predict([file], step_seconds=step)
    assert len(model.predict(str(file))) == 1


@pytest.mark.slow
def test_a_search_in_an_object_store_is_finalized_there(ray_session, tmp_path, prepared, monkeypatch):
    """`path` is then this machine's mirror, which is not the search itself."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = {"storage": f"file://{tmp_path}/bucket", "data.prepared": str(prepared), "search.num_trials": 1}
    remote = api.search("crnn", SMALL_SEARCH | settings | {"name": "far"})
    assert remote.remote == f"file://{tmp_path}/bucket/far"
    metrics = api.finalize(remote)
    written = tmp_path / "bucket" / "far" / "best" / "metrics.json"
    assert json.loads(written.read_text())["test"] == metrics
