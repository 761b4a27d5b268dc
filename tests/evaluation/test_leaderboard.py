"""Ranking and its files: failed last in either direction, empty cells, the constant above the table."""

import csv
import re

import pytest

from tests.helpers.written_search import write_search
from tuning.evaluation import model_card
from tuning.evaluation.history import write_history
from tuning.evaluation.leaderboard import print_leaderboard, write_leaderboard
from tuning.evaluation.report.gather import gather
from tuning.evaluation.report.page import render
from tuning.experiment.directory import SearchFolder, TrialRecord, write_json
from tuning.experiment.ranking import rank
from tuning.experiment.recorded import config_of


def record(number, value=None, status="done", **params):
    metrics = {} if value is None else {"val_ccc": value, "val_loss": 1 - value}
    best = None if value is None else 3
    return TrialRecord(number, params, status, "because", best, 0 if value is None else 5, 1.5, metrics)


RECORDS = [
    record(1, 0.2),
    record(2, status="failed"),
    record(3, 0.9, status="failed"),
    record(4, 0.7, status="stopped"),
    record(5, 0.2),
    record(6, status="running"),
    record(7, 0.5, status="running"),
]


@pytest.mark.parametrize(
    ("metric", "mode", "expected"),
    [("val_ccc", "max", [4, 7, 1, 5, 2, 3, 6]), ("val_ccc", "min", [1, 5, 7, 4, 2, 3, 6])],
)
def test_failed_and_unmeasured_rank_last_in_either_direction(metric, mode, expected):
    assert [r.number for r in rank(RECORDS, metric, mode)] == expected


def test_files_have_empty_cells_where_nothing_was_measured(tmp_path):
    folder = SearchFolder(tmp_path, "some")
    conditional = record(8, 0.4, **{"optim.momentum": 0.9, "model.lstm_units": [8, 4]})
    for one in [*RECORDS, conditional]:
        write_json(folder.trial(one.number) / "params.json", {"searched": one.params, "config": {}})
        write_json(folder.trial(one.number) / "result.json", one.written())
    write_leaderboard(folder, "val_ccc", "max", {"val_ccc": 0.0, "val_loss": 0.5})
    rows = {row["trial"]: row for row in csv.DictReader((folder.path / "leaderboard.csv").open())}
    assert list(rows["1"])[:9] == [
        "rank", "trial", "status", "reason", "best_epoch", "epochs", "val_ccc", "val_loss", "seconds",
    ]  # fmt: skip
    assert (rows["2"]["val_ccc"], rows["2"]["best_epoch"], rows["1"]["optim.momentum"]) == ("", "", "")
    assert rows["8"]["optim.momentum"] == "0.9" and rows["8"]["model.lstm_units"] == "[8, 4]"
    text = (folder.path / "leaderboard.md").read_text()
    assert text.index("Constant predictor") < text.index("| rank |")
    assert "val_ccc 0.0000" in text and "higher is better" in text and "nan" not in text.lower()


def test_the_leaderboard_has_the_number_of_trained_weights_of_the_best_epoch(tmp_path):
    """Of a trial that was cut off it is read from its rows: the stage of the best epoch, not the latest."""
    folder = SearchFolder(tmp_path, "stages")
    write_json(folder.trial(1) / "params.json", {"searched": {}, "config": {}})
    (folder.trial(1) / "progress.csv").write_text(
        "epoch,seconds,best_epoch,finished,val_ccc,trained_parameters\n1,1,1,,0.1,18\n2,1,2,,0.5,482\n3,1,2,,0.3,946\n"
    )
    write_leaderboard(folder, "val_ccc", "max", {"val_ccc": 0.0})
    (row,) = csv.DictReader((folder.path / "leaderboard.csv").open())
    assert (row["best_epoch"], float(row["trained_parameters"])) == ("2", 482)
    assert "pareto" not in row


@pytest.mark.parametrize("count", [3, 30])
def test_the_printed_table_stays_readable_with_many_settings(capsys, count):
    params = {f"model.setting_{n}": n for n in range(count)}
    print_leaderboard([record(1, 0.4, **params), record(2, status="failed")], "val_ccc", {"val_ccc": 0.0})
    output = capsys.readouterr().out
    lines = output.splitlines()
    best = next(line for line in lines if line.split()[:3] == ["1", "1", "done"])
    assert "3/5" in best and "0.4000" in best
    assert ("trial 1: model.setting_0=0" in output) == (count == 30)
    assert max(len(line) for line in lines) <= 140
    assert "trial 2 failed: because" in output


@pytest.mark.parametrize(
    ("keep", "said"), [("best", "best epoch"), ("last", "last epoch"), ("{choice: [best, last]}", "best or last epoch")]
)
def test_the_epoch_that_a_search_keeps_has_its_name_everywhere(tmp_path, figures, keep, said):
    folder, records = write_search(tmp_path, f"training.keep={keep}", "training.patience=null")
    write_leaderboard(folder, "val_loss", "min", {"val_loss": 1.2})
    board, page = (folder.path / "leaderboard.md").read_text(), render(gather(folder))
    for text in (board, page):
        assert {found[0] for found in re.finditer(r"(best|last|best or last) epoch\b", text)} == {said}
    config = config_of(folder, records[0].number)
    kept = f"{config.training.keep} epoch"
    write_history(folder, records[0], "val_loss")
    assert f"{kept} (" in str([text.get_text() for text in figures[-1].axes[0].get_legend().get_texts()])
    told = "\n".join(model_card._choice(folder, config, records[0], None))
    assert f"as many epochs as the search trained it to its {kept}." in told
