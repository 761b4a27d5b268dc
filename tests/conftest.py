"""One Ray for the whole test session, and the real recordings where there are any."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run: a new one is looked for on purpose, by another seed, not by chance.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.load_profile("same")

os.environ.setdefault("KERAS_BACKEND", "torch")
# One thread each, as in a trial: two cores are shared by several processes here.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As its processes and this one do the same work in turn, none goes before: by default Ray's workers have a thirtieth of
# the time of each other test that computes.
os.environ.setdefault("RAY_worker_niceness", "0")
# How long Ray waits for a node that it starts: this machine may be busy.
os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")


def pytest_configure():
    """Import torchaudio as the project does, before tests import transformers, which imports it, too."""
    from tuning.models import torch_audio  # noqa: F401


def pytest_collection_finish():
    """Leave what the imports made out of every later collection of garbage, of which a million objects are a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def ray_session():
    """Ray on this machine with two CPUs, however many there are."""
    from tuning.search.resources import ENVIRONMENT

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def prepared(request, tmp_path_factory) -> Path:
    """Folder of prepared features that searches of all processes share; what tests the preparing has its own."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "prepared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder with real corpora, which are not part of the project."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TUNING_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real recordings in {folder} (TUNING_TEST_DATA)")
    return folder


@pytest.fixture
def named_code():
    """Code that a test names by a dotted path counts as named by the user, as on a command line."""
    from tuning.datasets.dotted_path import allowing

    with allowing(True):
        yield


@pytest.fixture
def figures(monkeypatch):
    """Every figure of matplotlib that was saved."""
    from matplotlib.figure import Figure

    saved = []

    def savefig(figure, *arguments, **options):
        saved.append(figure)
        return original(figure, *arguments, **options)

    original = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


@pytest.fixture(autouse=True)
def no_page(request, monkeypatch):
    """Searches within a test leave report.html out: it takes a second, and its own tests write it."""
    if "report" not in request.module.__name__:
        monkeypatch.setattr("tuning.api.write_or_note", lambda folder: None)
