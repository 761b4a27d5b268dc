"""Nothing but `tuning` is taken of the names that can be imported, and nobody else's folders are taken for ours."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.helpers.command import SMALL_SEARCH
from tests.helpers.waiting import PATIENCE

PROJECT = Path(__file__).parents[1]
CONSOLE_SCRIPT = str(Path(sys.executable).with_name("tuning"))
OTHERS = ("datasets", "models", "search_spaces", "cli", "config", "data")


@pytest.fixture(params=["folders", "packages"])
def messy(request, tmp_path):
    """Where a user works: folders and files of the names that ours have, with and without `__init__.py`."""
    for name in (*OTHERS, *(["tuning"] if request.param == "folders" else [])):
        (tmp_path / name).mkdir()
        if request.param == "packages":
            (tmp_path / name / "__init__.py").write_text("OWNER = 'the user'\n")
    for name in ("test.py", "run.py", "api.py"):
        (tmp_path / name).write_text("raise RuntimeError('a file of the user')\n")
    return tmp_path


def environment_of(folder):
    """As a user's shell has it: no PYTHONPATH, one Ray of its own."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def ran(folder, *command):
    done = subprocess.run(
        command, cwd=folder, env=environment_of(folder), capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_work_where_other_folders_have_our_names(messy, request):
    python = [sys.executable, "-m", "tuning.run"]
    command = python if request.node.callspec.params["messy"] == "folders" else [CONSOLE_SCRIPT, "run"]
    assert "crnn: 20 trials" in ran(messy, *command, "space=crnn", "--dry-run")


def test_the_console_script_works_beside_another_package_called_tuning(tmp_path):
    """`python -m tuning` is then the user's own package, as Python has it."""
    (tmp_path / "tuning").mkdir()
    (tmp_path / "tuning" / "__init__.py").write_text("raise RuntimeError('a package of the user')\n")
    assert "crnn: 20 trials" in ran(tmp_path, CONSOLE_SCRIPT, "run", "space=crnn", "--dry-run")


PROGRAM = """
import datasets, models  # of the user, or of a library of that name
from tuning import api
found = api.search("crnn", {settings!r})
assert found.best is not None and found.stopped == ""
assert datasets.OWNER == models.OWNER == "the user"
"""


@pytest.mark.slow
def test_a_search_with_workers_of_ray_leaves_other_packages_of_our_names_alone(tmp_path, prepared):
    for name in OTHERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWNER = 'the user'\n")
    settings = SMALL_SEARCH | {"search.num_trials": 1, "storage": "results", "data.prepared": str(prepared)}
    (tmp_path / "program.py").write_text(PROGRAM.format(settings=settings))
    ran(tmp_path, sys.executable, "program.py")


def test_our_folders_are_no_packages_of_their_own():
    """In the checkout, too, where Python would find them."""
    for name in ("datasets", "models"):
        done = subprocess.run(
            [sys.executable, "-c", f"import {name}"], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        assert f"ImportError: this folder is the package tuning.{name}; import that" in done.stderr


@pytest.mark.slow
def test_a_wheel_in_another_environment_brings_one_name_and_searches(tmp_path):
    # Of a copy: a build leaves files behind, which the next one would take up.
    left_out = shutil.ignore_patterns(".git", ".venv*", "build", "results", "prepared", "*.egg-info", "__pycache__")
    source = shutil.copytree(PROJECT, tmp_path / "source", symlinks=True, ignore=left_out)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path / "wheels"), str(source)]
    built = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "tuning/models/known_data.yaml" in names
    tops = {name.split("/")[0] for name in names}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"tuning"}
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # What the project needs, from this environment; its own links to this checkout are not followed from there.
    (site / "needed.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")) + "\n")
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", "--ignore-installed", wheel],
        check=True,
        capture_output=True,
    )
    work = tmp_path / "work"
    for name in OTHERS:
        (work / name).mkdir(parents=True)
        (work / name / "__init__.py").write_text("")
    where = ran(work, python, "-c", "import tuning.datasets.corpus as m; print(m.__file__)")
    assert Path(where.strip()).is_relative_to(site)
    settings = [f"{path}={value}" for path, value in SMALL_SEARCH.items()]
    output = ran(work, tmp_path / "venv" / "bin" / "tuning", "run", "space=crnn", "search.num_trials=1", *settings)
    assert "[1/1] trial 1 done" in output
