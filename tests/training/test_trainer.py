"""The training loop: early stopping as Keras does it, checkpoints, resuming, NaN, precision."""

import math
import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tuning.config.schema import Config, nested
from tuning.datasets.loaders.in_memory import ResidentData
from tuning.datasets.loaders.streaming import StreamedData
from tuning.datasets.store.reader import FeatureStatistics, Part
from tuning.experiment.checkpoint_claim import SupersededError
from tuning.models.crnn import CRNN
from tuning.training.metrics import rmse
from tuning.training.tasks import task_of
from tuning.training.trainer import RECENT, DamagedCheckpointError, Trainer, read_checkpoint, write_checkpoint


class Clips:
    """Clips in memory whose targets depend on the features' mean."""

    def __init__(self, num_clips=12, frames=8, seed=0):
        self.num_train = num_clips
        rng = np.random.default_rng(seed)
        level = rng.normal(size=(num_clips, 1, 1)).astype(np.float32)
        self.features = torch.from_numpy(level + 0.1 * rng.normal(size=(num_clips, frames, 4)).astype(np.float32))
        self.targets = torch.from_numpy(np.concatenate([level[:, 0], -level[:, 0]], axis=1))

    @property
    def train_targets(self):
        return self.targets.numpy()

    def train_batches(self, epoch, batch_size, seed, rank=0, world_size=1):
        order = np.random.default_rng([seed, epoch]).permutation(len(self.features))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            mine = rows[rank::world_size]
            yield {"features": self.features[mine], "targets": self.targets[mine], "num_clips": len(rows)}

    def num_batches(self, batch_size, world_size=1):
        return -(-len(self.features) // batch_size)

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
    return Trainer(model, data or Clips(), task_of(config), config, mode, checkpoints=folder)


def rows_of(run):
    rows = []
    run.fit(rows.append)
    return rows


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


SCHEDULES = {
    "constant": {},
    "exponential": {"optim__decay_steps": 4, "optim__decay_rate": 0.5},
    "exponential at every step": {"optim__decay_steps": 4, "optim__decay_rate": 0.5, "optim__staircase": False},
    "cosine": {},
    "plateau": {"optim__plateau_patience": 1, "optim__plateau_min_delta": 0.05},
}


def scheduled(name, **settings):
    return config_of(optim__schedule=name.split()[0], training__patience=None, **SCHEDULES[name], **settings)


@pytest.mark.parametrize("optimiser", ["adam", "rmsprop", "sgd"])
@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_cut_off_training_goes_on_as_if_nothing_had_happened(tmp_path, name, optimiser):
    def config():
        return scheduled(name, optim__name=optimiser, optim__momentum=0.5)

    whole = rows_of(training(config()))
    assert len({row["learning_rate"] for row in whole}) > 2 or name == "constant"

    class KilledError(Exception):
        pass

    def kill_at_three(row):
        if row["epoch"] == 3:
            raise KilledError

    with pytest.raises(KilledError):
        training(config(), folder=tmp_path).fit(kill_at_three)
    torch.manual_seed(999)  # another process's random state
    rest = rows_of(training(config(), folder=tmp_path))
    assert without_seconds(rest) == without_seconds(whole)  # the latest epochs are said again, then it goes on
    assert without_seconds(rows_of(training(config(), folder=tmp_path))) == without_seconds(whole[-RECENT:])


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "plateau"])
def test_every_step_has_the_schedule_s_rate(name, monkeypatch):
    """12 clips in batches of 5 are 3 steps an epoch, 18 in all: the cosine ends there, though 12 // 5 is 2."""
    run = training(scheduled(name))
    rates, step = [], run.optimizer.step

    def recorded(*args):
        rates.append([group["lr"] for group in run.optimizer.param_groups])
        return step(*args)

    monkeypatch.setattr(run.optimizer, "step", recorded)
    rows = rows_of(run)
    expected = {
        "constant": lambda s: 0.01,
        "exponential": lambda s: 0.01 * 0.5 ** (s // 4),
        "exponential at every step": lambda s: 0.01 * 0.5 ** (s / 4),
        "cosine": lambda s: 0.01 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * s / 18))),
    }[name]
    assert [rate for (rate,) in rates] == pytest.approx([expected(s) for s in range(18)])
    assert [row["learning_rate"] for row in rows] == [rates[last][0] for last in (2, 5, 8, 11, 14, 17)]


@pytest.mark.parametrize(("metric", "mode"), [("val_loss", "min"), ("val_ccc", "max")])
def test_the_plateau_watches_the_ranking_metric(metric, mode):
    from keras.callbacks import ReduceLROnPlateau
    from keras.optimizers import SGD

    config = scheduled(
        "plateau", search__metric=metric, training__epochs=14, optim__learning_rate=2.0**-5, model__dense_l2=0.1
    )
    rows = rows_of(training(config, mode=mode))
    reference = ReduceLROnPlateau("val_metric", factor=0.5, patience=1, mode=mode, min_delta=0.05, min_lr=1e-6)
    reference.set_model(type("Model", (), {"optimizer": SGD(2.0**-5)})())
    reference.on_train_begin()
    for epoch, row in enumerate(rows):
        assert row["learning_rate"] == float(reference.model.optimizer.learning_rate)
        reference.on_epoch_end(epoch, {"val_metric": row[metric]})
    assert rows[-1]["learning_rate"] < rows[0]["learning_rate"]


@pytest.mark.parametrize("loss", ["weighted_mse", "huber", "emotion_aware"])
def test_every_loss_trains(loss):
    rows = rows_of(training(config_of(loss__name=loss, training__epochs=25, training__patience=None)))
    assert rows[-1]["val_loss_best"] < 0.7 * rows[0]["val_loss"]
    assert rows[-1]["val_rmse"] < rows[0]["val_rmse"]


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


def test_keeping_the_last_epoch_ranks_by_it_and_keeps_its_weights(tmp_path):
    config = config_of(training__epochs=5, training__keep="last", training__patience=None, optim__learning_rate=0.5)
    rows = rows_of(training(config, Clips(), tmp_path))
    assert [row["best_epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["val_loss_best"] for row in rows] == [row["val_loss"] for row in rows]
    assert rows[-1]["val_loss"] > min(row["val_loss"] for row in rows), "or this test would show nothing"
    assert torch.load(tmp_path / "best.pt", weights_only=True)["row"]["epoch"] == 5
    with pytest.raises(ValidationError, match="patience: expected null where the last epoch is kept"):
        config_of(training__keep="last")


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
    (kernel,) = run.model.head.kernels()
    assert math.isclose(row["penalty"], 0.1 * kernel.square().sum().item(), rel_tol=1e-5)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_clips", [1, 5, 10, 11, 12, 16])
def test_data_count_the_batches_that_they_give(num_clips, world_size):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(num_clips, 3, 2)).astype(np.float32)
    frames = np.full(num_clips, 3)
    part = Part(np.arange(num_clips).astype(str), features, frames, np.zeros((num_clips, 2), np.float32))
    data = ResidentData(part, part, FeatureStatistics.of([(frames, features)]), 3)
    given = len(list(data.train_batches(1, 5, 0, 0, world_size)))
    assert data.num_batches(5, world_size) == given
    assert StreamedData.num_batches(data, 5, world_size) == given


class Padded(Clips):
    """Clips of 8 frames of which only some are valid; what stands behind is noise."""

    def __init__(self):
        super().__init__()
        self.num_frames = torch.tensor([8, 3, 5, 8, 2, 7, 4, 8, 6, 3, 5, 8])

    def train_batches(self, *args, **kwargs):
        for batch in super().train_batches(*args, **kwargs):
            yield batch | {"num_frames": self.num_frames[self.rows_of(batch)]}

    def val_batches(self, batch_size):
        for batch in super().val_batches(batch_size):
            yield batch | {"num_frames": self.num_frames[self.rows_of(batch)]}

    def rows_of(self, batch):
        return [int((self.targets == target).all(dim=1).nonzero()) for target in batch["targets"]]


def test_the_model_is_told_which_frames_are_valid():
    seen = []

    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def forward(self, features, num_frames=None):
            seen.append((self.training, features, num_frames))
            return self.layer(features.mean(dim=1))

        def penalty(self):
            return torch.zeros(())

    config = config_of(training__epochs=1)
    padded = Padded()
    for data in (padded, Clips()):
        Trainer(Spy(), data, task_of(config), config, "min").fit(lambda row: None)
    assert [(training, len(frames)) for training, _, frames in seen[:4]] == [
        (True, 5), (True, 5), (True, 2), (False, 12),
    ]  # fmt: skip
    for _, features, frames in seen[:4]:
        rows = [int((padded.features == clip).all(dim=2).all(dim=1).nonzero()) for clip in features]
        assert frames.tolist() == padded.num_frames[rows].tolist()
    assert [frames for _, _, frames in seen[4:]] == [None] * 4


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


def test_a_training_that_another_process_goes_on_with_writes_no_more(tmp_path):
    first = training(scheduled("constant"), folder=tmp_path)
    (tmp_path / "last.pt.0123.partial").write_bytes(b"half of a checkpoint")
    first.resume()
    assert not list(tmp_path.glob("*.partial"))
    first.one_epoch()
    second = training(scheduled("constant"), folder=tmp_path)
    second.resume()
    assert second.epoch == 1
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(SupersededError, match="another process has resumed"):
        first.one_epoch()
    assert (tmp_path / "last.pt").read_bytes() == before
    assert second.one_epoch()["epoch"] == 2
    rows_of(training(scheduled("constant"), folder=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"best.pt", "last.pt"}


@pytest.mark.parametrize("name", ["adam", "rmsprop", "sgd"])
def test_weights_that_were_taken_over_are_trained_with_the_trial_s_own_settings(tmp_path, name):
    training(scheduled("constant", optim__name=name, optim__weight_decay=0.5), folder=tmp_path).fit(lambda row: None)
    other = training(scheduled("constant", optim__name=name, optim__weight_decay=0.25), folder=tmp_path)
    other.resume()
    assert {group["weight_decay"] for group in other.optimizer.param_groups} == {0.25}
    assert other.optimizer.state  # and the moments are those of the checkpoint


def test_a_flipped_bit_of_a_checkpoint_is_told(tmp_path):
    state = {"weights": torch.arange(300.0), "rows": [{"loss": 1.5}] * 9}
    file = tmp_path / "last.pt"
    write_checkpoint(file, state)
    content, chance, told = file.read_bytes(), random.Random(2), 0
    for changed in (b"", content[:-9], *(flipped(content, chance.randrange(8 * len(content))) for _ in range(100))):
        file.write_bytes(changed)
        with suppress(DamagedCheckpointError):
            found = read_checkpoint(file, "cpu")
            assert torch.equal(found["weights"], state["weights"]) and found["rows"] == state["rows"]
            continue
        told += 1
    assert told > 50


def flipped(content, position):
    changed = bytearray(content)
    changed[position // 8] ^= 1 << position % 8
    return bytes(changed)
