"""Every space as it resolves, held against a file: `UPDATE_GOLDEN=1 pytest tests/config/test_golden_spaces.py`."""

import json
import os
from pathlib import Path

import pytest

from tests.helpers.tiny_musicnn import write_musicnn
from tests.helpers.tiny_whisper import write_whisper
from tuning.config.loader import known_spaces
from tuning.data.plan import make_plan, planned_points

FOLDER = Path(__file__).parents[1] / "golden" / "spaces"


@pytest.mark.parametrize("name", known_spaces())
def test_a_space_resolves_as_before(name, tmp_path, monkeypatch):
    # A manifest corpus, since the demo would shorten the clips; but the encoder of lyrics comes with its demo, and the
    # pretrained ones of images and speech are not at hand.
    corpus = {"bimodal": "demo_bimodal", "vit": "demo"}.get(name.split("_")[0], "manifest")
    arguments = [f"space={name}", f"data.corpus={corpus}"]
    if "encoder" in name:
        monkeypatch.chdir(tmp_path)
        if name == "music_encoder":
            write_musicnn(tmp_path / "encoder")
        else:
            write_whisper(tmp_path / "encoder", frames=1500)
        arguments.append("features.encoder=encoder")
    plan = make_plan(arguments)
    points = list(planned_points(plan.space, plan.config))
    resolved = {"total": plan.total, "space": plan.space.written(), "points": points}
    file = FOLDER / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(resolved, indent=1) + "\n")
    assert json.loads(json.dumps(resolved)) == json.loads(file.read_text())


def test_sizes_are_the_documented_ones():
    documented = {"crnn": 20, "crnn_grid": 24, "crnn_lr": 4}
    assert {name: make_plan([f"space={name}"]).total for name in documented} == documented
