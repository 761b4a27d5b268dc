"""The Ray task that trains a GAN, generates its clips, and writes plots and sounds for judging them."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tuning.config.schema import Config, parse_sent
from tuning.datasets import storage
from tuning.datasets.checksum import of_file, say_damaged, write_json
from tuning.datasets.features.griffin_lim import TEST_EMOTIONS, not_audible, write_sounds
from tuning.datasets.loaders.generated import CURVES, FILES, PROVENANCE, QUALITY, GeneratedClips
from tuning.datasets.store.reader import FeatureStatistics, Part, valid_frames
from tuning.training.gan import plots
from tuning.training.gan.metrics import band, compare, score, sub_scores
from tuning.training.gan.trainer import GANTrainer
from tuning.training.trainer import DamagedCheckpointError, read_checkpoint

STATE = "state.pt"
LIMIT = 3.0  # standard deviations from the mean at which the GAN's values are -1 and 1
SHOWN = 5  # real clips that are plotted next to generated ones with the same labels
LABEL_NOISE = 0.05  # standard deviation of the noise on training labels for which clips are generated


def train_and_generate(
    folder: str, settings: dict[str, Any], part: Part, num_clips: int, sources: dict[str, str]
) -> None:
    """Train a GAN on the clips of `part` and write all files of its folder.

    Provenance is written last: a folder without it counts as unfinished.
    """
    config = parse_sent(settings)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    statistics = FeatureStatistics.of([(part.num_frames, part.features)])
    part = normalise(part, statistics)
    training = train(folder, config, part, device)
    targets, num_frames = sample_conditions(part, num_clips, config.seed)
    real = _mask_padding(part.features, part.num_frames)
    generated = _mask_padding(training.generate(targets, num_frames, config.seed), num_frames)
    features = np.ma.filled(denormalise(generated, statistics), config.features.db_floor)  # padded with silence
    GeneratedClips(features, targets, num_frames).write(folder)
    count = min(len(real), len(generated))
    figures: dict[str, Any] = compare(real[:count], generated[:count])
    figures |= {"score": score(figures), "band": band(score(figures))}
    storage.write_bytes(folder, QUALITY, json.dumps(figures, indent=1).encode())
    shown, ends = part.targets[:SHOWN], part.num_frames[:SHOWN]
    drawn = _mask_padding(training.generate(shown, ends, config.seed), ends)
    pairs = (real[:SHOWN], drawn, [_label_text(config, values) for values in shown])
    _write_plots(folder, config, training, statistics, (real[:count], generated[:count]), pairs, figures)
    provenance = {
        "gan": config.gan.model_dump(mode="json"),
        "seed": config.seed,
        "clips": num_clips,
        "score": figures["score"],
        "trained_on": sources,
        FILES: {name: of_file(folder, name) for name in sorted(storage.list_names(folder) - {STATE, PROVENANCE})},
    }
    write_json(folder, PROVENANCE, provenance)


def normalise(part: Part, statistics: FeatureStatistics) -> Part:
    """Clips with features in [-1, 1] for the GAN: mean 0, `LIMIT` standard deviations at 1, padding 0."""
    features = np.clip((part.features - statistics.mean) / (LIMIT * statistics.std), -1, 1).astype(np.float32)
    features[~valid_frames(part.num_frames, features.shape[1])] = 0
    return replace(part, features=features)


def denormalise(spectrograms: np.ndarray, statistics: FeatureStatistics) -> np.ndarray:
    """The inverse of `normalise`, apart from clipped values."""
    return (spectrograms * (LIMIT * statistics.std) + statistics.mean).astype(np.float32)


def sample_conditions(part: Part, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels [count, targets] and valid frames [count] of the clips to generate.

    The labels are those of training clips with some noise, within their range; a clip gets the length of the training
    clip whose label it has.
    """
    targets, rng = part.targets, np.random.default_rng([seed, count])
    rows = rng.permutation(np.resize(np.arange(len(targets)), count))
    noisy = targets[rows] + rng.normal(0, LABEL_NOISE, (count, targets.shape[1]))
    return np.clip(noisy, targets.min(axis=0), targets.max(axis=0)).astype(np.float32), part.num_frames[rows]


def train(folder: str, config: Config, real: Part, device: torch.device) -> GANTrainer:
    """Train the GAN to its last epoch; its state is saved after each, from which an interrupted training resumes."""
    training = GANTrainer(config.gan, real.features, real.targets, real.num_frames, seed=config.seed, device=device)
    if storage.exists(folder, STATE):
        try:
            training.load_state_dict(read_checkpoint(storage.read_bytes(folder, STATE), device))
        except DamagedCheckpointError as error:
            say_damaged(folder, STATE, str(error))
    while training.epoch < config.gan.epochs:
        training.one_epoch()
        state = io.BytesIO()
        torch.save(training.state_dict(), state)
        storage.write_bytes(folder, STATE, state.getvalue())
        storage.write_bytes(folder, CURVES, json.dumps(training.rows).encode())
    return training


def _mask_padding(spectrograms: np.ndarray, num_frames: np.ndarray) -> np.ndarray:
    """Spectrograms [clips, frames, features] as a masked array without the frames beyond each clip's end."""
    beyond = ~valid_frames(num_frames, spectrograms.shape[1])[..., None]
    return np.ma.masked_array(spectrograms, np.broadcast_to(beyond, spectrograms.shape))


def _label_text(config: Config, values: Iterable[float]) -> str:
    return ", ".join(f"{target} {value:.1f}" for target, value in zip(config.task.targets, values, strict=True))


def _write_plots(
    folder: str,
    config: Config,
    training: GANTrainer,
    statistics: FeatureStatistics,
    sets: Any,
    pairs: Any,
    figures: dict[str, Any],
) -> None:
    """Write plots of real and generated clips, and the sounds of `TEST_EMOTIONS`."""
    gan, (real, generated) = config.gan, sets
    with tempfile.TemporaryDirectory() as place:
        path = Path(place)
        plots.draw_profiles(path / "profiles.png", real, generated)
        plots.draw_evolution(path / "evolution.png", real, generated)
        plots.draw_amplitudes(path / "amplitudes.png", real, generated)
        plots.draw_quality(path / "quality.png", sub_scores(figures), figures["score"])
        plots.draw_training(path / "training.png", training.rows, gan.weak_accuracy, gan.strong_accuracy)
        plots.draw_pairs(path / "samples.png", *pairs)
        if config.task.targets == ["valence", "arousal"]:
            _write_emotions(path, config, training, statistics)
        for file in sorted(path.iterdir()):
            storage.write_bytes(folder, file.name, file.read_bytes())


def _write_emotions(path: Path, config: Config, training: GANTrainer, statistics: FeatureStatistics) -> None:
    """Draw each of `TEST_EMOTIONS`, as long as the median training clip, and write its sound if it is long enough."""
    conditions = np.array(list(TEST_EMOTIONS.values()), dtype=np.float32)
    frames = max(2, int(np.median(training.clips.num_frames)))
    drawn = training.generate(conditions, np.full(len(conditions), frames), config.seed)[:, :frames]
    spectrograms = dict(zip(TEST_EMOTIONS, denormalise(drawn, statistics), strict=True))
    if not not_audible(frames, config.features):
        write_sounds(path, spectrograms, config.features)
    frame_seconds = config.features.hop_samples / config.features.sample_rate_hz
    for name, decibels in spectrograms.items():
        title = f"{name.replace('_', ' ')}: {_label_text(config, TEST_EMOTIONS[name])}"
        plots.draw_spectrogram(path / f"{name}_spectrogram.png", decibels, frame_seconds, title)
