"""What a search will take, from measured parts: sums against a literal count, bounds, a probe that leaves nothing."""

import pytest

from tests.command import TINY, run
from tuning.config import NOT_IDENTITY
from tuning.estimate import BEGAN, ENDED, Estimate, Probe, _timeline, fewest_epochs, makespan
from tuning.plan import make_plan


def probe(number, setup=1.0, step=0.1, num_steps=10):
    return Probe(number, setup=setup, step=step, validation=0.5, report=0.5, num_steps=num_steps)


def made(**changes):
    values = {
        "preparation": 7.0, "start": 5.0, "gap": 0.5, "end": 2.0, "probes": [probe(1), probe(2, step=0.3)],
        "concurrent": 2, "total": 3, "models": 1, "epochs": 10, "fewest": 4, "budget": None, "num_machines": 2,
        "price": 3.0, "currency": "EUR",
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
