"""Measure the cost of augmentation: preparing the bank, drawing batches from it, and training on them.

`python -m benchmarks.bank [--repeats 15] [--versions 2] [--batch 32] [--frames 80] [--corpus demo --root FOLDER]`

Preparation runs once on Ray with all CPUs, into a temporary folder: each effect alone, combinations of three effects,
and all of these in one pass; its ratio compares one version with the plain features of one clip. Epochs, of
batches alone and of training the default SER network on them, run in one thread and in turns; their ratio compares with
the first row. `freq_masks` needs mel bands stored with the MFCC.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.report import machine, publish, spread, table
from tuning.datasets.corpus import Corpus, load_corpus
from tuning.datasets.features.waveform_effects import EFFECTS
from tuning.datasets.loaders.in_memory import ResidentData, TrialData
from tuning.datasets.loaders.mixup import augment_data
from tuning.datasets.settings import (
    AugmentSettings,
    DataSettings,
    FeatureSettings,
    SplitSettings,
    effect_combinations,
    stored_features,
)
from tuning.datasets.splits.split import Split, partition_of, split_clips, without
from tuning.datasets.store.augmentation_bank import bank_bytes, prepare_bank
from tuning.datasets.store.build import Prepared, prepare
from tuning.models.ser_settings import SERSettings
from tuning.search.resources import ENVIRONMENT

COMBINED = effect_combinations(["stretch", "pitch", "noise"])  # the effects of the space `ser`
DRAWN = "bank, three effects at 0.5 each"
TRAINED = ("clips as they are", DRAWN, "bank, masks and mixup")


def start_ray() -> int:
    """Start Ray on this machine, and return its number of CPUs."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray
    import ray.data

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    return int(ray.cluster_resources()["CPU"])


class Bench:
    """A corpus with its split, whose features are prepared into the folder `data.prepared`."""

    def __init__(self, options: argparse.Namespace, prepared: str) -> None:
        self.data = DataSettings(corpus=options.corpus, root=options.root, prepared=prepared)
        self.features = FeatureSettings(num_frames=options.frames)
        self.versions: int = options.versions
        self.corpus: Corpus = load_corpus(self.data, ["valence", "arousal"])
        self.split: Split = split_clips(self.corpus.clips, SplitSettings())
        self.partitions = partition_of(self.corpus.clips, self.split)

    def plain(self, features: FeatureSettings) -> tuple[Prepared, float]:
        """Prepare the features of all clips; also return the seconds that it took."""
        began = time.perf_counter()
        prepared = prepare(self.corpus, self.partitions, features, features.num_frames, self.data)
        return prepared, time.perf_counter() - began

    def bank(self, combinations: Sequence[str], augment: AugmentSettings) -> tuple[dict[str, Prepared], float]:
        """Prepare the training clips' bank; also return the seconds that it took."""
        began = time.perf_counter()
        sealed = {clip.id for clip in self.split.test}
        features = self.features
        bank = prepare_bank(
            self.corpus,
            self.partitions,
            self.split.train,
            sealed,
            features,
            features.num_frames,
            self.data,
            augment,
            combinations,
        )
        return bank, time.perf_counter() - began


def preparation(bench: Bench) -> tuple[list[list[str]], Prepared, dict[str, Prepared]]:
    """Time preparation: rows of the table, the features and the bank."""
    warm = bench.features.model_copy(update={"num_mels": 127})
    bench.plain(warm)  # starts the workers and imports what they need
    bench.bank(["stretch"], AugmentSettings(stretch_range=(0.81, 1.2), versions=1))
    prepared, seconds = bench.plain(bench.features)
    reference = seconds / prepared.num_extracted
    rows = [["plain features", str(prepared.num_extracted), f"{seconds:.1f}", f"{1 / reference:.0f}", "1.00"]]
    bank: dict[str, Prepared] = {}

    def row(name: str, made: dict[str, Prepared], seconds: float) -> list[str]:
        versions = bench.versions * sum(part.num_extracted for part in made.values())
        per_version = seconds / versions
        return [name, str(versions), f"{seconds:.1f}", f"{1 / per_version:.0f}", f"{per_version / reference:.2f}"]

    for effect in EFFECTS:
        made, seconds = bench.bank([effect], AugmentSettings(versions=bench.versions))
        rows.append(row(effect, made, seconds))
        bank |= made
    together = [name for name in COMBINED if name not in EFFECTS]
    made, seconds = bench.bank(together, AugmentSettings(versions=bench.versions))
    rows.append(row("stretch, pitch and noise, two or three of them", made, seconds))
    bank |= made
    # Ranges that differ by next to nothing, so that everything is made again.
    again = AugmentSettings(
        versions=bench.versions,
        stretch_range=(0.8, 1.2001),
        pitch_semitones=2.0001,
        noise_range=(0.001, 0.010001),
        speed_range=(0.9, 1.10001),
        room_seconds=(0.1, 0.50001),
        formant_range=(0.9, 1.10001),
    )
    made, seconds = bench.bank(list(bank), again)
    rows.append(row("all of them in one pass", made, seconds))
    return rows, prepared, bank


def epoch(data: TrialData, number: int, batch_size: int) -> float:
    """Milliseconds of drawing the training batches of an epoch."""
    began = time.perf_counter()
    for _ in data.train_batches(number, batch_size, 0):
        pass
    return 1000 * (time.perf_counter() - began)


def training(data: TrialData) -> Callable[[int, int], float]:
    """A function that trains the default SER network for epoch `number` and returns the milliseconds."""
    import torch

    from tuning.models.ser import SER

    torch.manual_seed(0)
    model = SER(SERSettings(), data.num_features, data.train_targets.shape[1])
    optimizer = torch.optim.Adam(model.parameters())

    def train(number: int, batch_size: int) -> float:
        began = time.perf_counter()
        for batch in data.train_batches(number, batch_size, 0):
            loss = (model(batch["features"], batch["num_frames"]) - batch["targets"]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return 1000 * (time.perf_counter() - began)

    return train


def in_turns(make: dict[str, Callable[[int], float]], repeats: int) -> list[list[str]]:
    """Time the functions in turns; a row for each: median, minimum, maximum, and the ratio to the first."""
    times: dict[str, list[float]] = {name: [] for name in make}
    for repeat in range(repeats + 2):
        for name, function in make.items():
            milliseconds = function(repeat)
            if repeat >= 2:  # the first two warm up
                times[name].append(milliseconds)
    reference = next(iter(times.values()))
    rows = []
    for name, measured in times.items():
        ratios = [value / other for value, other in zip(measured, reference, strict=True)]
        rows.append([name, *spread(measured, 1), f"{statistics.median(ratios):.2f}"])
    return rows


def epochs(
    bench: Bench, prepared: Prepared, bank: dict[str, Prepared], options: argparse.Namespace
) -> tuple[list[list[str]], list[list[str]]]:
    """Time epochs of batches alone, and of training on them; a row for each augmentation."""
    import torch

    torch.set_num_threads(1)
    split = without(bench.split, [clip for clip, _ in prepared.quarantine])
    resident = ResidentData.read(prepared, split, bank)
    effects: dict[str, Any] = {f"{effect}_prob": 0.5 for effect in ("stretch", "pitch", "noise")}
    masks: dict[str, Any] = {"freq_masks": 2}
    cases = {
        "clips as they are": {},
        DRAWN: effects,
        "time_masks=2": {"time_masks": 2},
        "mixup_prob=0.5": {"mixup_prob": 0.5},
        "freq_masks=2": masks,
        "bank, masks and mixup": effects | {"time_masks": 2, "mixup_prob": 0.5},
    }
    batches: dict[str, Callable[[int], float]] = {}
    trainings: dict[str, Callable[[int], float]] = {}
    for name, values in cases.items():
        augment = AugmentSettings(versions=bench.versions, **values)
        stored = stored_features(bench.features, augment)
        source = resident if stored == bench.features else ResidentData.read(bench.plain(stored)[0], split)
        data = augment_data(source, bench.features, augment)
        batches[name] = lambda number, data=data: epoch(data, number, options.batch)  # type: ignore[misc]
        if name in TRAINED:
            train = training(data)
            trainings[name] = lambda number, train=train: train(number, options.batch)  # type: ignore[misc]
    return in_turns(batches, options.repeats), in_turns(trainings, max(1, options.repeats // 3))


def main(arguments: list[str] | None = None) -> int:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("repeats", 15), ("versions", 2), ("batch", 32), ("frames", 80)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--corpus", default="demo", help="corpus layout with valence and arousal")
    parser.add_argument("--root", help="folder of the corpus")
    parser.add_argument("--out", help="also write the tables to this file")
    options = parser.parse_args(arguments)
    import ray

    started = not ray.is_initialized()
    cpus = start_ray() if started else int(ray.cluster_resources()["CPU"])
    try:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(options, folder)
            prepared_rows, prepared, bank = preparation(bench)
            batch_rows, training_rows = epochs(bench, prepared, bank, options)
    finally:
        if started:
            ray.shutdown()
    num_train = len(bench.split.train)
    preparing = table(["preparation", "clips or versions", "seconds", "per second", "ratio"], prepared_rows)
    drawing = table(["an epoch of batches, ms", "median", "min", "max", "ratio"], batch_rows)
    trained = table(["an epoch of training, ms", "median", "min", "max", "ratio"], training_rows)
    notes = (
        f"Corpus {options.corpus}, {len(bench.corpus.clips)} clips, {num_train} of them to train on, {options.frames} "
        f"frames of {bench.features.name}; {bench.versions} versions of a clip and combination; in memory the bank "
        f"takes {bank_bytes(bank, num_train) / 1e6:.0f} MB.\nPreparation on {cpus} CPUs; batches of {options.batch}, "
        f"{options.repeats} epochs of batches and a third as many of training in turns, one thread. "
        f"{machine('ray', 'librosa', 'numpy', 'torch')}"
    )
    publish(f"## Augmentation\n\n{preparing}\n\n{drawing}\n\n{trained}\n\n{notes}", options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
