"""What is wrong with a search of classes ends it before anything begins: exit code 2, one message, nothing written."""

import subprocess
import sys

import pytest

from tests.helpers.layout import RAVDESS_NAMES, write_ravdess

SCRIPT = (
    "import sys; from tuning.run import main; code = main(sys.argv[1:]);"
    "assert not {'ray', 'torch'} & set(sys.modules), 'heavy imports'; sys.exit(code)"
)
HEADER = "file,emotion,speaker\n"
ROWS = "".join(
    f"{speaker}/{emotion}{take}.wav,{emotion},{speaker}\n"
    for speaker in ("Ann", "Ben", "Cy", "Di", "Eve", "Flo")
    for emotion in ("happy", "sad")
    for take in (1, 2)
)
TABLE = ("data.corpus=manifest", "data.label_column=emotion", "data.group_column=speaker")
RAVDESS = ("data.corpus=ravdess", "split.test_fold=1")
MISSING = [name for name in RAVDESS_NAMES if not name.startswith("Actor_07")]
UNKNOWN = [*RAVDESS_NAMES, "Actor_01/03-01-09-01-01-01-01"]

# Recordings of RAVDESS or the text of manifest.csv; arguments; the message.
CASES = {
    "an unknown emotion code": (
        UNKNOWN,
        RAVDESS,
        "data.root: expected the emotion, one of 01 (neutral), 02 (calm)",
    ),
    "a missing speaker": (MISSING, RAVDESS, "data.root: expected recordings of 24 speakers, 01 to 24, got none of 07"),
    "an empty fold": (RAVDESS_NAMES, ("data.corpus=ravdess", "split.test_fold=6"), "split.test_fold: no fold '6'; the"),
    "a fold by another spelling": (
        RAVDESS_NAMES,
        ("data.corpus=ravdess", "split.test_fold=03"),
        "split.test_fold: no fold '03'; the folds are 1, 2, 3, 4, 5",
    ),
    "a class of one clip": (
        f"{HEADER}{ROWS}Ann/odd.wav,bored,Ann\n",
        TABLE,
        "task.classes: expected at least 2 clips of 'bored', to train and to validate, got Ann/odd.wav",
    ),
    "a table without header": (ROWS, TABLE, "data.file_column: no column 'file' in "),
    "no such column of classes": (
        f"{HEADER}{ROWS}".replace("emotion", "emotions", 1),
        TABLE,
        "data.label_column: no column 'emotion' in ",
    ),
    "no column of classes named": (
        f"{HEADER}{ROWS}",
        TABLE[:1],
        "data.label_column: expected the column with each recording's class, got nothing",
    ),
    "an unknown class": (
        f"{HEADER}{ROWS}",
        (*TABLE, "task.classes=[happy, sat]"),
        "task.classes: no clip has class 'sat'; did you mean 'sad'?",
    ),
    "a ranking metric of a class that is not there": (
        f"{HEADER}{ROWS}",
        (*TABLE, "search.metric=val_recall_hapy"),
        "search.metric: expected a validation metric, got val_recall_hapy; did you mean 'val_recall_happy'?",
    ),
    "a metric of classes for numbers": (
        None,
        ("task.name=regression", "search.metric=val_uar"),
        "search.metric: expected a validation metric, got val_uar; did you mean 'val_",
    ),
    "a loss of numbers for classes": (
        None,
        ("data.corpus=demo_speech", "loss.name=mse"),
        "loss.name: expected one for classification, got mse",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_of_classes_ends_with_one_message(tmp_path, case):
    content, arguments, message = CASES[case]
    root = tmp_path / "corpus"
    root.mkdir()
    if isinstance(content, list):
        write_ravdess(root, content)
    elif content is not None:
        (root / "manifest.csv").write_text(content)
    common = ["task.name=classification", f"storage={tmp_path}/results", f"data.prepared={tmp_path}/prepared"]
    if content is not None:
        common.append(f"data.root={root}")
    given = {argument.partition("=")[0]: argument for argument in (*common, *arguments)}
    command = [sys.executable, "-c", SCRIPT, *given.values()]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith(f"error: {message}") and len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stdout == "" and [path.name for path in tmp_path.iterdir()] == ["corpus"]
