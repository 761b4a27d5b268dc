"""Clips dealt into inner folds: arrays in memory, and a tiny corpus of tones on disk."""

import numpy as np
import soundfile

from tests.helpers.command import TINY
from tuning.data.plan import make_plan
from tuning.datasets.corpus import Clip
from tuning.datasets.loaders.kfold import ResidentFolds
from tuning.datasets.settings import SplitSettings
from tuning.datasets.splits.split import Split, inner_folds
from tuning.datasets.store.reader import Part

SHORT = (*TINY[:-1], "search.max_concurrent=1", "model.dense_units=[4]", "training.patience=null", "training.epochs=3")
NUM_FOLDS = 3


def plan_of(*arguments):
    """A short search of one trial with inner folds, unless the arguments say otherwise."""
    return make_plan(arguments_of("data.corpus=demo", *arguments))


def arguments_of(*given):
    """A command line: short trainings with inner folds, and what is given."""
    common = (*SHORT, f"split.inner_folds={NUM_FOLDS}", "search.num_trials=1")
    return list({argument.split("=")[0]: argument for argument in (*common, *given)}.values())


def folds_in_memory(num_speakers=9, takes=3):
    """Clips whose targets depend on the features' mean, dealt into folds."""
    rng = np.random.default_rng(0)
    levels = rng.normal(size=num_speakers * takes)
    clips = [
        Clip(f"s{n // takes}/{n % takes}.wav", (float(level), float(-level)), group=f"s{n // takes}")
        for n, level in enumerate(levels)
    ]
    features = (levels[:, None, None] + rng.normal(size=(len(clips), 16, 40))).astype(np.float32)
    num_frames = rng.integers(8, 17, size=len(clips)).astype(np.int32)
    ids, targets = np.array([clip.id for clip in clips]), np.array([clip.targets for clip in clips], dtype=np.float32)
    split = inner_folds(Split(clips, [], [], "grouped"), SplitSettings(inner_folds=NUM_FOLDS, seed=0))
    held = [np.isin(ids, [clip.id for clip in val]) for _, val in split.inner_parts()]
    return ResidentFolds(Part(ids, features, num_frames, targets), 16, held)


def write_corpus(folder):
    """Tones of twelve speakers, with numbers and with classes."""
    lines = ["file,valence,arousal,emotion,speaker"]
    for n in range(48):
        level, emotion = np.sin(n), ("happy", "sad")[n % 2]
        tone = 0.3 * np.sin(2 * np.pi * (300 + 200 * level) * np.arange(16000) / 16000)
        soundfile.write(folder / f"{n}.wav", tone, 16000)
        lines.append(f"{n}.wav,{level},{-level},{emotion},s{n // 4}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def corpus_arguments(folder):
    common = (f"data.root={folder}", "data.group_column=speaker", f"data.prepared={folder}/prepared")
    return ("data.corpus=manifest", *common, f"storage={folder}/results")
