"""Space files and overrides: what is read, what is refused and in which words."""

import re
from operator import attrgetter
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tuning.config import loader
from tuning.config.errors import UserError
from tuning.config.schema import nested
from tuning.data.plan import make_plan, planned_points
from tuning.experiment.reading import read_recorded


def load(*arguments):
    return loader.load(list(arguments))[1]


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
        (
            "task.name=classification search.metric=val_ccc",
            "search.metric: expected a metric of classes (val_uar, val_accuracy, val_f1, val_calibration_error, "
            "val_loss), got val_ccc, which is of numbers",
        ),
        ("search.metric=val_uar", "search.metric: expected a metric of numbers (val_"),
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
        make_plan(argument.split() if "search.metric" in argument else [argument])
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
    assert loader.load(["name=007"])[0].name == "007"


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


def test_a_preset_that_is_not_there_or_does_not_fit():
    with pytest.raises(UserError, match=r"preset: expected one of small, .*, got 'smal'; did you mean 'small'"):
        make_plan(["space=ser", "preset=smal"])
    with pytest.raises(UserError, match=r"preset: 'small' sets model\.dropout, which the space's model does not have"):
        make_plan(["space=crnn", "preset=small"])


def test_a_point_of_the_whole_crnn_space_gives_way_to_another_optimiser():
    """The documented point is Adam's and has no momentum; the user wrote no point."""
    plan = make_plan(["space=crnn_full", "optim.name=sgd"])
    assert list(planned_points(plan.space, plan.config)) == []
    assert planned_points((adam := make_plan(["space=crnn_full"])).space, adam.config)[0]["optim.name"] == "adam"


def test_a_range_in_a_point_is_one_of_the_listed_ranges():
    """JSON has lists, settings have pairs."""
    listed = "augment.stretch_range={choice: [[0.8, 1.2], [0.9, 1.1]]}"
    point = "search.points_to_evaluate=[{augment.stretch_range: [0.9, 1.1]}]"
    plan = make_plan(["augment.stretch_prob=0.5", listed, point])
    assert planned_points(plan.space, plan.config)[0]["augment.stretch_range"] == (0.9, 1.1)
    with pytest.raises(UserError, match=r"point 1: augment\.stretch_range: expected a value of choice"):
        make_plan(["augment.stretch_prob=0.5", listed, point.replace("0.9", "0.7")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# Größe\nseed: 1\n".encode("latin-1"), "expected text in UTF-8, got byte 0xf6 in line 1"),
        ("seed: 1\n".encode("utf-16"), "expected text in UTF-8, got UTF-16; save it as UTF-8"),
        (b"PK\x03\x04\x00\x00\xff\xfe", "expected text in UTF-8, got byte 0xff in line 1"),
        (b"seed: 1\x00\n", "expected YAML in"),
        (b"seed: !!binary aGVsbG8=\n", "got: line 1: expected plain values, got the tag !!binary"),
        (b"data:\n  root: !!set {a, b}\n", "got: line 2: expected plain values, got the tag !!set"),
        (b"seed: !!python/object/apply:os.getcwd []\n", "expected plain values, got the tag !!python/object/apply"),
        (b"seed: 1\nseed: 2\n", "got: line 2: expected 'seed' once, got it twice"),
        (b"seed: &a [*a]\n", "expected YAML in"),
        (b"a: &a [1,1,1,1,1,1,1,1,1]\n" + b"".join(
            b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(9)
        ), "expected at most 100,000 values"),
    ],
)  # fmt: skip
def test_a_space_file_that_is_no_plain_yaml_in_utf_8_is_refused(tmp_path, content, message):
    (tmp_path / "own.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        make_plan([f"space={tmp_path}/own.yaml"])
    assert str(caught.value).startswith("space: expected ") and message in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("training.epochs=1:30", "training.epochs: expected integer at least 1, got 1:30"),
        ("optim.learning_rate=0:0.5", "optim.learning_rate: expected number above 0, got 0:0.5"),
        ("search.time_budget_minutes=1:30:00", "expected number or null above 0, got 1:30:00"),
        ("training.keep=no", "training.keep: expected one of best, last, got no"),
        ("training.epochs=0b11", "training.epochs: expected integer at least 1, got 0b11"),
        ("seed=!!binary aGVsbG8=", "seed: expected a value in YAML, got '!!binary aGVsbG8=' (line 1: expected plain"),
        ("seed=1\nsearch: 2", "seed: expected one value, got several lines"),
        (f"training.epochs={'9' * 300}", "training.epochs: expected a whole number of at most 63 bits, got 9999"),
        (f"training.epochs={'9' * 5000}", "training.epochs: expected integer at least 1, got 9999"),
        (f"model.lstm_dropout={{uniform: [0, {'9' * 400}]}}", "model.lstm_dropout: uniform: expected "),
        (f"training.batch_size={{int: [1, {'9' * 400}]}}", "training.batch_size: int: expected "),
        (f"training.batch_size={{choice: [1, {'9' * 400}]}}", "training.batch_size: choice: expected a whole number"),
        (f"data.root={'x' * 5000}", "data.root: expected text of at most 4,096 characters, got xxxx"),
        ('data.root="a\\0b"', "data.root: expected text without control characters, got"),
        (f"name={'x' * 300}", "name: expected text"),
        (f"space={'x/' * 2500}own.yaml", "space: expected text of at most 4,096 characters"),
        (f"space={'x' * 300}/own.yaml", "space: expected the path of a YAML file, got 'xxx"),
        ("model.name=..:x", "model.name: expected a class as package.module:name, got '..:x'"),
        ("model.name=os.:x", "model.name: expected a class as package.module:name, got 'os.:x'"),
        ("data.corpus=..x:load", "data.corpus: expected a function as package.module:name, got '..x:load'"),
        ("data.corpus=a/b:load", "data.corpus: expected a function as package.module:name, got 'a/b:load'"),
        ("data.corpus={choice: [deam, demo]}", "data.corpus: expected a plain value"),
        ("data.corpus=radvess", "data.corpus: expected one of"),
        ("loss.name=a-b:c", "loss.name: expected a function as package.module:name, got 'a-b:c'"),
    ],
)
def test_what_yaml_would_read_otherwise_or_nothing_can_hold_is_refused(argument, message):
    with pytest.raises(UserError) as caught:
        loader.load([argument])
    assert message in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("argument", "path", "value"),
    [
        ("optim.nesterov=off", "optim.nesterov", False),
        ("augment.enabled=yes", "augment.enabled", True),
        ("training.epochs=010", "training.epochs", 10),
        ("training.epochs=1_000", "training.epochs", 1000),
        ("optim.learning_rate=1e-3", "optim.learning_rate", 0.001),
        ("optim.learning_rate=.5", "optim.learning_rate", 0.5),
        ("training.patience=~", "training.patience", None),
    ],
)
def test_numbers_and_switches_are_read_as_they_are_meant(argument, path, value):
    assert loader.load([argument, *(["optim.name=sgd"] if "nesterov" in path else [])])[1].settings[path] == value
