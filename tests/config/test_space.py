"""Spaces: their grids, samples, points and what hangs together in them, and the documented ones."""

import itertools
import math
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pytest

from tuning.config import loader
from tuning.config.distributions import fraction
from tuning.config.errors import UserError
from tuning.config.schema import flattened
from tuning.config.space import point_key
from tuning.data.keys import (
    bank_cost,
    data_key,
    data_variants,
    describe_bank,
    searched_combinations,
    searched_effects,
)
from tuning.data.plan import MAX_CHECKED_POINTS, make_plan, planned_points
from tuning.data.text import text_key, text_variants
from tuning.datasets.settings import WAVE_EFFECTS


def load(*arguments):
    return loader.load(list(arguments))[1]


def test_references_follow_the_searched_setting_and_can_be_replaced():
    assert load().config({"model.lstm_dropout": 0.25}).model.dense_dropout == 0.25
    assert load("model.dense_dropout=0.1").config({"model.lstm_dropout": 0.25}).model.dense_dropout == 0.1


@pytest.mark.parametrize(
    ("arguments", "searched", "values"),
    [
        (["training.epochs=${training.batch_size}"], ["training.batch_size"], [16, 32, 64]),
        (["training.epochs=${.batch_size}"], ["training.batch_size"], [16, 32, 64]),
        (["training.epochs=${training[batch_size]}"], ["training.batch_size"], [16, 32, 64]),
        (["training.epochs=1${training.batch_size}"], ["training.batch_size"], [116, 132, 164]),
        (["training.epochs=${model.lstm_units.1}"], ["model.lstm_units"], [32, 48, 64, 80]),
        (
            [
                "training.epochs=${optim.decay_steps}",
                "optim.decay_steps=${training.batch_size}",
                "optim.schedule=exponential",
            ],
            ["training.batch_size"],
            [16, 32, 64],
        ),
        (["training.epochs=${optim.decay_steps}"], [], [1000]),
        (["training.epochs={int: [5, 9]}"], ["training.epochs"], [5, 9]),
        (
            ["training.epochs={int: [5, 9], when: {training.batch_size: 16}}"],
            ["training.epochs", "training.batch_size"],
            [5, 9, 50],
        ),
        (["training.epochs=7"], [], [7]),
        (["training.patience=${training.epochs}", "training.epochs=7"], [], [7]),
    ],
)
def test_what_a_setting_hangs_on_and_may_be(arguments, searched, values):
    space = load(*arguments)
    path = arguments[0].partition("=")[0]
    assert space.dependencies(path) == searched and space.values(path) == values
    assert space.largest(path) == max(values)
    assert space.varied(path) == ({path: searched} if searched else {})
    drawn = [flattened(space.config(point).model_dump())[path] for point in itertools.islice(space.samples(1), 8)]
    assert min(values) <= min(drawn) and max(drawn) <= max(values)


@pytest.mark.parametrize(
    "argument", ["features.num_mels=${training.epochs}", "gan.epochs={choice: [2, 3], when: {training.epochs: 20}}"]
)
def test_what_is_prepared_hangs_on_no_range(argument):
    with pytest.raises(
        UserError, match=r"expected grid or choice, .*, got one that depends on training.epochs \(int\)"
    ):
        load(argument, "training.epochs={int: [20, 30]}")
    load(argument, "training.epochs={choice: [20, 30]}")


def test_a_condition_may_name_a_setting_that_refers_to_a_searched_one():
    space = load(
        "space=crnn_grid",
        "optim.name=sgd",
        "optim.momentum={grid: [0.8, 0.9], when: {optim.decay_steps: 16}}",
        "optim.schedule=exponential",
        "optim.decay_steps=${training.batch_size}",
        "training.batch_size={grid: [16, 32]}",
    )
    points = list(space.grid())
    assert len(points) == 24 * (2 + 1)
    assert all(("optim.momentum" in point) == (point["training.batch_size"] == 16) for point in points)
    configs = list(space.variants(("optim.momentum",)))
    assert [(c.training.batch_size, c.optim.momentum) for c in configs] == [(16, 0.8), (16, 0.9), (32, None)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["features.name=mel", "features.num_mels=${training.batch_size}"],
        ["augment.freq_masks=${model.kernel_size}", "model.kernel_size={choice: [3, 5]}"],
        ["features.num_mfcc={choice: [13, 20], when: {training.batch_size: 64}}"],
        ["features.name={choice: [mel, mfcc]}", "features.num_mfcc={choice: [13, 20], when: {features.name: mfcc}}"],
        [
            "augment.versions=${optim.step_epochs}",
            "optim.schedule=step",
            "optim.step_epochs=${training.patience}",
            "training.patience={choice: [1, 2], when: {training.batch_size: 32}}",
        ],
        ["space=bimodal", "model.max_tokens=${training.batch_size}", "training.batch_size={choice: [16, 32]}"],
        [
            "space=bimodal",
            "model.max_tokens={choice: [16, 32], when: {training.batch_size: 8}}",
            "training.batch_size={choice: [16, 8]}",
        ],
    ],
)
def test_what_every_trial_reads_is_among_what_is_prepared(arguments):
    space = load(*arguments)
    variants, texts = data_variants(space), text_variants(space)
    trials = [space.config(point) for point in itertools.islice(space.samples(1), 40)]
    assert {data_key(trial) for trial in trials} <= set(variants)
    assert {text_key(trial) for trial in trials} <= {"", *texts}
    assert all(trial.features.num_frames <= variants[data_key(trial)].features.num_frames for trial in trials)


def test_an_effect_whose_probability_follows_a_searched_setting_may_be_drawn():
    assert searched_effects(load("augment.noise_prob=${augment.mask_prob}")) == ["noise"]
    assert searched_effects(load("augment.noise_prob=${.mask_prob}", "augment.mask_prob={choice: [0, 0.5]}")) == [
        "noise"
    ]
    assert searched_effects(load("augment.noise_prob=${.mixup_prob}", "augment.mixup_prob={choice: [0.0]}")) == []


def test_a_bank_has_every_combination_that_some_trial_may_draw():
    """Numbers by hand: 3 combinations of 2 versions, 600 frames of 40 coefficients, 4 bytes each."""
    two = ("features.num_frames=600", "augment.room_prob={uniform: [0, 1]}", "augment.noise_prob=0.5")
    assert searched_combinations(load(*two)) == ["room", "noise", "room+noise"]
    assert bank_cost(load(*two)) == (6, 6 * 600 * 40 * 4)
    assert describe_bank(load(*two), 1000) == (
        "a bank of 6 versions of each of 1,000 training clips, 576 MB: room, noise in 3 combinations"
    )
    assert bank_cost(load(*two, "augment.versions={choice: [1, 4]}")) == (15, 15 * 600 * 40 * 4)
    # Every trial has room, at 1: nothing is drawn without it.
    assert searched_combinations(load("augment.room_prob=1", "augment.noise_prob=0.5")) == ["room", "room+noise"]
    assert searched_combinations(load("augment.room_prob={choice: [1, 0.5]}", "augment.noise_prob=0.5")) == [
        "room", "noise", "room+noise",
    ]  # fmt: skip
    six = ["features.num_frames=600", *(f"augment.{effect}_prob=0.1" for effect in WAVE_EFFECTS)]
    assert len(searched_combinations(load(*six))) == 63
    assert "a bank of 126 versions of each training clip, 12.1 MB of each" in describe_bank(load(*six), None)
    assert describe_bank(load(), 1000) == ""


def test_the_documented_grid_is_the_product_written_out():
    points = planned_points(*(lambda plan: (plan.space, plan.config))(make_plan(["space=crnn_grid"])))
    documented = itertools.product([0.0005, 0.001, 0.002], [64, 128], [0.3, 0.4], [0.001, 0.01])
    found = {
        (p["optim.learning_rate"], p["model.lstm_units"][0], p["model.lstm_dropout"], p["model.dense_l2"])
        for p in points
    }
    assert len(points) == 24 and found == set(documented)
    assert all(p["model.lstm_units"][1] * 2 == p["model.lstm_units"][0] for p in points)


def test_the_documented_random_space():
    plan = make_plan([])
    assert plan.total == 20
    for point in planned_points(plan.space, plan.config):
        config = plan.space.config(point)
        assert config.optim.learning_rate in (0.0003, 0.0005, 0.001, 0.002, 0.003)
        assert tuple(config.model.lstm_units) in ((64, 32), (96, 48), (128, 64), (160, 80))
        assert tuple(config.model.conv_filters) in ((32, 64), (64, 128), (96, 192), (128, 256))
        assert 0.2 <= config.model.lstm_dropout <= 0.5 and config.model.dense_dropout == config.model.lstm_dropout
        assert config.model.dense_l2 in (0.0001, 0.001, 0.01, 0.1)
        assert config.training.batch_size in (16, 32, 64)
        assert (config.training.epochs, config.training.patience) == (50, 10)


def test_conditional_settings_in_grid_and_samples():
    space = load(
        "space=crnn_grid",
        "optim.name={grid: [adam, sgd]}",
        "optim.momentum={grid: [0.8, 0.9], when: {optim.name: sgd}}",
    )
    points = list(space.grid())
    assert len(points) == 24 * (1 + 2)
    assert all(("optim.momentum" in point) == (point["optim.name"] == "sgd") for point in points)
    assert len({str(point) for point in points}) == len(points)
    assert space.config(next(p for p in points if p["optim.name"] == "adam")).optim.momentum is None
    for point in itertools.islice(space.samples(1), 30):
        assert ("optim.momentum" in point) == (point["optim.name"] == "sgd")


def test_a_circle_of_conditions_is_an_error():
    circle = [
        "optim.nesterov={choice: [true, false], when: {optim.name: sgd}}",
        "optim.name={choice: [adam, sgd], when: {optim.nesterov: true}}",
    ]
    with pytest.raises(UserError, match="no circle of conditions"):
        make_plan(circle)


def test_samples_are_seeded_extendable_and_never_twice():
    space = load()
    first = list(itertools.islice(space.samples(42), 10))
    assert list(itertools.islice(space.samples(42), 20))[:10] == first
    assert list(itertools.islice(space.samples(43), 10)) != first
    narrowed = load("optim.learning_rate=0.001")
    fewer = [{k: v for k, v in point.items() if k != "optim.learning_rate"} for point in first]
    assert list(itertools.islice(narrowed.samples(42), 10)) == fewer
    finite = load("space=crnn_grid", "search.algorithm=random", "search.num_trials=100")
    points = list(finite.samples(42))
    assert len(points) == 24 and len({str(point) for point in points}) == 24


def test_a_finite_space_is_used_up_to_its_last_point():
    """Of 24 points the last few would be drawn by chance only."""
    many = load("space=crnn_grid", "search.algorithm=random", "training.batch_size={choice: [8, 9, 10, 11, 12]}")
    for seed in range(3):
        points = list(many.samples(seed))
        assert len(points) == many.size() == 120 and len({str(point) for point in points}) == 120


def test_a_hundred_thousand_trials_are_planned_without_drawing_them(monkeypatch):
    drawn = []
    monkeypatch.setattr("tuning.config.space.fraction", lambda *given: drawn.append(given) or fraction(*given))
    plan = make_plan(["search.num_trials=100000"])
    assert plan.total == 100_000
    assert len(drawn) <= MAX_CHECKED_POINTS * len(plan.space.distributions)  # those that are checked
    points = planned_points(plan.space, plan.config)
    drawn.clear()
    assert len(points) == 100_000 and not drawn
    assert points[2] == list(itertools.islice(plan.space.samples(plan.config.seed), 3))[2]
    assert points[0:3] == [points[0], points[1], points[2]]


def test_the_number_of_comparisons_grows_with_the_number_of_trials(monkeypatch):
    """Each trial is compared with those before by one look into a table, not with each of them."""
    calls = []
    monkeypatch.setattr("tuning.config.space.point_key", lambda point: calls.append(point) or point_key(point))
    assert len(list(itertools.islice(load().samples(1), 2000))) == 2000
    assert len(calls) < 2100


SIX_OF_59 = [
    f"{path}={{grid: {values}}}"
    for path, values in {
        "model.lstm_dropout": [n / 100 for n in range(59)],
        "model.conv_dropout": [[n / 100, 0.1] for n in range(59)],
        "model.dense_l2": [n / 1000 for n in range(59)],
        "optim.learning_rate": [(n + 1) / 1000 for n in range(59)],
        "training.batch_size": [*range(1, 60)],
        "loss.delta": [n + 1 for n in range(59)],
    }.items()
]


def test_a_grid_is_counted_without_being_made_and_refused_with_its_number():
    arguments = ["space=crnn_grid", "loss.name=huber", "search.metric=val_rmse", "model.lstm_units=[8, 4]", *SIX_OF_59]
    with pytest.raises(UserError, match="more than 100,000 trials, got a grid of 42,180,533,641; random and optuna"):
        make_plan(arguments)
    space = load(*arguments)
    assert space.size() == 59**6 and next(space.grid())["training.batch_size"] == 1
    drawn = make_plan([*arguments, "search.algorithm=random", "search.num_trials=3"])
    assert drawn.total == 3 and len(list(planned_points(drawn.space, drawn.config))) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["optim.name={grid: [adam, sgd]}", "optim.momentum={grid: [0, 0.9], when: {optim.name: sgd}}"],
        [
            "model.kernel_size={choice: [3, 5, 7]}",
            "model.dense_l2={choice: [0.1, 0.2], when: {model.kernel_size: [3, 5]}}",
            "training.epochs={int: [3, 6], when: {model.dense_l2: 0.1}}",
        ],
    ],
)  # fmt: skip
def test_a_grid_is_counted_as_it_is_made(arguments):
    whole = load(*arguments)
    finite = {path: d for path, d in whole.distributions.items() if d.size < math.inf}
    space = replace(whole, distributions=finite)
    points = list(space.grid())
    assert space.size() == len(points) == len({str(point) for point in points})
    assert (whole.size() == math.inf) == (len(finite) < len(whole.distributions))


def test_what_is_prepared_for_every_combination_is_bounded():
    searched = {"features.num_mfcc": [*range(10, 40)], "features.hop_samples": [*range(400, 440)]}
    arguments = [f"{path}={{choice: {values}}}" for path, values in searched.items()]
    message = r"features.num_mfcc, features.hop_samples: expected at most 1,000 combinations .* got 1,200"
    with pytest.raises(UserError, match=message):
        make_plan(arguments)


def test_integer_ranges_include_both_ends_in_equal_shares():
    space = load("training.batch_size={int: [1, 4]}", "model.lstm_dropout=0.3")
    distribution = space.distributions["training.batch_size"]
    counts = [sum(distribution.at(i / 1000) == value for i in range(1000)) for value in (1, 2, 3, 4)]
    assert counts == [250] * 4
    log = load("training.batch_size={logint: [1, 64]}").distributions["training.batch_size"]
    drawn = [log.at(i / 1000) for i in range(1000)]
    assert (min(drawn), max(drawn)) == (1, 64)
    assert abs(sum(value <= 8 for value in drawn) / 1000 - math.log(8.5 / 0.5) / math.log(64.5 / 0.5)) < 0.01


def test_log_uniform_is_uniform_in_the_logarithm():
    distribution = load("optim.learning_rate={loguniform: [0.0001, 1]}").distributions["optim.learning_rate"]
    assert distribution.at(0.0) == 0.0001
    assert math.isclose(distribution.at(0.5), 0.01)
    assert 0.0001 <= distribution.at(1 - 1e-12) <= 1


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_points_to_evaluate_come_first_with_the_defaults_of_what_they_leave_out(algorithm):
    good = "search.points_to_evaluate=[{optim: {learning_rate: 0.002}, model.lstm_units: [160, 80]}]"
    plan = make_plan([f"search.algorithm={algorithm}", good])
    first, *others = planned_points(plan.space, plan.config)
    assert first == {
        "model.conv_filters": [64, 128],
        "model.lstm_units": [160, 80],
        "model.lstm_dropout": 0.3,
        "model.dense_l2": 0.01,
        "optim.learning_rate": 0.002,
        "training.batch_size": 32,
    }
    assert len(others) == (19 if algorithm == "random" else 0)


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_defaults_of_points_are_those_of_corpus_and_task_and_conditions_decide_which_settings_a_point_has(algorithm):
    searched = (
        f"search.algorithm={algorithm}", "search.num_trials=4", "data.corpus=demo", "optim.learning_rate=0.001",
        "features.num_frames={choice: [40, 80]}",  # 600, but 80 with the demo corpus
        "loss.name={choice: [huber, mse]}", "search.metric=val_rmse",
        "loss.delta={uniform: [0.5, 2], when: {loss.name: huber}}",
        "augment.stretch_range={choice: [[0.9, 1.1], [0.8, 1.2]]}",
        "search.points_to_evaluate=[{}, {loss.name: huber}, {loss.name: huber, loss.delta: 0.5}, "
        "{loss.name: mse, loss.delta: 0.5, features.num_frames: 40}]",
    )  # fmt: skip
    plan = make_plan(list(searched))
    points = planned_points(plan.space, plan.config)
    found = [
        {path: value for path, value in point.items() if not path.startswith(("model", "training"))} for point in points
    ]
    rest = {"features.num_frames": 80, "augment.stretch_range": (0.8, 1.2)}
    assert found == [
        rest | {"loss.name": "mse"},
        rest | {"loss.name": "huber", "loss.delta": 1.0},
        rest | {"loss.name": "huber", "loss.delta": 0.5},
        rest | {"loss.name": "mse", "features.num_frames": 40},
    ]


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_fewer_trials_than_points_are_the_first_points(algorithm):
    points = "search.points_to_evaluate=[{optim.learning_rate: 0.001}, {optim.learning_rate: 0.002}]"
    plan = make_plan([points, f"search.algorithm={algorithm}", "search.num_trials=1"])
    assert plan.total == 1
    assert [point["optim.learning_rate"] for point in planned_points(plan.space, plan.config)] == [0.001]


@pytest.mark.parametrize(("space", "count"), [("ser_ensemble", 2), ("ser_ablation", 3), ("bimodal_ablation", 1)])
def test_a_space_of_fixed_points_takes_fewer_trials(space, count):
    whole, part = (make_plan([f"space={space}", *more]) for more in ((), (f"search.num_trials={count}",)))
    assert list(planned_points(part.space, part.config)) == list(planned_points(whole.space, whole.config))[:count]


def test_the_speech_space_has_the_documented_ranges_and_begins_with_the_documented_network():
    plan = make_plan(["space=ser"])
    assert {path: str(distribution) for path, distribution in plan.space.distributions.items()} == {
        "augment.mixup_prob": "uniform[0, 0.5]",
        "augment.stretch_prob": "uniform[0.2, 0.5]",
        "augment.noise_prob": "uniform[0.2, 0.5]",
        "augment.pitch_prob": "uniform[0, 0.5]",
        "model.conv_channels": "choice[[64, 128], [128, 256], [256, 512]]",
        "model.lstm_hidden": "choice[64, 96, 128, 192, 256]",
        "model.lstm_layers": "choice[1, 2, 3]",
        "model.attention_heads": "choice[2, 4, 8]",
        "model.dropout": "uniform[0.1, 0.3]",
        "loss.label_smoothing": "uniform[0, 0.2]",
        "optim.learning_rate": "loguniform[0.0005, 0.002]",
        "optim.schedule": "choice[cosine, plateau, step]",
        "training.batch_size": "choice[8, 16, 32]",
    }
    first = plan.space.config(planned_points(plan.space, plan.config)[0])
    documented = {
        "model.conv_channels": [128, 256], "model.residual": True, "model.pooling": "attention",
        "model.lstm_hidden": 128, "model.lstm_layers": 2, "model.dropout": 0.2, "model.attention_heads": 4,
        "optim.name": "adam", "optim.learning_rate": 0.001, "optim.schedule": "cosine", "optim.warmup_epochs": 5,
        "optim.clip_norm": 1.0, "training.batch_size": 16, "training.epochs": 50, "training.patience": 10,
        "training.min_delta": 1e-4, "loss.label_smoothing": 0.1, "loss.class_weights": "inverse",
        "augment.enabled": "auto", "augment.mixup_prob": 0.2, "augment.stretch_prob": 0.3, "augment.noise_prob": 0.3,
        "augment.pitch_prob": 0.0, "augment.mixup_alpha": 0.4, "augment.stretch_range": (0.8, 1.2),
        "augment.pitch_semitones": 2, "augment.noise_range": (0.001, 0.01), "features.name": "mfcc",
        "search.metric": "val_uar",
    }  # fmt: skip
    assert {path: attrgetter(path)(first) for path in documented} == documented
    # Both ends of every range may come together.
    for end in (0.0, 1 - 1e-9):
        plan.space.config({path: d.at(end) for path, d in plan.space.distributions.items()})


def test_the_whole_crnn_space_begins_with_the_documented_network_in_every_setting():
    plan = make_plan(["space=crnn_full", "data.corpus=manifest"])
    point, *others = planned_points(plan.space, plan.config)
    assert set(plan.space.distributions) - set(point) == {"optim.centered", "optim.momentum"}  # of other optimisers
    (written,) = plan.config.search.points_to_evaluate
    assert {f"{section}.{leaf}" for section in written for leaf in written[section]} == set(point) and not others
    documented = {
        "features.num_frames": 600, "features.num_mfcc": 40, "model.conv_block": "standard",
        "model.conv_filters": [64, 128], "model.kernel_size": 3, "model.conv_activation": "relu",
        "model.batch_norm": True, "model.bn_momentum": 0.99, "model.pooling": "max", "model.pool_sizes": [2],
        "model.pool_stride": None, "model.pool_padding": "valid", "model.conv_dropout": [0.2, 0.3],
        "model.dropout_kind": "element", "model.attention": False, "model.lstm_units": [128, 64],
        "model.lstm_activation": "tanh", "model.bidirectional": False, "model.lstm_dropout": 0.3,
        "model.recurrent_dropout": 0.2, "model.summary": "last", "model.head": "dense", "model.dense_units": [64, 32],
        "model.dense_activation": "relu", "model.dense_dropout": 0.4, "model.dense_dropouts": None,
        "model.dense_l1": 0.0, "model.dense_l2": 0.01, "model.output_activation": "linear", "loss.name": "mse",
        "optim.name": "adam", "optim.learning_rate": 0.001, "optim.beta_1": 0.9, "optim.beta_2": 0.999,
        "optim.epsilon": 1e-7, "optim.amsgrad": False, "optim.clip_norm": None, "optim.weight_decay": 0.0,
        "optim.schedule": "plateau", "optim.plateau_patience": 7, "optim.plateau_factor": 0.5,
        "optim.min_learning_rate": 1e-6, "training.batch_size": 32, "training.epochs": 100, "training.patience": 15,
    }  # fmt: skip
    first = plan.space.config(point)
    assert {path: attrgetter(path)(first) for path in documented} == documented


def test_the_whole_crnn_space_searches_the_documented_variants_and_every_draw_can_be_built():
    space = load("space=crnn_full", "data.corpus=manifest")
    listed = {
        "features.num_frames": (400, 500, 600, 800),
        "optim.beta_1": (0.85, 0.9),
        "optim.beta_2": (0.99, 0.999),
        "optim.amsgrad": (False, True),
        "model.lstm_units": ([64, 32], [128, 64], [256, 128]),
        "model.conv_filters": ([32, 64], [64, 128], [128, 256]),
        "model.dense_l2": (0.001, 0.01, 0.1),
        "model.bn_momentum": (0.9, 0.99, 0.999),
        "model.dropout_kind": ("element", "channel", "time_step"),
        "model.dense_activation": ("relu", "swish", "gelu", "leaky_relu", "elu"),
        "model.output_activation": ("linear", "tanh"),
        "model.head": ("dense", "skip"),
        "model.conv_block": ("standard", "residual"),
        "training.batch_size": (16, 32, 64),
    }
    assert {path: space.distributions[path].values for path in listed} == listed
    head, pools = (space.distributions[f"model.{name}"].values for name in ("dense_units", "pool_sizes"))
    assert all(size in head for size in ([32, 16], [64, 32], [128, 64], [128, 64, 32], [32, 64], [64, 64]))
    assert all([size] in pools for size in (2, 3, 4))
    for path, ends in {"lstm": (0.2, 0.4), "recurrent": (0.1, 0.3), "dense": (0.4, 0.6)}.items():
        assert space.distributions[f"model.{path}_dropout"].values == ends
    drawn = [space.config(point) for point in itertools.islice(space.samples(1), 400)]
    assert {config.optim.name for config in drawn} == {"adam", "rmsprop", "sgd"}


@pytest.mark.parametrize("name", ["ser", "ser_demo", "ser_grid", "ser_ablation", "ser_ensemble"])
def test_spaces_of_speech_augment_where_clips_are_few(name):
    assert make_plan([f"space={name}"]).config.augment.enabled == "auto"


def test_the_small_speech_space_says_what_it_is():
    text = Path("search_spaces/ser_demo.yaml").read_text()
    assert "two cores" in text.splitlines()[0] and "ser" in text.splitlines()[0]


def test_values_that_are_one_for_the_setting_are_refused():
    for argument in ("optim.learning_rate={choice: [1, 1.0, 0.1]}", "model.kernel_size={choice: [3, '3', 5]}"):
        with pytest.raises(UserError, match="choice: expected different values, got"):
            make_plan([argument])


def test_a_space_whose_finite_part_is_used_up_goes_on_in_the_other(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(
        "training: {batch_size: {int: [1, 40]}}\n"
        "optim: {learning_rate: {uniform: [0.001, 0.01], when: {training.batch_size: 40}}}\nsearch: {num_trials: 60}\n"
    )
    plan = make_plan([f"space={file}"])
    points = list(planned_points(plan.space, plan.config))
    assert len(points) == 60 == len({str(point) for point in points})
    assert sum("optim.learning_rate" in point for point in points) >= 21


def test_a_setting_that_is_searched_on_a_condition_is_checked_only_where_it_holds():
    """The last values of all together would be refused: a rate that ends above its beginning."""
    rates = ["optim.schedule=cosine", "optim.learning_rate={choice: [0.1, 0.001]}"]
    ends = "optim.final_learning_rate={choice: [0.0, 0.01]%s}"
    where = ", when: {optim.learning_rate: 0.1}"
    assert make_plan([*rates, ends % where]).total == 20
    assert make_plan(["optim.schedule=cosine", "optim.learning_rate={choice: [0.001, 0.1]}", ends % where]).total == 20
    with pytest.raises(UserError, match="final_learning_rate: expected at most learning_rate"):
        make_plan([*rates, ends % ""])


@pytest.mark.parametrize("schedules", ["[cosine, constant]", "[constant, cosine]"])
def test_the_highest_values_are_checked_under_each_condition(schedules):
    ends = "optim.final_learning_rate={uniform: [0.001, %s], when: {optim.schedule: cosine}}"
    words = ["search.algorithm=optuna", "optim.learning_rate=0.01", f"optim.schedule={{choice: {schedules}}}"]
    assert make_plan([*words, ends % 0.01]).total == 20
    with pytest.raises(UserError, match=r"final_learning_rate: expected at most learning_rate \(0.01\), got 0.05"):
        make_plan([*words, ends % 0.05])


def test_a_complete_file_may_have_the_defaults_of_what_does_not_count(tmp_path):
    file = tmp_path / "own.yaml"
    ours = "search: {num_trials: 2}\nfeatures: {name: mel, "
    file.write_text(f"{ours}encoder: null, encoder_layers: -1, encoder_pooling: frames, pooled_seconds: 30}}\n")
    assert make_plan([f"space={file}"]).config.features.name == "mel"
    file.write_text(f"{ours}pooled_seconds: 20}}\n")
    with pytest.raises(UserError, match="pooled_seconds: expected only with"):
        make_plan([f"space={file}"])
