"""Which encoders are listed: by hub name, and by the folders that a checkpoint may be in."""

import json
import subprocess
import sys

import pytest

from tuning.models.known_data import Entry, Seen, seen

HUB = "Somebody/wav2vec2-emotion"
TABLE = [
    Entry(checkpoints=["other/one", HUB], corpora=["crema_d", "tess"], kind="emotion labels", source="a card"),
    Entry(checkpoints=[HUB], corpora=["cremad"], kind="pretraining audio", source="a paper"),
]


def found(encoder, *corpora):
    return [(each.checkpoint, each.kind) for each in seen(str(encoder), corpora, TABLE)]


LISTED = [(HUB, "emotion labels"), (HUB, "pretraining audio")]


def write_folder(folder, **config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "wav2vec2", **config}))
    return folder


def test_a_hub_name_is_listed_with_each_entry_that_has_the_corpus():
    assert seen(HUB, ["emodb", "cremad"], TABLE) == [
        Seen(HUB, ("cremad",), "emotion labels", "a card"),
        Seen(HUB, ("cremad",), "pretraining audio", "a paper"),
    ]
    assert found(HUB, "emodb") == [] and found(HUB) == []
    assert found(HUB, "TESS") == LISTED[:1]


def test_case_and_punctuation_do_not_matter():
    assert found(HUB.lower(), "CREMA-D") == found(HUB.upper(), "Crema D") == LISTED
    assert found("other/wav2vec2-emotion", "cremad") == [], "another organisation's model"
    assert found("wav2vec2-emotion", "cremad") == [], "neither a hub name nor a folder"


@pytest.mark.parametrize(
    ("name", "made_from", "listed"),
    [
        ("wav2vec2-emotion", None, True),
        ("WAV2VEC2-Emotion", None, True),
        ("mine", None, False),
        ("mine", HUB, True),
        ("mine", f"{HUB.lower()}/", True),
        ("mine", "another/wav2vec2-emotion", False),
        ("mine", "/home/me/models/wav2vec2-emotion", True),
        ("mine", "./wav2vec2-emotion", True),
        ("mine", "/cache/models--Somebody--wav2vec2-emotion/snapshots/0123", True),
        ("mine", "facebook/wav2vec2-base", False),
        ("mine", "", False),
        ("mine", 3, False),
        ("models--Somebody--wav2vec2-emotion/snapshots/0123", None, True),
        ("models--another--wav2vec2-emotion/snapshots/0123", None, False),
    ],
)
def test_a_folder_is_listed_by_its_name_its_place_in_the_cache_and_what_it_was_made_from(
    tmp_path, name, made_from, listed
):
    folder = write_folder(tmp_path / name, **({} if made_from is None else {"_name_or_path": made_from}))
    assert found(folder, "cremad") == (LISTED if listed else [])


def test_a_relative_folder_and_a_link_are_the_folder_that_they_lead_to(tmp_path, monkeypatch):
    write_folder(tmp_path / "wav2vec2-emotion")
    (tmp_path / "link").symlink_to(tmp_path / "wav2vec2-emotion")
    monkeypatch.chdir(tmp_path)
    assert found("wav2vec2-emotion", "cremad") == found("./wav2vec2-emotion/", "cremad") == LISTED
    assert found("link", "cremad") == LISTED


@pytest.mark.parametrize("content", ["{", "[]", '"text"', b"\xff\xfe"])
def test_a_damaged_config_says_nothing_and_is_told_by_who_loads_it(tmp_path, content):
    folder = write_folder(tmp_path / "mine")
    (folder / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert found(folder, "cremad") == []
    (folder / "config.json").unlink()
    assert found(folder, "cremad") == []


def test_nothing_heavy_is_imported():
    code = "import sys, tuning.models.known_data; print({'torch', 'transformers', 'numpy', 'ray'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
