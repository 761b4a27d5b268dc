"""Trials train in the process of Ray Tune or in worker groups of Ray Train: the choice, and equal results."""

import csv

import pytest

from tests.helpers.command import TINY, run
from tests.helpers.ranking import ranking
from tuning.config.errors import UserError
from tuning.config.schema import Config, nested
from tuning.data.plan import make_plan
from tuning.search.backend import choose_backend
from tuning.search.resources import plan_resources


def choice(seconds=None, gpus=0, **settings):
    """The backend, its reason, and how often the time of a trial was asked for."""
    config = Config.model_validate(nested({name.replace("__", "."): value for name, value in settings.items()}))
    asked = []

    def trial_seconds():
        asked.append(1)
        return seconds

    chosen, why = choose_backend(config, plan_resources(config, 8, gpus), trial_seconds)
    return chosen.backend, why, len(asked)


@pytest.mark.parametrize(
    ("backend", "reason", "asked", "seconds", "gpus", "settings"),
    [
        ("direct", "one worker without a GPU", 0, 9999, 0, {}),
        ("train", "2 workers per trial", 0, None, 0, {"resources__workers_per_trial": 2}),
        ("train", "2 workers per trial", 0, 1, 2, {"resources__workers_per_trial": 2}),
        ("direct", "a trial trains for 89 seconds, less than 90", 1, 89, 1, {}),
        ("train", "a trial trains for 90 seconds, at least 90", 1, 90, 1, {}),
        ("direct", "how long a trial trains is not known", 1, None, 1, {}),
        ("direct", "one worker without a GPU", 0, 9999, 1, {"resources__gpus_per_worker": 0}),
        ("direct", "a population", 0, 9999, 1, {"search__scheduler": "pbt"}),
        ("train", "as set", 0, 1, 0, {"resources__backend": "train"}),
        ("direct", "as set", 0, 9999, 1, {"resources__backend": "direct"}),
    ],
)
def test_ray_train_is_chosen_where_its_start_is_at_most_a_tenth(backend, reason, asked, seconds, gpus, settings):
    assert choice(seconds, gpus, **settings) == (backend, reason, asked)


def test_several_workers_need_ray_train():
    with pytest.raises(UserError, match="expected auto or train for 2 workers_per_trial, got direct"):
        make_plan(["resources.workers_per_trial=2", "resources.backend=direct"])


def rows_of(folder):
    """Every row of every trial without the times, and the ranking with its columns."""
    rows = {}
    for file in sorted(folder.glob("trials/*/progress.csv")):
        rows[file.parent.name] = [
            {name: value for name, value in row.items() if name not in ("seconds", "timestamp")}
            for row in csv.DictReader(file.open())
        ]
    return rows, ranking(folder)


@pytest.mark.slow
@pytest.mark.parametrize("loading", ["resident", "streamed"])
def test_a_worker_group_of_one_computes_what_the_process_of_ray_tune_does(ray_session, tmp_path, prepared, loading):
    """To the last bit, from shared memory and streamed by Ray Data."""
    found = {}
    for backend in ("direct", "train"):
        arguments = [*TINY, "search.num_trials=2", f"data.prepared={prepared}", f"data.loading={loading}"]
        run(f"storage={tmp_path}", f"name={backend}", f"resources.backend={backend}", *arguments)
        found[backend] = rows_of(tmp_path / backend)
        log = (tmp_path / backend / "search.log").read_text()
        assert f"backend {backend}: as set" in log
    assert found["direct"] == found["train"]
    assert len(found["train"][0]) == 2 and all(found["train"][0].values())
