"""A conditional GAN trained once per configuration on training clips, and the clips that it makes, for all trials.

    <prepared>/synthetic/<fingerprint>/    synthetic.parquet, provenance.json, curves.json, state.pt, pictures, sounds

What the GAN and its clips are made of stands in provenance.json: every training clip by name and content, the
settings, the seed. Validation and test clips are none of it.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning.config.errors import UserError
from tuning.config.schema import Config
from tuning.data.text import gpus_of_a_task
from tuning.datasets import storage
from tuning.datasets.hashing import digest_of
from tuning.datasets.loaders.generated import CELL, Synthetic

if TYPE_CHECKING:
    import numpy as np

    from tuning.datasets.splits.split import Split
    from tuning.datasets.store.build import Prepared
    from tuning.datasets.store.reader import Part

VERSION = 2  # raised by hand when the GAN or what is made of it gives other clips than before
PROVENANCE, STATE, CURVES, QUALITY = "provenance.json", "state.pt", "curves.json", "quality.json"
SHARE = "augment.synthetic_share"
LIMIT = 3.0  # deviations from the mean that the GAN's -1 and 1 stand for
SHOWN = 5  # real clips beside generated ones of the same labels
LABEL_NOISE = 0.05  # standard deviation of what is added to a training label that a clip is asked to have


def gan_key(config: Config) -> str:
    """Names the generated clips that a configuration's trials draw from, if they draw any."""
    return json.dumps(config.gan.model_dump(mode="json"), sort_keys=True)


def prepare_synthetic(
    prepared: Prepared,
    config: Config,
    split: Split,
    on_begin: Callable[[], None] = lambda: None,
) -> str:
    """Make sure that a configuration's GAN is trained and its clips are made; the folder that holds them.

    A GAN that was cut off goes on from its last epoch. `on_begin` is called where there is something to do.

    Raises:
        SealedError: a shard that would be opened holds a clip of validation or test.
        UserError: too few training clips, or the GAN's training came to NaN.
    """
    from tuning.training.gan.metrics import FEWEST_CLIPS

    made = max(1, round(config.gan.clips_per_real * len(split.train)))
    if min(len(split.train), made) < FEWEST_CLIPS:
        raise UserError(
            f"augment.synthetic_share: expected at least {FEWEST_CLIPS} training clips and as many generated, to be "
            f"compared, got {len(split.train)} and {made} (gan.clips_per_real)"
        )
    import ray

    from tuning.datasets.store.reader import read_part

    sources = {clip.id: prepared.digests[clip.id] for clip in split.train}
    mark = _fingerprint(prepared, config, sources, split, made)
    folder = storage.below(storage.absolute(config.data.prepared), CELL, mark)
    if storage.exists(folder, PROVENANCE):
        return folder
    on_begin()
    sealed = {clip.id for clip in split.val + split.test}
    part = read_part(prepared, split.train, sealed)
    assert sealed.isdisjoint(part.ids.tolist())
    assert sources.keys() == set(part.ids.tolist()), "a clip of the split has no features"
    task = ray.remote(num_cpus=1, num_gpus=gpus_of_a_task())(_make)
    try:
        ray.get(task.remote(folder, config.model_dump(mode="json"), part, made, sources))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, FloatingPointError):
            raise UserError(f"gan: expected a training with finite losses, got: {error.cause}") from None
        raise
    return folder


def quality_of(folder: str) -> dict[str, Any]:
    """The figures of a GAN's clips beside real ones."""
    found: dict[str, Any] = json.loads(storage.read_bytes(folder, QUALITY))
    return found


def _fingerprint(prepared: Prepared, config: Config, sources: dict[str, str], split: Split, made: int) -> str:
    """Hash of all that the generated clips depend on."""
    import numpy as np

    # As they are read back from shards, in float32.
    targets = [[clip.id, *np.array(clip.targets, dtype=np.float32).tolist()] for clip in split.train]
    settings = config.gan.model_dump(mode="json")
    matters = [prepared.fingerprint, sorted(sources.items()), sorted(targets), settings, config.seed, made, VERSION]
    return digest_of(json.dumps(matters))[:16]


def _make(folder: str, tree: dict[str, Any], part: Part, made: int, sources: dict[str, str]) -> None:
    """Train, generate, judge, and write it all; provenance last, without which it is not there."""
    import numpy as np
    import torch

    from tuning.config.schema import parse_config
    from tuning.datasets.store.reader import FeatureStatistics
    from tuning.training.gan.metrics import band, compare, score

    config = parse_config(tree)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    statistics = FeatureStatistics.of([(part.num_frames, part.features)])
    part = scaled(part, statistics)
    training = _train(folder, config, part, device)
    targets, num_frames = asked(part, made, config.seed)
    real = _heard(part.features, part.num_frames)
    generated = _heard(training.generate(targets, num_frames, config.seed), num_frames)
    features = np.ma.filled(unscaled(generated, statistics), config.features.db_floor)  # silence, as after recordings
    Synthetic(features, targets, num_frames).write(folder)
    count = min(len(real), len(generated))
    figures: dict[str, Any] = compare(real[:count], generated[:count])
    figures |= {"score": score(figures), "band": band(score(figures))}
    storage.write_bytes(folder, QUALITY, json.dumps(figures, indent=1).encode())
    shown, ends = part.targets[:SHOWN], part.num_frames[:SHOWN]
    drawn = _heard(training.generate(shown, ends, config.seed), ends)
    pairs = (real[:SHOWN], drawn, [_named(config, values) for values in shown])
    _show(folder, config, training, statistics, (real[:count], generated[:count]), pairs, figures)
    provenance = {
        "gan": config.gan.model_dump(mode="json"),
        "seed": config.seed,
        "clips": made,
        "score": figures["score"],
        "trained_on": sources,
    }
    storage.write_bytes(folder, PROVENANCE, json.dumps(provenance, indent=1).encode())


def scaled(part: Part, statistics: Any) -> Part:
    """Clips as the GAN has them: in deviations from the training clips' mean, LIMIT of which are 1.

    Beyond a clip's end they are 0, as generated ones are, so that a GAN learns nothing of padding.
    """
    import numpy as np

    from tuning.datasets.store.reader import valid_frames

    features = np.clip((part.features - statistics.mean) / (LIMIT * statistics.std), -1, 1).astype(np.float32)
    features[~valid_frames(part.num_frames, features.shape[1])] = 0
    return replace(part, features=features)


def unscaled(spectrograms: np.ndarray, statistics: Any) -> np.ndarray:
    """The inverse of `scaled`, but for what was beyond the limit."""
    import numpy as np

    return (spectrograms * (LIMIT * statistics.std) + statistics.mean).astype(np.float32)


def asked(part: Part, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What clips are to be generated for, and their valid frames, [count, K] and [count].

    The labels are training clips' with some noise, within their range; each clip is as long as the one whose label it
    has.
    """
    import numpy as np

    targets, rng = part.targets, np.random.default_rng([seed, count])
    rows = rng.permutation(np.resize(np.arange(len(targets)), count))
    noisy = targets[rows] + rng.normal(0, LABEL_NOISE, (count, targets.shape[1]))
    return np.clip(noisy, targets.min(axis=0), targets.max(axis=0)).astype(np.float32), part.num_frames[rows]


def _heard(spectrograms: np.ndarray, num_frames: np.ndarray) -> np.ndarray:
    """Spectrograms [N, T, F] whose frames beyond each clip's end are masked."""
    import numpy as np

    from tuning.datasets.store.reader import valid_frames

    beyond = ~valid_frames(num_frames, spectrograms.shape[1])[..., None]
    return np.ma.masked_array(spectrograms, np.broadcast_to(beyond, spectrograms.shape))


def _train(folder: str, config: Config, real: Part, device: Any) -> Any:
    """The GAN, trained to its last epoch; its state is kept after each, so that a training that was cut off goes on."""
    import torch

    from tuning.training.gan.trainer import GANTraining

    training = GANTraining(config.gan, real.features, real.targets, real.num_frames, seed=config.seed, device=device)
    if storage.exists(folder, STATE):
        raw = io.BytesIO(storage.read_bytes(folder, STATE))
        training.load_state_dict(torch.load(raw, map_location=device, weights_only=True))
    while training.epoch < config.gan.epochs:
        training.one_epoch()
        state = io.BytesIO()
        torch.save(training.state_dict(), state)
        storage.write_bytes(folder, STATE, state.getvalue())
        storage.write_bytes(folder, CURVES, json.dumps(training.rows).encode())
    return training


def _named(config: Config, values: np.ndarray) -> str:
    return ", ".join(f"{target} {value:.1f}" for target, value in zip(config.task.targets, values, strict=True))


def _show(
    folder: str, config: Config, training: Any, statistics: Any, sets: Any, pairs: Any, figures: dict[str, Any]
) -> None:
    """Pictures of real and generated clips, and how the guide's five emotions look and sound."""
    from tuning.training.gan import plots
    from tuning.training.gan.metrics import sub_scores

    gan, (real, made) = config.gan, sets
    with tempfile.TemporaryDirectory() as place:
        path = Path(place)
        plots.draw_profiles(path / "profiles.png", real, made)
        plots.draw_evolution(path / "evolution.png", real, made)
        plots.draw_amplitudes(path / "amplitudes.png", real, made)
        plots.draw_quality(path / "quality.png", sub_scores(figures), figures["score"])
        plots.draw_training(path / "training.png", training.rows, gan.weak_accuracy, gan.strong_accuracy)
        plots.draw_pairs(path / "samples.png", *pairs)
        if config.task.targets == ["valence", "arousal"]:
            _sound(path, config, training, statistics)
        for file in sorted(path.iterdir()):
            storage.write_bytes(folder, file.name, file.read_bytes())


def _sound(path: Path, config: Config, training: Any, statistics: Any) -> None:
    """A WAV file for each of the guide's five emotions, by Griffin-Lim, of the training clips' median length."""
    import numpy as np

    from tuning.datasets.features.griffin_lim import TEST_EMOTIONS, write_sounds

    conditions = np.array(list(TEST_EMOTIONS.values()), dtype=np.float32)
    frames = max(2, int(np.median(training.clips.num_frames)))
    drawn = training.generate(conditions, np.full(len(conditions), frames), config.seed)[:, :frames]
    write_sounds(path, dict(zip(TEST_EMOTIONS, unscaled(drawn, statistics), strict=True)), config.features)
