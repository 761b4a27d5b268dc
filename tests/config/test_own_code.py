"""A user's own model, corpus and functions by their dotted paths, from a folder that is nobody's package."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ray import cloudpickle

from tests.helpers.waiting import PATIENCE
from tuning.config.errors import UserError
from tuning.config.schema import parse_config
from tuning.data.plan import make_plan
from tuning.training.early_stopping import first_stop
from tuning.training.optimizers import make_optimizer
from tuning.training.schedules import make_schedule
from tuning.training.tasks import task_of

MODEL = """
from typing import Literal

import torch
from pydantic import BaseModel


class Mean(torch.nn.Module):
    class Settings(BaseModel, extra="forbid"):
        name: Literal["own_model:Mean"] = "own_model:Mean"
        width: int = 8

    def __init__(self, settings, num_features, num_outputs):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(num_features, settings.width), torch.nn.ReLU(), torch.nn.Linear(settings.width, num_outputs)
        )

    def forward(self, features, num_frames=None):
        return self.layers(features.mean(dim=1))

    def penalty(self):
        return torch.zeros(())
"""

CORPUS = """
from tuning.datasets.corpus import Clip, Corpus


def load(data, targets):
    clips = [Clip(f"{n}.wav", (n / 20, -n / 20), group=f"artist{n % 10}") for n in range(20)]
    return Corpus("own", data.root, clips)
"""


# Each is one function in the user's file, and one setting that names it.
FUNCTIONS = """
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field


def power(outputs, targets, *, exponent: Annotated[float, Field(gt=1, description="of the error")] = 4.0):
    return (outputs - targets).abs().pow(exponent).mean(dim=1)


def focal(outputs, targets, *, gamma: float = 2.0):
    chosen = outputs.log_softmax(dim=1).gather(1, targets.long())[:, 0]
    return -((1 - chosen.exp()) ** gamma) * chosen


if TYPE_CHECKING:
    from torch import Tensor


def total(outputs: Tensor, targets: Tensor):
    return (outputs - targets).square().mean()


def signs(parameters, learning_rate, *, momentum: float = 0.0, shrink: float = 1.0):
    return torch.optim.SGD(parameters, lr=learning_rate * shrink, momentum=momentum or 0.0)


def halving(step, learning_rate, *, steps_per_epoch, halves: int = 1):
    return learning_rate * 0.5 ** (halves * (step // steps_per_epoch))


def best_only(curves, number, *, grace_epochs=1, margin: float = 0.0):
    epoch = len(curves[number])
    others = [curve[epoch - 1] for n, curve in curves.items() if n != number and len(curve) >= epoch]
    return epoch >= grace_epochs and curves[number][-1] < max(others, default=float("-inf")) - margin


def at_once(curves, number):
    return True


def smoothed(outputs, targets, *, label_smoothing: float = 0.0):
    return power(outputs, targets) * (1 - label_smoothing)


def unread(outputs, targets, *, scale: Tensor = 1.0):
    return power(outputs, targets)


def untyped(outputs, targets, *, scale=None):
    return power(outputs, targets)


def needy(outputs, targets, *, exponent):
    return (outputs - targets).abs().pow(exponent).mean(dim=1)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    import soundfile

    (tmp_path / "own_model.py").write_text(MODEL)
    (tmp_path / "own_corpus.py").write_text(CORPUS)
    (tmp_path / "own_functions.py").write_text(FUNCTIONS)
    (tmp_path / "sounds").mkdir()
    for n in range(20):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 50 * n) * np.arange(16000) / 16000)
        soundfile.write(tmp_path / "sounds" / f"{n}.wav", tone, 16000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


SPACE = """
data: {root: sounds}
features: {num_frames: 16}
model: {name: 'own_model:Mean', width: {choice: [4, 8]}}
loss: {name: 'own_functions:power', exponent: 3}
optim: {name: 'own_functions:signs', momentum: 0.5, learning_rate: 0.01, schedule: 'own_functions:halving', halves: 2}
training: {epochs: 3, patience: null, batch_size: 8}
search: {algorithm: grid, scheduler: 'own_functions:best_only', margin: 1e-9, grace_epochs: 1, max_concurrent: 1}
"""


@pytest.mark.slow
def test_an_own_model_corpus_loss_optimiser_schedule_scheduler_and_space_are_searched(folder):
    command = [sys.executable, "-m", "tuning.run", "space=own.yaml", "data.corpus=own_corpus:load"]
    (folder / "own.yaml").write_text(SPACE.replace("{choice", "{grid"))
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = list(csv.DictReader((folder / "results" / "own" / "leaderboard.csv").open()))
    assert {row["model.width"] for row in rows} == {"4", "8"} and rows[0]["status"] == "done"
    # One after the other: the second is stopped by the scheduler unless it is better throughout.
    assert rows[1]["status"] == ("stopped" if rows[1]["trial"] == "2" else "done")
    trial = folder / "results" / "own" / "trials" / "0001"
    rates = [float(row["learning_rate"]) for row in csv.DictReader((trial / "progress.csv").open())]
    assert rates == [0.01, 0.0025, 0.000625]
    assert "tuning finalize results/own allow_code=true" in result.stdout
    # Another command knows the code from the record alone.
    command = [sys.executable, "-m", "tuning", "reproduce", "results/own", "1"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert refused.returncode == 2 and "allow_code=true" in refused.stderr
    command.append("allow_code=true")
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert again.returncode == 0 and "equal     to the last bit" in again.stdout, again.stdout + again.stderr


def test_a_process_that_gets_a_configuration_may_import_what_it_names(folder):
    """A trial's process, or a task of Ray: it gets what the user's own process has checked."""
    (folder / "own.yaml").write_text(SPACE)
    sent = cloudpickle.dumps(make_plan(["space=own.yaml"]).config)
    code = (
        "import sys; from ray import cloudpickle; from tuning.training.tasks import task_of; "
        "config = cloudpickle.loads(sys.stdin.buffer.read()); print(task_of(config).loss.name)"
    )
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}:{folder}"}
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stdout.split()) == (0, [b"own_functions:power"]), done.stderr


def test_a_function_of_the_users_own_gets_its_settings(folder):
    (folder / "own.yaml").write_text(SPACE)
    config = make_plan(["space=own.yaml", "data.corpus=own_corpus:load"]).space.fixed()
    assert parse_config(config.model_dump()) == config  # as a worker reads it
    outputs, targets = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    task = task_of(config)
    assert (
        task.loss_per_clip()(outputs, targets).tolist()
        == task.training_loss(np.zeros((1, 2)))(outputs, targets).tolist()
        == [(1 + 2**3) / 2]
    )
    optimizer = make_optimizer([torch.zeros(2, requires_grad=True)], config.optim)
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.01, 0.5)
    schedule = make_schedule(config.optim, epochs=3, steps_per_epoch=4)
    assert [schedule(step, 1.0) for step in (0, 3, 4, 8)] == [1.0, 1.0, 0.25, 0.0625]


def test_classes_are_trained_by_an_own_loss_and_ranked_by_the_plain_cross_entropy(folder, named_code):
    classes = {"name": "classification", "classes": ["a", "b", "c"]}
    config = parse_config({"task": classes, "loss": {"name": "own_functions:focal", "gamma": 1.0}})
    logits, targets = torch.randn(5, 3), torch.tensor([[0], [1], [2], [1], [0]])
    probability = torch.softmax(logits, dim=1)[torch.arange(5), targets[:, 0]]
    task = task_of(config)
    trained = task.training_loss(targets.numpy())(logits, targets)
    torch.testing.assert_close(trained, -(1 - probability) * probability.log())
    torch.testing.assert_close(
        task.loss_per_clip()(logits, targets),
        torch.nn.functional.cross_entropy(logits, targets[:, 0], reduction="none"),
    )


def test_the_console_script_finds_modules_in_the_folder_where_the_user_stands(folder):
    """A script has its own folder on Python's path and not the current one, as `-P` leaves it out here."""
    words = ["run", "loss.name=own_functions:power", "loss.exponnet=2"]
    script = "import sys; from tuning.cli.app import main; sys.exit(main(sys.argv[1:]))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *words], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stderr.count("did you mean 'exponent'?")) == (2, 1), done.stderr


def test_a_scheduler_that_knows_no_grace_may_stop_at_once(folder, named_code):
    config = parse_config({"search": {"scheduler": "own_functions:at_once"}})
    assert first_stop(config, 50) == 1
    assert first_stop(parse_config({"search": {"scheduler": "own_functions:best_only"}}), 50) == 5


def test_a_loss_of_another_shape_is_refused_before_any_trial(folder, named_code):
    config = parse_config({"loss": {"name": "own_functions:total"}})
    expected = r"loss.name: expected one value per clip from own_functions:total, shape \[4\], got \[\]"
    with pytest.raises(UserError, match=expected):
        task_of(config).constant_baseline(np.zeros((4, 2)), np.zeros((4, 2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["model.name=crn"],
            "model.name: expected one of crnn, ser, mlp, bimodal, vit, or package.module:Class, got crn; "
            "did you mean 'crnn'?",
        ),
        (["model.name=own_modle:Mean"], "model.name: expected a class, got 'own_modle:Mean' (no module 'own_modle')"),
        (["model.name=own_model:Maen"], "model.name: expected a class, got 'own_model:Maen' (no 'Maen' in own_model)"),
        (["model.name={choice: [crnn]}"], "model.name: expected a plain value"),
        (
            ["loss.name=own_functions:powre"],
            "loss.name: expected a function, got 'own_functions:powre' (no 'powre' in own_functions)",
        ),
        (
            ["optim.schedule=own_function:halving"],
            "optim.schedule: expected a function, got 'own_function:halving' (no module 'own_function')",
        ),
        (
            ["loss.name=own_functions:power", "loss.exponnet=2"],
            "loss.exponnet: no such setting; did you mean 'exponent'?",
        ),
        (["loss.name=own_functions:power", "loss.exponent=1"], "loss.exponent: expected number above 1, got 1"),
        (
            ["loss.name=own_functions:needy"],
            "loss.name: expected a default for every setting of own_functions:needy, got none for 'exponent'",
        ),
        (["loss.name=own_functions:unread"], "loss.name: expected a type for 'scale' of own_functions:unread"),
        (["loss.name=own_functions:untyped"], "loss.name: expected a type for 'scale' of own_functions:untyped"),
        (["loss.name=.:f"], "loss.name: expected a function as package.module:name, got '.:f'"),
        (["model.name=:f"], "model.name: expected a class as package.module:name, got ':f'"),
        (
            ["loss.name=own_functions:smoothed", "loss.label_smoothing={uniform: [0, 0.5]}"],
            "got val_loss, which contains loss.label_smoothing (searched)",
        ),
        (
            ["optim.name=own_functions:signs", "optim.beta_1=0.5"],
            "optim.beta_1: expected only with optim.name=adam, got optim.name=own_functions:signs",
        ),
        (
            ["loss.name={choice: [mse, 'own_functions:power']}"],
            "expected one of mse, weighted_mse, huber, emotion_aware, cross_entropy or package.module:function, "
            "got own_functions:power",
        ),
        (["loss.name=powr"], "cross_entropy or package.module:function, got powr"),
        (["space=own.yaml", "model.widht=3"], "model.widht: no such setting; did you mean 'width'?"),
        (["space=own.yaml", "model.width=wide"], "model.width: expected integer, got wide"),
    ],
)
def test_wrong_names_are_user_errors(folder, arguments, message):
    (folder / "own.yaml").write_text("model: {name: 'own_model:Mean'}\nsearch: {num_trials: 1}\n")
    with pytest.raises(UserError) as caught:
        make_plan(arguments)
    assert message in str(caught.value)


def test_a_setting_without_default_comes_from_the_space_or_is_missed(folder):
    source = MODEL.replace("own_model:Mean", "own_needy:Mean").replace(
        "width: int = 8", "width: int\n        depth: int = 1"
    )
    (folder / "own_needy.py").write_text(source)
    (folder / "own.yaml").write_text(
        "model: {name: 'own_needy:Mean', width: {choice: [4, 8]}}\nsearch: {num_trials: 1}\n"
    )
    written = make_plan(["space=own.yaml"]).space.written()
    assert written["model.width"] == {"choice": [4, 8]} and written["model.depth"] == 1
    (folder / "own.yaml").write_text(
        "model: {name: 'own_needy:Mean', width: 8}\ntraining: {batch_size: '${model.width}'}\n"
    )
    assert make_plan(["space=own.yaml", "search.num_trials=1"]).config.training.batch_size == 8
    (folder / "own.yaml").write_text("model: {name: 'own_needy:Mean'}\nsearch: {num_trials: 1}\n")
    with pytest.raises(UserError, match=r"model\.width: expected a value"):
        make_plan(["space=own.yaml"])
