"""Training in stages: who is trained when and at which rate, what survives an unfreezing, stopping, resuming."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from pydantic import ValidationError

from tests.helpers.tiny_vit import write_image_encoder
from tests.training.test_trainer import Clips, rows_of, without_seconds
from tuning.config.schema import OptimSettings, nested, parse_config
from tuning.evaluation.final_test import Course, retrain
from tuning.models.vit import ViT
from tuning.training.optimizers import parameter_groups
from tuning.training.schedules import make_schedule
from tuning.training.tasks import task_of
from tuning.training.trainer import RECENT, Trainer

GOLDEN = Path(__file__).parents[1] / "golden" / "vit_rates.json"
GUIDE = {
    "model.name": "vit",
    "model.head_dropout": 0.3,
    "model.unfreeze_epochs": [8, 12, 16],
    "optim.learning_rate": 1e-4,
    "optim.encoder_learning_rate": 1e-5,
    "optim.schedule": "cosine",
    "optim.final_learning_rate": 1e-6,
    "optim.restarts": "unfreezing",
    "optim.clip_norm": 1.0,
    "training.epochs": 24,
    "training.patience": None,
    "training.batch_size": 4,
}
LAYERS = ("encoder.layers.3.", "encoder.layers.2.", "encoder.layers.1.")  # in the order of their unfreezing


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sizes = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "intermediate_size": 8}
    return write_image_encoder(tmp_path_factory.mktemp("vit"), **sizes, hidden_dropout_prob=0.1)


def config_of(folder, **settings):
    given = {name.replace("__", "."): value for name, value in settings.items()}
    return parse_config(nested(GUIDE | {"model.image_encoder": folder} | given))


def training(config, place=None, mode="min", **options):
    torch.manual_seed(config.seed)
    model = ViT(config.model, 4, 2)
    return Trainer(model, Clips(8), task_of(config), config, mode, checkpoints=place, **options)


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_head_alone_then_one_layer_more_at_each_epoch_of_the_schedule(folder):
    run = training(config_of(folder))
    start = {name: value.clone() for name, value in run.model.state_dict().items()}
    head, names = {"output.weight", "output.bias"}, set(start)
    for epoch in range(1, 25):
        before = {name: value.clone() for name, value in run.model.state_dict().items()}
        run.one_epoch()
        count = sum(epoch >= first for first in (8, 12, 16))
        expected = head | {name for name in names if name.startswith(LAYERS[:count])}
        assert trained(run.model) == expected, epoch
        moved = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
        assert head <= moved <= expected, epoch
        assert all(any(name.startswith(layer) for name in moved) for layer in LAYERS[:count])
        # Frozen weights have no gradient, and the optimiser knows nothing of them.
        without = [p for n, p in run.model.named_parameters() if n not in expected]
        assert all(p.grad is None and p not in run.optimizer.state for p in without)
    assert all(torch.equal(start[name], value) for name, value in run.model.state_dict().items()
               if not name.startswith((*LAYERS, "output")))  # fmt: skip


def test_the_optimiser_s_state_of_the_head_survives_each_unfreezing(folder, monkeypatch):
    """An optimiser that is made anew would begin at step 1, with moments of the newest gradient alone."""
    run = training(config_of(folder))
    steps_per_epoch, weight = run.data.num_batches(4), run.model.output.weight
    gradients, step = [], run.optimizer.step

    def recorded(*args):
        gradients.append(weight.grad.clone())
        return step(*args)

    monkeypatch.setattr(run.optimizer, "step", recorded)
    for epoch in range(1, 25):
        state = run.optimizer.state[weight]
        before = {name: value.clone() for name, value in state.items()} if epoch > 1 else {}
        gradients.clear()
        run.one_epoch()
        state = run.optimizer.state[weight]
        assert state["step"] == epoch * steps_per_epoch
        if before:
            average, square = before["exp_avg"], before["exp_avg_sq"]
            for gradient in gradients:
                average = 0.9 * average + 0.1 * gradient
                square = 0.999 * square + 0.001 * gradient.square()
            torch.testing.assert_close(state["exp_avg"], average)
            torch.testing.assert_close(state["exp_avg_sq"], square)
        for first, layer in zip((8, 12, 16), LAYERS, strict=True):
            of_layer = [p for name, p in run.model.named_parameters() if name.startswith(layer)]
            steps = {float(run.optimizer.state[p]["step"]) for p in of_layer if p in run.optimizer.state}
            assert steps == ({(epoch - first + 1) * steps_per_epoch} if epoch >= first else set())


def literal(epoch, first, learning_rate):
    """The rate of an epoch's last step: two steps an epoch, begun anew at 8, 12 and 16, to 1e-6 after 24."""
    if epoch < first:
        return 0.0
    start = max(2 * (restart - 1) for restart in (1, 8, 12, 16) if restart <= epoch)
    fraction = (2 * epoch - 1 - start) / (48 - start)
    return 1e-6 + (learning_rate - 1e-6) * (1 + math.cos(math.pi * fraction)) / 2


def test_rates_of_all_groups_are_the_documented_ones(folder):
    rows = rows_of(training(config_of(folder)))
    names = ["learning_rate", *(f"learning_rate_stage_{stage}" for stage in (1, 2, 3))]
    table = {str(row["epoch"]): [row[name] for name in names] for row in rows}
    for epoch in range(1, 25):
        expected = [literal(epoch, 1, 1e-4), *(literal(epoch, first, 1e-5) for first in (8, 12, 16))]
        assert table[str(epoch)] == pytest.approx(expected, rel=1e-9)
    assert table["8"][0] > table["7"][0]
    assert all(1e-6 < rate < 2e-6 for rate in table["24"])  # the last step is one before the end
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(table, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert table == {epoch: pytest.approx(rates, rel=1e-12) for epoch, rates in golden.items()}


def test_a_group_s_plateau_ends_at_the_least_rate_and_not_below(folder, monkeypatch):
    settings = {"optim__schedule": "plateau", "optim__restarts": "none", "optim__warmup_epochs": 2}
    run = training(config_of(folder, **settings, optim__plateau_patience=1, optim__final_learning_rate=None))
    monkeypatch.setattr(run, "validate", lambda: {"val_loss": 1.0})
    rows = rows_of(run)
    for row in rows:
        # Halved after each epoch but the first, of which nothing better came.
        halved = 0.5 ** max(0, row["epoch"] - 2)
        ramp = 0.5 if row["epoch"] == 1 else 1.0
        assert row["learning_rate"] == pytest.approx(ramp * max(1e-4 * halved, 1e-6))
        if row["epoch"] >= 16:
            assert row["learning_rate_stage_3"] == pytest.approx(max(1e-5 * halved, 1e-6)) == pytest.approx(1e-6)


def test_a_rate_that_begins_below_the_least_one_stays(folder, monkeypatch):
    settings = {"optim__schedule": "plateau", "optim__restarts": "none", "optim__encoder_learning_rate": 1e-7}
    run = training(config_of(folder, **settings, optim__plateau_patience=1, optim__final_learning_rate=None))
    monkeypatch.setattr(run, "validate", lambda: {"val_loss": 1.0})
    assert [row["learning_rate_stage_1"] for row in rows_of(run)[7:]] == pytest.approx([1e-7] * 17)


def test_rows_say_how_many_weights_are_trained(folder):
    # A linear layer of width 8 has 72; a transformer layer has six of them and two norms of 16; the head has 2 outputs.
    layer, head = 6 * 72 + 2 * 16, 8 * 2 + 2
    counts = [row["trained_parameters"] for row in rows_of(training(config_of(folder)))]
    assert counts == [head] * 7 + [head + layer] * 4 + [head + 2 * layer] * 4 + [head + 3 * layer] * 9


def test_without_restarts_it_is_one_cosine_and_a_warm_up_comes_before():
    plain = make_schedule(OptimSettings(schedule="cosine", alpha=0.01), 24, 2, [8, 12, 16])
    for step in range(50):
        fraction = min(step / 48, 1)
        assert plain(step, 1.0) == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi * fraction)) / 2)
    settings = OptimSettings(schedule="cosine", alpha=0.0, restarts="unfreezing", warmup_epochs=3)
    warm = make_schedule(settings, 10, 2, [2, 4, 6])
    assert [warm(step, 1.0) for step in range(6)] == pytest.approx([(step + 1) / 6 for step in range(6)])
    expected = [(1 + math.cos(math.pi * done / 14)) / 2 for done in range(4)]
    expected += [(1 + math.cos(math.pi * done / 10)) / 2 for done in range(11)]
    expected += [0.0] * 4  # beyond the end
    assert [warm(step, 1.0) for step in range(6, 25)] == pytest.approx(expected, abs=1e-12)


def test_groups_without_stages_are_as_before(folder):
    model = ViT(config_of(folder, model__unfreeze_epochs=[]).model, 4, 2)
    (group,) = parameter_groups(model, OptimSettings())
    assert group["params"] == list(model.output.parameters()) and group["first_epoch"] == 1
    run = training(config_of(folder, model__unfreeze_epochs=[], training__epochs=2))
    assert not [name for row in rows_of(run) for name in row if "stage" in name or name == "trained_parameters"]


@pytest.mark.parametrize(
    ("patience", "better_in", "last"),
    [(5, [1], 20), (5, [1, 18], 23), (3, [1, 2, 3], 18), (1, [1], 16), (5, range(1, 25), 24), (None, [1], 24)],
)
def test_patience_is_counted_anew_and_nothing_stops_before_the_last_unfreezing(
    folder, monkeypatch, patience, better_in, last
):
    run = training(config_of(folder, training__patience=patience))
    best = [1.0]

    def validate():
        best[0] -= 0.01 * (run.epoch in better_in)
        return {"val_loss": best[0] if run.epoch in better_in else 2.0}

    monkeypatch.setattr(run, "validate", validate)
    monkeypatch.setattr(run, "train_epoch", lambda: {"train_loss": 0.0, "penalty": 0.0, "learning_rate": 0.0})
    rows = rows_of(run)
    assert len(rows) == last
    assert rows[-1]["finished"] == ("all epochs" if last == 24 else "early stopping")
    assert rows[-1]["best_epoch"] == max(better_in)


class KilledError(Exception):
    pass


SHORT = {"model__unfreeze_epochs": [2, 4, 5], "training__epochs": 6}


@pytest.mark.parametrize("optimiser", ["adam", "sgd", "rmsprop"])
def test_cut_off_in_any_stage_it_goes_on_to_the_last_bit(folder, tmp_path, optimiser):
    def config():
        return config_of(folder, **SHORT, optim__name=optimiser, optim__momentum=0.5, optim__learning_rate=0.01)

    whole = training(config())
    rows = without_seconds(rows_of(whole))
    assert len({row["learning_rate_stage_3"] for row in rows}) == 3
    for cut in range(1, 6):
        place = tmp_path / str(cut)

        def kill(row, cut=cut):
            if row["epoch"] == cut:
                raise KilledError

        with pytest.raises(KilledError):
            training(config(), place).fit(kill)
        torch.manual_seed(999)  # another process's random state
        run = training(config(), place)
        assert without_seconds(rows_of(run)) == rows[max(0, cut - RECENT) :]
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, run.model.state_dict()[name]), (cut, name)


def test_a_retraining_goes_through_the_same_stages(folder, monkeypatch):
    """As after a search: epoch by epoch, without validation or checkpoints."""
    config = config_of(folder, **SHORT)
    monkeypatch.setattr("tuning.evaluation.final_test.make_trainer", lambda config, data, *_, **__: training(config))
    found = retrain(config, Clips(), Course(4, [], steps=1))
    expected = training(config)
    for _ in range(4):
        expected.one_epoch()
    assert trained(found.model) == trained(expected.model) and len(trained(found.model)) == 2 + 2 * 16
    assert all(torch.equal(v, found.model.state_dict()[n]) for n, v in expected.model.state_dict().items())


def test_weights_are_taken_over_from_another_trial_in_any_stage(folder, tmp_path):
    """As population-based training does: the other's checkpoint, at this trial's own rate."""
    giver = training(config_of(folder, **SHORT), tmp_path)
    for _ in range(3):
        giver.one_epoch()
    taker = training(config_of(folder, **SHORT, optim__learning_rate=1e-3), tmp_path)
    taker.resume()
    taker.base_rate = 1e-3  # as `tuning.search.population_based_training` writes into the checkpoint
    row = taker.one_epoch()
    assert row["epoch"] == 4
    wave = (row["learning_rate"] - 1e-6) / (1e-3 - 1e-6)
    assert row["learning_rate_stage_2"] == pytest.approx(1e-6 + wave * (1e-5 - 1e-6)) and row["learning_rate"] > 5e-4
    assert row["learning_rate_stage_3"] == 0


def worker(rank, folder, encoder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    config = config_of(encoder, **SHORT, model__head_dropout=0.0, optim__learning_rate=0.01)
    run = training(config, Path(folder), rank=rank, world_size=2)
    run.model.encoder.eval()
    rows = rows_of(run)
    torch.save((rows, run.model.state_dict()), f"{folder}/rank-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_compute_what_one_does(tmp_path):
    sizes = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "intermediate_size": 8}
    encoder = write_image_encoder(tmp_path / "encoder", **sizes)
    alone = training(config_of(encoder, **SHORT, model__head_dropout=0.0, optim__learning_rate=0.01))
    rows = rows_of(alone)
    torch.multiprocessing.spawn(worker, (str(tmp_path), encoder), nprocs=2)
    for rank in (0, 1):
        found, weights = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        for row, expected in zip(found, rows, strict=True):
            assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-3)
            assert row["learning_rate_stage_1"] == expected["learning_rate_stage_1"]
        for name, value in alone.model.state_dict().items():
            torch.testing.assert_close(weights[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training.epochs": 15}, r"unfreeze_epochs: expected epochs up to training.epochs \(15\), got \[8, 12, 16\]"),
        ({"optim.schedule": "step"}, r"optim.restarts: expected none with optim.schedule=step .*got unfreezing"),
        ({"optim.final_learning_rate": 2e-4}, r"final_learning_rate: expected at most learning_rate \(0.0001\)"),
        ({"optim.final_learning_rate": 5e-5}, r"final_learning_rate: expected at most encoder_learning_rate \(1e-05\)"),
        ({"model.pretrained": False}, r"unfreeze_epochs: expected \[\] with pretrained=false"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        parse_config(nested(GUIDE | settings))
    with pytest.raises(ValidationError, match=r"optim.restarts: expected none with model.name=crnn"):
        parse_config(nested({"optim.schedule": "cosine", "optim.restarts": "unfreezing"}))
