"""What is wrong with a search of classes ends it before anything begins: exit code 2, one message, nothing written."""

from tests.helpers.command import refusals
from tests.helpers.layout import RAVDESS_NAMES, write_ravdess

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
        "search.metric: expected a metric of numbers (val_rmse, ",
    ),
    "a loss of numbers for classes": (
        None,
        ("data.corpus=demo_speech", "loss.name=mse"),
        "loss.name: expected one for classification, got mse",
    ),
}


def command_of(folder, content, arguments):
    """What is typed, and the corpus that it reads, written."""
    root = folder / "corpus"
    root.mkdir(parents=True)
    if isinstance(content, list):
        write_ravdess(root, content)
    elif content is not None:
        (root / "manifest.csv").write_text(content)
    common = ["task.name=classification", f"storage={folder}/results", f"data.prepared={folder}/prepared"]
    if content is not None:
        common.append(f"data.root={root}")
    return list({argument.partition("=")[0]: argument for argument in (*common, *arguments)}.values())


def test_wrong_input_of_classes_ends_with_one_message(tmp_path):
    cases = {tmp_path / str(number): CASES[case] for number, case in enumerate(CASES)}
    found = refusals([command_of(folder, content, arguments) for folder, (content, arguments, _) in cases.items()])
    for case, (folder, (_, _, message)), (code, output, error) in zip(CASES, cases.items(), found, strict=True):
        assert code == 2, (case, error)
        assert error.startswith(f"error: {message}") and len(error.splitlines()) == 1, (case, error)
        assert output == "" and [path.name for path in folder.iterdir()] == ["corpus"], case
