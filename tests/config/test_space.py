"""Space files and overrides: what is read, what is refused and in which words."""

import itertools
import math
import re
from operator import attrgetter
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tuning.config import space as spaces
from tuning.config.errors import UserError
from tuning.config.schema import flattened, nested
from tuning.data.keys import (
    bank_cost,
    data_key,
    data_variants,
    describe_bank,
    searched_combinations,
    searched_effects,
)
from tuning.data.plan import make_plan, planned_points
from tuning.data.text import text_key, text_variants
from tuning.datasets.settings import WAVE_EFFECTS
from tuning.experiment.reading import read_recorded


def load(*arguments):
    return spaces.load(list(arguments))[1]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("space=crn", "space: expected a known space or a path, got 'crn'; did you mean 'crnn'?"),
        ("space=no/such.yaml", "space: expected the path of a YAML file, got 'no/such.yaml' (no such file)"),
        ("optim.learning_rat=1", "optim.learning_rat: no such setting; did you mean 'learning_rate'?"),
        ("learning_rate=1", "learning_rate: no such setting; did you mean 'optim.learning_rate'?"),
        ("optim.learning_rate=abc", "optim.learning_rate: expected number above 0, got abc"),
        ("optim.learning_rate=-1", "optim.learning_rate: expected number above 0, got -1"),
        ("optim.learning_rate=.nan", "optim.learning_rate: expected number above 0, got nan"),
        (
            "optim.name=adm",
            "optim.name: expected one of adam, rmsprop, sgd or package.module:function, got adm; did you mean 'adam'?",
        ),
        ("training.epochs=3.5", "training.epochs: expected integer at least 1, got 3.5"),
        ("training.epochs=true", "training.epochs: expected integer at least 1, got true"),
        ("model.lstm_dropout={uniform: [0.1, 1.3]}", "model.lstm_dropout: uniform: expected number at least 0"),
        ("model.lstm_dropout={unifom: [0.1, 0.3]}", "did you mean 'uniform'?"),
        ("model.lstm_dropout={uniform: [0.3, 0.1]}", "model.lstm_dropout: uniform: expected low below high"),
        ("optim.learning_rate={loguniform: [0, 1]}", "optim.learning_rate: loguniform: expected low above 0"),
        ("model.lstm_units={int: [3, 4]}", "model.lstm_units: expected grid, choice for this setting, got int"),
        ("optim.learning_rate={int: [1, 4]}", "expected grid, choice, uniform, loguniform for this setting, got int"),
        ("features.hop_samples={int: [1, 2]}", "features.hop_samples: expected grid or choice"),
        ("seed={grid: [1, 2]}", "seed: expected a plain value (searched may be features"),
        ("optim.momentum={uniform: [0.8, 0.9], when: {optim.nam: sgd}}", "when: optim.nam: no such setting"),
        ("model.conv_filters=[64]", "model.conv_dropout: expected one rate per block of conv_filters (1), got 2"),
        ("model.dense_dropout=${model.lstm_dropot}", "model.dense_dropout: expected a reference to a setting"),
        ("data.corpus=[1", "data.corpus: expected a value in YAML, got '[1'"),
        ("search.metric=val_los", "search.metric: expected a validation metric, got val_los; did you mean 'val_loss'?"),
        ("search.num_trials=null", "search.num_trials: expected integer at least 1 for algorithm random, got null"),
        ("search.algorithm=grid", "model.lstm_dropout: expected grid or choice for search.algorithm grid, got uniform"),
        ("loss.name={choice: [mse, huber]}", "search.metric: expected a metric that is comparable across trials"),
        ("loss.quadrant=sign", "loss.quadrant: expected only with loss.name=emotion_aware, got loss.name=mse"),
        ("optim.centered=true", "optim.centered: expected only with optim.name=rmsprop, got optim.name=adam"),
        ("optim.momentum=0.5", "optim.momentum: expected only with optim.name=sgd or rmsprop, got optim.name=adam"),
        ("seed=${training.batch_size}", "got one that depends on training.batch_size (choice)"),
        ("training.patience=${training.patience}", "training.patience: expected a reference to a setting"),
        ("--dryrun", "--dryrun: expected key=value or a flag"),
    ],
)
def test_a_wrong_argument_names_path_expectation_and_nearest(argument, message):
    with pytest.raises(UserError) as caught:
        make_plan([argument])
    assert message in str(caught.value)


def test_a_searched_variant_of_another_optimiser_is_refused():
    with pytest.raises(UserError, match=r"optim.amsgrad: expected only with optim.name=adam, got optim.name=rmsprop"):
        make_plan(["optim.name=rmsprop", "optim.amsgrad={choice: [true, false]}"])


def test_all_findings_come_at_once():
    with pytest.raises(UserError) as caught:
        make_plan(["optim.name=x", "training.epochs=0"])
    assert "optim.name" in str(caught.value) and "training.epochs" in str(caught.value)


def test_values_are_cast_by_type(tmp_path: Path):
    file = tmp_path / "own.yaml"
    file.write_text("optim: {learning_rate: 1e-5}\ntraining: {batch_size: '16'}\nsearch: {num_trials: 1}\n")
    config = load(f"space={file}").fixed()
    assert config.optim.learning_rate == 1e-5 and config.training.batch_size == 16


def test_dotted_and_nested_keys_are_the_same_and_twice_is_an_error(tmp_path: Path):
    file = tmp_path / "own.yaml"
    file.write_text("optim.learning_rate: 0.5\noptim: {name: sgd}\n")
    config = load(f"space={file}").fixed()
    assert (config.optim.learning_rate, config.optim.name) == (0.5, "sgd")
    file.write_text("optim.learning_rate: 0.5\noptim: {learning_rate: 0.1}\n")
    with pytest.raises(UserError, match="expected once, got twice"):
        load(f"space={file}")


def test_a_value_in_place_of_a_distribution_narrows_the_space():
    space = load("optim.learning_rate=0.001")
    assert "optim.learning_rate" not in space.distributions
    assert space.fixed().optim.learning_rate == 0.001


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
    points = space.grid()
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
    points = space.grid()
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


OPTIMISER = (
    "optim.name={choice: [adam, sgd]}", "optim.momentum={uniform: [0.8, 0.9], when: {optim.name: sgd}}",
)  # fmt: skip
NARROW = ("model.lstm_dropout={uniform: [0.4, 0.5]}",)


@pytest.mark.parametrize(
    ("points", "others", "message"),
    [
        ("[{optim.learning_rate: 0.7}]", (), r"1: optim.learning_rate: expected a value of choice\[0.0003, .*got 0.7"),
        ("[{training.patience: 7}]", (), r"1: training.patience: expected a searched setting"),
        ("[{}, {optim.nam: sgd}]", (), "optim.nam: no such setting; did you mean 'name'"),
        (
            "[{model.lstm_dropout: 0.45}, {optim.learning_rate: 0.001}]",
            NARROW,
            r"2: model.lstm_dropout: expected a value of uniform\[0.4, 0.5\], got none, and the default 0.3 is not in",
        ),
        (
            "[{optim.name: sgd}]",
            OPTIMISER,
            r"1: optim.momentum: .* uniform\[0.8, 0.9\] when optim.name=sgd, got none, and the default null is not in",
        ),
    ],
)
def test_points_to_evaluate_that_can_not_be_tried_are_refused(points, others, message):
    with pytest.raises(UserError) as caught:
        make_plan([f"search.points_to_evaluate={points}", *others])
    assert re.search(message, str(caught.value).removeprefix("search.points_to_evaluate: point "))


def test_the_demo_shortens_clips_and_overrides_win():
    assert load().fixed().features.num_frames == 80
    assert load("features.num_frames=40").fixed().features.num_frames == 40
    assert load("data.corpus=manifest").fixed().features.num_frames == 600


def test_a_setting_that_is_a_table_is_no_distribution():
    plan = make_plan(["task.name=classification", "task.merge_classes={excited: happy}", "search.num_trials=1"])
    assert plan.config.task.merge_classes == {"excited": "happy"}
    with pytest.raises(UserError, match=r"task\.merge_classes\.excited: .*got \[1\]|task\.merge_classes: expected"):
        make_plan(["task.name=classification", "task.merge_classes={excited: [1]}", "search.num_trials=1"])


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("split.test_fold=03", "03"),
        ("split.test_fold=3", "3"),
        ("split.test_fold=1.10", "1.10"),
        ("split.test_fold=1e3", "1e3"),
        ("split.test_fold=12:30", "12:30"),
        ("split.test_fold='03'", "03"),
        ("split.test_fold=null", None),
        ("split.dev_groups=[03,06,08]", ["03", "06", "08"]),
        ("split.dev_groups=[1_0, no]", ["1_0", "no"]),
        ("task.classes=[01, yes]", ["01", "yes"]),
        ("task.merge_classes={01: 02, yes: no}", {"01": "02", "yes": "no"}),
        ("data.label_column=2024-01-01", "2024-01-01"),
    ],
)
def test_names_that_look_like_numbers_stay_as_they_are_written(tmp_path, argument, value):
    path, _, text = argument.partition("=")
    section, leaf = path.split(".")
    (tmp_path / "nested.yaml").write_text(f"{section}:\n  {leaf}: {text}\nsearch: {{num_trials: 1}}\n")
    (tmp_path / "dotted.yaml").write_text(f"{path}: {text}\nsearch: {{num_trials: 1}}\n")
    task = ["task.name=classification"] if section == "task" else []
    in_files = [load(f"space={tmp_path}/{name}.yaml", *task) for name in ("nested", "dotted")]
    for space in (load(argument, *task), *in_files):
        assert space.settings[path] == value
        recorded = tmp_path / "config.yaml"
        recorded.write_text(OmegaConf.to_yaml(OmegaConf.create(nested(space.written()))))
        assert read_recorded(recorded).settings[path] == value


def test_numbers_are_still_read_as_numbers():
    settings = load("optim.learning_rate=1e-3", "training.epochs=12", "optim.name=sgd", "optim.nesterov=no").settings
    assert (settings["optim.learning_rate"], settings["training.epochs"]) == (0.001, 12)
    assert settings["optim.nesterov"] is False
    assert spaces.load(["name=007"])[0].name == "007"


def test_a_setting_counts_where_its_choice_may_be_made(tmp_path):
    file = tmp_path / "own.yaml"
    conditional = "optim: {name: {choice: [sgd], when: {model.attention: [true]}}}"
    file.write_text(f"{conditional}\nmodel: {{attention: {{choice: [true, false]}}}}\nsearch: {{num_trials: 2}}\n")
    assert load(f"space={file}", "optim.beta_1=0.8").settings["optim.beta_1"] == 0.8  # adam without attention
    file.write_text("task: {name: classification}\nloss: {label_smoothing: 0.1}\nsearch: {num_trials: 2}\n")
    assert load(f"space={file}", "task.name=regression").fixed().loss.name == "mse"  # the file's own may stay
    with pytest.raises(UserError, match=r"loss.label_smoothing: expected only with loss.name=cross_entropy, got .*mse"):
        load(f"space={file}", "task.name=regression", "loss.label_smoothing=0.2")


def test_a_recorded_space_of_classes_has_the_loss_of_classes(tmp_path):
    recorded = tmp_path / "config.yaml"
    space = load("task.name=classification")
    recorded.write_text(OmegaConf.to_yaml(OmegaConf.create(nested(space.written()))))
    assert read_recorded(recorded).fixed().loss.name == "cross_entropy"


@pytest.mark.parametrize(
    ("argument", "points"),
    [
        # Fixed on the command line, or by the corpus: the point has it no longer.
        ("optim.learning_rate=0.01", [{"optim.name": "sgd", "optim.momentum": 0.9}, {}]),
        ("optim.name=adam", [{"optim.learning_rate": 0.001}, {"optim.learning_rate": 0.002}]),
        # Another distribution: a point whose value it does not have is left out.
        ("optim.learning_rate={choice: [0.001, 0.5]}", "first"),
        ("optim.learning_rate={uniform: [0.5, 0.6]}", []),
        # One more searched setting, with its default or without it.
        ("optim.clip_norm={choice: [1, 2]}", []),
        ("training.batch_size={choice: [16, 32]}", "both"),
        ("optim.momentum={uniform: [0.5, 0.6], when: {optim.name: sgd}}", [{"optim.learning_rate": 0.002}]),
        ("training.epochs=7", "both"),
        ("search.points_to_evaluate=[{optim.learning_rate: 0.003}]", [{"optim.learning_rate": 0.003}]),
    ],
)
def test_points_of_a_file_give_way_to_the_command_line(tmp_path, argument, points):
    file = tmp_path / "own.yaml"
    file.write_text(
        "optim:\n  name: {choice: [adam, sgd]}\n  learning_rate: {uniform: [0.001, 0.01]}\n"
        "  momentum: {uniform: [0.8, 0.95], when: {optim.name: sgd}}\n"
        "search:\n  num_trials: 3\n  points_to_evaluate:\n"
        "    - {optim: {name: sgd, learning_rate: 0.001, momentum: 0.9}}\n    - {optim.learning_rate: 0.002}\n"
    )
    of_file = [
        {"optim.name": "sgd", "optim.learning_rate": 0.001, "optim.momentum": 0.9},
        {"optim.name": "adam", "optim.learning_rate": 0.002},
    ]
    expected = {"first": of_file[:1], "both": of_file}.get(points) if isinstance(points, str) else points
    plan = make_plan([f"space={file}", argument])
    found = planned_points(plan.space, plan.config)
    assert len(found) == 3
    for point, wanted in zip(found, expected, strict=False):
        assert {path: value for path, value in point.items() if path in wanted} == wanted
        assert plan.config.optim.learning_rate != 0.01 or "optim.learning_rate" not in point
    count = len(plan.config.search.points_to_evaluate)
    assert count == len(expected)
    with pytest.raises(UserError, match=r"optim\.learning_rate: expected a value of uniform"):
        make_plan([f"space={file}", "search.points_to_evaluate=[{optim.learning_rate: 0.5}]"])


# Of the documents: what each situation asks for, whole.
AUGMENTED = {"augment.enabled": True, "augment.stretch_prob": 0.3, "augment.noise_prob": 0.3}
PRESETS = {
    "small": AUGMENTED
    | {
        "augment.mixup_prob": 0.4,
        "model.dropout": 0.3,
        "loss.label_smoothing": 0.15,
        "loss.class_weights": "inverse",
    },
    "large": {
        "augment.enabled": False,
        "model.dropout": 0.1,
        "training.batch_size": 32,
        "loss.label_smoothing": 0.05,
    },
    "imbalanced": AUGMENTED | {"augment.mixup_prob": 0.3, "loss.class_weights": "inverse", "loss.label_smoothing": 0.1},
    "quick": {"training.epochs": 10, "training.patience": 5},
    "fast": {"augment.enabled": False, "model.conv_channels": [64, 128], "training.batch_size": 32},
    "low_memory": {"training.batch_size": 8, "model.lstm_hidden": 64, "training.precision": "fp32"},
    "overfitting": AUGMENTED
    | {
        "augment.mixup_prob": 0.2,
        "model.dropout": 0.3,
        "loss.label_smoothing": 0.15,
        "model.conv_channels": [64, 128],
        "model.lstm_hidden": 64,
    },
    "underfitting": {
        "model.conv_channels": [256, 512],
        "model.dropout": 0.1,
        "optim.learning_rate": 0.002,
        "training.epochs": 100,
    },
}


@pytest.mark.parametrize("space", ["ser", "ser_demo"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_takes_the_place_of_what_the_space_searches(preset, space):
    without, plan = make_plan([f"space={space}"]), make_plan([f"space={space}", f"preset={preset}"])
    assert plan.space.settings.items() >= PRESETS[preset].items()
    # Nothing else is set, no value of the file's first point takes the place of the preset's, and the rest is searched.
    given = {path for path in plan.space.settings if plan.space.settings[path] != without.space.settings.get(path)}
    assert given <= {*PRESETS[preset], "search.points_to_evaluate", "task.classes"}
    off = PRESETS[preset].get("augment.enabled") is False
    idle = {path for path in without.space.distributions if off and path.startswith("augment.")}
    assert set(plan.space.distributions) == set(without.space.distributions) - set(PRESETS[preset]) - idle
    first = plan.space.config(planned_points(plan.space, plan.config)[0])
    assert {path: attrgetter(path)(first) for path in PRESETS[preset]} == PRESETS[preset]
    assert make_plan([f"space={space}", f"preset={preset}", "training.epochs=7"]).config.training.epochs == 7


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


def test_a_preset_that_is_not_there_or_does_not_fit():
    with pytest.raises(UserError, match=r"preset: expected one of small, .*, got 'smal'; did you mean 'small'"):
        make_plan(["space=ser", "preset=smal"])
    with pytest.raises(UserError, match=r"preset: 'small' sets model\.dropout, which the space's model does not have"):
        make_plan(["space=crnn", "preset=small"])


def test_a_point_of_the_whole_crnn_space_gives_way_to_another_optimiser():
    """The documented point is Adam's and has no momentum; the user wrote no point."""
    plan = make_plan(["space=crnn_full", "optim.name=sgd"])
    assert planned_points(plan.space, plan.config) == []
    assert planned_points((adam := make_plan(["space=crnn_full"])).space, adam.config)[0]["optim.name"] == "adam"


def test_a_range_in_a_point_is_one_of_the_listed_ranges():
    """JSON has lists, settings have pairs."""
    listed = "augment.stretch_range={choice: [[0.8, 1.2], [0.9, 1.1]]}"
    point = "search.points_to_evaluate=[{augment.stretch_range: [0.9, 1.1]}]"
    plan = make_plan(["augment.stretch_prob=0.5", listed, point])
    assert planned_points(plan.space, plan.config)[0]["augment.stretch_range"] == (0.9, 1.1)
    with pytest.raises(UserError, match=r"point 1: augment\.stretch_range: expected a value of choice"):
        make_plan(["augment.stretch_prob=0.5", listed, point.replace("0.9", "0.7")])
