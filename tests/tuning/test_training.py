"""The training loop: early stopping as Keras does it, checkpoints, resuming, NaN, precision."""

import math

import numpy as np
import pytest
import torch

from models.crnn import CRNN
from tuning.config import Config, nested
from tuning.metrics import rmse
from tuning.tasks import task_of
from tuning.training import Training


class Clips:
    """Clips in memory whose targets depend on the features' mean."""

    def __init__(self, num_clips=12, frames=8, seed=0):
        rng = np.random.default_rng(seed)
        level = rng.normal(size=(num_clips, 1, 1)).astype(np.float32)
        self.features = torch.from_numpy(level + 0.1 * rng.normal(size=(num_clips, frames, 4)).astype(np.float32))
        self.targets = torch.from_numpy(np.concatenate([level[:, 0], -level[:, 0]], axis=1))

    def train_batches(self, epoch, batch_size, seed, rank=0, world_size=1):
        order = np.random.default_rng([seed, epoch]).permutation(len(self.features))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            mine = rows[rank::world_size]
            yield {"features": self.features[mine], "targets": self.targets[mine], "num_clips": len(rows)}

    def val_batches(self, batch_size):
        for start in range(0, len(self.features), batch_size):
            rows = slice(start, start + batch_size)
            yield {"features": self.features[rows], "targets": self.targets[rows]}


def config_of(**settings):
    tiny = {
        "model.conv_filters": [4],
        "model.conv_dropout": [0.2],
        "model.lstm_units": [4],
        "model.dense_units": [4],
        "training.batch_size": 5,
        "training.epochs": 6,
        "optim.learning_rate": 0.01,
    }
    return Config.model_validate(nested(tiny | {name.replace("__", "."): value for name, value in settings.items()}))


def training(config, data=None, folder=None, mode="min"):
    torch.manual_seed(config.seed)
    model = CRNN(config.model, 4, 2)
    return Training(model, data or Clips(), task_of(config), config, mode, checkpoints=folder)


def rows_of(run):
    rows = []
    run.run(rows.append)
    return rows


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_a_cut_off_training_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = rows_of(training(config_of()))

    class KilledError(Exception):
        pass

    def kill_at_three(row):
        if row["epoch"] == 3:
            raise KilledError

    with pytest.raises(KilledError):
        training(config_of(), folder=tmp_path).run(kill_at_three)
    torch.manual_seed(999)  # another process's random state
    rest = rows_of(training(config_of(seed=42), folder=tmp_path))
    assert without_seconds(rest) == without_seconds(whole[2:])  # the last epoch is said again, then it goes on
    assert without_seconds(rows_of(training(config_of(), folder=tmp_path))) == without_seconds(whole[-1:])


def test_best_checkpoint_holds_the_best_epochs_weights(tmp_path):
    data = Clips()
    run = training(config_of(training__epochs=8), data, tmp_path)
    rows = rows_of(run)
    best = min(rows, key=lambda row: row["val_loss"])
    state = torch.load(tmp_path / "best.pt", weights_only=True)
    assert state["row"]["epoch"] == best["epoch"] == rows[-1]["best_epoch"]
    model = CRNN(run.config.model, 4, 2)
    model.load_state_dict(state["model"])
    model.eval()
    with torch.no_grad():
        loss = torch.nn.functional.mse_loss(model(data.features), data.targets).item()
    assert math.isclose(loss, best["val_loss"], rel_tol=1e-6)


@pytest.mark.parametrize(
    ("values", "patience", "min_delta"),
    [
        ([1.0, 0.9, 0.95, 0.94, 0.93, 0.5], 3, 0.0),
        ([1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.94], 2, 0.025),
        ([1.0, 0.99, 0.98, 0.9, 0.89, 0.88, 0.87], 2, 0.05),
        ([0.5, 0.6, 0.7, 0.8], 1, 0.0),
        ([0.5, 0.4, 0.3], 1, 0.0),
    ],
)
def test_early_stopping_is_that_of_keras(values, patience, min_delta):
    from keras.callbacks import EarlyStopping

    reference = EarlyStopping(monitor="val_loss", patience=patience, min_delta=min_delta, mode="min")

    class Model:
        stop_training = False

        def get_weights(self):
            return []

    reference.set_model(Model())
    reference.on_train_begin()
    expected = len(values)
    for epoch, value in enumerate(values):
        reference.on_epoch_end(epoch, {"val_loss": value})
        if reference.model.stop_training:
            expected = epoch + 1
            break
    settings = {"training__patience": patience, "training__min_delta": min_delta}
    run = training(config_of(**settings, training__epochs=len(values)))
    for epoch, value in enumerate(values, start=1):
        run.epoch = epoch
        if run.judge({"val_loss": value})["finished"]:
            break
    assert run.epoch == expected
    assert run.best == min(values[:expected])


def test_a_metric_that_grows_is_maximised():
    rows = rows_of(training(config_of(search__metric="val_ccc"), mode="max"))
    best = max(range(len(rows)), key=lambda i: rows[i]["val_ccc"])
    assert rows[-1]["val_ccc_best"] == rows[best]["val_ccc"] and rows[-1]["best_epoch"] == best + 1


def test_losses_are_those_of_the_whole_split_without_penalty():
    data = Clips()
    run = training(config_of(model__dense_l2=0.1, training__epochs=1), data)
    row = rows_of(run)[0]
    run.model.eval()
    with torch.no_grad():
        outputs = run.model(data.features)
    assert math.isclose(row["val_loss"], torch.nn.functional.mse_loss(outputs, data.targets).item(), rel_tol=1e-6)
    assert math.isclose(row["val_rmse"], rmse(data.targets.flatten(), outputs.flatten()), rel_tol=1e-6)
    kernels = [parameter for name, parameter in run.model.named_parameters() if name == "head.0.weight"]
    assert math.isclose(row["penalty"], 0.1 * kernels[0].square().sum().item(), rel_tol=1e-5)


@pytest.mark.parametrize("where", ["features", "targets"])
def test_nan_is_a_failure(where):
    data = Clips()
    getattr(data, where)[3] = math.nan
    with pytest.raises(FloatingPointError, match="is nan in epoch 1"):
        rows_of(training(config_of(), data))


def test_the_penalty_trains_but_is_not_in_the_losses():
    free = rows_of(training(config_of(model__dense_l2=0.0)))
    held = rows_of(training(config_of(model__dense_l2=10.0)))
    assert free[0]["penalty"] == 0 and held[-1]["penalty"] < held[0]["penalty"]
    assert held[0]["train_loss"] < 10


def test_clipping_bounds_the_step():
    config = config_of(optim__name="sgd", optim__momentum=0.0, optim__learning_rate=1.0, optim__clip_norm=0.01)
    run = training(config)
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    run.step(next(iter(Clips().train_batches(1, 12, 0))))
    moved = sum((a - b).square().sum() for a, b in zip(before, run.model.parameters(), strict=True)).sqrt()
    assert math.isclose(moved.item(), 0.01, rel_tol=1e-3)


def test_mixed_precision_trains_close_to_full():
    full = rows_of(training(config_of(training__precision="fp32")))
    mixed = rows_of(training(config_of(training__precision="bf16")))
    assert mixed[-1]["val_loss"] != full[-1]["val_loss"]
    assert math.isclose(mixed[-1]["val_loss"], full[-1]["val_loss"], rel_tol=0.1)


def test_it_learns_what_the_features_say():
    rows = rows_of(training(config_of(training__epochs=60, training__patience=None, model__lstm_dropout=0.0)))
    assert rows[-1]["val_loss_best"] < 0.3 * rows[0]["val_loss"]
