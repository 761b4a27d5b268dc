"""What can be named in a setting is what there is: tables of parts and the names that the schema allows are equal."""

import importlib
from pathlib import Path
from typing import get_args

import pytest

from tuning.cli.app import COMMANDS
from tuning.config.schema import LossSettings, OptimSettings, import_model, model_settings
from tuning.config.space import known_spaces, load
from tuning.datasets import CORPORA
from tuning.datasets.features.waveform_effects import EFFECTS
from tuning.datasets.settings import AugmentSettings
from tuning.models import MODELS
from tuning.models.base import Model
from tuning.training.losses import LOSSES
from tuning.training.optimizers import OPTIMIZERS, SCHEDULES

PROJECT = Path(__file__).parents[2]


def allowed(settings, name):
    return set(get_args(settings.model_fields[name].annotation))


def test_losses_optimisers_and_schedules_are_those_of_the_schema():
    # Of classes there is one loss, which the task makes; a plateau is a rule between epochs, no function of the step.
    assert allowed(LossSettings, "name") == {*LOSSES, "cross_entropy"}
    assert allowed(OptimSettings, "name") == set(OPTIMIZERS)
    assert allowed(OptimSettings, "schedule") == set(SCHEDULES)


def test_every_effect_has_its_probability():
    probabilities = {name.removesuffix("_prob") for name in AugmentSettings.model_fields if name.endswith("_prob")}
    assert set(EFFECTS) <= probabilities


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_its_class_and_its_settings(name):
    assert issubclass(import_model(name), Model)
    assert model_settings(name) is import_model(name).Settings
    assert model_settings(name).model_fields["name"].get_default() == name


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_has_its_loader(name):
    module, _, function = CORPORA[name].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_every_corpus_and_space_has_its_file():
    files = {path.stem for path in (PROJECT / "datasets" / "corpora").glob("*.py")} - {"__init__", "layout", "labels"}
    assert files == {name for name in CORPORA if not name.startswith("demo")}
    assert set(known_spaces()) == {path.stem for path in (PROJECT / "search_spaces").glob("*.yaml")}


def test_every_space_file_is_read():
    for name in known_spaces():
        _, space, _ = load([f"space={name}"])
        assert space.fixed().model.name in MODELS


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_its_module_and_its_usage(name, capsys):
    command = importlib.import_module(COMMANDS[name][0])
    assert command.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(("tuning ", "python -m tuning.run")) and name in said.splitlines()[0]
