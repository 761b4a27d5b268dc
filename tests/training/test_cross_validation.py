"""A trial that is a cross-validation: its data, its rows, cut off and gone on with."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import tuning.datasets.store.reader
from tests.helpers.folds import NUM_FOLDS, folds_in_memory, plan_of
from tuning.datasets.loaders.in_memory import ResidentData
from tuning.datasets.settings import AugmentSettings
from tuning.datasets.store.reader import Part, Versions
from tuning.experiment.trial_spec import TrialSpec
from tuning.training.cross_validation import FoldResults, mean_and_std, median_rates, rounded_mean
from tuning.training.tasks import task_of
from tuning.training.trainer import Trainer
from tuning.training.trial import build_model, train


def spec_of(config, directory=None):
    return TrialSpec(config.model_dump(mode="json"), directory and str(directory))


def rows_of(folds, directory=None, seed=42):
    rows = []
    train(spec_of(plan_of(f"seed={seed}").config, directory), folds, rows.append)
    return rows


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def best_rows(folds, config):
    """Each fold's best epoch, by a training of its own on arrays put together by hand."""
    best = []
    for held in folds.validates:
        features, frames = folds.clips.features, folds.clips.num_frames
        valid = np.concatenate([f[:n] for f, n in zip(features[~held], frames[~held], strict=True)]).astype(np.float64)
        normal = tuning.datasets.store.reader.FeatureStatistics(
            valid.mean(axis=0).astype(np.float32), valid.std(axis=0).astype(np.float32)
        )
        parts = [Part(*(getattr(folds.clips, name)[rows] for name in PARTS)) for rows in (~held, held)]
        torch.manual_seed(config.seed)
        rows = []
        data = ResidentData(*parts, normal, 16)
        Trainer(build_model(config, 40), data, task_of(config), config, "min").fit(rows.append)
        best.append(min(rows, key=lambda row: row["val_loss"]))
    return best


PARTS = ("ids", "features", "num_frames", "targets")


def test_rows_are_means_and_deviations_over_the_folds_best_epochs():
    folds = folds_in_memory()
    best = best_rows(folds, plan_of().config)
    rows = rows_of(folds)
    assert [(row["epoch"], row["fold"], row["best_epoch"]) for row in rows] == [(n, n, n) for n in (1, 2, 3)]
    assert [row["finished"] for row in rows] == ["", "", "all folds"]
    assert [row["fold_epochs"] for row in rows] == [row["epoch"] for row in best]
    names = [name for name in best[0] if name.startswith("val_") and name != "val_loss_best"]
    assert "val_ccc" in names and "val_rmse" in names
    for number, row in enumerate(rows, start=1):
        for name in names:
            values = [one[name] for one in best[:number]]
            assert row[name] == pytest.approx(np.mean(values), abs=1e-4)
            assert row[f"{name}_std"] == pytest.approx(np.std(values), abs=1e-4)
        assert row["val_loss_best"] == row["val_loss"]  # the mean, not a running best
    assert len({one["val_loss"] for one in best}) == NUM_FOLDS


def test_a_metric_that_is_not_defined_in_a_fold_has_no_mean():
    means, stds = mean_and_std([{"val_loss": 1.0, "val_r2": 0.5, "epoch": 3}, {"val_loss": 3.0, "epoch": 9}])
    assert (means, stds) == ({"val_loss": 2.0}, {"val_loss": 1.0})


def test_the_same_seed_gives_the_same_rows_and_another_others():
    folds = folds_in_memory()
    first = without_seconds(rows_of(folds))
    torch.manual_seed(5)
    assert without_seconds(rows_of(folds)) == first
    assert rows_of(folds, seed=43)[0]["val_loss"] != first[0]["val_loss"]


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("owner", "method", "call"),
    [
        (Trainer, "save", 5),  # in fold 2, its epoch saved but not told
        (FoldResults, "add", 5),  # in fold 2, its epoch told
        (FoldResults, "add", 6),  # after fold 2, before its row
        (Trainer, "train_epoch", 4),  # in the first epoch of fold 2
    ],
)
def test_a_trial_that_was_cut_off_goes_on_with_its_fold(tmp_path, monkeypatch, owner, method, call):
    folds = folds_in_memory()
    whole = without_seconds(rows_of(folds, tmp_path / "whole"))
    original, calls, trained = getattr(owner, method), [], []
    epoch = Trainer.train_epoch

    def counted(*arguments):
        trained.append(1)
        return epoch(*arguments)

    def killed(*arguments, **named):
        result = (counted if original is epoch else original)(*arguments, **named)
        calls.append(1)
        if len(calls) == call:
            raise KilledError
        return result

    monkeypatch.setattr(Trainer, "train_epoch", counted)
    monkeypatch.setattr(owner, method, killed)
    rows = []
    spec = spec_of(plan_of().config, tmp_path / "cut")
    with pytest.raises(KilledError):
        train(spec, folds, rows.append)
    assert len(rows) == 1
    torch.manual_seed(999)  # another process's random state
    train(spec, folds, rows.append)
    rows = without_seconds(rows)
    assert [rows[0], *(row for row in rows[1:] if row["fold"] > 1)] == whole
    assert len(trained) == 9 + (method == "train_epoch")  # nothing that was saved is trained again
    kept = [json.loads((tmp_path / name / "checkpoints" / FoldResults.FILE).read_text()) for name in ("whole", "cut")]
    for one, two in zip(*kept, strict=True):  # an epoch that is said again counts once
        assert without_seconds([one["best"]]) == without_seconds([two["best"]])
        assert (one["epochs"], one["rates"]) == (two["epochs"], two["rates"]) and len(one["rates"]) == one["epochs"]
    again = []
    train(spec, folds, again.append)
    assert without_seconds(again) == whole[-1:]
    assert {path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()} == {
        "fold-1", "fold-2", "fold-3", "folds.json",
    }  # fmt: skip


def test_versions_of_the_bank_follow_their_clips():
    folds = folds_in_memory()
    versions = Versions(np.stack([folds.clips.features + 1, folds.clips.features + 2], axis=1), np.tile(16, (27, 2)))
    data = replace(folds, bank={"noise": versions}).fold(1).augmented(AugmentSettings(noise_prob=1.0))
    plain = folds.fold(1)
    assert set(plain.train_ids).isdisjoint(plain.val_ids) and len(plain.train_ids) + len(plain.val_ids) == 27
    batch = next(data.train_batches(1, 27, seed=0))
    for index, features in zip(batch["indices"].tolist(), batch["features"].numpy(), strict=True):
        (row,) = np.flatnonzero(folds.clips.ids == data.train_ids[index])
        raw = features * data.statistics.std + data.statistics.mean - folds.clips.features[row]
        assert np.allclose(raw, 1, atol=1e-4) or np.allclose(raw, 2, atol=1e-4)


def test_means_are_rounded_half_up():
    assert [rounded_mean(counts) for counts in ([2, 3], [1, 1, 3], [3, 4, 4], [5])] == [3, 2, 4, 5]


def test_rates_are_the_median_of_the_folds():
    results = FoldResults(3)
    for rates in ([0.8, 0.4, 0.2], [0.8], [0.8, 0.8, 0.1, 0.1]):
        for epoch, rate in enumerate(rates, start=1):
            ended = "yes" if epoch == len(rates) else ""
            row = {"epoch": epoch, "best_epoch": 1, "seconds": 1.0, "learning_rate": rate, "finished": ended}
            results.add(row)
    assert median_rates(results.rates, 5) == [0.8, 0.8, 0.2, 0.2, 0.2]
