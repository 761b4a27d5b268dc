"""Too little memory: batches in parts have the whole batch's gradient, and a trial says that it took them."""

import copy
import math

import pytest
import torch

from tests.training.test_trainer import Clips, Padded, config_of, rows_of
from tuning.models import layers
from tuning.models.crnn import CRNN
from tuning.models.crnn_settings import CRNNSettings
from tuning.training.gradient_accumulation import Parts, is_out_of_memory
from tuning.training.tasks import task_of
from tuning.training.trainer import Trainer

NO_DROPOUT = {"conv_dropout": [0.0], "lstm_dropout": 0.0, "recurrent_dropout": 0.0, "dense_dropout": 0.0}
CRNN_PLAIN = CRNNSettings(
    conv_filters=[4], lstm_units=[4], dense_units=[4], batch_norm=False, dense_l2=0.1, **NO_DROPOUT
)


class Narrow(torch.nn.Module):
    """A model on a device that has room for so many clips in training, and in validation."""

    def __init__(self, model, room, val_room=100):
        super().__init__()
        self.inner, self.room, self.val_room, self.sizes = model, room, val_room, []

    def forward(self, features, num_frames=None):
        self.sizes.append((self.training, len(features)))
        if len(features) > (self.room if self.training else self.val_room):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        return self.inner(features) if num_frames is None else self.inner(features, num_frames)

    def penalty(self):
        return self.inner.penalty()


def gradients(training, batch):
    training._gradients(training.parts.of(batch))
    return [parameter.grad.clone() for parameter in training.model.parameters()]


@pytest.mark.parametrize("data", [Clips, Padded])
@pytest.mark.parametrize("clips", [1, 2, 5, 7, 11])
def test_gradients_of_parts_add_up_to_the_whole_batch_s(clips, data):
    torch.manual_seed(0)
    model = CRNN(CRNN_PLAIN, 4, 2).double()
    config = config_of(training__batch_size=12, optim__clip_norm=None)
    batch = next(iter(data().train_batches(1, 12, 0)))
    batch = {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in batch.items()}
    whole = Trainer(model, data(), task_of(config), config, "min")
    parts = Trainer(copy.deepcopy(model), data(), task_of(config), config, "min", clips_at_once=clips)
    assert [len(part["features"]) for part in parts.parts.of(batch)] != [12]
    whole.forward.train(), parts.forward.train()
    for expected, found in zip(gradients(whole, batch), gradients(parts, batch), strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_a_step_in_parts_moves_the_weights_as_one_step_of_the_whole_batch():
    torch.manual_seed(0)
    model = CRNN(CRNN_PLAIN, 4, 2)
    config = config_of(training__batch_size=12, optim__clip_norm=0.1, training__epochs=3)
    runs = [
        Trainer(copy.deepcopy(model), Clips(), task_of(config), config, "min", clips_at_once=clips)
        for clips in (None, 5)
    ]
    one, other = (rows_of(run) for run in runs)
    for expected, found in zip(one, other, strict=True):
        assert math.isclose(found["val_loss"], expected["val_loss"], rel_tol=1e-5)
        assert math.isclose(found["train_loss"], expected["train_loss"], rel_tol=1e-5)
    assert runs[1].steps == runs[0].steps


def test_parts_mix_weights_and_lengths_stay_with_their_clips():
    batch = {
        "features": torch.arange(7.0).reshape(7, 1, 1),
        "targets": torch.arange(7.0).reshape(7, 1),
        "num_frames": torch.arange(7),
        "mix": torch.tensor(0.5),
        "num_clips": 7,
    }
    parts = Parts(clips=3).of(batch)
    assert [len(part["features"]) for part in parts] == [3, 2, 2]
    assert all(part["num_clips"] == 7 and part["mix"] == 0.5 for part in parts)
    for part in parts:
        assert part["features"].flatten().tolist() == part["targets"].flatten().tolist() == part["num_frames"].tolist()


@pytest.mark.parametrize(
    ("fewest", "clips", "sizes"), [(1, 1, [1] * 5), (2, 1, [3, 2]), (2, 2, [3, 2]), (2, 4, [3, 2])]
)
def test_no_part_is_smaller_than_batch_norm_can_train_on(fewest, clips, sizes):
    batch = {"features": torch.zeros(5, 2, 2), "num_clips": 5}
    assert [len(part["features"]) for part in Parts(fewest, clips=clips).of(batch)] == sizes


def test_running_out_of_memory_leads_to_parts_a_note_and_the_same_losses(tmp_path):
    config = config_of(training__batch_size=12, training__epochs=4, training__patience=None)

    def run(room, folder=None, val_room=100):
        torch.manual_seed(0)
        model = Narrow(CRNN(CRNN_PLAIN, 4, 2), room, val_room)
        training = Trainer(model, Clips(), task_of(config), config, "min", checkpoints=folder)
        return model, rows_of(training)

    _, whole = run(100)
    model, parts = run(4, tmp_path, val_room=5)
    assert parts[-1]["finished"] == "all epochs; out of memory: gradients of at most 3 clips at once, added up"
    for expected, found in zip(whole, parts, strict=True):
        assert math.isclose(found["val_loss"], expected["val_loss"], rel_tol=1e-5)
    trained = [size for training, size in model.sizes if training]
    assert trained[:2] == [12, 6] and set(trained[2:]) == {3}, "found once, then known"
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["own"]["clips_at_once"] == 3


def test_a_training_that_goes_on_knows_what_fits(tmp_path):
    config = config_of(training__batch_size=12, training__epochs=4, training__patience=None)

    def kill(row):
        raise KeyboardInterrupt

    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        Trainer(Narrow(CRNN(CRNN_PLAIN, 4, 2), 4), Clips(), task_of(config), config, "min", checkpoints=tmp_path).fit(
            kill
        )
    again = Narrow(CRNN(CRNN_PLAIN, 4, 2), 4)
    Trainer(again, Clips(), task_of(config), config, "min", checkpoints=tmp_path).fit(lambda row: None)
    assert {size for training, size in again.sizes if training} == {3}


@pytest.mark.parametrize(
    ("room", "settings", "options"),
    [
        (0, CRNN_PLAIN, {}),
        (1, CRNN_PLAIN.model_copy(update={"batch_norm": True}), {}),
        (4, CRNN_PLAIN, {"splits": False}),
    ],
)
def test_what_does_not_fit_in_parts_either_is_an_error(room, settings, options):
    config = config_of(training__batch_size=12)
    run = Trainer(Narrow(CRNN(settings, 4, 2), room), Clips(), task_of(config), config, "min", **options)
    with pytest.raises(torch.OutOfMemoryError):
        rows_of(run)


def test_other_errors_are_not_taken_for_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("x")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit")) and not is_out_of_memory(ValueError("memory"))
    calls = []

    def wrong(parts):
        calls.append(len(parts))
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        Parts().run({"features": torch.zeros(8, 1, 1)}, wrong)
    assert calls == [1]


def test_batch_norm_sees_the_parts():
    """What batch-norm changes: the statistics are those of a part, so the gradients differ, and no test may hide it."""
    torch.manual_seed(0)
    model = CRNN(CRNN_PLAIN.model_copy(update={"batch_norm": True}), 4, 2).double()
    assert any(isinstance(module, layers.BatchNorm) for module in model.modules())
    config = config_of(training__batch_size=12)
    batch = next(iter(Clips().train_batches(1, 12, 0)))
    batch = {k: v.double() if torch.is_tensor(v) else v for k, v in batch.items()}
    found = []
    for clips in (None, 6):
        run = Trainer(copy.deepcopy(model), Clips(), task_of(config), config, "min", clips_at_once=clips)
        run.forward.train()
        found.append(gradients(run, batch))
    assert any(not torch.allclose(a, b, rtol=1e-4) for a, b in zip(*found, strict=True))
