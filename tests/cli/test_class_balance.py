"""The check of how classes lie in the parts: its table against counts by hand, its hints, and wrong input."""

import subprocess
import sys

import pytest

from tests.helpers.layout import write_ravdess
from tuning.cli import class_balance

SCRIPT = (
    "import sys; from tuning.cli.class_balance import main; code = main(sys.argv[1:]);"
    "assert not {'ray', 'torch'} & set(sys.modules), 'heavy imports'; sys.exit(code)"
)


def check(capsys, *arguments, code=0):
    assert class_balance.main(list(arguments)) == code
    found = capsys.readouterr()
    return found.out if code == 0 else found.err


def write(root, rows, header="file,emotion,speaker,split"):
    root.mkdir()
    (root / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")
    touch(root, rows)
    columns = ("data.label_column=emotion", "data.group_column=speaker", "data.split_column=split")
    return ("task.name=classification", "data.corpus=manifest", f"data.root={root}", *columns)


def touch(root, rows):
    for row in rows:
        file = root / row.partition(",")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def clips(part, speaker, **counts):
    return [
        f"{part}/{speaker}/{name}{n}.wav,{name},{speaker},{part}"
        for name, count in counts.items()
        for n in range(count)
    ]


def cells(output, name):
    return next(line.split() for line in output.splitlines() if line.startswith(f"{name} "))


def test_the_table_counts_clips_shares_and_speakers(tmp_path, capsys):
    rows = clips("train", "Ann", happy=4, sad=1) + clips("train", "Ben", happy=2, bored=3)
    rows += clips("val", "Cy", happy=2, sad=2) + clips("val", "Di", bored=1)
    rows += clips("test", "Eve", happy=3, bored=1)
    output = check(capsys, *write(tmp_path / "corpus", rows))
    assert cells(output, "happy") == ["happy", "6", "60.0%", "2", "2", "40.0%", "1", "3", "75.0%", "1"]
    assert cells(output, "sad") == ["sad", "1", "10.0%", "1", "2", "40.0%", "1", "0", "0.0%", "0"]
    assert cells(output, "bored") == ["bored", "3", "30.0%", "1", "1", "20.0%", "1", "1", "25.0%", "1"]
    assert cells(output, "all") == ["all", "10", "2", "5", "2", "4", "1"]
    assert "largest to smallest class: 6.00 (6 of happy; 1 of sad)" in output
    hints = [line for line in output.splitlines() if line.startswith("hint ")]
    assert len(hints) == 4
    assert "uneven in training, 6.0 to 1; loss.class_weights=inverse" in hints[0]
    assert "test has no clips of sad: recall and F1" in hints[1]
    assert "validation has two speakers or artists, 'Cy' and 'Di'" in hints[2]
    assert "test has one speaker or artist, 'Eve'" in hints[3]
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_hints_are_silent_where_nothing_is_wrong(tmp_path, capsys):
    even = {"happy": 3, "sad": 2}
    rows = [row for part in ("train", "val") for who in "abc" for row in clips(part, f"{part}{who}", **even)]
    arguments = write(tmp_path / "corpus", rows)
    output = check(capsys, *arguments)
    assert "hint" not in output  # 1.5 to 1 is not above it, and there is no test to speak of
    assert cells(output, "happy") == ["happy", "9", "60.0%", "3", "9", "60.0%", "3"]
    rows += clips("train", "traind", happy=3)
    (tmp_path / "corpus" / "manifest.csv").write_text("\n".join(["file,emotion,speaker,split", *rows]))
    touch(tmp_path / "corpus", rows)
    assert "loss.class_weights=inverse lets classes" in check(capsys, *arguments)
    assert "as it is set" in check(capsys, *arguments, "loss.class_weights=inverse")


def test_published_folds_and_merged_classes_count_as_in_a_search(tmp_path, capsys):
    common = ("task.name=classification", "data.corpus=ravdess", f"data.root={write_ravdess(tmp_path)}")
    output = check(capsys, *common, "split.test_fold=5", "task.merge_classes={calm: neutral}")
    assert cells(output, "neutral") == ["neutral", "36", "25.0%", "18", "4", "25.0%", "2", "8", "25.0%", "4"]
    assert "02, 05 validate, as published for test fold 5" in output


def test_regression_counts_quadrants(tmp_path, capsys):
    root = tmp_path / "corpus"
    root.mkdir()
    rows = ["a,1,1,train", "b,1,-1,train", "c,-1,1,train", "d,-0.5,0,train", "e,-1,-1,val", "f,0.5,0.5,val"]
    touch(root, rows)
    (root / "manifest.csv").write_text("\n".join(["file,valence,arousal,split", *rows]))
    arguments = ("data.corpus=manifest", f"data.root={root}", "data.split_column=split", "split.quadrants=zero")
    output = check(capsys, *arguments)
    lines = {line[:28]: line[28:].split() for line in output.splitlines() if line.startswith("valence ")}
    assert {name.strip(): cells[::2] for name, cells in lines.items()} == {
        "valence above, arousal above": ["1", "1"],
        "valence above, arousal below": ["1", "0"],
        "valence below, arousal above": ["2", "0"],
        "valence below, arousal below": ["0", "1"],
    }
    assert "training has no clips in the quadrant valence below, arousal below" in output
    assert "class_weights" not in output


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("data.corpus=ravdes", "error: data.corpus: expected one of"),
        ("split.test_fold=9", "error: split.test_fold: no fold '9'; the folds are 1, 2, 3, 4, 5"),
        ("optim.learning_rat=1", "error: optim.learning_rat: no such setting; did you mean 'learning_rate'?"),
        ("task.name=regression", "error: task.name: expected classification for data.corpus=ravdess"),
        ("search.metric=val_recall_hapy", "did you mean 'val_recall_happy'?"),
    ],
)
def test_wrong_input_is_refused_in_one_line(tmp_path, capsys, argument, message):
    common = (
        "task.name=classification",
        "data.corpus=ravdess",
        "split.test_fold=1",
        f"data.root={write_ravdess(tmp_path)}",
    )
    given = {text.partition("=")[0]: text for text in (*common, argument)}
    errors = check(capsys, *given.values(), code=2)
    assert message in errors and len(errors.splitlines()) == 1


def test_the_command_imports_nothing_heavy_and_writes_nothing(tmp_path):
    arguments = write(tmp_path / "corpus", clips("train", "Ann", happy=2, sad=2) + clips("val", "Ben", happy=1, sad=1))
    command = [sys.executable, "-c", SCRIPT, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "validation has one speaker" in result.stdout and result.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    help_text = subprocess.run([*command[:3], "--help"], capture_output=True, text=True, check=True).stdout
    assert help_text.startswith("tuning balance [key=value ...]")


def test_a_demo_corpus_that_can_not_be_made_is_said_in_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    error = check(capsys, "space=ser_demo", f"data.prepared={tmp_path / 'file'}", code=2)
    assert error.startswith("error: data.prepared: expected a folder to write in, got '") and error.count("\n") == 1


def test_speakers_and_files_are_told_before_anything_is_made(tmp_path, capsys):
    rows = clips("train", "Ann", sad=5) + clips("train", "Ben", happy=5) + clips("train", "ann", sad=1, happy=1)
    rows += clips("val", "Cy", sad=6, happy=6)
    arguments = write(tmp_path / "corpus", rows)
    (tmp_path / "corpus" / "train" / "Ann" / "sad0.wav").unlink()
    output = check(capsys, *arguments)
    assert "note: speakers or artists that look alike count as different ones: 'Ann' (5 clips), 'ann' (2)" in output
    assert "note: 2 of 4 speakers or artists have clips of one class only: 'Ann' (sad), 'Ben' (happy)" in output
    assert "hint      1 of 24 recordings is not in " in output and "train/Ann/sad0.wav" in output
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
