"""A user's own model and corpus by their dotted paths, from a folder that is nobody's package."""

import csv
import subprocess
import sys

import pytest

from tests.helpers.waiting import PATIENCE
from tuning.config.errors import UserError
from tuning.data.plan import make_plan

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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    import numpy as np
    import soundfile

    (tmp_path / "own_model.py").write_text(MODEL)
    (tmp_path / "own_corpus.py").write_text(CORPUS)
    (tmp_path / "sounds").mkdir()
    for n in range(20):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 50 * n) * np.arange(16000) / 16000)
        soundfile.write(tmp_path / "sounds" / f"{n}.wav", tone, 16000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_own_model_and_corpus_are_searched(folder):
    command = [sys.executable, "-m", "tuning.run", "space=own.yaml", "data.corpus=own_corpus:load"]
    (folder / "own.yaml").write_text(
        "data: {root: sounds}\nfeatures: {num_frames: 16}\n"
        "model: {name: 'own_model:Mean', width: {choice: [4, 8]}}\n"
        "training: {epochs: 2}\nsearch: {algorithm: random, num_trials: 2}\n"
    )
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = list(csv.DictReader((folder / "results" / "own" / "leaderboard.csv").open()))
    assert {row["model.width"] for row in rows} == {"4", "8"} and {row["status"] for row in rows} == {"done"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["model.name=crn"],
            "model.name: expected one of crnn, ser, bimodal, vit, or package.module:Class, got crn; "
            "did you mean 'crnn'?",
        ),
        (["model.name=own_modle:Mean"], "model.name: expected a class, got 'own_modle:Mean' (no module 'own_modle')"),
        (["model.name=own_model:Maen"], "model.name: expected a class, got 'own_model:Maen' (no 'Maen' in own_model)"),
        (["model.name={choice: [crnn]}"], "model.name: expected a plain value"),
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
