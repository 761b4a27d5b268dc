"""Trials with inner folds in a search: stopped, ranked, written, finalized; no fold has a test clip."""

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import ray
import torch

import tuning.datasets.store.reader
from tests.helpers.command import run
from tests.helpers.folds import NUM_FOLDS, arguments_of, corpus_arguments, folds_in_memory, plan_of, write_corpus
from tuning.cli import finalize
from tuning.config.errors import UserError
from tuning.data.data_module import DataModule
from tuning.data.keys import data_key
from tuning.data.plan import make_plan
from tuning.datasets.loaders.in_memory import ResidentData
from tuning.datasets.loaders.kfold import ResidentFolds, StreamedFolds, open_folds
from tuning.evaluation.leaderboard import write_leaderboard
from tuning.experiment.directory import SearchFolder, TrialRecord, read_progress
from tuning.experiment.ranking import rank
from tuning.search.callbacks.progress_table import Standing
from tuning.search.resources import Resources
from tuning.search.tuner import run_search
from tuning.training.cross_validation import FoldResults

# Ray's workers can't import a test module: the formula travels by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

ONE_AT_A_TIME = Resources(cpus=1, gpus_per_worker=0.0, workers=1, concurrent=1)


class Poisoned:
    """Folds whose second one has a label that is no number."""

    def __init__(self, folds):
        self.folds = folds

    def __len__(self):
        return len(self.folds)

    def fold(self, number):
        data = self.folds.fold(number)
        if number == 1:
            data.train.targets[0] = np.nan
        return data


def search(tmp_path, plan, data=None, *trainable):
    folder = SearchFolder(tmp_path, plan.name)
    folder.create(plan.space, plan.overrides, {"corpus": "none", "num_clips": 0})
    reason = run_search(folder, plan, data or {}, ONE_AT_A_TIME, *trainable)
    assert reason == ""
    return folder, write_leaderboard(folder, "val_loss", "min", {"val_loss": 1.0})


def test_nan_in_a_fold_fails_the_trial(ray_session, tmp_path):
    plan = plan_of()
    shared = {data_key(plan.config): [ray.put(Poisoned(folds_in_memory()))]}
    folder, (record,) = search(tmp_path, plan, shared)
    assert (record.status, record.epochs, record.folds) == ("failed", 1, NUM_FOLDS)
    assert "inner fold 2: train_loss is nan in epoch 1" in record.reason
    assert "FloatingPointError" in (folder.trial(1) / "error.txt").read_text()


def harder_and_harder(spec, data):
    """Folds that get harder, so that a trial with few of them has the better mean."""
    from ray import tune

    results = FoldResults(spec["config"]["split"]["inner_folds"], "val_loss")
    for fold in range(results.num_folds):
        value = abs(spec["config"]["model"]["lstm_dropout"] - 0.3) + 10 * fold
        row = {"epoch": 1, "best_epoch": 1, "val_loss": value, "seconds": 0.1, "learning_rate": 0.1, "finished": "yes"}
        results.add(row)
        tune.report(results.row())


def test_a_poor_trial_is_stopped_after_a_fold_and_ranks_after_the_whole_ones(ray_session, tmp_path, capsys):
    plan = plan_of("split.inner_folds=4", "search.scheduler=median", "search.num_trials=12")
    folder, ranked = search(tmp_path, plan, None, harder_and_harder)
    assert " folds, " in capsys.readouterr().out
    status = [record.status for record in ranked]
    num_done = status.count("done")
    assert 0 < num_done < 12 and status == ["done"] * num_done + ["stopped"] * (12 - num_done)
    assert {record.epochs for record in ranked[:num_done]} == {4}
    stopped = ranked[num_done:]
    assert 1 in {record.epochs for record in stopped} and max(record.epochs for record in stopped) < 4
    assert max(r.metrics["val_loss"] for r in stopped) < min(r.metrics["val_loss"] for r in ranked[:num_done])
    first = ranked[0]
    values = abs(first.params["model.lstm_dropout"] - 0.3) + np.array([0, 10, 20, 30])
    assert first.metrics == pytest.approx({"val_loss": values.mean(), "val_loss_std": values.std()})
    assert (first.best_epoch, first.reason) == (4, "all folds")  # the last row, not the one with the best mean
    rows = list(csv.DictReader((folder.path / "leaderboard.csv").open()))
    assert list(rows[0])[4:9] == ["best_epoch", "epochs", "val_loss", "val_loss_std", "seconds"]
    assert [int(row["fold"]) for row in read_progress(folder.trial(first.number))] == [1, 2, 3, 4]
    assert "mean over 4 inner folds" in (folder.path / "leaderboard.md").read_text()
    (folder.trial(first.number) / "result.json").unlink()
    cut = next(record for record in folder.records() if record.number == first.number)
    assert (cut.metrics, cut.epochs, cut.folds) == (pytest.approx(first.metrics), 4, 4)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_fewer_folds_rank_after_all_folds_whatever_the_mean(mode):
    def record(number, value, epochs, status):
        return TrialRecord(number, {}, status, "", epochs, epochs, 1.0, {"val_ccc": value}, folds=5)

    records = [
        record(1, 0.0, 2, "stopped"),
        record(2, 0.9, 4, "running"),
        record(3, 0.4, 5, "done"),
        record(4, 0.5, 5, "done"),
        record(5, 0.45, 5, "failed"),
    ]
    expected = {"min": [3, 4, 1, 2, 5], "max": [4, 3, 2, 1, 5]}[mode]
    assert [one.number for one in rank(records, "val_ccc", mode)] == expected
    standing = Standing("folds", 5, "val_ccc", mode, 50, "", {one.number: one for one in records})
    assert standing.best().number == expected[0]


def test_what_can_not_be_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(UserError, match=r"resources.workers_per_trial: expected 1 with split.inner_folds"):
        plan_of("resources.workers_per_trial=2")
    with pytest.raises(UserError, match=r"split.inner_folds: .*at least 2.*, got 1"):
        plan_of("split.inner_folds=1")
    folder = write_corpus(tmp_path)
    with pytest.raises(
        UserError, match=r"split.inner_folds: expected from 2 folds to \d+, as there are groups, got 40"
    ):
        DataModule.read(make_plan(arguments_of(*corpus_arguments(folder), "split.inner_folds=40")).space)


@pytest.fixture(scope="module")
def finished(ray_session, tmp_path_factory):
    """Folder of a corpus and of a finished search on it, its arguments and its output."""
    folder = write_corpus(tmp_path_factory.mktemp("folds"))
    arguments = arguments_of(*corpus_arguments(folder), "search.num_trials=2")
    return folder, arguments, run(*arguments)


@pytest.fixture(scope="module")
def prepared(finished):
    """What that search reads, prepared."""
    data = DataModule.read(make_plan(list(finished[1])).space)
    data.prepare_features(lambda done, total: None)
    return data


def test_each_fold_holds_what_its_shards_say_and_no_test_clip(prepared, monkeypatch):
    (variant,), split = prepared.features.values(), prepared.split
    opened, read_shard = set(), tuning.datasets.store.reader.read_shard

    def recorded(root, path, columns, checksum):
        opened.add(path)
        return read_shard(root, path, columns, checksum)

    monkeypatch.setattr(tuning.datasets.store.reader, "read_shard", recorded)
    folds = open_folds(variant, split, "auto", 1 << 30)
    assert isinstance(folds, ResidentFolds) and len(folds) == NUM_FOLDS
    sealed = {clip.id for clip in split.test}
    assert sealed and opened
    assert all(sealed.isdisjoint(shard.clip_ids) for shard in variant.shards if shard.path in opened)
    group_of = {clip.id: clip.group for clip in split.train + split.val}
    validated = []
    for number, (train_clips, val_clips) in enumerate(split.inner_parts()):
        found = folds.fold(number)
        expected = ResidentData.read(variant, replace(split, train=train_clips, val=val_clips))
        assert found.statistics.mean.tolist() == expected.statistics.mean.tolist()
        assert found.statistics.std.tolist() == expected.statistics.std.tolist()
        assert (found.train_ids.tolist(), found.val_ids.tolist()) == (
            expected.train_ids.tolist(), expected.val_ids.tolist(),
        )  # fmt: skip
        for name, arguments in (("train_batches", (2, 5, 7)), ("val_batches", (5,))):
            pairs = zip(getattr(found, name)(*arguments), getattr(expected, name)(*arguments), strict=True)
            assert all(torch.equal(one[key], two[key]) for one, two in pairs for key in ("features", "targets"))
        assert sealed.isdisjoint(found.train_ids) and sealed.isdisjoint(found.val_ids)
        assert {group_of[i] for i in found.train_ids}.isdisjoint(group_of[i] for i in found.val_ids)
        validated += found.val_ids.tolist()
    assert sorted(validated) == sorted(group_of)


def test_streamed_folds_hold_the_same(ray_session, prepared):
    (variant,), split = prepared.features.values(), prepared.split
    resident, streamed = (open_folds(variant, split, way, 1 << 30) for way in ("resident", "streamed"))
    assert isinstance(streamed, StreamedFolds) and len(streamed) == NUM_FOLDS
    for number in range(NUM_FOLDS):
        one, two = resident.fold(number), streamed.fold(number)
        assert one.train_ids.tolist() == two.train_ids.tolist() and one.val_ids.tolist() == two.val_ids.tolist()
        np.testing.assert_allclose(one.statistics.mean, two.statistics.mean, rtol=1e-5)
        for a, b in zip(resident.targets(number), streamed.targets(number), strict=True):
            np.testing.assert_array_equal(a, b)
    batches = (next(folds.fold(1).val_batches(50)) for folds in (resident, streamed))
    one, two = batches
    torch.testing.assert_close(one["features"], two["features"], rtol=1e-4, atol=1e-4)


def test_the_command_says_and_leaves_what_is_documented(finished, prepared):
    folder, arguments, output = finished
    split = prepared.split
    clips = len(split.train) + len(split.val)
    line = f"48 clips of 12 groups; validation: {NUM_FOLDS} inner folds of {clips} clips, {len(split.test)} test"
    assert line in output and "folds" in output.split("rank")[1]
    dry = run(*arguments, "--dry-run")
    assert line.split("; ")[1] in dry and f"each trial trains {NUM_FOLDS} models, one per inner fold: 6 in all" in dry
    _, baseline = prepared.share()
    assert baseline == json.loads((folder / "results" / "crnn" / "baseline.json").read_text())
    losses = []
    for train_clips, val_clips in split.inner_parts():
        wanted, known = (np.array([clip.targets for clip in part], np.float32) for part in (val_clips, train_clips))
        losses.append(((wanted - known.mean(axis=0)) ** 2).mean())
    assert baseline["val_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_winner_is_retrained_for_the_mean_of_its_folds_best_epochs(finished, capsys):
    folder = finished[0] / "results" / "crnn"
    winner = int(next(csv.DictReader((folder / "leaderboard.csv").open()))["trial"])
    rows = read_progress(folder / "trials" / f"{winner:04d}")
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    with (folder / "trials" / f"{winner:04d}" / "progress.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        # A mean of 1.67, which is neither the number of folds nor any fold's own.
        writer.writerows(row | {"fold_epochs": epochs} for row, epochs in zip(rows, (1, 1, 3), strict=True))
    assert finalize.main([str(folder)]) == 0
    assert f"retrain   trial {winner} for 2 epochs on" in capsys.readouterr().out
    metrics = json.loads((folder / "best" / "metrics.json").read_text())
    assert (metrics["trial"], metrics["epochs"]) == (winner, 2)


@pytest.mark.slow
def test_classes_are_cross_validated_too(ray_session, finished):
    folder, arguments, _ = finished
    labels = ("task.name=classification", "data.label_column=emotion", "search.metric=val_uar")
    run(*arguments_of(*arguments, "name=classes", *labels, "search.num_trials=1"))
    (row,) = csv.DictReader((folder / "results" / "classes" / "leaderboard.csv").open())
    assert (row["status"], row["epochs"]) == ("done", str(NUM_FOLDS))
    assert list(row)[6:8] == ["val_uar", "val_uar_std"] and 0 <= float(row["val_uar"]) <= 1
