"""What can be named in a setting is what there is: tables of parts and the names that the schema allows are equal."""

import importlib
import inspect
from pathlib import Path
from typing import get_args

import pytest

from tuning.cli.app import COMMANDS
from tuning.config.loader import known_spaces, load
from tuning.config.own_functions import GIVEN
from tuning.config.schema import SECTIONS, import_model, model_settings
from tuning.datasets import CORPORA
from tuning.datasets.features.waveform_effects import EFFECTS
from tuning.datasets.settings import WAVE_EFFECTS, AugmentSettings, Only
from tuning.models import MODELS
from tuning.models.base import Model
from tuning.search.schedulers import SCHEDULERS
from tuning.training.losses import LOSSES
from tuning.training.optimizers import OPTIMIZERS
from tuning.training.schedules import SCHEDULES

PROJECT = Path(__file__).parents[2]


# Setting -> the functions that it names, and its choices that are none: of classes there is one loss, which the task
# makes; a plateau is a rule between epochs; a population acts on the trials' folders.
FUNCTIONS = {
    "loss.name": (LOSSES, {"cross_entropy"}),
    "optim.name": (OPTIMIZERS, set()),
    "optim.schedule": (SCHEDULES, {"plateau"}),
    "search.scheduler": (SCHEDULERS, {"none", "pbt"}),
}
# What is no parameter itself: `make_schedule` makes `restart_steps` of it.
MADE_INTO_STEPS = {"restarts": "restart_steps"}


@pytest.mark.parametrize("path", GIVEN)
def test_a_table_of_functions_and_the_schema_name_the_same(path):
    (table, others), (section, setting) = FUNCTIONS[path], path.split(".")
    fields = SECTIONS[section].model_fields
    assert set(get_args(fields[setting].annotation)) == {*table, *others}
    parameters = {name: keyword_only(function) for name, function in table.items() if name not in others}
    for leaf, field in fields.items():
        for only in (part for part in field.metadata if isinstance(part, Only) and part.setting == setting):
            taken_as = MADE_INTO_STEPS.get(leaf, leaf)
            assert set(only.choices) - others == {name for name in parameters if taken_as in parameters[name]}, leaf
    for name, found in parameters.items():
        assert set(found) <= {*fields, *GIVEN[path], *MADE_INTO_STEPS.values()}, name
        for leaf in set(found) & set(fields):
            default, mine = found[leaf].default, fields[leaf].get_default(call_default_factory=True)
            assert default is inspect.Parameter.empty or mine is None or list_of(default) == list_of(mine), (name, leaf)


def keyword_only(function):
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def list_of(value):
    return list(value) if isinstance(value, list | tuple) else value


def test_every_effect_has_its_probability():
    probabilities = {name.removesuffix("_prob") for name in AugmentSettings.model_fields if name.endswith("_prob")}
    assert set(EFFECTS) <= probabilities
    assert tuple(EFFECTS) == WAVE_EFFECTS


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
    files = {path.stem for path in (PROJECT / "datasets" / "corpora").glob("*.py")}
    assert files - {"__init__", "columns", "fold_lists", "labels", "layout"} == {
        name for name in CORPORA if not name.startswith("demo")
    }
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
