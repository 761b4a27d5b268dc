"""Every file of a finished search damaged in turn: each reader names it, and ranks and shows what is whole."""

import csv
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.written_search import write_search
from tuning import api
from tuning.cli import export, history, predict, report, status
from tuning.config.errors import UserError
from tuning.data.plan import make_plan
from tuning.datasets.store.reader import FeatureStatistics
from tuning.evaluation import leaderboard
from tuning.evaluation.final_test_files import write_model
from tuning.experiment.directory import SearchFolder, put_aside_damaged, write_json, write_text
from tuning.experiment.recorded import loading_of
from tuning.search.searcher import open_study
from tuning.search.status import StatusReader
from tuning.training.ranking import check_metric
from tuning.training.trial import build_model

SMALL = ("space=crnn", "model.conv_filters=[4, 4]", "features.num_frames=16", "search.num_trials=4")


def cut(content, rng):
    return content[: rng.randrange(1, max(2, len(content) - 1))]


def flipped(content, rng):
    found = bytearray(content)
    for _ in range(3):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def of_another_type(content, rng):
    return rng.choice([b"[1, 2]\n", b"7\n", b'"text"\n', b"null\n", b'{"number": "x"}\n', b"[]\n", b"{}\n"])


DAMAGES = {
    "empty": lambda content, rng: b"",
    "cut": cut,
    "flipped": flipped,
    "Latin-1": lambda content, rng: b"\xe4\xff" + content,
    "another type": of_another_type,
    "missing": lambda content, rng: None,
}
SURELY = ("empty", "Latin-1")  # damages that no reader of the file can miss
# Files that some versions did not write, or that hold text alone.
MAY_BE_EMPTY = ("overrides.yaml", "error.txt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished search of four trials with a model, every file that readers know, and no training."""
    place = tmp_path_factory.mktemp("whole")
    folder, records = write_search(place, *SMALL, count=4, name="s")
    write_json(folder.trial(4) / "result.json", records[3].written() | {"status": "failed", "reason": "ValueError"})
    write_text(folder.trial(4) / "error.txt", "Traceback\nValueError: x\n")
    exploit = {"epoch": 2, "trial": 1, "before": records[0].params, "after": records[0].params}
    write_json(folder.trial(1) / "exploits.json", [exploit])
    write_json(folder.path / "test_looks.json", [{"when": "2026-03-02", "trial": 2}])
    folder.begin_run(4, 0, "1 CPU per trial")
    config = make_plan(list(SMALL)).config
    torch.manual_seed(0)
    net = build_model(config, config.features.num_features)
    zeros = np.zeros(config.features.num_features, np.float32)
    write_model(folder.path / "best", config, "", net, FeatureStatistics(zeros, zeros + 1), 16)
    result = {"trial": 2, "epochs": 3, "validation": records[1].metrics, "test": {"test_loss": 0.5}}
    result |= {"constant": {}, "bootstrap": {"intervals": {}, "basis": ""}}
    write_json(folder.path / "best" / "metrics.json", result)
    features = {"mean": zeros.tolist(), "std": (zeros + 1).tolist(), "prepared_frames": 16}
    state = {"config": config.model_dump(mode="json"), "features": features, "model": net.state_dict()}
    (folder.trial(1) / "checkpoints").mkdir()
    torch.save(state, folder.trial(1) / "checkpoints" / "best.pt")
    return folder.path


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    """What is drawn depends on what was read before; a page and pictures take most of the time."""
    monkeypatch.setattr("tuning.evaluation.report.page._fill", lambda section, draw, nothing: None)
    monkeypatch.setattr("tuning.evaluation.report.page._of_settings", lambda search: [])
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "")
    monkeypatch.setattr("tuning.evaluation.history.draw_history", lambda *arguments: None)
    monkeypatch.setattr("tuning.evaluation.onnx_export._program", lambda best: (None, 16))
    monkeypatch.setattr("tuning.evaluation.onnx_export._write", lambda *arguments: arguments[3].touch())
    monkeypatch.setattr("tuning.evaluation.onnx_export._sounds", lambda best: ([], "nothing"))
    monkeypatch.setattr("tuning.evaluation.onnx_export._compare", lambda *arguments: (0.0, 1.0))


def ranking(path):
    """The ranking, as a finished search prints and writes it."""
    try:
        found = api.open_search(path)
        space = found._space()
        baseline = leaderboard.read_baseline(found.folder)
        metric, mode = found.metric, check_metric(space, space.fixed())
        leaderboard.print_leaderboard(
            leaderboard.write_leaderboard(found.folder, metric, mode, baseline), metric, baseline
        )
        assert len(found.leaderboard) == len(found.folder.records())
        loading_of(found.folder)
    except UserError as error:
        print(error)
        return 2
    return 0


READERS = {
    "status": (lambda path: status.main([str(path)]), r"^config|run\.json|params|result|exploits"),
    "leaderboard": (ranking, r"^config|baseline|params|result|exploits"),
    "report": (
        lambda path: report.main([str(path)]),
        r"^config|overrides|fingerprint|environment|baseline|quarantine|looks|metrics|params|result|progress|times|error|"
        r"exploits",
    ),
    "history": (lambda path: history.main([str(path), "1"]), r"^config|params|result|progress|exploits"),
    "predict": (
        lambda path: predict.main([str(path / "best"), str(path / "search.wav")]),
        r"best/(config|features|model)",
    ),
    "predict by a checkpoint": (
        lambda path: predict.main([str(path / "trials/0001/checkpoints/best.pt"), str(path / "search.wav")]),
        r"best\.pt",
    ),
    "export": (lambda path: export.main([str(path / "best")]), r"best/(config|features|model)"),
}
OF_TRIALS = ("status", "leaderboard", "history")
OF_A_MODEL = ("predict", "predict by a checkpoint", "export")  # these read no file of a search but a model's
FILES = [
    *("config.yaml", "overrides.yaml", "environment.json", "fingerprint.json", "baseline.json", "run.json"),
    *("quarantine.csv", "test_looks.json"),
    *(f"trials/0001/{name}" for name in ("params.json", "result.json", "progress.csv", "times.csv", "exploits.json")),
    *("trials/0004/error.txt", "trials/0001/checkpoints/best.pt"),
    *(f"best/{name}" for name in ("config.yaml", "labels.json", "features.json", "model.safetensors", "metrics.json")),
]


def test_every_file_of_the_search_is_damaged(whole):
    found = {str(file.relative_to(whole)) for file in whole.rglob("*") if file.is_file()}
    assert {name for name in found if not re.match(r"trials/000[2-4]/(?!error)", name)} == set(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_each_reader_names_a_damaged_file_or_does_without_it(whole, tmp_path, capsys, name, damage):
    place = shutil.copytree(whole, tmp_path / "s")
    tone = place / "search.wav"
    import soundfile

    soundfile.write(tone, 0.3 * np.sin(np.arange(32000) / 5), 16000)
    file = place / name
    content = DAMAGES[damage](file.read_bytes(), random.Random(f"{name} {damage}"))
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    of_a_model = re.search(r"^best/|\.pt$", name) is not None
    for reader, (read, files) in READERS.items():
        if reader in OF_A_MODEL and not of_a_model:
            continue
        capsys.readouterr()
        code = read(place)  # no exception but those that a command turns into its exit code
        said = capsys.readouterr()
        words = (said.out + said.err).replace("\n", "")
        assert code in (0, 2), reader
        is_read = re.search(files, name) is not None and not (of_a_model and reader in OF_TRIALS)
        if code == 2 or (is_read and damage in SURELY and not (damage == "empty" and file.name in MAY_BE_EMPTY)):
            assert name.rpartition("/")[2] in words, f"{reader} does not name it: {words}"
        if code == 2 and "best" not in reader and "predict" not in reader:
            assert is_read, f"{reader} fails by {name}: {words}"


@pytest.mark.parametrize("name", ["test_looks.json", "best/metrics.json"])
def test_a_tested_search_without_its_test_is_damaged(whole, tmp_path, name):
    place = shutil.copytree(whole, tmp_path / "s")
    assert report.main([str(place)]) == 0
    assert "got no such file" not in (place / "report.html").read_text()
    (place / name).unlink()
    assert report.main([str(place)]) == 0
    assert f"{place / name}: expected a file, got no such file" in (place / "report.html").read_text()


@pytest.mark.parametrize("rows", [7, 0, None])
def test_rows_that_an_ended_trial_has_lost_are_missed(whole, tmp_path, capsys, rows):
    place = shutil.copytree(whole, tmp_path / "s")
    file = place / "trials" / "0001" / "progress.csv"
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 8
    file.unlink()
    if rows is not None:
        file.write_text("".join(lines[: 1 + rows]))
    told = f"progress.csv: expected a row for each of 8 epochs, got {rows or 'none'}"
    assert report.main([str(place)]) == 0 and told in (place / "report.html").read_text()
    assert history.main([str(place), "1"]) == 2 and told in capsys.readouterr().err


def test_a_second_test_needs_the_record_of_the_first(whole, tmp_path):
    place = shutil.copytree(whole, tmp_path / "s")
    (place / "test_looks.json").unlink()
    with pytest.raises(UserError, match=r"test_looks\.json: expected a file, got no such file"):
        api.finalize(place)


@pytest.mark.parametrize("name", ["params.json", "result.json", "exploits.json"])
def test_a_damaged_trial_is_shown_as_damaged_and_the_others_are_ranked(whole, tmp_path, capsys, name):
    place = shutil.copytree(whole, tmp_path / "s")
    before = [row["trial"] for row in csv.DictReader(_ranked(place, capsys).open())]
    (place / "trials" / "0001" / name).write_bytes(b"\x00" * 40)
    rows = list(csv.DictReader(_ranked(place, capsys).open()))
    assert [row["trial"] for row in rows if row["trial"] != "1"] == [trial for trial in before if trial != "1"]
    damaged = next(row for row in rows if row["trial"] == "1")
    assert (
        damaged["status"] == "damaged" and name in damaged["reason"] and "put it back from a copy" in damaged["reason"]
    )
    assert report.main([str(place)]) == 0 and name in (place / "report.html").read_text()
    state = StatusReader(str(place)).read()
    assert len(state.damaged) == 1 and state.standing.records[1].status == "damaged"
    with pytest.raises(UserError, match=name):
        api.history(place, 1)
    assert api.open_search(place).best.number != 1
    assert name in capsys.readouterr().out


def _ranked(place, capsys):
    assert ranking(place) == 0
    capsys.readouterr()
    return place / "leaderboard.csv"


@pytest.mark.parametrize("damage", ["a line", "not UTF-8", "another type"])
def test_a_damaged_journal_is_named(tmp_path, damage):
    journal = tmp_path / "study.journal"
    open_study(journal, "s", "min").ask()
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[0] = {"a line": lines[0][:9] + b"\n", "not UTF-8": b"\xe4" + lines[0], "another type": b"7\n"}[damage]
    journal.write_bytes(b"".join(lines))
    with pytest.raises(UserError, match=r"study\.journal: expected the journal .*fresh=true"):
        open_study(journal, "s", "min")


def test_a_search_that_resumes_makes_damaged_results_again(whole, tmp_path):
    place = shutil.copytree(whole, tmp_path / "s")
    folder = SearchFolder(tmp_path, "s")
    rows = list(csv.DictReader((folder.trial(1) / "progress.csv").open()))
    rows[-1]["finished"] = "all epochs"
    with (folder.trial(1) / "progress.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    before = json.loads((folder.trial(1) / "result.json").read_text())
    (folder.trial(1) / "result.json").write_text("{")
    (folder.trial(2) / "params.json").write_text("{")
    (folder.trial(3) / "progress.csv").write_bytes(b"\xff")
    told = put_aside_damaged(folder)
    assert told == [
        "trial 1: its damaged result.json is made again",
        "trial 2 begins anew, since params.json is damaged",
    ]
    again = {record.number: record for record in folder.records()}
    assert sorted(again) == [1, 3, 4]  # the study knows the settings of the second
    assert (again[1].status, again[1].metrics, again[1].best_epoch) == ("done", before["metrics"], before["best_epoch"])
    assert [path.name[:14] for path in folder.trials.glob(".*")] == [".0002.damaged-"]
    assert put_aside_damaged(folder) == [] and Path(place).exists()
