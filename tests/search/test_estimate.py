"""What a search will take, from measured parts: sums against a literal count, bounds, a probe that leaves nothing."""

import itertools

import pytest

from tests.helpers.command import TINY, run
from tuning.config.schema import NOT_IDENTITY, TrainingSettings
from tuning.data.plan import make_plan
from tuning.search.estimate import Estimate, Probe, fewest_epochs, likely_points, makespan, trial_epochs
from tuning.training.early_stopping import earliest_end


def probe(epoch):
    return Probe(setup=9.0, busy=9.0, epoch=epoch, spread=0.1)


def made(**changes):
    values = {
        "preparation": 7.0, "start": 5.0, "setup": 1.0, "probes": {1: probe(2.0), 2: probe(4.0)}, "concurrent": 2,
        "models": 1, "longest": [10, 10, 10], "shortest": [4, 4, 4], "budget": None, "num_machines": 2, "price": 3.0,
        "currency": "EUR", "backend": "direct: as set",
    }  # fmt: skip
    return Estimate(**{**values, **changes})


def test_parts_are_added_up():
    # The third trial's epochs take the mean of the others'; two trials at once: 21 s, then the third until 52 s.
    assert made().trials([10, 10, 10]) == [21.0, 41.0, 31.0]
    assert made().most == pytest.approx(7 + 5 + 21 + 31)
    assert made().least == pytest.approx(7 + 5 + 9 + 13)
    assert made().cost(3600) == pytest.approx(6.0) and made(price=None).cost(3600) is None
    assert made(budget=30.0).most == pytest.approx(7 + 5 + 30)
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
    # Draws stand for what Optuna will propose; a space that is used up begins anew.
    (
        (
            "search.algorithm=optuna", "search.num_trials=3", "training.patience=7",
            "training.epochs={choice: [9]}", "search.points_to_evaluate=[{training.epochs: 9}]",
        ),
        ([9, 9, 9], [8, 8, 8]),
    ),
)  # fmt: skip


@pytest.mark.parametrize(("arguments", "epochs"), SEARCHED)
def test_a_searched_number_of_epochs_is_added_up_trial_by_trial(tmp_path, arguments, epochs):
    (tmp_path / "bare.yaml").write_text("data: {corpus: demo}\nmodel: {name: crnn}\n")
    plan = make_plan([f"space={tmp_path}/bare.yaml", *arguments])
    assert trial_epochs(plan.space, likely_points(plan)) == epochs


def test_draws_stand_for_the_trials_that_optuna_will_propose(tmp_path):
    (tmp_path / "bare.yaml").write_text("data: {corpus: demo}\nmodel: {name: crnn}\n")
    point = "search.points_to_evaluate=[{training.epochs: 9}]"
    given = ("search.algorithm=optuna", "search.num_trials=40", "training.epochs={int: [4, 90]}", point)
    plan = make_plan([f"space={tmp_path}/bare.yaml", "training.patience=null", *given])
    longest, _ = trial_epochs(plan.space, likely_points(plan))
    assert len(longest) == 40 and longest[0] == 9
    assert 4 <= min(longest) < 30 and 60 < max(longest) <= 90


def test_what_cannot_end_before_its_last_epoch_is_the_rule_of_the_training():
    """A training that never gains ends where the estimate says that it may end first."""
    for patience, epochs, unfreezing in itertools.product((1, 2, 5, None), (1, 4, 12), ([], [1], [3], [2, 5])):
        settings = TrainingSettings(patience=patience, epochs=epochs)
        last, margin = max(unfreezing, default=1), 0 if patience is None else patience
        expected = epochs if patience is None else min(epochs, max(margin + 1, last + margin - 1))
        assert earliest_end(settings, unfreezing) == expected


def test_prices_are_no_part_of_a_search():
    assert "resources.*" in NOT_IDENTITY
    assert run("--dry-run", "resources.price_per_hour=0", code=2).startswith("error: resources.price_per_hour")


@pytest.mark.slow
def test_a_probe_with_prices_prepares_and_leaves_nothing(ray_session, tmp_path):
    prices = ("resources.price_per_hour=2.5", "resources.currency=EUR")
    places = (f"storage={tmp_path}/r", f"data.prepared={tmp_path}/p", "search.max_concurrent=2", *TINY)
    output = run("--dry-run", "probe=true", "search.num_trials=4", *places, *prices)
    assert "4 of 4 trials probed, 2 at once; preparation" in output and "from a few recordings" in output
    assert "a trial with all 2 epochs" in output and "steps vary by" in output
    assert "the search: at most about" in output
    assert "EUR: 1 machine at 2.5 EUR an hour" in output
    assert not (tmp_path / "r").exists() and not list((tmp_path / "p").glob("features/*/*.parquet"))
