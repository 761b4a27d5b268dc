"""What is computed outside of a search's trials runs in a Ray task with the resources of a trial."""

import os
import signal

import pytest

from tuning.config.errors import UserError
from tuning.config.schema import Config, nested
from tuning.search.compute import compute


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
