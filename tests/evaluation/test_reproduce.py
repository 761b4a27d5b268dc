"""A trial trained again from its record: equal to the last bit, and told apart where anything differs."""

import json
import shutil

import pytest

from tests.helpers.command import TINY, run
from tuning.cli import reproduce
from tuning.experiment.directory import SearchFolder, read_progress


@pytest.fixture(scope="module")
def searches(ray_session, tmp_path_factory, prepared):
    """Storage of a search with augmentation, some of whose trials ASHA stopped."""
    storage = tmp_path_factory.mktemp("reproduce")
    asha = ("search.scheduler=asha", "search.grace_epochs=1", "search.num_trials=4", "training.epochs=4")
    augment = ("augment.noise_prob=0.5", "augment.versions=1", "augment.mixup_prob=0.5", "augment.time_masks=1")
    common = (f"storage={storage}", f"data.prepared={prepared}", *TINY[:3])
    run("name=asha", "search.reduction_factor=2", "optim.schedule=plateau", *asha, *augment, *common)
    return storage


@pytest.fixture(scope="module")
def folds(searches, prepared):
    """A search with inner folds, next to the other."""
    common = (f"storage={searches}", f"data.prepared={prepared}", *TINY[:3])
    run("name=folds", "split.inner_folds=2", "search.num_trials=1", "training.epochs=2", *common)


def check_reproduced(folder, capsys):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert reproduce.main([str(folder)]) == 0
    assert "equal     to the last bit" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_best_trial_is_equal_to_the_last_bit(searches, capsys):
    check_reproduced(searches / "asha", capsys)


@pytest.mark.slow
def test_the_best_trial_of_inner_folds_is_equal_to_the_last_bit(searches, folds, capsys):
    check_reproduced(searches / "folds", capsys)


def test_a_trial_that_was_stopped_is_trained_as_long_as_it_was(searches, capsys):
    stopped = next(r for r in SearchFolder(searches, "asha").records() if r.status == "stopped")
    assert reproduce.main([str(searches / "asha"), str(stopped.number)]) == 0
    printed = capsys.readouterr().out
    assert f"trial {stopped.number} again for {stopped.epochs} epoch" in printed


def test_another_seed_or_package_is_told(searches, tmp_path, capsys):
    copied = shutil.copytree(searches / "asha", tmp_path / "asha")
    params = next((copied / "trials").glob("*/params.json"))
    content = json.loads(params.read_text())
    content["config"]["seed"] += 1
    params.write_text(json.dumps(content))
    environment = json.loads((copied / "environment.json").read_text())
    environment["packages"]["torch"] = "1.0"
    (copied / "environment.json").write_text(json.dumps(environment))
    assert reproduce.main([str(copied), str(int(params.parent.name))]) == 1
    printed = capsys.readouterr().out
    assert "differ    at most by" in printed and "recorded," in printed
    assert "not the environment of the search: torch 1.0 -> " in printed


def test_wrong_input_is_refused(searches, tmp_path, capsys):
    for arguments, message in (
        ([], "expected the folder of a search"),
        ([str(tmp_path)], "expected the folder of a search (with its config.yaml)"),
        ([str(searches / "asha"), "9"], "expected the number of a trial (1 to 4), got '9'"),
    ):
        assert reproduce.main(arguments) == 2
        assert message in capsys.readouterr().err


def test_an_epoch_that_was_not_trained_again_is_a_difference(searches, capsys):
    """Even where as many were: rows are joined by their epoch, not by their place."""
    from tuning.evaluation.reproduce import compare

    folder = SearchFolder(searches, "asha")
    record = next(each for each in folder.records() if each.epochs >= 2)
    recorded = [{"epoch": "2", "val_loss": "0.3"}, {"epoch": "3", "val_loss": "0.2"}]
    record.best_epoch = 2
    assert not compare(folder, record, recorded, [{"epoch": 1, "val_loss": 0.5}, {"epoch": 2, "val_loss": 0.3}])
    said = capsys.readouterr().out
    assert "recorded  val_loss 0.3 in epoch 2" in said and "now       val_loss 0.3" in said
    assert "differ    2 epochs recorded, 2 now, none of epoch 3" in said


def test_features_are_read_where_the_trial_had_them(searches, tmp_path, capsys):
    """A search may be resumed with another folder for them, of which its first record says nothing."""
    copy = shutil.copytree(searches / "asha", tmp_path / "asha")
    params = json.loads((copy / "trials" / "0001" / "params.json").read_text())
    then = params["config"]["data"]["prepared"]
    config = (copy / "config.yaml").read_text()
    assert then in config
    (copy / "config.yaml").write_text(config.replace(then, str(tmp_path / "first")))
    assert reproduce.main([str(copy), "1"]) == 0
    assert "equal     to the last bit" in capsys.readouterr().out and not (tmp_path / "first").exists()


@pytest.mark.slow
def test_clips_are_read_as_in_the_search_on_a_machine_with_more_memory(ray_session, tmp_path, monkeypatch, capsys):
    """Streamed clips come in another order than those in memory, so what `auto` chose is recorded with each trial."""
    common = (f"storage={tmp_path}", f"data.prepared={tmp_path}/prepared", *TINY)
    with monkeypatch.context() as small:
        small.setattr("tuning.data.data_module.smallest_node", lambda nodes, cpus, gpus: 1)
        run("name=small", "search.num_trials=1", *common)
    run("name=large", "search.num_trials=1", *common)
    trials = [tmp_path / name / "trials" / "0001" for name in ("small", "large")]
    configs = [json.loads((trial / "params.json").read_text())["config"] for trial in trials]
    assert [config["data"]["loading"] for config in configs] == ["streamed", "resident"]
    losses = [[row["train_loss"] for row in read_progress(trial)] for trial in trials]
    assert losses[0] != losses[1], "the order of clips makes no difference here, so the test shows nothing"
    check_reproduced(tmp_path / "small", capsys)
    output = run("name=small", "search.num_trials=2", *common)
    assert "clips are streamed; trials before: streamed, on the machines of now: resident" in output
    second = json.loads((tmp_path / "small" / "trials" / "0002" / "params.json").read_text())
    assert second["config"]["data"]["loading"] == "streamed"
