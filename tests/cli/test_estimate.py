"""What a search will take, from measured parts: sums against a literal count, bounds, a probe that leaves nothing."""

import itertools

import numpy as np
import pytest

from tests.helpers.command import TINY, run
from tuning.cli.estimate import (
    BEGAN,
    ENDED,
    Estimate,
    Probe,
    _timeline,
    fewest_epochs,
    makespan,
    trial_epochs,
)
from tuning.config.schema import NOT_IDENTITY, TrainingSettings
from tuning.data.plan import make_plan
from tuning.datasets.loaders.generated import ExtendedData, GeneratedClips, steps_per_epoch
from tuning.datasets.loaders.in_memory import ResidentData
from tuning.datasets.store.reader import FeatureStatistics, Part
from tuning.training.early_stopping import earliest_end


def probe(number, setup=1.0, step=0.1, num_steps=10):
    return Probe(number, setup=setup, step=step, validation=0.5, report=0.5, num_steps=num_steps)


def made(**changes):
    values = {
        "preparation": 7.0, "start": 5.0, "gap": 0.5, "end": 2.0, "probes": [probe(1), probe(2, step=0.3)],
        "concurrent": 2, "models": 1, "longest": [10, 10, 10], "shortest": [4, 4, 4], "budget": None,
        "num_machines": 2, "price": 3.0, "currency": "EUR",
    }  # fmt: skip
    return Estimate(**{**values, **changes})


def test_parts_are_added_up():
    # Epochs of 2 and 4 s, the third trial's their mean; two at once: 21.5 s, then the third beside 41.5 s.
    assert made().trials([10, 10, 10]) == [21.0, 41.0, 31.0]
    assert made().most == pytest.approx(7 + 5 + 21.5 + 31.5 + 2)
    assert made().least == pytest.approx(7 + 5 + 9.5 + 13.5 + 2)
    assert made().cost(3600) == pytest.approx(6.0) and made(price=None).cost(3600) is None
    assert made(budget=30.0).most == pytest.approx(7 + 5 + 30 + 2)
    assert made(models=3).trials([30, 30, 30])[0] == 3 * 1 + 30 * 2
    assert made(longest=[2, 10, 10]).trials([2, 10, 10]) == [5.0, 41.0, 31.0]


def test_places_are_filled_in_order():
    assert makespan([3, 1, 1, 1], 2) == 3 and makespan([1, 1, 3], 2) == 4 and makespan([2, 2], 8) == 2
    assert makespan([], 2) == 0


@pytest.mark.parametrize(
    ("arguments", "fewest"),
    [
        (["training.epochs=50", "training.patience=null"], 50),
        (["training.epochs=50", "training.patience=10"], 11),
        (["training.epochs=5", "training.patience=10"], 5),
        (["search.scheduler=asha", "search.grace_epochs=3", "training.epochs=50"], 3),
        (["split.inner_folds=3", "training.epochs=50", "training.patience=10"], 33),
        (["split.inner_folds=3", "search.scheduler=asha", "training.epochs=50", "training.patience=null"], 50),
    ],
)
def test_epochs_before_anything_may_end_a_trial(arguments, fewest):
    assert fewest_epochs(make_plan(["space=crnn", *arguments]).config) == fewest


SEARCHED = (
    (
        ("search.algorithm=grid", "training.epochs={grid: [2, 30, 100]}", "training.patience=null"),
        ([2, 30, 100], [2, 30, 100]),
    ),
    (
        ("search.algorithm=grid", "training.epochs=50", "training.patience={grid: [3, 60]}", "split.inner_folds=2"),
        ([100, 100], [8, 100]),
    ),
    (
        ("search.algorithm=grid", "training.epochs={grid: [2, 50]}", "search.scheduler=asha", "search.grace_epochs=5"),
        ([2, 50], [2, 5]),
    ),
    # Only the point that is tried first is known; it leaves patience open.
    (
        (
            "search.algorithm=optuna", "search.num_trials=3", "training.epochs={int: [4, 90]}",
            "training.patience={choice: [null, 7, 20]}", "search.points_to_evaluate=[{training.epochs: 9}]",
        ),
        ([9, 90, 90], [8, 4, 4]),
    ),
    (
        (
            "search.algorithm=optuna", "search.num_trials=1", "training.patience={choice: [6, 20]}",
            "training.epochs=${training.patience}",
        ),
        ([20], [6]),
    ),
    # Where the condition does not hold, there are 50 epochs.
    (
        (
            "search.algorithm=optuna", "search.num_trials=1", "optim.name={choice: [adam, sgd]}",
            "training.patience=null", "training.epochs={int: [60, 80], when: {optim.name: sgd}}",
        ),
        ([80], [50]),
    ),
)  # fmt: skip


@pytest.mark.parametrize(("arguments", "epochs"), SEARCHED)
def test_a_searched_number_of_epochs_is_added_up_trial_by_trial(tmp_path, arguments, epochs):
    (tmp_path / "bare.yaml").write_text("data: {corpus: demo}\nmodel: {name: crnn}\n")
    plan = make_plan([f"space={tmp_path}/bare.yaml", *arguments])
    assert trial_epochs(plan.space, plan.config, plan.total) == epochs


def test_what_cannot_end_before_its_last_epoch_is_the_rule_of_the_training():
    """A training that never gains ends where the estimate says that it may end first."""
    for patience, epochs, unfreezing in itertools.product((1, 2, 5, None), (1, 4, 12), ([], [1], [3], [2, 5])):
        settings = TrainingSettings(patience=patience, epochs=epochs)
        last, margin = max(unfreezing, default=1), 0 if patience is None else patience
        expected = epochs if patience is None else min(epochs, max(margin + 1, last + margin - 1))
        assert earliest_end(settings, unfreezing) == expected


def clips_of(count):
    rng = np.random.default_rng(0)
    ids = np.array([f"c{number:03d}" for number in range(count)])
    values = rng.normal(size=(count, 4, 3)).astype(np.float32)
    return Part(ids, values, np.full(count, 4, np.int32), rng.uniform(-1, 1, (count, 2)).astype(np.float32))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(("count", "batch_size"), [(64, 16), (65, 16), (67, 8), (5, 32), (33, 2)])
def test_steps_of_an_epoch_are_those_that_the_data_give(count, batch_size, share, workers):
    part = clips_of(count)
    real = ResidentData(part, part, FeatureStatistics.of([(part.num_frames, part.features)]), 4)
    data = ExtendedData(real, GeneratedClips(part.features, part.targets, part.num_frames), share)
    found = steps_per_epoch(count, batch_size, share, workers)
    assert found == data.num_batches(batch_size, workers)
    if workers == 1:
        assert found == len(list(data.train_batches(1, batch_size, 0)))


def measured(began, ended, setup):
    found = {"val_probe_setup": setup, "val_probe_step": 0.1, "val_probe_validation": 0.0, "val_probe_report": 0.0}
    return found | {"val_probe_steps": 4.0, BEGAN: began, ENDED: ended}


def test_what_a_place_costs_once_is_apart_from_what_each_trial_costs():
    values = [measured(102, 110, 6.0), measured(104, 112, 4.0), measured(110.5, 114, 1.0), measured(112.5, 116, 1.0)]
    probes, start, gap, end = _timeline(values, 2, began_at=100, took=18, fresh=False)
    assert [one.setup for one in probes] == [1.0] * 4
    assert start == pytest.approx(3 + 4) and gap == pytest.approx(0.5) and end == pytest.approx(2)
    assert _timeline(values, 2, began_at=100, took=18, fresh=True)[0][0].setup == 5.0


def test_prices_are_no_part_of_a_search():
    assert "resources.*" in NOT_IDENTITY
    assert run("--dry-run", "resources.price_per_hour=0", code=2).startswith("error: resources.price_per_hour")


@pytest.mark.slow
def test_a_probe_with_prices_prepares_and_leaves_nothing(ray_session, tmp_path):
    prices = ("resources.price_per_hour=2.5", "resources.currency=EUR")
    places = (f"storage={tmp_path}/r", f"data.prepared={tmp_path}/p", "search.max_concurrent=2", *TINY)
    output = run("--dry-run", "probe=true", "search.num_trials=4", *places, *prices)
    assert "4 of 4 trials probed, 2 at once; preparation" in output and "from a few recordings" in output
    assert "a trial with all 2 epochs" in output and "the search: at most about" in output
    assert "EUR: 1 machine at 2.5 EUR an hour" in output
    assert not (tmp_path / "r").exists() and not list((tmp_path / "p").glob("features/*/*.parquet"))
