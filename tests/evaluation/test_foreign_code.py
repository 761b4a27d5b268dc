"""A search or a model that somebody else made: nothing that its records name is imported, unless the user says so."""

import json
import sys

import numpy as np
import pytest
import torch
import yaml

from tests.helpers.written_search import write_search
from tuning import api
from tuning.cli import export, finalize, history, predict, report, reproduce, status
from tuning.config.errors import UserError
from tuning.config.schema import config_class, model_settings, parse_config
from tuning.data.plan import make_plan, read_corpus
from tuning.datasets import dotted_path
from tuning.datasets.store.reader import FeatureStatistics
from tuning.evaluation.final_test_files import write_model
from tuning.experiment.directory import write_json
from tuning.run import main as run
from tuning.training.trial import build_model

SMALL = ("space=crnn", "model.conv_filters=[8, 8]", "features.num_frames=16", "search.num_trials=3", "data.corpus=demo")
NAMING = ("model.name", "loss.name", "optim.name", "optim.schedule", "search.scheduler")
WORDS = "allow_code=true"

# What an archive may bring along: code that leaves a trace as soon as it is imported.
CODE = """
from pathlib import Path

Path("imported").touch()


def Thing(*_, **__):
    Path("called").touch()
"""


@pytest.fixture(autouse=True)
def a_new_process(monkeypatch):
    """What one test names or allows is not allowed in the next one."""
    monkeypatch.setattr(dotted_path, "_named", set())
    config_class.cache_clear()
    model_settings.cache_clear()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder best/ and a checkpoint of a model with random weights."""
    place = tmp_path_factory.mktemp("model")
    config = make_plan(list(SMALL)).config
    net = build_model(config, config.features.num_features)
    zeros = np.zeros(config.features.num_features, np.float32)
    write_model(place / "best", config, "", net, FeatureStatistics(zeros, zeros + 1), config.features.num_frames)
    features = {"mean": zeros.tolist(), "std": (zeros + 1).tolist(), "prepared_frames": config.features.num_frames}
    state = {"config": config.model_dump(mode="json"), "features": features, "model": net.state_dict()}
    torch.save(state, place / "best.pt")
    return place


@pytest.fixture
def archive(tmp_path, monkeypatch, model):
    """The folder where the user unpacked a search; its records name no code yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as Python does with the folder where the user stands
    folder, records = write_search(tmp_path / "results", *SMALL, count=3, name="foreign")
    last = records[-1]
    write_json(folder.trial(3) / "result.json", last.written() | {"status": "done"})
    (folder.path / "evil_code.py").write_text(CODE)
    state = torch.load(model / "best.pt", weights_only=True)
    (folder.trial(1) / "checkpoints").mkdir()
    torch.save(state, folder.trial(1) / "checkpoints" / "best.pt")
    write_json(folder.path / "test_looks.json", [])
    (folder.path / "best").mkdir()
    for file in (model / "best").iterdir():
        (folder.path / "best" / file.name).write_bytes(file.read_bytes())
    yield folder
    sys.modules.pop("results.foreign.evil_code", None)


def name_code(folder, setting, value="results.foreign.evil_code:Thing", others=()):
    """Make every record of the search and its model name code for a setting."""
    section, leaf = setting.split(".")
    for file in (folder.path / "config.yaml", folder.path / "best" / "config.yaml"):
        tree = yaml.safe_load(file.read_text())
        tree[section][leaf] = value
        for path, other in others:
            tree[path.split(".")[0]][path.split(".")[1]] = other
        file.write_text(yaml.safe_dump(tree))
    for number in (1, 2, 3):
        file = folder.trial(number) / "params.json"
        params = json.loads(file.read_text())
        params["config"][section][leaf] = value
        write_json(file, params)
    checkpoint = folder.trial(1) / "checkpoints" / "best.pt"
    state = torch.load(checkpoint, weights_only=True)
    state["config"][section][leaf] = value
    torch.save(state, checkpoint)


def nothing_ran(folder):
    place = folder.storage.parent
    return not (place / "imported").exists() and not (place / "called").exists()


OF_A_SEARCH = {
    "status": lambda place: status.main([place]),
    "report": lambda place: report.main([place]),
    "history": lambda place: history.main([place]),
    "history of a trial": lambda place: history.main([place, "1"]),
    "reproduce": lambda place: reproduce.main([place, "1"]),
    "finalize": lambda place: finalize.main([place]),
    "resume": lambda place: run([*SMALL, "name=foreign", f"storage={place.rpartition('/')[0]}", "data.prepared=p"]),
}
OF_A_MODEL = {
    "predict": lambda place: predict.main([f"{place}/best", "evil_code.py"]),
    "predict by a trial": lambda place: predict.main([f"{place}/trials/0001/checkpoints/best.pt", "evil_code.py"]),
    "export": lambda place: export.main([f"{place}/best"]),
}


@pytest.mark.parametrize("command", OF_A_SEARCH)
@pytest.mark.parametrize("setting", NAMING)
def test_no_command_imports_what_a_foreign_search_names(archive, setting, command, capsys):
    name_code(archive, setting)
    code = OF_A_SEARCH[command](str(archive.path))
    assert nothing_ran(archive)
    said = capsys.readouterr().err
    assert code == 2 and WORDS in said and setting in said and "config.yaml" in said


@pytest.mark.parametrize("command", OF_A_MODEL)
def test_no_command_imports_what_a_foreign_model_names(archive, command, capsys):
    (archive.storage.parent / "evil_code.py").write_text("")
    name_code(archive, "model.name")
    code = OF_A_MODEL[command](str(archive.path))
    assert nothing_ran(archive)
    said = capsys.readouterr().err
    assert code == 2 and WORDS in said and "model.name" in said


@pytest.mark.parametrize("command", ["reproduce", "finalize"])
def test_a_foreign_corpus_is_not_imported_and_hinders_nobody_who_does_not_read_it(archive, command, capsys):
    name_code(archive, "data.corpus")
    assert OF_A_SEARCH[command](str(archive.path)) == 2 and nothing_ran(archive)
    said = capsys.readouterr().err
    assert WORDS in said and "data.corpus" in said
    for reader in ("status", "report", "history"):
        assert OF_A_SEARCH[reader](str(archive.path)) == 0
    api.load(archive.path / "best")
    assert nothing_ran(archive)


def test_code_that_a_reference_leads_to_is_not_imported(archive, capsys):
    """The name stands at a setting that takes any text."""
    name_code(archive, "loss.name", "${data.root}", [("data.root", "results.foreign.evil_code:Thing")])
    for command in ("status", "report", "finalize"):
        assert OF_A_SEARCH[command](str(archive.path)) == 2 and nothing_ran(archive)
        assert WORDS in capsys.readouterr().err


def test_the_light_settings_beside_a_foreign_model_are_not_imported_either(archive):
    (archive.path / "evil_code_settings.py").write_text(CODE)
    (archive.path / "evil_code.py").write_text("")
    name_code(archive, "model.name")
    assert OF_A_SEARCH["status"](str(archive.path)) == 2 and nothing_ran(archive)


def test_the_user_may_allow_the_code_in_words(archive, capsys):
    source = (
        'from pathlib import Path\nPath("imported").touch()\n\n\n'
        "def Thing(outputs, targets, *, sharpness: float = 2.0):\n    return (outputs - targets).abs().mean(dim=1)\n"
    )
    (archive.path / "evil_code.py").write_text(source)
    name_code(archive, "loss.name")
    with pytest.raises(UserError, match=WORDS):
        api.open_search(archive.path).metric  # noqa: B018
    assert nothing_ran(archive)
    assert status.main([str(archive.path), "allow_code=true"]) == 0
    assert not nothing_ran(archive)
    found = api.open_search(archive.path, allow_code=True)
    assert found.metric == "val_loss" and len(found.leaderboard) == 3
    assert status.main([str(archive.path), "allow_code=maybe"]) == 2
    assert "allow_code: expected true, got 'maybe'" in capsys.readouterr().err


def test_names_on_the_command_line_and_in_the_users_space_file_are_allowed(archive):
    (archive.storage.parent / "mine.py").write_text(
        "def near(outputs, targets):\n    return (outputs - targets).abs().mean(dim=1)\n"
    )
    name_code(archive, "loss.name", "mine:near")
    with pytest.raises(UserError, match=WORDS):
        api.open_search(archive.path).metric  # noqa: B018
    with pytest.raises(ValueError, match=WORDS):
        parse_config({"loss": {"name": "mine:near"}})
    make_plan([*SMALL, "loss.name=mine:near"])
    assert api.open_search(archive.path).metric == "val_loss"


@pytest.mark.parametrize(
    "text",
    ["${oc.env:HOME}", "a${oc.env:HOME}b", "${model.${oc.env:HOME}}", "${oc.decode:'[1]'}", "${ oc.env : HOME }"],
)
def test_a_space_looks_nothing_up_but_other_settings(archive, text, capsys):
    refused = "expected a value or a reference to a setting"
    name_code(archive, "data.root", text)
    for command in ("status", "report", "finalize"):
        assert OF_A_SEARCH[command](str(archive.path)) == 2
        assert refused in capsys.readouterr().err
    with pytest.raises(UserError, match=refused):
        make_plan([*SMALL, f"data.root={json.dumps(text)}"])
    with pytest.raises(UserError, match=refused):
        api.load(archive.path / "best")
    (archive.storage.parent / "mine.yaml").write_text(
        yaml.safe_dump({"task": {"targets": ["a", text]}, "search": {"num_trials": 1}})
    )
    with pytest.raises(UserError, match=refused):
        make_plan(["space=mine.yaml"])


@pytest.mark.parametrize("name", ["os:system", "shutil:rmtree", "os:rename", "subprocess:Popen", "builtins:exec"])
def test_what_is_no_corpus_is_not_called(tmp_path, monkeypatch, name):
    called = []
    module, _, attribute = name.partition(":")
    monkeypatch.setattr(f"{module}.{attribute}", wrapped(name, called))
    plan = make_plan([*SMALL[:-1], f"data.corpus={name}", f"data.root={tmp_path}"])
    with pytest.raises(UserError, match=r"data\.corpus: expected a function \(data, targets\)"):
        read_corpus(plan.config)
    assert called == []


def wrapped(name, called):
    """A function with the parameters of the one it stands for, which only notes that it was called."""
    if name == "shutil:rmtree":
        return lambda path, ignore_errors=False, onerror=None: called.append(name)
    if name == "os:rename":
        return lambda src, dst: called.append(name)
    return lambda *arguments, **options: called.append(name)
