"""The pipeline that prepares on GPUs: which device computes, and what comes out of its stages."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.datasets.store.test_build import FRAMES, features_of, same_features, thirds
from tests.helpers.recordings import SMALL, bad_recordings, encode, tone, write_corpus
from tests.helpers.waiting import PATIENCE
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.features.spectral import BATCH_SAMPLES, _batches
from tuning.datasets.settings import DataSettings
from tuning.datasets.store import build
from tuning.datasets.store.build import choose_device, in_stages, prepare
from tuning.datasets.store.quarantine import QuarantineError

WANTED = {"train-1": ("train", [("a", "1"), ("b", "2")]), "train-2": ("train", [("c", "3")])}


@pytest.fixture
def in_stages_on_cpu(monkeypatch):
    """As if Ray had two GPUs: the stages run as they do there, and the actors compute on CPUs."""
    monkeypatch.setattr(build, "num_gpus", lambda: 2)
    monkeypatch.setattr(
        build, "in_stages", lambda rows, task, device, actors: in_stages(rows, task, "cpu", actors, gpus_each=0)
    )


def test_the_stages_write_what_one_task_writes(tmp_path, ray_session, in_stages_on_cpu, monkeypatch):
    corpus = write_corpus(tmp_path / "corpus")
    monkeypatch.setattr(build, "CLIPS_PER_SHARD", 2)
    data = DataSettings(prepared=str(tmp_path / "prepared"))
    alone = prepare(corpus, thirds(corpus), SMALL, FRAMES, data, gpus=False)
    staged = prepare(corpus, thirds(corpus), SMALL, FRAMES, data.model_copy(update={"prepared": str(tmp_path / "2")}))
    assert staged.num_extracted == alone.num_extracted == 12 and len(staged.shards) == 6
    assert staged.fingerprint != alone.fingerprint, "of another device"
    # The index lists shards in the order in which they were made.
    files = [{file.name: file.read_bytes() for file in Path(made.root).glob("*-*")} for made in (alone, staged)]
    assert files[0] == files[1] and len(files[0]) == 12
    # Of another split, rows are copied.
    again = prepare(corpus, thirds(corpus, 1), SMALL, FRAMES, data.model_copy(update={"prepared": str(tmp_path / "2")}))
    assert (again.num_extracted, again.fingerprint) == (0, staged.fingerprint)
    same_features(features_of(again, corpus), features_of(alone, corpus))


def test_the_stages_name_what_is_unusable_and_what_has_changed(tmp_path, ray_session, in_stages_on_cpu):
    folder = tmp_path / "corpus"
    folder.mkdir()
    contents = {name: content for name, (content, _) in bad_recordings().items() if content is not None}
    for name, content in {**contents, "good.wav": encode(tone(3))}.items():
        (folder / name).write_bytes(content)
    corpus = Corpus("bad", str(folder), [Clip(name) for name in [*contents, "good.wav"]])
    cells = dict.fromkeys((clip.id for clip in corpus.clips), "train")
    reasons = []
    for name, gpus in (("cpu", False), ("stages", True)):
        data = DataSettings(prepared=str(tmp_path / name), max_quarantined_share=1)
        reasons.append(prepare(corpus, cells, SMALL, FRAMES, data, gpus=gpus).quarantine)
    assert reasons[0] == reasons[1] and len(reasons[0]) > 3
    with pytest.raises(QuarantineError):
        prepare(corpus, cells, SMALL, FRAMES, DataSettings(prepared=str(tmp_path / "stages")))


FAKE_GPU = """
import sys, ray
from pathlib import Path
from tests.datasets.store.test_build import FRAMES, thirds
from tests.helpers.recordings import SMALL, write_corpus
from tuning.datasets.settings import DataSettings
from tuning.datasets.store.build import prepare
ray.init(address="local", num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
corpus, data = write_corpus(Path(sys.argv[1], "corpus")), DataSettings(prepared=sys.argv[1] + "/prepared")
try:
    prepare(corpus, thirds(corpus), SMALL, FRAMES, data)
except ValueError as error:
    print(error)
print(prepare(corpus, thirds(corpus), SMALL, FRAMES, data, gpus=False).num_extracted)
"""


def test_a_gpu_that_pytorch_can_not_use_is_said_and_nothing_is_computed_in_its_name(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-c", FAKE_GPU, str(tmp_path)]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-2000:]
    message, extracted = done.stdout.splitlines()
    assert message.startswith("resources.gpu_features: expected a GPU that PyTorch can use on ")
    assert extracted == "12", "no features of a GPU are there"


@pytest.mark.parametrize(
    ("held", "gpus", "device", "starts"),
    [
        ({}, 1, "cuda", True),
        ({}, 0, "cpu", True),
        ({"cpu": ["train-1", "train-2"]}, 1, "cpu", False),
        ({"cuda": ["train-1", "train-2"]}, 0, "cuda", False),
        ({"cpu": ["train-1"]}, 1, "cpu", True),
        ({"cuda": ["train-1"]}, 1, "cuda", True),
        ({"cuda": ["train-1"]}, 0, "cpu", True),
        ({"cuda": ["train-1"], "cpu": ["train-1", "train-2"]}, 1, "cpu", False),
        ({"cuda": ["train-1"], "cpu": ["train-2"]}, 1, "cuda", True),
    ],
)
def test_shards_that_are_there_are_used_and_begun_ones_completed(monkeypatch, held, gpus, device, starts):
    monkeypatch.setattr(build, "num_gpus", lambda: gpus)
    indexes = {
        name: SimpleNamespace(
            records=dict.fromkeys(held.get(name, [])),
            shard_of={digest: shard for shard in held.get(name, []) for _, digest in WANTED[shard][1]},
        )
        for name in ("cpu", "cuda")
    }
    done = []
    assert choose_device(indexes, WANTED, done.append, True) == device
    most = max(indexes.values(), key=lambda index: len(index.shard_of))
    assert done == ([len(most.shard_of)] if starts else [])
    if starts:
        assert choose_device(indexes, WANTED, done.append, False) == "cpu"


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ([], []),
        ([5], [1]),
        ([BATCH_SAMPLES + 1, 1], [1, 1]),
        ([BATCH_SAMPLES // 2] * 5, [2, 2, 1]),
        ([1] * 3 + [BATCH_SAMPLES // 4] * 2, [4, 1]),
    ],
)
def test_batches_hold_so_much_sound_with_its_padding(lengths, sizes):
    batches = list(_batches([np.broadcast_to(np.float32(i), length) for i, length in enumerate(lengths)]))
    assert [len(batch) for batch in batches] == sizes
    assert [int(waveform[0]) for batch in batches for waveform in batch] == list(range(len(lengths)))
