"""The winner trained again: for the epochs of the trainings that it was chosen by, at their learning rates."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.folds import SHORT, folds_in_memory
from tuning.data.plan import make_plan
from tuning.datasets.corpus import Clip
from tuning.datasets.loaders.in_memory import ResidentData
from tuning.datasets.splits.split import Split
from tuning.evaluation.final_test import Course, course_of, retrain
from tuning.evaluation.repeated_seeds import Replicate
from tuning.experiment.directory import SearchFolder, TrialRecord
from tuning.experiment.trial_spec import TrialSpec
from tuning.training.schedules import base_rates
from tuning.training.trainer import Trainer
from tuning.training.trial import make_trainer, train

FOLDS = folds_in_memory()
FOLD = FOLDS.fold(0)
WHOLE = ResidentData(FOLDS.clips, FOLD.val, FOLD.statistics, FOLDS.frames)
PLATEAU = ("optim.schedule=plateau", "optim.plateau_patience=1", "optim.plateau_factor=0.5")


def config_of(*arguments):
    common = (*SHORT[:-1], "data.corpus=demo", "search.num_trials=1", "training.batch_size=4", "training.epochs=6")
    given = {argument.split("=")[0]: argument for argument in (*common, *arguments)}
    return make_plan(list(given.values())).config


def split_of(data):
    """As many clips as the data have, to train and to validate."""
    train, val = (
        [Clip(f"{part}/{n}") for n in range(count)] for part, count in (("t", data.num_train), ("v", data.num_val))
    )
    return Split(train, val, [], "grouped")


def searched(storage, config, data=FOLD, number=1):
    """A training as a search records it."""
    rows = []
    make_trainer(config, data, None).fit(rows.append)
    return recorded(storage, rows, number)


def recorded(storage, rows, number=1, folds=None):
    folder = SearchFolder(storage, "s")
    path = folder.trial(number)
    path.mkdir(parents=True, exist_ok=True)
    with (path / "progress.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[-1]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    record = TrialRecord(number, {}, "done", best_epoch=rows[-1]["best_epoch"], epochs=len(rows), folds=folds)
    return Replicate(record, folder)


def rates_of(config, course):
    """The learning rate at the end of each epoch of a retraining."""
    rates, train_epoch = [], Trainer.train_epoch

    def looked_at(training):
        row = train_epoch(training)
        rates.append(row["learning_rate"])
        return row

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", looked_at)
        retrain(config, WHOLE, course)
    return rates


def recorded_rates(run):
    rows = csv.DictReader((run.folder.trial(run.record.number) / "progress.csv").open())
    return [float(row["learning_rate"]) for row in rows]


SCHEDULES = {
    "constant": (),
    "plateau": PLATEAU[1:],
    "step": ("optim.step_epochs=2",),
    "cosine": (),
    "exponential": ("optim.decay_steps=60", "optim.decay_rate=0.5", "optim.staircase=false"),
}


@settings(max_examples=10)
@given(
    schedule=st.sampled_from(list(SCHEDULES)),
    warmup=st.integers(0, 5),
    rate=st.sampled_from([0.5, 0.03, 0.001]),
    seed=st.integers(0, 9),
)
def test_the_rates_of_the_retraining_are_those_of_the_search(tmp_path_factory, schedule, warmup, rate, seed):
    config = config_of(
        *SCHEDULES[schedule], f"optim.schedule={schedule}", f"optim.warmup_epochs={warmup}",
        f"optim.learning_rate={rate}", f"seed={seed}", "training.keep=last",
    )  # fmt: skip
    run = searched(tmp_path_factory.mktemp("s"), config)
    course = course_of(config, [run], split_of(FOLD))
    assert course.epochs == config.training.epochs
    found, expected = rates_of(config, course), recorded_rates(run)
    if schedule == "cosine":
        # An epoch's last step lies a little nearer to its end where the epoch has more steps: at most by one of five.
        for epoch, rates in enumerate(zip(found, expected, strict=True), start=1):
            end, before = cosine_of(config, epoch), cosine_of(config, epoch - 0.2)
            assert all(end - 1e-12 <= each <= before + 1e-12 for each in rates) or rates[0] == pytest.approx(rates[1])
    else:
        assert found == pytest.approx(expected, rel=0.01 if schedule == "exponential" else 1e-12)


def cosine_of(config, epochs):
    """The documented curve after so many epochs."""
    optim, warmup = config.optim, min(config.optim.warmup_epochs, config.training.epochs - 1)
    done = (epochs - warmup) / (config.training.epochs - warmup)
    return optim.learning_rate * (optim.alpha + (1 - optim.alpha) * (1 + math.cos(math.pi * done)) / 2)


def test_a_plateau_under_warm_up_is_replayed_once():
    """The documented case: five epochs of warm-up, nothing lowered."""
    config = config_of(*PLATEAU, "optim.warmup_epochs=5", "optim.learning_rate=1.0")
    curve = [0.2, 0.4, 0.6, 0.8, 1.0, 0.5]
    bases = base_rates(curve, config.optim, config.training.epochs)
    assert bases == pytest.approx([1, 1, 1, 1, 1, 0.5])
    assert rates_of(config, Course(6, bases, steps=5)) == pytest.approx(curve, rel=1e-12)


def test_after_repetitions_the_epochs_and_rates_are_theirs(tmp_path):
    """The search's own training of the winner, which a scheduler stopped, counts for nothing."""
    config = config_of(*PLATEAU, "optim.warmup_epochs=2", "optim.learning_rate=1.0")

    def rows(best, rates):
        return [{"epoch": e, "best_epoch": best, "learning_rate": rate} for e, rate in enumerate(rates, start=1)]

    curves = {2: [0.5, 1.0, 1.0, 0.25], 3: [0.5, 1.0, 0.5, 0.5, 0.125], 4: [0.5, 1.0]}
    repetitions = [recorded(tmp_path, rows(best, curves[number]), number) for best, number in ((4, 2), (5, 3), (2, 4))]
    course = course_of(config, repetitions, split_of(FOLD))
    assert course.epochs == 4  # 11 thirds
    assert course.base_rates == pytest.approx([1.0, 1.0, 1.0, 0.5])
    assert course.steps == 5  # 18 clips by 4, the last two being a batch


def test_inner_folds_with_warm_up_are_replayed_once(tmp_path):
    """The median over the folds of what the plateau made of the rate, each fold's ramp taken out first."""
    config = config_of(*PLATEAU, "split.inner_folds=3", "optim.warmup_epochs=4", "optim.learning_rate=1.0")
    run = recorded(tmp_path, [{"best_epoch": 1}])
    rows = []
    spec = TrialSpec(config.model_dump(mode="json"), str(run.folder.trial(1)))
    train(spec, FOLDS, rows.append)
    run = recorded(tmp_path, rows, folds=3)
    curves = [fold["rates"] for fold in json.loads((run.folder.trial(1) / "checkpoints" / "folds.json").read_text())]
    split = split_of(FOLD)
    inner = {clip.id: n % 3 for n, clip in enumerate(split.train + split.val)}
    course = course_of(config, [run], replace(split, inner=inner))
    bases = [np.array(curve) / np.minimum(np.arange(1, len(curve) + 1) / 4, 1) for curve in curves]
    medians = [float(np.median([base[min(n, len(base) - 1)] for base in bases])) for n in range(course.epochs)]
    assert course.base_rates == pytest.approx(medians, rel=1e-12)
    assert course.steps == 5  # two thirds of 27 clips


def start_rates_of(config, data, train_it):
    """The learning rate of the first step of each epoch that a training makes."""
    rates, train_epoch = [], Trainer.train_epoch

    def looked_at(training):
        rates.append(training.schedule(training.steps, training.base_rate))
        return train_epoch(training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", looked_at)
        train_it()
    return rates


@pytest.mark.parametrize("decay_steps", [2, 3, 7, 60])
def test_an_exponential_schedule_stands_at_each_epochs_begin_where_the_searchs_stood(tmp_path, decay_steps):
    config = config_of(
        "optim.schedule=exponential", f"optim.decay_steps={decay_steps}", "optim.decay_rate=0.5",
        "optim.staircase=false", "training.keep=last",
    )  # fmt: skip
    expected = start_rates_of(config, FOLD, lambda: make_trainer(config, FOLD, None).fit(lambda row: None))
    course = course_of(config, [searched(tmp_path, config)], split_of(FOLD))
    assert course.steps != WHOLE.num_batches(4)
    found = start_rates_of(config, WHOLE, lambda: retrain(config, WHOLE, course))
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_steps_of_the_search_are_those_of_its_workers_and_folds(tmp_path):
    clips = [Clip(f"t/{n}") for n in range(55)]
    run = recorded(tmp_path, [{"best_epoch": 1, "epoch": 1, "learning_rate": 0.1}])
    config = config_of("training.batch_size=16", "resources.workers_per_trial=4", "resources.gpus_per_worker=0")
    # 55 clips by 16 are 3 batches and a rest of 7, of which 4 workers have less than two each: it joins the last.
    assert course_of(config, [run], Split(clips, clips[:2], [], "grouped")).steps == 3
    config = config_of("training.batch_size=16", "split.inner_folds=3")
    inner = {clip.id: 0 if n < 50 else 1 + n % 2 for n, clip in enumerate(clips)}
    split = Split(clips, [], [], "grouped", inner=inner)
    sizes = [len(train) for train, _ in split.inner_parts()]
    assert sorted(sizes) == [5, 52, 53]
    expected = [FOLD_STEPS[size] for size in sizes]
    run = recorded(tmp_path, [{"best_epoch": 1, "epoch": 1, "fold_epochs": 1}], folds=3)
    (tmp_path / "s" / "trials" / "0001" / "checkpoints").mkdir()
    (tmp_path / "s" / "trials" / "0001" / "checkpoints" / "folds.json").write_text("[]")
    assert course_of(config, [run], split).steps == pytest.approx(np.mean(expected))


# Batches of 16: a rest of one clip joins the last.
FOLD_STEPS = {5: 1, 52: 4, 53: 4}


def test_a_populations_trial_is_retrained_at_rates_of_its_best_epochs_learning_rate(tmp_path):
    """The trial had 0.08 and took 0.002 over after the second epoch; the plateau lowered both times by half."""
    from tuning.config.loader import load

    _, space, _ = load(["data.corpus=demo", *PLATEAU, "optim.learning_rate={loguniform: [0.0001, 0.1]}", "name=s"])
    rows = [
        {"epoch": e, "best_epoch": 4, "learning_rate": r} for e, r in enumerate((0.08, 0.04, 0.002, 0.001), start=1)
    ]
    run = recorded(tmp_path, rows)
    run.folder.create(space, {}, {"corpus": "c", "num_clips": 1})
    taken = {"epoch": 2, "trial": 2, "before": {"optim.learning_rate": 0.08}, "after": {"optim.learning_rate": 0.002}}
    (run.folder.trial(1) / "exploits.json").write_text(json.dumps([taken]))
    config = config_of(*PLATEAU, "optim.learning_rate=0.002")
    assert course_of(config, [run], split_of(FOLD)).base_rates == pytest.approx([0.002, 0.001, 0.002, 0.001])
