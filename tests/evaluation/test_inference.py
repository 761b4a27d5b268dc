"""A model on new recordings: what finalize said of the test clips, windows of a long one, and what is refused."""

import csv
import errno
import json
import os
import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from tests.helpers.command import finalised_speech
from tuning.cli import predict


@pytest.fixture(scope="module")
def job(ray_session, tmp_path_factory, prepared):
    """Storage of a finalised search over lengths, rates and classes; two models predict together."""
    space = (
        "features: {num_frames: {choice: [24, 40]}, sample_rate_hz: {choice: [16000, 22050]}}\n"
        "search: {num_trials: 2, metric: val_uar, points_to_evaluate: [\n"
        "  {features.num_frames: 40, features.sample_rate_hz: 16000},\n"
        "  {features.num_frames: 24, features.sample_rate_hz: 22050}]}\n"
    )
    return finalised_speech(tmp_path_factory.mktemp("predict"), prepared, space).parent


@pytest.fixture
def best(job, tmp_path):
    """A copy of best/ that a test may spoil."""
    return shutil.copytree(job / "speech" / "best", tmp_path / "best")


@pytest.fixture
def tested(job, prepared):
    """The test clips' files, by clip, with what finalize wrote of them."""
    rows = list(csv.DictReader((job / "speech" / "best" / "test_predictions.csv").open()))
    root = next((prepared / "corpora").glob("demo_speech-*"))
    return {root / row["clip"]: row for row in rows}


def test_test_clips_get_what_finalize_said_of_them(tested, best, tmp_path, capsys):
    out = tmp_path / "found.csv"
    assert predict.main([str(best), *map(str, tested), f"out={out}"]) == 0
    assert f"predictions of {len(tested)} recordings: {out}" in capsys.readouterr().out
    found = list(csv.DictReader(out.open()))
    assert [row["file"] for row in found] == [str(file) for file in tested]
    classes = json.loads((best / "labels.json").read_text())["classes"]
    for row, said in zip(found, tested.values(), strict=True):
        assert row["predicted"] == said["predicted"]
        for name in ("confidence", *(f"p_{label}" for label in classes)):
            assert float(row[name]) == pytest.approx(float(said[name]), abs=1e-5)


def test_a_long_recording_in_windows(tested, best, tmp_path, capsys):
    """A clip, silence, another clip: windows as long as the shortest that a member hears, to the end."""
    first, second = list(tested)[:2]
    parts = [soundfile.read(first)[0], np.zeros(5 * 16000), soundfile.read(second)[0]]
    long = tmp_path / "long.flac"
    soundfile.write(long, np.concatenate(parts), 16000)
    assert predict.main([str(best), str(long), "step_seconds=0.5", "format=json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row.keys() >= {"file", "start_seconds", "end_seconds", "predicted", "p_sad"} for row in rows)
    seconds = sum(map(len, parts)) / 16000
    window = 23 * 800 / 22050
    starts = [row["start_seconds"] for row in rows]
    assert starts[:-1] == pytest.approx(np.arange(0, seconds - window, 0.5), abs=1e-3)
    assert rows[-1]["end_seconds"] == pytest.approx(seconds, abs=1e-3)
    lengths = [row["end_seconds"] - row["start_seconds"] for row in rows]
    assert lengths == pytest.approx([window] * len(rows), abs=1e-3)
    silent = [row for row in rows if row["predicted"] is None]
    begin, end = len(parts[0]) / 16000, (len(parts[0]) + len(parts[1])) / 16000
    inside = [row for row in rows if row["start_seconds"] >= begin and row["end_seconds"] <= end]
    assert silent == inside and len(silent) > 3
    assert all(0.2 <= row["confidence"] <= 1 for row in rows if row not in silent)


def test_without_steps_the_middle_is_judged(tested, best, tmp_path, capsys):
    """What lies beyond the middle window changes nothing."""
    sound, rate = soundfile.read(next(iter(tested)))
    sound = np.concatenate([sound] * 3)
    keep = 39 * 800
    start = (len(sound) - keep) // 2
    changed = sound.copy()
    changed[: start - 2000], changed[start + keep + 2000 :] = 0.1, 0.1
    rows = []
    for name, values in (("a.wav", sound), ("b.wav", changed)):
        soundfile.write(tmp_path / name, values, rate)
        assert predict.main([str(best), str(tmp_path / name), "format=json"]) == 0
        rows += json.loads(capsys.readouterr().out)
    assert rows[0]["p_sad"] == pytest.approx(rows[1]["p_sad"], abs=1e-6)
    assert rows[0]["end_seconds"] - rows[0]["start_seconds"] == pytest.approx(39 * 800 / 16000, abs=1e-3)


def test_a_table_is_printed(tested, best, capsys):
    file = next(iter(tested))
    assert predict.main([str(best), str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["file", "start,", "s", "end,", "s"] and lines[1].startswith(str(file))


def test_a_recording_that_cannot_be_used_stops_no_other(tested, best, tmp_path, capsys):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF\x00\x00")
    file = next(iter(tested))
    assert predict.main([str(best), str(bad), str(file), "format=csv"]) == 2
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2 and str(file) in printed.out
    assert printed.err.startswith(f"error: {bad}: cannot be decoded") and len(printed.err.splitlines()) == 1


def test_a_path_without_a_recording_stops_no_other_and_is_not_counted(tested, best, tmp_path, capsys):
    file, out = next(iter(tested)), tmp_path / "found.csv"
    os.mkfifo(tmp_path / "fifo.wav")
    wrong = {
        tmp_path / "none.wav": "no such file",
        tmp_path / "fifo.wav": "a FIFO",
        Path("/dev/zero"): "a device",
        tmp_path: "a folder",
        tmp_path / ("a" * 300): "File name too long",
    }
    assert predict.main([str(best), *map(str, wrong), str(file), f"out={out}"]) == 2
    printed = capsys.readouterr()
    assert printed.out == f"predictions of 1 recording: {out}\n"
    assert [row["file"] for row in csv.DictReader(out.open())] == [str(file)]
    for line, (path, words) in zip(printed.err.splitlines(), wrong.items(), strict=True):
        assert line.startswith(f"error: {path}: expected a recording, got ") and words in line


def test_what_is_not_finite_is_an_error_and_never_a_prediction(tested, best, tmp_path, capsys):
    from safetensors.numpy import load_file, save_file

    out = tmp_path / "found.json"
    out.write_text("of before")
    sound, rate = soundfile.read(next(iter(tested)))
    sound[100] = 1e30
    soundfile.write(tmp_path / "wild.wav", sound, rate, subtype="FLOAT")
    assert predict.main([str(best), str(tmp_path / "wild.wav"), f"out={out}"]) == 2
    assert "wild.wav: too loud: peak 1e+30 where full scale is 1" in capsys.readouterr().err
    weights = load_file(best / "model.safetensors")
    save_file({name: np.full_like(values, np.nan) for name, values in weights.items()}, best / "model.safetensors")
    assert predict.main([str(best), str(next(iter(tested))), f"out={out}"]) == 2
    printed = capsys.readouterr()
    assert "the model's outputs are not finite from 0.0 s on" in printed.err and printed.out == ""
    assert out.read_text() == "of before"


def test_predictions_that_can_not_be_written_leave_the_file_of_before(tested, best, tmp_path, monkeypatch):
    out = tmp_path / "found.csv"
    out.write_text("of before")

    def fill(stream, *rest):
        stream.write("half a li")
        stream.flush()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(predict, "_write", fill)
    assert predict.main([str(best), str(next(iter(tested))), f"out={out}"]) == 1
    assert out.read_text() == "of before" and [*tmp_path.glob("found*")] == [out]


@pytest.mark.parametrize("step", [None, 2.0])
def test_memory_does_not_grow_with_the_length_of_a_recording(best, tmp_path, monkeypatch, step):
    from tuning import api
    from tuning.datasets.features import audio

    monkeypatch.setattr(audio, "KEPT_SAMPLES", 1 << 16)
    monkeypatch.setattr(audio, "BLOCK_FRAMES", 1 << 16)
    predictor = api.load(best)
    peaks = []
    for minutes in (2, 8):
        file = tmp_path / f"{minutes}.wav"
        soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(minutes * 60 * 16000), 16000)
        predictor.predict(file, step)
        tracemalloc.start()
        rows = predictor.predict(file, step)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(rows) == (1 if step is None else minutes * 30 + 1)
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{best}"], "expected recordings to predict after '{best}', got none"),
        ([], "expected a folder best/ and recordings, got none"),
        (["{best}/nothing", "a.wav"], "expected a folder best/ that tuning finalize wrote"),
        (["{best}", "{best}/none.wav"], "none.wav: expected a recording, got no such file"),
        (["{best}", "{best}"], "expected a recording, got a folder"),
        (["{best}", "{best}/config.yaml", "step_second=1"], "did you mean 'step_seconds'?"),
        (
            ["{best}", "{best}/config.yaml", "step_seconds=-1"],
            "step_seconds: expected seconds, 0.01 at least, got '-1'",
        ),
        (["{best}", "{best}/config.yaml", "format=cvs"], "did you mean 'csv'?"),
        (["{best}", "{best}/config.yaml", "step_seconds=0.00001"], "step_seconds: expected seconds, 0.01 at least"),
        (
            ["{best}", "{best}/config.yaml", "out={best}"],
            "out: expected a file in a folder that is there, got '{best}' (a",
        ),
        (["{best}", "{best}/config.yaml", "out={best}/no/x.csv"], "out: expected a file in a folder that is there"),
    ],
)
def test_wrong_input_is_refused_in_one_message(best, capsys, arguments, message):
    assert predict.main([argument.format(best=best) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and message.format(best=best) in printed.err


def test_a_model_made_with_other_features_is_refused(tested, best, capsys):
    config = best / "config.yaml"
    config.write_text(config.read_text().replace("hop_samples: 800", "hop_samples: 400"))
    assert predict.main([str(best), str(next(iter(tested)))]) == 2
    error = capsys.readouterr().err
    assert "features.json: expected the features of config.yaml, got a model made with others" in error
    assert "features.hop_samples is 400 there and 800 here" in error


def test_a_model_whose_weights_are_gone_is_refused(tested, best, capsys):
    (best / "model.safetensors").unlink()
    assert predict.main([str(best), str(next(iter(tested)))]) == 2
    assert f"{Path(best) / 'model.safetensors'}: expected a file, got no such file" in capsys.readouterr().err


def test_steps_longer_than_a_window_are_said_to_leave_gaps(tested, best, capsys):
    assert predict.main([str(best), str(next(iter(tested))), "step_seconds=30"]) == 0
    assert "note: with step_seconds=30 and windows of 0.8" in capsys.readouterr().err


def test_recordings_of_one_name_do_not_get_one_anothers_lyrics(tmp_path, monkeypatch):
    from tuning.config.errors import UserError
    from tuning.evaluation import inference

    monkeypatch.setattr(inference, "needs_text", lambda config: True)
    predictor = object.__new__(inference.Predictor)
    predictor.models = [SimpleNamespace(config=None)]
    files = [tmp_path / artist / "song.mp3" for artist in ("a", "b")]
    lyrics = tmp_path / "lyrics"
    for folder in ("", "a", "b"):
        (lyrics / folder).mkdir(parents=True, exist_ok=True)
        (lyrics / folder / "song.txt").write_text(f"of {folder}")
    assert [predictor.text_of(file, lyrics) for file in files] == ["of a", "of b"]
    predictor.check_lyrics(files, lyrics)
    (lyrics / "b" / "song.txt").unlink()
    (lyrics / "a" / "song.txt").unlink()
    with pytest.raises(
        UserError, match=r"lyrics: expected a text for each recording, got .*song.txt for both .*a.* and"
    ):
        predictor.check_lyrics(files, lyrics)
