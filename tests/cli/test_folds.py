"""`tuning folds`: which folds there are, what is refused, and a whole run that is killed and typed again."""

import csv
import json
import subprocess
import sys

import pytest

from tests.helpers.recordings import write_corpus
from tuning.cli import folds
from tuning.data.fold_plan import plan_folds

SPEAKERS = [f"s{number}" for number in range(6)]
PLACES = [(speaker, emotion, take) for speaker in SPEAKERS for emotion in ("sad", "happy") for take in range(3)]
ROWS = [f"{s}{e}{take}.wav,{e},{s},{SPEAKERS.index(s) % 3 + 1}" for s, e, take in PLACES]
CLASSES = ("task.name=classification", "data.corpus=manifest", "data.label_column=emotion", "search.metric=val_uar")
GROUPS, FOLDS = "data.group_column=speaker", "data.fold_column=fold"


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "manifest.csv").write_text("\n".join(["file,emotion,speaker,fold", *ROWS]))
    for row in ROWS:
        (tmp_path / row.partition(",")[0]).touch()
    return [*CLASSES, f"data.root={tmp_path}", f"storage={tmp_path}/results"]


def refused(capsys, *words):
    assert folds.main(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("words", "method", "names"),
    [
        ([GROUPS], "group_folds", ["1", "2", "3", "4", "5"]),
        ([GROUPS, "split.num_folds=3"], "group_folds", ["1", "2", "3"]),
        ([GROUPS, "split.method=leave_one_group_out"], "leave_one_group_out", SPEAKERS),
        ([FOLDS], "folds", ["1", "2", "3"]),
        ([FOLDS, GROUPS], "folds", ["1", "2", "3"]),
        ([FOLDS, GROUPS, "split.method=leave_one_group_out"], "leave_one_group_out", SPEAKERS),
    ],
)
def test_every_fold_is_the_test_once(corpus, words, method, names):
    plan = plan_folds([*corpus, *words, "name=all"])
    assert plan.method == method and [fold.name for fold in plan.folds] == names
    assert [fold.plan.name for fold in plan.folds] == [f"all-fold-{name}" for name in names]
    tested = [clip.id for fold in plan.folds for clip in fold.split.test]
    assert sorted(tested) == sorted(row.partition(",")[0] for row in ROWS)
    for fold in plan.folds:
        assert fold.plan.config.split.test_fold == fold.name
        parts = [{clip.id for clip in part} for part in fold.split.parts().values()]
        assert len(set().union(*parts)) == sum(map(len, parts))
        speakers = [{clip.group for clip in part} - {None} for part in fold.split.parts().values()]
        assert not speakers[2] & (speakers[0] | speakers[1])


def test_names_that_no_path_may_have_are_numbered(tmp_path):
    rows = [f"{n}.wav,0.{n},0.1,{who}" for who in ("Ann: Lee", "a/b", "C\u00e9line") for n in range(3)]
    rows = [row.replace(".wav", f"-{place}.wav") for place, row in enumerate(rows)]
    (tmp_path / "manifest.csv").write_text("\n".join(["file,valence,arousal,artist", *rows]))
    words = ["data.corpus=manifest", f"data.root={tmp_path}", "data.group_column=artist"]
    plan = plan_folds([*words, "split.method=leave_one_group_out"])
    assert [fold.plan.name for fold in plan.folds] == ["crnn-fold-1", "crnn-fold-2", "crnn-fold-3"]
    assert {fold.name for fold in plan.folds} == {"Ann: Lee", "a/b", "C\u00e9line"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "split.method: expected clips with folds (data.fold_column) or with speakers or artists"),
        ([GROUPS, "split.test_fold=1"], "split.test_fold: expected none, since every fold is the test once, got 1"),
        ([FOLDS, "split.val_fold=1"], "split.val_fold: expected none"),
        ([GROUPS, "split.method=grouped"], "split.method: expected one of folds, group_folds, leave_one_group_out"),
        ([GROUPS, "split.method=folds"], "split.method: 'folds' needs data.fold_column"),
        ([GROUPS, "split.num_folds=2"], "split.method: expected at least 3 folds, to train, to validate and to test"),
        ([GROUPS, "split.num_folds=9"], "split.num_folds: expected from 2 folds to 6"),
        ([GROUPS, "search.time_budget_minutes=5"], "search.time_budget_minutes: expected null"),
        ([GROUPS, "ensemble=30"], "ensemble: expected at most the 20 trials of a search, got 30"),
        ([GROUPS, "ensemble=0"], "ensemble: expected a number from 1, got '0'"),
        ([GROUPS, "svm=no"], "svm: expected one of true, false, got 'no'"),
        ([GROUPS, "optim.learning_rat=1"], "did you mean 'learning_rate'"),
    ],
)
def test_what_can_not_be_done_is_refused_before_anything_begins(corpus, tmp_path, capsys, words, message):
    assert message in refused(capsys, *corpus, *words)
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".wav"}


def test_a_fold_that_can_not_be_searched_is_refused_before_the_first(tmp_path, capsys):
    """Only the third fold has clips of one class, so that it can't be the test."""
    rows = [f"{s}{n}.wav,{'sad' if s == 'c' else 'happy'},{s}" for s in "abcd" for n in range(4)]
    (tmp_path / "manifest.csv").write_text("\n".join(["file,emotion,speaker", *rows]))
    words = [*CLASSES, f"data.root={tmp_path}", GROUPS, "split.method=leave_one_group_out"]
    message = refused(capsys, *words)
    assert "leaves no clips of class sad in train" in message and "(fold 'b' as the test)" in message


def test_a_dry_run_says_what_would_run_and_imports_nothing_heavy(corpus, tmp_path):
    script = (
        "import sys; from tuning.cli.folds import main; code = main(sys.argv[1:]);"
        "assert not {'ray', 'torch'} & set(sys.modules), 'heavy imports'; sys.exit(code)"
    )
    command = [sys.executable, "-c", script, *corpus, GROUPS, "split.num_folds=3", "--dry-run"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "folds     3 by split.method=group_folds, each the test once: crnn-fold-..." in output
    assert "20 trials in each, 60 in all" in output and "1: 12 to train, 12 to validate, 12 sealed" in output
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".wav"}
    (tmp_path / ROWS[0].partition(",")[0]).unlink()
    (tmp_path / ROWS[1].partition(",")[0]).unlink()
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 2 and "error: data.root: 2 of 36 recordings are not in" in failed.stderr
    output = subprocess.run([*command[:3], "--help"], capture_output=True, text=True, check=True).stdout
    assert output.startswith("tuning folds [name=NAME]")


TINY = (
    "features.num_frames=16", "model.conv_filters=[4, 4]", "model.lstm_units=[8, 4]", "training.epochs=1",
    "search.num_trials=1", "search.max_concurrent=1", "features.sample_rate_hz=8000", "features.window_samples=256",
    "features.hop_samples=200", "features.num_mels=32", "features.num_mfcc=13",
)  # fmt: skip


@pytest.mark.slow
def test_a_run_that_was_killed_is_resumed_and_a_finished_one_only_prints(tmp_path, capsys, ray_session):
    write_corpus(tmp_path / "corpus", num_clips=12, num_groups=3, seconds=0.5)
    words = ["data.corpus=manifest", f"data.root={tmp_path}/corpus", "data.group_column=artist", "name=all"]
    words += [f"storage={tmp_path}/results", f"data.prepared={tmp_path}/prepared", "split.num_folds=3", *TINY]
    results = tmp_path / "results"
    assert folds.main([*words, f"out={tmp_path}/table.md"]) == 0
    output = capsys.readouterr().out
    assert output.count("retrain   trial 1") == 3 and output.count("svm       fitted") == 3
    assert "no interval: 3 speakers or artists in all folds, at least 10 needed" in output
    written = json.loads((results / "all-folds" / "folds.json").read_text())
    assert written["folds"] == ["1", "2", "3"]
    rows = list(csv.DictReader((results / "all-folds" / "predictions.csv").open()))
    assert len({row["clip"] for row in rows}) == len(rows) == 12 and {row["fold"] for row in rows} == {"1", "2", "3"}
    text = (results / "all-folds" / "folds.md").read_text()
    assert text == (tmp_path / "table.md").read_text()
    assert "| metric | predictor | pooled | 95 % interval | mean of folds | sd |" in text
    looks = {name: json.loads((results / f"all-fold-{name}" / "test_looks.json").read_text()) for name in "123"}
    assert all(len(look) == 1 for look in looks.values())

    # Killed after the test was recorded, before best/ was there.
    (results / "all-fold-2" / "best").rename(tmp_path / "lost")
    assert folds.main(words) == 0
    again = capsys.readouterr().out
    assert again.count("retrain   trial 1") == 1 and "svm       fitted" not in again
    assert (results / "all-folds" / "folds.md").read_text() == text
    assert folds.main([*words, "ensemble=1"]) == 0
    assert "retrain" not in capsys.readouterr().out

    # What was tested stays what it was when a search goes on, and that is said.
    longer = [word.replace("search.num_trials=1", "search.num_trials=2") for word in words]
    assert folds.main(longer) == 0
    extended = capsys.readouterr().out
    said = "tested was what 1 trial had found, before the search was extended to 2"
    assert "retrain" not in extended and f"note      {said}" in extended
    assert f"- Note: {said}." in (results / "all-folds" / "folds.md").read_text()
    assert said in json.loads((results / "all-folds" / "folds.json").read_text())["notes"]
