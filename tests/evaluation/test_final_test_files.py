"""Classification from the search to best/: files that agree with each other, and a model that is read back."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, recall_score

from tests.helpers.command import TINY, run
from tuning.cli import finalize
from tuning.config.schema import Config
from tuning.datasets.demo.speech import EMOTIONS
from tuning.datasets.features.audio import decode
from tuning.datasets.features.frames import num_samples
from tuning.datasets.features.spectral import extract
from tuning.evaluation.final_test_files import Tested, print_scores
from tuning.evaluation.intervals import group_intervals
from tuning.evaluation.model_card import _test
from tuning.evaluation.saved_model import load_best
from tuning.experiment.directory import TrialRecord

CLASSES = sorted(EMOTIONS)


@pytest.fixture(scope="module")
def job(ray_session, tmp_path_factory, prepared):
    """Storage of a finished search and what its finalize printed."""
    folder = tmp_path_factory.mktemp("classes")
    common = (f"storage={folder}", f"data.prepared={prepared}", "name=ser", *TINY[1:3])
    task = ("task.name=classification", "data.corpus=demo_speech", "features.num_frames=40", "search.metric=val_uar")
    plain = ("model.dense_dropout=0", "model.lstm_dropout=0", "model.conv_dropout=[0]", "training.epochs=3")
    arguments = (*common, *task, *plain, "search.num_trials=2")
    run(*arguments)
    assert "all 2 trials were done before" in run(*arguments)
    assert finalize.main([str(folder / "ser")]) == 0
    return folder


@pytest.fixture
def best(job, tmp_path):
    """A copy of best/ that a test may spoil."""
    return shutil.copytree(job / "ser" / "best", tmp_path / "best")


def read(file):
    return list(csv.DictReader(file.open(newline="")))


def test_files_of_the_test_agree_with_each_other_and_with_scikit_learn(job):
    best = job / "ser" / "best"
    assert {path.name for path in best.iterdir()} == {
        *("config.yaml", "model.safetensors", "labels.json", "features.json", "metrics.json", "test_predictions.csv"),
        *("confusion.csv", "confusion.png", "errors.csv", "history.png", "MODEL_CARD.md"),
    }
    assert json.loads((best / "labels.json").read_text()) == {"classes": CLASSES}
    rows = read(best / "test_predictions.csv")
    assert list(rows[0]) == ["clip", "group", "label", "predicted", "confidence", *(f"p_{name}" for name in CLASSES)]
    for row in rows:
        probabilities = {name: float(row[f"p_{name}"]) for name in CLASSES}
        assert sum(probabilities.values()) == pytest.approx(1)
        assert float(row["confidence"]) == max(probabilities.values()) == probabilities[row["predicted"]]
        assert row["clip"].startswith(f"{row['group']}/{row['label']}")
    true, found = [row["label"] for row in rows], [row["predicted"] for row in rows]
    test = json.loads((best / "metrics.json").read_text())["test"]
    assert test["test_uar"] == pytest.approx(balanced_accuracy_score(true, found))
    options = {"labels": CLASSES, "average": None, "zero_division": 0}
    for name, recall, f1 in zip(
        CLASSES, recall_score(true, found, **options), f1_score(true, found, **options), strict=True
    ):
        assert (test[f"test_recall_{name}"], test[f"test_f1_{name}"]) == pytest.approx((recall, f1))
    table = read(best / "confusion.csv")
    assert [row["true"] for row in table] == CLASSES
    counts = [[int(row[name]) for name in CLASSES] for row in table]
    assert counts == confusion_matrix(true, found, labels=CLASSES).tolist()


def test_errors_are_all_of_them_and_the_most_confident_come_first(job):
    best = job / "ser" / "best"
    errors = read(best / "errors.csv")
    wrong = [row for row in read(best / "test_predictions.csv") if row["label"] != row["predicted"]]
    assert wrong, "a model of three epochs is not perfect"
    wanted = sorted(wrong, key=lambda row: -float(row["confidence"]))
    assert errors == [{name: row[name] for name in errors[0]} for row in wanted]


def test_the_table_shows_the_metrics_of_classes(job, capsys):
    finalize.main([str(job / "ser"), "again=true"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    start = lines.index(["metric", "validation", "test", "95", "%", "interval", "constant"])
    metrics = json.loads((job / "ser" / "best" / "metrics.json").read_text())
    for line, name in zip(lines[start + 1 :], ("uar", "accuracy", "f1", "calibration_error"), strict=False):
        figures = metrics["validation"][f"val_{name}"], metrics["test"][f"test_{name}"]
        constant = [f"{metrics['constant'][f'test_{name}']:.4f}"] if f"test_{name}" in metrics["constant"] else []
        assert line == [name, *(f"{figure:.4f}" for figure in figures), *constant]
    assert lines[start + 5][:4] == ["no", "interval:", "2", "speakers"]
    assert metrics["constant"]["test_uar"] == pytest.approx(0.2)


def test_intervals_of_ten_speakers_are_in_the_table_and_in_the_card(capsys):
    """Each of ten speakers with one right and one wrong clip: accuracy is 0.5 in every resample."""
    groups = np.repeat([f"s{number}" for number in range(10)], 2).tolist()
    targets, outputs = np.tile([[0.0], [1.0]], (10, 1)), np.tile([[1.0, 0.0]], (20, 1))
    intervals, num_groups = group_intervals(
        targets, outputs, groups, lambda t, o: {"accuracy": float((t[:, 0] == o.argmax(axis=1)).mean())}, seed=0
    )
    named = {f"test_{name}": interval for name, interval in intervals.items()}
    config = Config.model_validate({"task": {"name": "classification", "classes": ["sad", "happy"]}})
    tested = Tested(
        [str(n) for n in range(20)],
        groups,
        targets,
        outputs,
        {"test_accuracy": 0.5},
        {},
        [3],
        {},
        named,
        num_groups,
        [],
    )
    record = TrialRecord(number=3, params={}, status="done", epochs=1, metrics={"val_accuracy": 0.6}, best_epoch=1)
    print_scores(config, record, tested)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["accuracy", "0.6000", "0.5000", "0.5000", "to", "0.5000"] in lines
    sentence = "intervals by bootstrap over the 10 speakers or artists of the test"
    assert sentence.split() in lines
    assert _test(config, tested)[2:] == ["| accuracy | 0.500 | 0.500 to 0.500 |  |", "", f"Note: {sentence}."]


def test_a_model_read_back_gives_the_saved_probabilities(job, prepared):
    state = torch.get_rng_state()
    model, config, labels, statistics, num_frames = load_best(job / "ser" / "best")
    assert num_frames == 40
    assert torch.equal(state, torch.get_rng_state())
    assert labels == CLASSES == config.task.classes and not model.training
    settings, root = config.features, next((prepared / "corpora").glob("demo_speech-*"))
    rows = read(job / "ser" / "best" / "test_predictions.csv")
    assert len(rows) == 60
    for row in rows:
        keep = num_samples(settings.num_frames, settings)
        waveform = decode((root / row["clip"]).read_bytes(), settings.sample_rate_hz, config.data, keep, "middle")
        values, valid = extract(waveform, settings, settings.num_frames)
        values = np.where(
            np.arange(settings.num_frames)[:, None] < valid, (values - statistics.mean) / statistics.std, 0
        )
        with torch.no_grad():
            outputs = model(torch.from_numpy(values.astype(np.float32))[None], torch.tensor([valid]))
        found = outputs.softmax(dim=1)[0].tolist()
        assert found == pytest.approx([float(row[f"p_{name}"]) for name in CLASSES], abs=1e-5)


@pytest.mark.parametrize("labels", [None, "{}", '{"classes": []}'])
def test_without_names_classes_are_called_by_their_index(best, labels):
    (best / "labels.json").unlink()
    if labels is not None:
        (best / "labels.json").write_text(labels)
    with pytest.warns(UserWarning, match=r"best/labels.json: no names of classes .* by their index, 0 to 4"):
        loaded = load_best(best)
    assert loaded.labels == ["0", "1", "2", "3", "4"]


def test_settings_without_classes_take_their_number_from_the_weights(best):
    text = (best / "config.yaml").read_text()
    names = "".join(f"  - {name}\n" for name in CLASSES)
    assert f"  classes:\n{names}" in text
    (best / "config.yaml").write_text(text.replace(f"  classes:\n{names}", "  classes: null\n"))
    assert load_best(best).labels == CLASSES
    (best / "labels.json").unlink()
    with pytest.warns(UserWarning, match="labels.json"):
        assert load_best(best).labels == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("config.yaml", "- 4\n  - 4", "- 4\n  - 6", r"model.safetensors: expected weights .* in place of \["),
        ("config.yaml", "num_mfcc: 40", "num_mfcc: 20", r"features.json: .* features.num_mfcc is 20 there and 40 here"),
        ("config.yaml", "dense_l2:", "dense_l3:", r"config.yaml: model.dense_l3"),
        ("config.yaml", "task:", "task: [", r"config.yaml: expected settings in YAML"),
        ("labels.json", '"sad",', "", r"labels.json: expected names of 5 classes, as the model has, got 4"),
        ("labels.json", "{", "[{", r"labels.json: expected JSON"),
        ("features.json", "mean", "average", r"features.json: expected mean and std of 40 features, got \[0, 40\]"),
    ],
)
def test_files_that_do_not_fit_each_other_are_refused_with_the_path(best, file, old, new, message):
    text = (best / file).read_text()
    assert old in text
    (best / file).write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_best(best)


@pytest.mark.parametrize(
    ("file", "pattern", "new"),
    [
        ("features.json", r'"std": \[\s*()\d', "1"),
        ("features.json", r'"mean": \[\s*(-?)\d', "1"),
        ("config.yaml", r"  pool_sizes:\n  - (2)\n", "3"),
    ],
)
def test_settings_that_fit_but_are_not_those_of_the_weights_are_refused(best, file, pattern, new):
    text = (best / file).read_text()
    begin, end = re.search(pattern, text).span(1)
    (best / file).write_text(text[:begin] + new + text[end:])
    with pytest.raises(ValueError, match=rf"{file}.*: expected the model, features and normalisation of the weights"):
        load_best(best)


def test_settings_that_no_output_depends_on_may_be_edited(best):
    text = (best / "config.yaml").read_text()
    assert "\nseed: 42\n" in text
    (best / "config.yaml").write_text(text.replace("\nseed: 42\n", "\nseed: 43\n"))
    assert load_best(best).config.seed == 43


@pytest.mark.parametrize("file", ["config.yaml", "features.json", "model.safetensors"])
def test_a_missing_file_is_named(best, file):
    (best / file).unlink()
    with pytest.raises(ValueError, match=f"{best / file}: expected"):
        load_best(best)


def test_weights_that_are_none_are_refused(best):
    (best / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"model.safetensors: expected weights in safetensors, got"):
        load_best(best)
