"""Measure what a speech encoder costs for each clip, and for Whisper what hearing a clip without its padding changes.

`python -m benchmarks.speech_encoders ENCODER FOLDER [--clips 20] [--repeats 3] [--out FILE]`, on idle cores.

Recordings of FOLDER are taken evenly. A preparation decodes a recording, resamples it and pools the hidden states of
all layers over it; transformers' own code is given the decoded waveform. Both take turns on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import machine, publish, recordings, spread, table
from tuning.datasets.features.audio import decode
from tuning.datasets.features.spectral import extract
from tuning.datasets.settings import DataSettings, FeatureSettings
from tuning.models.encoder_shapes import SPEECH, SPEECH_RATE_HZ, speech_shape
from tuning.models.hugging_face import transformers
from tuning.models.pretrained import load_config, load_encoder


def by_transformers(encoder: str) -> Callable[[Path], np.ndarray]:
    """The mean over a recording of every layer's states [layers + 1, hidden_size], by the package's own code."""
    model, extractor = load_encoder(encoder, SPEECH), transformers.AutoFeatureExtractor.from_pretrained(encoder)
    is_whisper, shape = load_config(encoder, SPEECH).model_type == "whisper", speech_shape(encoder)

    def run(file: Path) -> np.ndarray:
        waveform = decode(file.read_bytes(), SPEECH_RATE_HZ, DataSettings())
        inputs = extractor(waveform, sampling_rate=SPEECH_RATE_HZ, return_tensors="pt")[extractor.model_input_names[0]]
        with torch.inference_mode():
            found = (model.encoder if is_whisper else model)(inputs, output_hidden_states=True).hidden_states
        frames = shape.frames_in(len(waveform))
        return np.stack([states[0, :frames].mean(0).numpy() for states in found])

    return run


def measure(files: Sequence[Path], encoder: str, repeats: int) -> tuple[dict[str, list[float]], np.ndarray]:
    """Seconds of CPU of a clip by variant and repeat, and by layer how far the means are off, of their norm."""
    settings = FeatureSettings(name="encoder", encoder=encoder, encoder_layers="all", encoder_pooling="mean")
    layers = speech_shape(encoder).num_layers + 1

    def ours(file: Path) -> np.ndarray:
        waveform = decode(file.read_bytes(), SPEECH_RATE_HZ, DataSettings())
        return extract(waveform, settings, 1)[0].reshape(layers, -1)

    runs = {"a preparation": ours, "transformers' own code": by_transformers(encoder)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    means: dict[str, list[np.ndarray]] = {}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            before = time.process_time()
            means[name] = [run(file) for file in files]
            if repeat:  # the first warms up
                seconds[name].append((time.process_time() - before) / len(files))
    found, wanted = (np.stack(values) for values in means.values())
    return seconds, np.median(np.linalg.norm(found - wanted, axis=2) / np.linalg.norm(wanted, axis=2), axis=0)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speech_encoders", description=__doc__)
    parser.add_argument("encoder", help="hub name or folder")
    parser.add_argument("folder", type=Path, help="with recordings of at most 30 seconds")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", help="also write the tables to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = recordings(options.folder, options.clips)
    seconds, off = measure(files, options.encoder, options.repeats)
    slowest = statistics.median(seconds["transformers' own code"])
    rows = [[name, *spread(times, 3), f"{slowest / statistics.median(times):.1f}"] for name, times in seconds.items()]
    layers = [[str(layer), f"{value:.2g}"] for layer, value in enumerate(off)]
    publish(
        f"""## {Path(options.encoder).name} on {options.folder.name}

{table(["seconds of CPU of a clip", "median", "least", "most", "times as fast"], rows)}

{table(["layer", "mean over the clip, off by"], layers)}

- {len(files)} recordings, {options.repeats} repeats. Off: the median over clips of the distance as a share of the norm.
- {machine("torch", "transformers")}.""",
        options.out,
    )


if __name__ == "__main__":
    main()
