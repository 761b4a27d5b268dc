"""Measure how far a graph from the waveform is from `tuning predict`, on recordings.

`python -m benchmarks.waveforms BEST FOLDER [--clips 50] [--out FILE]`: BEST is a finalized model with the file that
`tuning export BEST waveform=true` writes; recordings of FOLDER are taken evenly. The graph hears what librosa loads.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import librosa
import numpy as np
import onnxruntime

from benchmarks.report import machine, publish, recordings, table
from tuning.evaluation.inference import Predictor
from tuning.evaluation.saved_model import load_members


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waveforms", description=__doc__)
    parser.add_argument("best", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--out", help="also write the table to this file")
    options = parser.parse_args()
    chosen = recordings(options.folder, options.clips)
    (best,) = load_members(options.best)
    classes = best.config.task.name == "classification"
    columns = [f"p_{label}" if classes else label for label in best.labels]
    began = time.process_time()
    expected = Predictor([best]).predict(chosen)[columns].to_numpy()
    predicted = time.process_time() - began
    session = onnxruntime.InferenceSession(str(options.best / "waveform.onnx"))
    rate = int(session.get_modelmeta().custom_metadata_map["sample_rate_hz"])
    began = time.process_time()
    found = []
    for file in chosen:
        waveform, _ = librosa.load(file, sr=rate)
        inputs = {"waveform": waveform[None], "num_samples": np.array([len(waveform)])}
        found.append(session.run(None, inputs)[-1][0])
    heard = time.process_time() - began
    off = np.abs(np.array(found) - expected).max(0)
    rows = [[name, f"{expected[:, i].std():.3f}", f"{off[i]:.1e}"] for i, name in enumerate(columns)]
    publish(
        f"""## Graphs from the waveform: {best.config.model.name}, {options.folder.name}

{table(["output", "deviation over clips", "farthest from predict"], rows, left=1)}

- {len(chosen)} recordings; seconds of CPU: {predicted:.1f} by predict, {heard:.1f} by librosa and the graph.
- {machine("librosa", "torch", "onnx", "onnxruntime")}.""",
        options.out,
    )


if __name__ == "__main__":
    main()
