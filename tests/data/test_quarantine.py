"""Bad recordings and changed files through the main job: named, left out, and too many of them refused."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.helpers.command import TINY, run

RATE = 16000


def tone(number, seconds=1.0):
    time = np.arange(int(seconds * RATE)) / RATE
    return (0.1 + 0.02 * number % 0.5) * np.sin(2 * np.pi * (200 + 20 * number) * time)


@pytest.fixture
def corpus(tmp_path):
    """Thirty good recordings by ten artists, and eight bad ones."""
    root = tmp_path / "music"
    root.mkdir()
    rows = []
    for number in range(30):
        soundfile.write(root / f"good{number}.wav", tone(number), RATE)
        rows.append([f"good{number}.wav", number / 30, -number / 30, f"artist{number % 10}"])
    soundfile.write(root / "truncated.wav", tone(1), RATE)
    content = (root / "truncated.wav").read_bytes()
    (root / "truncated.wav").write_bytes(content[: len(content) // 2])
    (root / "empty.wav").write_bytes(b"")
    (root / "text.wav").write_text("this is no sound\n")
    soundfile.write(root / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(root / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    soundfile.write(root / "six.wav", np.stack([tone(n) for n in range(6)], axis=1), RATE)
    soundfile.write(root / "short.wav", tone(1)[:2], RATE)
    bad = ("truncated", "empty", "text", "silent", "nan", "six", "short", "missing")
    rows += [[f"{name}.wav", 0.0, 0.0, f"artist{index}"] for index, name in enumerate(bad)]
    write_manifest(root, rows)
    return root


def write_manifest(root, rows):
    with (root / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["file", "valence", "arousal", "artist"], *rows])


def arguments(corpus, name):
    folder = corpus.parent
    common = (f"storage={folder}/results", f"data.prepared={folder}/prepared", "data.corpus=manifest", *TINY)
    return (*common, f"data.root={corpus}", "data.group_column=artist", "search.num_trials=1", f"name={name}")


def test_too_many_bad_recordings_are_refused_and_as_many_as_are_allowed_are_named(ray_session, corpus):
    output = run(*arguments(corpus, "some"), code=2)
    assert "data.max_quarantined_share: 8 of 38 recordings (21.1%) can't be used, allowed are 5.0%" in output
    table = Path(output.split("all of them: ")[1].strip())
    assert len(list(csv.DictReader(table.open()))) == 8
    assert not (corpus.parent / "results" / "some" / "config.yaml").exists(), "nothing is left behind"
    output = run(*arguments(corpus, "some"), "data.max_quarantined_share=0.25")
    table = list(csv.DictReader((corpus.parent / "results" / "some" / "quarantine.csv").open()))
    reasons = {row["clip"].removesuffix(".wav"): row["reason"] for row in table}
    expected = {
        "truncated": "truncated",
        "empty": "empty",
        "text": "cannot be decoded",
        "silent": "silent",
        "nan": "non-finite",
        "six": "channels",
        "short": "too short",
        "missing": "missing",
    }
    assert set(reasons) == set(expected)
    for name, word in expected.items():
        assert word in reasons[name], reasons
    assert len(set(reasons.values())) == 8
    assert "8 recordings can't be used and are left out" in output and "quarantine.csv" in output
    ranked = list(csv.DictReader((corpus.parent / "results" / "some" / "leaderboard.csv").open()))
    assert [row["status"] for row in ranked] == ["done"]


@pytest.mark.slow
def test_a_changed_file_prepares_that_file_and_belongs_to_another_search(ray_session, corpus):
    allowed = "data.max_quarantined_share=0.25"
    assert "37 recordings prepared, 0 reused" in run(*arguments(corpus, "one"), allowed)
    soundfile.write(corpus / "good7.wav", tone(77), RATE)
    output = run(*arguments(corpus, "one"), allowed, code=2)
    assert "recordings or labels:" in output and "fresh=true" in output
    assert "1 recordings prepared, 36 reused" in run(*arguments(corpus, "two"), allowed)
