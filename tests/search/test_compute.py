"""What is computed outside of a search's trials runs in a Ray task with the resources of a trial."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.waiting import PATIENCE
from tuning.config.errors import UserError
from tuning.config.schema import Config, nested
from tuning.search.compute import assigned_share, compute, splits_batches


def config_of(**settings):
    return Config.model_validate(nested({name.replace("__", "."): value for name, value in settings.items()}))


def where():
    import ray

    return os.getpid(), ray.get_runtime_context().get_assigned_resources()


def doubled(value):
    return 2 * value


def refuse():
    raise UserError("data.corpus: expected a corpus")


def die_once(marker):
    if not marker.exists():
        marker.write_text("died")
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def test_a_function_gets_the_resources_of_one_worker_in_another_process(ray_session):
    process, resources = compute(config_of(resources__cpus_per_worker=2), where)
    assert process != os.getpid() and resources == {"CPU": 2.0}
    assert compute(config_of(), doubled, 21) == 42


def test_errors_are_those_of_the_function(ray_session):
    with pytest.raises(UserError, match=r"^data\.corpus: expected a corpus$"):
        compute(config_of(), refuse)
    with pytest.raises(UserError, match="expected at most what the machines have"):
        compute(config_of(resources__cpus_per_worker=64), doubled, 1)


def test_a_process_that_dies_is_replaced_as_often_as_restarts_are_allowed(ray_session, tmp_path):
    assert compute(config_of(resources__max_restarts=1), die_once, tmp_path / "first") == "done"
    with pytest.raises(UserError, match="its worker died"):
        compute(config_of(resources__max_restarts=0), die_once, tmp_path / "second")


def fits_on_a_half(marker):
    """Runs out of memory on less than half of a GPU."""
    share = assigned_share()
    with marker.open("a") as stream:
        stream.write(f"{share:g} ")
    if share < 0.5:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return splits_batches(torch.device("cuda"), share)


ON_SHARES = """
import json, pathlib, sys
import ray
from tests.search.test_compute import config_of, fits_on_a_half
from tuning.search.compute import compute

ray.init(address="local", num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)
config = config_of(resources__gpus_per_worker=0.125, resources__max_restarts=0)
print(json.dumps(compute(config, fits_on_a_half, pathlib.Path(sys.argv[1]))))
"""


@pytest.mark.slow
def test_more_of_a_gpu_is_asked_for_when_a_share_is_too_small(tmp_path):
    """As for a trial: a batch is not split on a share. The GPU is one of Ray's books, in a Ray of its own."""
    marker = tmp_path / "shares"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", ON_SHARES, str(marker)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert marker.read_text().split() == ["0.125", "0.25", "0.5"]
    *notes, splits = done.stdout.splitlines()
    assert [note.split(": ")[1] for note in notes] == ["again with 0.25 of one", "again with 0.5 of one"]
    assert splits == "false"
