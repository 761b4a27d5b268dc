"""What is used of Ray beyond its documented interface stands in one file."""

import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PRIVATE = re.compile(r"\bray\.[\w.]*\b_(?:private|internal|raylet)\b|trial\.__class__ =|TuneController\._")


def test_rays_private_parts_are_named_in_one_file():
    files = [*(PROJECT / "tuning").rglob("*.py"), *(PROJECT / "datasets").rglob("*.py")]
    assert {file.name for file in files if PRIVATE.search(file.read_text())} == {"ray_internals.py"}
