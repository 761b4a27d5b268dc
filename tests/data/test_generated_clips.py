"""What a GAN needs before it is trained."""

import json
import random

import numpy as np
import pytest

from tuning.config.errors import UserError
from tuning.config.loader import load
from tuning.data.generated_clips import _is_complete, prepare_generated_clips
from tuning.datasets import storage
from tuning.datasets.checksum import of_file, write_json
from tuning.datasets.corpus import Clip
from tuning.datasets.loaders.generated import FILES, PROVENANCE, QUALITY, GeneratedClips
from tuning.datasets.splits.split import Split


def test_too_few_training_clips_are_refused_before_ray_is_needed():
    _, space, _ = load(["space=vit_gan"])
    split = Split([Clip(f"{n}.wav") for n in range(3)], [Clip("v.wav")], [], "random")
    with pytest.raises(UserError, match=r"expected at least 4 training clips and .* got 3 and \d"):
        prepare_generated_clips(None, space.fixed(), split)


def test_generated_clips_that_are_damaged_are_named_and_count_as_missing(tmp_path, capsys):
    folder, rng = str(tmp_path), np.random.default_rng(0)
    made = GeneratedClips(
        rng.standard_normal((4, 6, 3)).astype(np.float32),
        rng.random((4, 2)).astype(np.float32),
        np.array([6, 5, 4, 6], np.int32),
    )
    made.write(folder)
    storage.write_bytes(folder, QUALITY, b'{"score": 60}')
    write_json(folder, PROVENANCE, {"seed": 1, FILES: {n: of_file(folder, n) for n in storage.list_names(folder)}})
    assert _is_complete(folder)
    chance = random.Random(1)
    for name in sorted(storage.list_names(folder)):
        whole = storage.read_bytes(folder, name)
        for _ in range(40):
            position = chance.randrange(8 * len(whole))
            changed = bytearray(whole)
            changed[position // 8] ^= 1 << position % 8
            storage.write_bytes(folder, name, bytes(changed))
            if _is_complete(folder):  # a name in the provenance that nothing reads
                assert name == PROVENANCE
                read_again(folder, made)
            else:
                assert f"{name} is damaged" in capsys.readouterr().out
        for content in (whole[: len(whole) // 2], b"", None):
            storage.delete(folder, name)
            if content is not None:
                storage.write_bytes(folder, name, content)
            assert not _is_complete(folder)
            assert content is None or f"{name} is damaged" in capsys.readouterr().out
        storage.write_bytes(folder, name, whole)
    # Folders of earlier versions have no checksums.
    storage.write_bytes(folder, "synthetic.targets.json", json.dumps(made.targets.tolist()).encode())
    storage.write_bytes(folder, PROVENANCE, b'{"seed": 1}')
    assert _is_complete(folder)
    read_again(folder, made)


def read_again(folder, made):
    found = GeneratedClips.read(folder)
    for name in ("features", "targets", "num_frames"):
        np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
