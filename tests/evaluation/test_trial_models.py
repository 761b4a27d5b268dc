"""The model of any trial, read back from its best checkpoint."""

import csv
import json
import pickle
import zipfile

import numpy as np
import pytest
import soundfile
import torch

from tests.helpers.recordings import tone
from tuning import api
from tuning.cli.app import main
from tuning.config.errors import UserError
from tuning.config.loader import load
from tuning.config.schema import nested, parse_config
from tuning.datasets.features.spectral import extract
from tuning.datasets.loaders.in_memory import ResidentData
from tuning.datasets.store.reader import Part
from tuning.experiment.directory import SearchFolder, write_json, write_text
from tuning.experiment.trial_spec import TrialSpec
from tuning.training.trial import train

CLASSES = ["angry", "calm", "sad"]
SETTINGS = {
    "task.name": "classification", "task.classes": CLASSES, "search.metric": "val_uar", "features.num_mels": 16,
    "features.num_mfcc": 8, "features.num_frames": 6, "model.conv_filters": [4], "model.conv_dropout": [0.0],
    "model.lstm_units": [4], "model.dense_units": [4], "training.epochs": 3, "training.batch_size": 8,
    "optim.learning_rate": 0.02,
}  # fmt: skip


def clips(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (count, 1)).astype(np.float32)
    features = (5 * labels[:, :, None] + rng.normal(20, 3, (count, 10, 8))).astype(np.float32)
    return Part(np.array([f"{n}.wav" for n in range(count)]), features, np.full(count, 10, dtype=np.int32), labels)


@pytest.fixture(scope="module")
def data():
    training, validation = clips(24, 0), clips(15, 1)
    return ResidentData(training, validation, training.statistics(), 10)


def write_trial(root, number, data, **settings):
    """A search's folder with one trial that was trained into it, without Ray; its rows."""
    given = SETTINGS | {path.replace("__", "."): value for path, value in settings.items()}
    config = parse_config(nested(given)).model_dump(mode="json")
    folder, rows = SearchFolder(root, "s"), []
    words = [f"{path}={json.dumps(value)}" for path, value in given.items()]
    if not folder.exists:
        folder.create(load(words)[1], {}, {"corpus": "none", "num_clips": 0})
    place = folder.trial(number)
    write_json(place / "params.json", {"searched": {}, "config": config})
    train(TrialSpec(config, number=number, params={}, directory=str(place)), data, rows.append)
    columns = [name for name in rows[0] if not name.endswith("_best") or name == "best_epoch"]
    lines = [",".join(columns), *(",".join(str(row[name]) for name in columns) for row in rows)]
    write_text(place / "progress.csv", "\n".join(lines) + "\n")
    return folder, rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    return write_trial(tmp_path_factory.mktemp("search"), 3, data)


def outputs_of(best, features):
    """The model's outputs for the middle of clips, normalised by hand."""
    normal = (features[:, 2:8] - best.features.mean) / best.features.std
    with torch.no_grad():
        return best.model(torch.from_numpy(normal.astype(np.float32)))


def test_a_trial_s_model_has_its_weights_names_and_normalisation(trained, data):
    folder, rows = trained
    state = torch.get_rng_state()
    predictor = api.load_trial(folder.path, 3)
    assert torch.equal(state, torch.get_rng_state())
    (best,) = predictor.models
    assert predictor.labels == CLASSES and not best.model.training and best.num_frames == 10
    flat = data.train.features.reshape(-1, 8).astype(np.float64)
    np.testing.assert_allclose(best.features.mean, flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(best.features.std, flat.std(0), rtol=1e-4)
    row = next(row for row in rows if row["epoch"] == rows[-1]["best_epoch"])
    outputs = outputs_of(best, data.val.features)
    loss = torch.nn.functional.cross_entropy(outputs, torch.from_numpy(data.val.targets[:, 0]).long())
    assert loss.item() == pytest.approx(row["val_loss"], rel=1e-5)


def test_it_predicts_a_recording_in_the_same_way_by_trial_and_by_file(trained, tmp_path):
    folder, _ = trained
    soundfile.write(tmp_path / "a.wav", tone(1), 16000)
    by_trial = api.load_trial(folder.path).predict(tmp_path / "a.wav")  # the best, and only one
    file = folder.trial(3) / "checkpoints" / "best.pt"
    by_file = api.load(file).predict(tmp_path / "a.wav")
    assert by_trial.equals(by_file)
    assert main(["predict", str(file), str(tmp_path / "a.wav"), f"out={tmp_path / 'a.csv'}"]) == 0
    (printed,) = csv.DictReader((tmp_path / "a.csv").open())
    assert [float(printed[f"p_{name}"]) for name in CLASSES] == by_file[[f"p_{name}" for name in CLASSES]].iloc[
        0
    ].tolist()
    (best,) = api.load(file).models
    values, _ = extract(tone(1).astype(np.float32), best.config.features, 10)
    expected = outputs_of(best, values[None]).softmax(dim=1)[0]
    found = by_file[[f"p_{name}" for name in CLASSES]].to_numpy()[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_models_of_inner_folds_predict_together(tmp_path, data):
    class TwoFolds:
        frames = 10

        def __len__(self):
            return 2

        def fold(self, number):
            return ResidentData(data.train, data.val, data.statistics, 10) if number else data

    folder, rows = write_trial(tmp_path, 1, TwoFolds(), split__inner_folds=2, training__epochs=1)
    assert [row["fold"] for row in rows] == [1, 2]
    assert len(api.load_trial(folder.path, 1).models) == 2


def rewritten(file, change):
    state = torch.load(file, weights_only=True)
    change(state)
    torch.save(state, file)


@pytest.fixture
def copied(trained, tmp_path):
    file = tmp_path / "best.pt"
    file.write_bytes((trained[0].trial(3) / "checkpoints" / "best.pt").read_bytes())
    return file


@pytest.mark.parametrize("has_classes", [True, False])
def test_without_names_classes_are_called_by_their_index(copied, has_classes):
    def forget(state):
        del state["labels"]
        if not has_classes:
            state["config"]["task"]["classes"] = None

    rewritten(copied, forget)
    with pytest.warns(UserWarning, match=r"best.pt: no names of classes in it; they are called by their index, 0 to 2"):
        assert api.load(copied).labels == ["0", "1", "2"]


class Attack:
    def __reduce__(self):
        return (exec, ("import builtins; builtins.attacked = True",))


def spoil_zip(file):
    with zipfile.ZipFile(file) as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    (name,) = (name for name in parts if name.endswith("data.pkl"))
    with zipfile.ZipFile(file, "w") as spoilt:
        for part, content in parts.items():
            spoilt.writestr(part, pickle.dumps(Attack()) if part == name else content)


DAMAGE = {
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:1000]), "expected a checkpoint with weights"),
    "empty": (lambda file: file.write_bytes(b""), "expected a checkpoint with weights"),
    "text": (lambda file: file.write_text("no weights"), "expected a checkpoint with weights"),
    "code": (spoil_zip, "expected a checkpoint with weights"),
    "gone": (lambda file: file.unlink(), "expected a checkpoint, got no such file"),
    "list": (lambda file: torch.save([1], file), "expected a checkpoint with weights, got a list"),
    "older": (
        lambda file: rewritten(file, lambda state: state.pop("config")),
        "expected a checkpoint with its settings and normalisation, got one without config",
    ),
    "other settings": (
        lambda file: rewritten(file, lambda state: state["config"]["model"].update(lstm_units=[5])),
        "expected weights of the model in its settings, got lstms.0",
    ),
    "wrong settings": (
        lambda file: rewritten(file, lambda state: state["config"]["model"].update(lstm_unit=[5])),
        "model.lstm_unit",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_runs_no_code(copied, damage):
    spoil, message = DAMAGE[damage]
    spoil(copied)
    with pytest.raises(UserError) as caught:
        api.load(copied)
    assert str(caught.value).startswith(f"{copied}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)
    import builtins

    assert not hasattr(builtins, "attacked")


def test_a_trial_that_is_not_there_or_has_no_epoch_yet_is_said(trained):
    folder, _ = trained
    with pytest.raises(UserError, match=r"expected the number of a trial \(1 to 1\), got '4'"):
        api.load_trial(folder.path, 4)
    write_json(folder.trial(5) / "params.json", {"searched": {}, "config": {}})
    with pytest.raises(UserError, match=r"0005.*best.pt: expected a checkpoint, got no such file"):
        api.load_trial(folder.path, 5)


def test_the_last_checkpoint_is_told_from_the_best(trained):
    folder, _ = trained
    with pytest.raises(UserError, match=r"last\.pt: expected a checkpoint to predict with, best\.pt, got one to"):
        api.load(folder.trial(3) / "checkpoints" / "last.pt")
