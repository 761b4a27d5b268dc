"""Environment variables give the default places of results, features and recordings."""

import pytest

from tuning.config.help import help_text
from tuning.data.plan import make_plan

VALUES = {
    "TUNING_STORAGE": "s3://emotion/results",
    "TUNING_PREPARED": "s3://emotion/prepared",
    "TUNING_DATA": "s3://emotion/data",
}


@pytest.fixture
def environment(monkeypatch):
    for name, value in VALUES.items():
        monkeypatch.setenv(name, value)


def places(*arguments):
    plan = make_plan(["space=crnn_lr", *arguments])
    return plan.run.storage, plan.config.data.prepared, plan.config.data.root


def test_the_environment_names_the_places(environment):
    assert places("data.corpus=manifest") == tuple(VALUES.values())


def test_a_demo_corpus_is_made_below_the_features_and_has_no_root(environment):
    assert places() == ("s3://emotion/results", "s3://emotion/prepared", None)
    assert places("data.corpus=demo_speech", "task.name=classification")[2] is None


def test_command_line_and_space_file_win(environment, tmp_path):
    given = ("storage=a", "data.prepared=b", "data.root=c")
    assert places("data.corpus=deam", *given) == ("a", "b", "c")
    (tmp_path / "own.yaml").write_text(
        "data: {corpus: manifest, root: d}\nsearch: {algorithm: random, num_trials: 1}\n"
    )
    plan = make_plan([f"space={tmp_path}/own.yaml"])
    assert (plan.config.data.root, plan.config.data.prepared) == ("d", "s3://emotion/prepared")


def test_what_the_environment_said_is_recorded(environment):
    """A search is finalized from its record, perhaps elsewhere."""
    written = make_plan(["space=crnn_lr", "data.corpus=manifest"]).space.written()
    assert (written["data.prepared"], written["data.root"]) == ("s3://emotion/prepared", "s3://emotion/data")


def test_help_shows_the_defaults_of_this_environment(monkeypatch):
    for name in VALUES:
        monkeypatch.delenv(name, raising=False)
    plain = help_text()
    assert "  storage=results  (" in plain and "  data.prepared=prepared  (" in plain and "  data.root=null  (" in plain
    for name, value in VALUES.items():
        monkeypatch.setenv(name, value)
        assert f"default: ${name}, if set" in plain
    shown = help_text()
    assert "  storage=s3://emotion/results  (" in shown and "  data.root=s3://emotion/data  (" in shown
    assert places("data.corpus=manifest") == tuple(VALUES.values())
    monkeypatch.setenv("TUNING_STORAGE", "")
    assert "  storage=results  (" in help_text()
