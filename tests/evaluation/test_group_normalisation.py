"""Features normalised by speaker: the whole job, what it says of itself, and what a prediction needs."""

import csv
import shutil
from pathlib import Path

import pytest

from tests.helpers.command import finalised_speech, refusals
from tuning import api
from tuning.cli import export, predict


@pytest.fixture(scope="module")
def job(ray_session, tmp_path_factory, prepared):
    """The folder of a finalised search, one of whose trials is normalised by the training clips."""
    space = (
        "features: {num_frames: {choice: [24, 40]}, normalise: {choice: [train, group]}}\n"
        "search: {num_trials: 2, metric: val_uar, points_to_evaluate: [\n"
        "  {features.num_frames: 24, features.normalise: group},\n"
        "  {features.num_frames: 40, features.normalise: train}]}\n"
    )
    return finalised_speech(tmp_path_factory.mktemp("groups"), prepared, space)


@pytest.fixture
def tested(job, prepared, tmp_path):
    """What finalize wrote of the test clips, by a copy of each in a folder of its speaker."""
    root, rows = next((prepared / "corpora").glob("demo_speech-*")), {}
    for row in csv.DictReader((job / "best" / "test_predictions.csv").open()):
        copy = tmp_path / row["group"] / Path(row["clip"]).name
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(root / row["clip"], copy)
        rows[copy] = row
    return rows


def test_test_clips_get_what_finalize_said_of_them_if_they_come_with_their_speakers_others(job, tested):
    assert len({file.parent for file in tested}) > 1
    files = sorted(tested, key=lambda file: file.name)  # speakers take turns
    found = api.load(job / "best").predict(files, group="folder")
    assert found["file"].tolist() == [str(file) for file in files]
    for row, file in zip(found.to_dict("records"), files, strict=True):
        assert row["predicted"] == tested[file]["predicted"]
        assert row["confidence"] == pytest.approx(float(tested[file]["confidence"]), abs=1e-5)


def test_one_speaker_alone_is_predicted_as_among_others(job, tested, capsys, tmp_path):
    speaker = min(file.parent for file in tested)
    files, out = [file for file in tested if file.parent == speaker], tmp_path / "found.csv"
    assert predict.main([str(job / "best"), *map(str, files), "group=all", f"out={out}"]) == 0
    for row, file in zip(csv.DictReader(out.open()), files, strict=True):
        assert float(row["confidence"]) == pytest.approx(float(tested[file]["confidence"]), abs=1e-5)


def test_a_prediction_without_the_speakers_others_is_refused(job, tested, capsys):
    best, files = str(job / "best"), list(map(str, tested))
    assert predict.main([best, files[0]]) == 2
    assert "group: expected all or folder, since the model normalises" in capsys.readouterr().err
    assert predict.main([best, files[0], "group=all"]) == 2
    assert f"{files[0]}: expected several recordings of its speaker or artist" in capsys.readouterr().err
    speaker = Path(files[0]).parent
    alone = next(file for file in files if Path(file).parent != speaker)
    assert predict.main([best, *(file for file in files if Path(file).parent == speaker), alone, "group=folder"]) == 2
    printed = capsys.readouterr()
    assert f"{alone}: expected several" in printed.err and printed.err.count("expected several") == 1
    assert printed.out.count(str(speaker)[-6:]) >= 3  # the others are predicted
    assert predict.main([best, files[0], "group=artist"]) == 2
    assert "group: expected one of all, folder" in capsys.readouterr().err


def test_every_place_that_shows_scores_says_transductive(job):
    places = ["leaderboard.md", "notes.json", "search.log", "best/MODEL_CARD.md", "report.html"]
    for place in places:
        assert "(transductive)" in (job / place).read_text(encoding="utf-8"), place
    assert "(transductive): on a single" in (job / "leaderboard.md").read_text().replace("\n", " ")
    assert "; in trials with features.normalise=group" in (job / "leaderboard.md").read_text()


def test_one_recording_twice_is_one(job, tested, capsys):
    (first, *_) = map(str, tested)
    assert predict.main([str(job / "best"), first, first, "group=all"]) == 2
    assert capsys.readouterr().err.count("expected several recordings") == 2


def test_windows_of_a_recording_are_a_group(job, tested):
    (first, *_) = tested
    windows = api.load(job / "best").predict(first, step_seconds=0.3, group="all")
    assert len(windows) > 2 and windows["confidence"].notna().all()


def test_what_a_graph_can_not_hear_is_not_exported(job, capsys):
    assert export.main([str(job / "best")]) == 2
    assert "expected features.normalise=train, got group" in capsys.readouterr().err


def test_by_training_clips_no_group_is_asked_for(job, tested, capsys):
    rows = csv.DictReader((job / "leaderboard.csv").open())
    number = next(row["trial"] for row in rows if row["features.normalise"] == "train")
    checkpoint = job / "trials" / f"{int(number):04d}" / "checkpoints" / "best.pt"
    (first, *_) = map(str, tested)
    assert predict.main([str(checkpoint), first]) == 0
    assert predict.main([str(checkpoint), first, "group=all"]) == 2
    assert "group: expected none for a model whose features are normalised by its" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["features.normalise=none", "augment.freq_masks=1", "features.name=mel"],
            "augment.freq_masks: expected 0 with features.normalise=none, since what is masked becomes 0",
        ),
        (["augment.freq_masks=1", "features.name=mel"], "augment.freq_masks: expected 0 with features.normalise=group"),
        (
            ["data.corpus=demo", "data.group_column=null"],
            "features.normalise: expected train where no speaker or artist is known (data.group_column), got group",
        ),
        (
            ["data.corpus=demo", "data.group_column=file"],
            "a speaker or artist has a single clip that can be used, got group with 240 such",
        ),
    ],
)
def test_what_can_not_be_normalised_by_groups_is_refused(settings, message, tmp_path):
    common = ["space=ser_demo", f"storage={tmp_path}", f"data.prepared={tmp_path}"]
    if "features.normalise=none" not in settings:
        common.append("features.normalise=group")
    if "data.corpus=demo" in settings:
        common[0] = "space=crnn"
    ((code, _, error),) = refusals([[*common, *settings]])
    assert code == 2 and message in error
