"""How commands read their words: any order, three ways to write an option, refusals with the nearest name."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tuning.cli import app
from tuning.cli.command import DONE, FAILED, INTERRUPTED, USER_ERROR, Parser, count, one_of, run_command
from tuning.config.errors import UserError


def parser():
    made = Parser("tuning try PLACE [FILES...] [top=K] [format=csv|json] [--quick]", "Try.")
    made.place("place", "a place", "where")
    made.place("files", "", "what", nargs="*", type=Path)
    made.option("top", count, "K", "how many")
    made.option("format", one_of(("csv", "json")), "csv|json", "how")
    made.flag("quick", "soon")
    return made


@pytest.mark.parametrize(
    "words",
    [
        ["here", "a", "b=c/d.wav", "top=3", "--quick"],
        ["top=3", "here", "--quick", "a", "b=c/d.wav"],
        ["--quick", "here", "a", "--top=3", "b=c/d.wav"],
        ["here", "--top", "3", "a", "--quick", "b=c/d.wav"],
    ],
)
def test_words_are_read_in_any_order_and_form(words):
    words = [word.replace("b=c/d.wav", "./b=c/d.wav") for word in words]
    found = vars(parser().read(words))
    files = [Path("a"), Path("b=c/d.wav")]
    assert found == {"place": "here", "files": files, "top": 3, "format": None, "quick": True}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected a place, got none\nusage: tuning try PLACE"),
        (["x", "tpo=3"], "tpo: no such option; did you mean 'top'?"),
        (["x", "--tpo=3"], "tpo: no such option; did you mean 'top'?"),
        (["x", "--quik"], "--quik: no such option; did you mean '--quick'?"),
        (["x", "--qui"], "--qui: no such option; did you mean '--quick'?"),  # no abbreviations
        (["x", "top=0"], "top: expected a number from 1, got '0'"),
        (["x", "top="], "top: expected a number from 1, got ''"),
        (["x", "--top"], "top: expected a value, got none"),
        (["x", "--quick=yes"], "quick: expected no value, got 'yes'"),
        (["x", "format=jsn"], "format: expected one of csv, json, got 'jsn'; did you mean 'json'?"),
    ],
)
def test_what_is_refused(words, message):
    with pytest.raises(UserError) as refused:
        parser().read(words)
    assert str(refused.value).startswith(message)


def test_settings_stay_as_they_are_written():
    made = Parser("tuning try [key=value ...]", "Try.", settings=True)
    settings = ["space=crnn", "model.lstm_dropout={uniform: [0.1, 0.3]}"]
    assert made.read([settings[0], "--dry-run", settings[1]]).settings == settings
    with pytest.raises(UserError, match="--seed=3: expected a setting without dashes, seed=3"):
        made.read(["--seed=3"])


def test_help_lists_words_and_options_and_does_no_work(capsys):
    assert run_command(parser(), lambda options: FAILED, ["x", "--help"]) == DONE
    said = capsys.readouterr().out
    assert said.startswith("tuning try PLACE") and "  top=K " in said and "  --quick " in said and "  PLACE " in said


def raising(error):
    def work(options):
        raise error

    return work


def test_exit_codes(capsys):
    assert run_command(parser(), lambda options: None, ["x"]) == DONE
    assert run_command(parser(), lambda options: FAILED, ["x"]) == FAILED
    assert run_command(parser(), raising(UserError("seed: no")), ["x"]) == USER_ERROR
    assert capsys.readouterr().err == "error: seed: no\n"
    assert run_command(parser(), raising(KeyboardInterrupt()), ["x"], resume="tuning try") == INTERRUPTED
    assert capsys.readouterr().err == "\ninterrupted; to resume: tuning try\n"
    assert run_command(parser(), raising(OSError(28, "No space left on device", "f")), ["x"]) == FAILED
    assert "No space left on device" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        run_command(parser(), raising(ZeroDivisionError()), ["x"])


def test_errors_show_escape_codes_and_names_that_are_no_utf_8(capsys):
    name = b"\xe4\x1b[2J.wav".decode("utf-8", "surrogateescape")
    assert run_command(parser(), raising(UserError(f"{name}: expected a recording")), ["x"]) == USER_ERROR
    assert capsys.readouterr().err == "error: \\udce4\\x1b[2J.wav: expected a recording\n"


@pytest.mark.parametrize("words", [["status"], ["report"], ["predict"], ["history"], ["finalize"], ["export"]])
def test_a_path_that_no_file_system_takes_is_the_users_input(words, capsys, tmp_path):
    for path in ("x" * 300, "y/" * 2500):
        assert app.main([*words, path, *(["a.wav"] if words == ["predict"] else [])]) == USER_ERROR
        said = capsys.readouterr().err
        assert said.startswith("error: ") and "Traceback" not in said and len(said) < 11_000


@pytest.mark.parametrize("command", [["tuning", "--help"], ["tuning.run", "--help"], ["tuning", "space"]])
def test_a_reader_that_goes_away_ends_a_command_without_a_traceback(command):
    process = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()  # as `| head` does once it has its lines
    assert (process.stderr.read(), process.wait()) == ("", FAILED)
    process.stderr.close()


def test_sigterm_is_an_interrupt_while_a_command_works(capsys):
    def work(options):
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    assert run_command(parser(), work, ["x"], resume="tuning try") == INTERRUPTED
    assert capsys.readouterr().err == "\ninterrupted; to resume: tuning try\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_wrong_place_from_the_environment_names_its_variable(monkeypatch, capsys):
    monkeypatch.setenv("TUNING_DATA", "/no/such/corpus")
    monkeypatch.setenv("TUNING_STORAGE", "s3:/bucket")
    error = UserError("data.root: expected a folder, got '/no/such/corpus'\nstorage: expected another, got 'mine'")
    run_command(parser(), raising(error), ["x"])
    data, storage = capsys.readouterr().err.splitlines()
    assert data.endswith("got '/no/such/corpus' (set by the environment variable TUNING_DATA)")
    assert storage == "storage: expected another, got 'mine'"


@pytest.mark.parametrize("command", ["finalize", "report", "history", "reproduce"])
def test_a_folder_that_is_no_search_is_left_as_it_is(command, tmp_path, capsys):
    """That of a saved model has a config.yaml, too."""
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "config.yaml").write_text("seed: 1\n")
    before = sorted(tmp_path.rglob("*"))
    assert app.main([command, str(tmp_path / "best")]) == USER_ERROR
    assert "expected the folder of a search" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_command_is_refused_with_the_nearest(capsys):
    assert app.main(["fianlize", "x"]) == USER_ERROR
    assert capsys.readouterr().err == "error: fianlize: no such command; did you mean 'finalize'?\n"


def test_no_help_imports_torch_or_ray():
    code = (
        "import sys; from tuning.cli.app import COMMANDS, main; main(['--help'])\n"
        "for name in COMMANDS: assert main([name, '--help']) == 0\n"
        "sys.exit(bool({'ray', 'torch', 'pandas', 'sklearn', 'plotly', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"  {name} " in done.stdout for name in app.COMMANDS)
