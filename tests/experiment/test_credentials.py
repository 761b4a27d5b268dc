"""Passwords and keys within locations: in no file of a search, and in nothing that is printed."""

import logging

import numpy as np
import pytest

from tests.helpers.written_search import write_search
from tuning import api
from tuning.cli import report, status
from tuning.cli.command import Parser, run_command
from tuning.config.errors import UserError
from tuning.data.plan import make_plan
from tuning.datasets.redaction import redacted, without_redacted
from tuning.datasets.store.reader import FeatureStatistics
from tuning.evaluation.leaderboard import write_leaderboard
from tuning.experiment.bucket_sync import mirror_root
from tuning.experiment.directory import write_json, write_text
from tuning.experiment.faults import StorageError
from tuning.experiment.recorded import config_of, space_of
from tuning.run import main as run
from tuning.search.status import StatusReader
from tuning.training.trial import _about

SECRET = "s3cr3t"
ARGUMENTS = (
    "space=crnn",
    f"mlflow=http://user:{SECRET}@host:5000",
    f"data.root=s3://AKIA:{SECRET}/x+y@bucket/corpus?region=eu",
    f"data.prepared=s3://bucket/prepared?access_key=AKIA{SECRET}&secret_key={SECRET}&endpoint_override=h%3A9",
    "search.num_trials=3",
)


@pytest.mark.parametrize(
    ("text", "shown", "used"),
    [
        ("http://user:secret@host:5000/x", "http://***@host:5000/x", "http://host:5000/x"),
        ("s3://KEY:se/cr@et@bucket/a", "s3://***@bucket/a", "s3://bucket/a"),
        ("https://token@host", "https://***@host", "https://host"),
        ("s3://b/p?secret_key=x&region=eu", "s3://b/p?secret_key=***&region=eu", "s3://b/p?region=eu"),
        ("s3://b/p?region=eu&session_token=x", "s3://b/p?region=eu&session_token=***", "s3://b/p?region=eu"),
        ("s3://b/p?ACCESS_KEY=x", "s3://b/p?ACCESS_KEY=***", "s3://b/p"),
        ("s3://key:se'cret@bucket/a", "s3://***@bucket/a", "s3://bucket/a"),
        ("s3://b?secret%5Fkey=it's&region=eu", "s3://b?secret%5Fkey=***&region=eu", "s3://b?region=eu"),
        ("abfs://b/p?account_key=x", "abfs://b/p?account_key=***", "abfs://b/p"),
        ("gs://b/p?keyword=x&monkey=y", "gs://b/p?keyword=x&monkey=y", "gs://b/p?keyword=x&monkey=y"),
        ("http://host:5000/a@b", "http://host:5000/a@b", "http://host:5000/a@b"),
        ("file:///home/a@b/c", "file:///home/a@b/c", "file:///home/a@b/c"),
        ("music/a@b?key=c", "music/a@b?key=c", "music/a@b?key=c"),
    ],
)
def test_what_is_hidden_and_what_can_be_used_again(text, shown, used):
    assert redacted(text) == redacted(redacted(text)) == shown
    assert redacted(f"see \"{text}\", and '{text}'\nor {text}") == f"see \"{shown}\", and '{shown}'\nor {shown}"
    assert without_redacted(shown) == used and without_redacted({"a": [shown, 1]}) == {"a": [used, 1]}


def test_no_file_of_a_search_has_a_secret_and_nothing_shows_one(tmp_path, capsys):
    folder, _ = write_search(tmp_path, *ARGUMENTS, count=3)
    write_leaderboard(folder, "val_loss", "min", {"val_loss": 1.0})
    write_text(folder.trial(1) / "error.txt", f"OSError: http://user:{SECRET}@host does not answer\n")
    with api._log_to(folder):
        logging.getLogger("tuning.search").warning("not uploaded to %s", f"s3://AK:{SECRET}@bucket/x")
    assert report.main([str(folder.path)]) == 0 and status.main([str(folder.path)]) == 0
    told = capsys.readouterr()
    assert SECRET not in told.out + told.err and "mlflow=http://host:5000" in told.out.replace("\n", "")
    files = [file for file in folder.path.rglob("*") if file.is_file()]
    assert {"overrides.yaml", "config.yaml", "report.html", "search.log", "params.json"} <= {
        each.name for each in files
    }
    assert [str(file) for file in files if SECRET.encode() in file.read_bytes()] == []
    assert "***@host:5000" in (folder.path / "overrides.yaml").read_text()


def test_a_search_resumes_with_credentials_from_the_command_line_or_the_environment(tmp_path):
    folder, _ = write_search(tmp_path, *ARGUMENTS, count=3)
    plan = make_plan(list(ARGUMENTS))
    folder.check_identity(plan.space, {"corpus": "0123", "num_clips": 96})
    for config in (space_of(folder).fixed(), config_of(folder, 1)):  # what finalize and reproduce read
        assert config.data.root == "s3://bucket/corpus?region=eu"
        assert config.data.prepared == "s3://bucket/prepared?endpoint_override=h%3A9"
    assert "***" not in StatusReader(str(folder.path)).command()


def test_a_checkpoint_has_no_secret():
    config = make_plan(list(ARGUMENTS)).config
    assert SECRET not in str(_about(config, FeatureStatistics(np.zeros(1), np.ones(1)), 4))


def test_errors_and_resuming_lines_have_no_secret(tmp_path, capsys, monkeypatch):
    place = f"s3://AKIA:{SECRET}@bucket/x"
    assert SECRET not in str(UserError(f"storage: got '{place}'"))
    for words in (
        [f"storage=ftp://u:{SECRET}@h/x"],
        [f"seed=http://u:{SECRET}@h/x"],
        [f"mlflow.x=http://u:{SECRET}@h"],
    ):
        assert run(words) == 2
    assert status.main([f"ftp://u:{SECRET}@host/results/x"]) == 2
    parser = Parser("usage", "does nothing")

    def fail(options):
        raise StorageError(f"{place}: No space left on device")

    def interrupt(options):
        raise KeyboardInterrupt

    assert run_command(parser, fail, [], resume=f"again storage={place}") == 1
    assert run_command(parser, interrupt, [], resume=f"again storage={place}") == 130
    told = capsys.readouterr()
    assert SECRET not in told.out + told.err and told.err.count("***@") >= 5


def test_the_folder_of_a_mirror_is_named_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = mirror_root(f"s3://AKIA:{SECRET}@bucket/x?secret_key={SECRET}")
    assert SECRET not in str(place) and place == mirror_root("s3://bucket/x")
    assert mirror_root("s3://bucket/x") != mirror_root("s3://other/x")
    write_json(tmp_path / "state.json", {"of": f"s3://AKIA:{SECRET}@bucket/x"})
    assert SECRET not in (tmp_path / "state.json").read_text()


def test_the_time_grows_as_the_text_does():
    # With a repetition that has no bound, each of these takes minutes.
    for text in ("x" * 300_000, "s3://b?" + "secret" * 50_000, "s3://" + "'" * 50_000, "s3://" + ":" * 50_000):
        assert redacted(text) == text
