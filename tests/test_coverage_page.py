"""The page of requirements: each has one row, and every test that it names is in its file."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "coverage.md").read_text(encoding="utf-8")
NUMBERS = {"T": 14, "C": 8, "S": 7, "B": 6, "V": 6, "E": 6}
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in PAGE.splitlines()
    if re.match(r"\| [A-Z]\d+ \|", line)
]
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)))


def functions_of(file):
    """Names of the test functions of a file, which is not imported."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_requirement_has_one_row():
    wanted = [f"{letter}{number}" for letter, count in NUMBERS.items() for number in range(1, count + 1)]
    assert [row[0] for row in ROWS] == wanted
    assert all(len(row) == 4 and row[1] for row in ROWS)


def test_a_row_names_tests_or_says_what_nothing_shows():
    for number, _, shown, missing in ROWS:
        assert "::" in shown or missing.startswith("not shown yet"), number


def test_every_test_on_the_page_is_named_in_full():
    assert len(NAMED) > 100
    assert PAGE.count("::") - 1 == len(re.findall(r"`[\w/]+\.py::\w+`", PAGE))  # but for the example of a command


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_tests_that_are_named_exist(file):
    assert (TESTS / file).is_file()
    missing = {name for named, name in NAMED if named == file} - functions_of(TESTS / file)
    assert not missing, f"{file} has no {', '.join(sorted(missing))}"


def test_commands_on_the_page_are_modules():
    for module in re.findall(r"python -m ([\w.]+)", PAGE):
        place = TESTS.parent / module.replace(".", "/")
        assert place.is_dir() or place.with_suffix(".py").is_file(), module
