"""Clips of a conditional GAN that is trained once on training clips, for all trials that use them.

    <prepared>/synthetic/<fingerprint>/    synthetic.parquet, provenance.json, curves.json, state.pt, plots, sounds

provenance.json names what the clips come from: every training clip with its digest, the settings and the seed.
Validation and test clips are never read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from tuning.config.errors import UserError
from tuning.config.schema import Config
from tuning.datasets import storage
from tuning.datasets.checksum import DamagedError, check_file, read_json, say_damaged
from tuning.datasets.hashing import digest_of
from tuning.datasets.loaders.generated import FILES, PROVENANCE, QUALITY, SHARD, GeneratedClips
from tuning.datasets.splits.split import Split
from tuning.datasets.store.build import Prepared, num_gpus
from tuning.datasets.store.reader import read_part
from tuning.training.gan.metrics import FEWEST_CLIPS

VERSION = 2  # raise when the GAN, or what is made of it, gives other clips than before
SYNTHETIC_SHARE = "augment.synthetic_share"


def prepare_generated_clips(
    prepared: Prepared,
    config: Config,
    split: Split,
    on_begin: Callable[[], None] = lambda: None,
) -> str:
    """Train a configuration's GAN and generate its clips unless that is done; return their folder.

    An interrupted training resumes after its last epoch. `on_begin` is called if there is something to do.

    Raises:
        SealedError: a shard that would be opened holds a clip of validation or test.
        UserError: too few training clips, or a loss of the GAN became NaN.
    """
    num_clips = max(1, round(config.gan.clips_per_real * len(split.train)))
    if min(len(split.train), num_clips) < FEWEST_CLIPS:
        raise UserError(
            f"augment.synthetic_share: expected at least {FEWEST_CLIPS} training clips and as many generated, to be "
            f"compared, got {len(split.train)} and {num_clips} (gan.clips_per_real)"
        )
    import ray

    from tuning.data.gan_worker import train_and_generate

    sources = {clip.id: prepared.digests[clip.id] for clip in split.train}
    fingerprint = _fingerprint(prepared, config, sources, split, num_clips)
    folder = storage.below(storage.absolute(config.data.prepared), SHARD, fingerprint)
    if _is_complete(folder):
        return folder
    on_begin()
    sealed = {clip.id for clip in split.val + split.test}
    part = read_part(prepared, split.train, sealed)
    assert sealed.isdisjoint(part.ids.tolist())
    assert sources.keys() == set(part.ids.tolist()), "a clip of the split has no features"
    task = ray.remote(num_cpus=1, num_gpus=min(1, num_gpus()))(train_and_generate)
    try:
        ray.get(task.remote(folder, config.model_dump(mode="json"), part, num_clips, sources))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, FloatingPointError):
            raise UserError(f"gan: expected a training with finite losses, got: {error.cause}") from None
        raise
    return folder


def _is_complete(folder: str) -> bool:
    """Whether a folder has clips, all files as they were written; what is damaged is named."""
    try:
        files = read_json(folder, PROVENANCE).get(FILES, {})
        for name, expected in files.items():
            check_file(folder, name, *expected)
        if not files:  # of an earlier version, without checksums
            GeneratedClips.read(folder)
            quality_of(folder)
    except DamagedError as error:
        say_damaged(*error.args)
        return False
    except FileNotFoundError:
        return False
    except (AttributeError, KeyError, TypeError, ValueError):
        say_damaged(folder, PROVENANCE, "no such files")
        return False
    return True


def quality_of(folder: str) -> dict[str, Any]:
    """The quality metrics of a folder's generated clips, compared with real ones."""
    found: dict[str, Any] = json.loads(storage.read_bytes(folder, QUALITY))
    return found


def _fingerprint(prepared: Prepared, config: Config, sources: dict[str, str], split: Split, num_clips: int) -> str:
    """Hash of all that the generated clips depend on."""
    # Targets in float32, as they are read from shards.
    targets = [[clip.id, *np.array(clip.targets, dtype=np.float32).tolist()] for clip in split.train]
    settings = config.gan.model_dump(mode="json")
    matters = [
        prepared.fingerprint, sorted(sources.items()), sorted(targets), settings, config.seed, num_clips, VERSION,
    ]  # fmt: skip
    return digest_of(json.dumps(matters))[:16]
