"""Learning curves of trials: of any one by command and by call, and of the best ones after a search."""

import pytest

from tests.helpers.written_search import write_search
from tuning import api
from tuning.cli.app import main
from tuning.evaluation.history import SHOWN, write_best
from tuning.experiment.directory import read_progress
from tuning.experiment.ranking import rank


def is_png(file):
    return file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("number", [1, 12])  # one that ended, and one that still runs
def test_the_history_of_any_trial_is_drawn_into_its_folder(tmp_path, figures, capsys, number):
    folder, records = write_search(tmp_path, "space=ser_demo")
    assert main(["history", str(folder.path), str(number)]) == 0
    file = folder.trial(number) / "history.png"
    assert capsys.readouterr().out.split() == ["history", str(file)] and is_png(file)
    rows = read_progress(folder.trial(number))
    drawn = figures[0].axes[-1].lines[0]
    assert [str(value) for value in drawn.get_ydata()] == [row["val_uar"] for row in rows]
    best = records[number - 1]
    assert figures[0].get_suptitle() == f"trial {number}"
    assert figures[0].axes[-1].get_title() == f"val_uar {best.metrics['val_uar']:.4f} in epoch {best.best_epoch}"
    assert [path.name for path in folder.trials.glob("*/history.png")] == ["history.png"]


def test_without_a_number_it_is_the_best_trial(tmp_path):
    folder, records = write_search(tmp_path, "space=crnn")
    best = rank(records, "val_loss", "min")[0]
    assert api.history(folder.path) == folder.trial(best.number) / "history.png"


def test_a_trial_without_an_epoch_and_one_that_is_not_there_are_said(tmp_path, capsys):
    folder, _ = write_search(tmp_path, "space=crnn")
    assert main(["history", str(folder.path), "11"]) == 2  # failed before its first epoch
    assert "progress.csv: expected a trial with a finished epoch, got none" in capsys.readouterr().err
    assert main(["history", str(folder.path), "13"]) == 2
    assert "expected the number of a trial (1 to 12), got '13'" in capsys.readouterr().err


def test_one_picture_has_the_curves_of_the_best_trials(tmp_path, figures):
    folder, records = write_search(tmp_path, "space=crnn")
    file = write_best(folder, "val_loss", "min")
    assert file == folder.path / "history.png" and is_png(file)
    best = rank(records, "val_loss", "min")[:SHOWN]
    lines = {line.get_label(): line for line in figures[0].axes[0].lines if not line.get_label().startswith("_")}
    assert list(lines) == [f"trial {record.number}" for record in best]
    for record in best:
        values = [float(row["val_loss"]) for row in read_progress(folder.trial(record.number))]
        assert list(lines[f"trial {record.number}"].get_ydata()) == values


def test_a_search_without_a_result_has_no_picture(tmp_path):
    folder, _ = write_search(tmp_path, "space=crnn", count=0)
    assert write_best(folder, "val_loss", "min") is None and not (folder.path / "history.png").exists()
