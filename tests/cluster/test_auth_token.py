"""A cluster with a token: who does not have it can't run anything there."""

import csv
import subprocess

import pytest

from tests.helpers.command import TINY
from tests.helpers.hosts import PYTHON, TOKEN, copy_project
from tests.helpers.ray_heads import started_head
from tests.helpers.waiting import PATIENCE

pytestmark = pytest.mark.cluster


def home(folder, token):
    (folder / ".ray").mkdir(parents=True)
    if token:
        (folder / ".ray" / "auth_token").write_text(token)
        (folder / ".ray" / "auth_token").chmod(0o600)
    return str(folder)


def submit(head, home, mode, *words):
    command = [
        PYTHON.parent / "ray",
        "job",
        "submit",
        "--address",
        head.dashboard,
        *(words or ("--", "echo", "it", "ran")),
    ]
    environment = head.environment | {"HOME": home, "RAY_AUTH_MODE": mode}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)


def test_a_job_without_the_token_is_refused(tmp_path):
    owner = home(tmp_path / "owner", TOKEN)
    with started_head({"HOME": owner, "RAY_AUTH_MODE": "token"}, "--num-cpus=1", dashboard=True) as head:
        for stranger, mode in ((home(tmp_path / "a", ""), "disabled"), (home(tmp_path / "b", "f" * 64), "token")):
            refused = submit(head, stranger, mode)
            said = refused.stdout + refused.stderr
            assert refused.returncode != 0 and "it ran" not in said
            assert "401" in said or "403" in said or "uthenticat" in said, said
        done = submit(head, owner, "token")
        assert done.returncode == 0 and "it ran" in done.stdout, done.stdout + done.stderr

        # The same command line as anywhere, as a job with the project as its working directory.
        project = copy_project(tmp_path / "project")
        kept = (f"storage={tmp_path}/results", f"data.prepared={tmp_path}/prepared")
        search = ("python", "-m", "tuning.run", "space=crnn", "search.num_trials=1", *TINY, *kept)
        done = submit(head, owner, "token", "--working-dir", project, "--", *search)
        assert done.returncode == 0, done.stdout + done.stderr
        with (tmp_path / "results" / "crnn" / "leaderboard.csv").open() as stream:
            assert [row["status"] for row in csv.DictReader(stream)] == ["done"]
