"""Export a saved model to ONNX, and compare the outputs of onnxruntime with those of PyTorch."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tuning.config.errors import UserError
from tuning.data.plan import read_corpus
from tuning.datasets import storage
from tuning.datasets.features.audio import AudioError, decode, segment_slice
from tuning.datasets.features.spectral import extract, num_samples
from tuning.evaluation.onnx_graph import Graph, normalised
from tuning.evaluation.saved_model import Best, load_best
from tuning.models import MODELS
from tuning.training.encoders import reads_text

FILE = "model.onnx"
OPSET = 20
# Largest difference between onnxruntime's and PyTorch's outputs, relative to the largest output (at least 1).
TOLERANCE = 1e-4
COMPARED = 8  # clips of the corpus that are compared, also shortened and padded
LONGEST_LAG = 16  # frames over which a summary over time takes changes; fewer frames need another graph
MAX_FRAMES = 100_000  # an upper bound lets the exporter decide comparisons of lengths


def export(folder: Path) -> tuple[float, str, str]:
    """Write `model.onnx` into a folder best/ and compare its outputs.

    Returns:
        The largest difference, and descriptions of the compared clips and of the lengths that the model takes.

    Raises:
        UserError: the model can't be read or exported, or its outputs differ. No file is then left.
    """
    try:
        best = load_best(folder)
    except ValueError as error:
        raise UserError(str(error)) from None
    if best.config.model.name not in MODELS:
        raise UserError(
            f"{folder}: expected a model of one of the families {', '.join(MODELS)}, got '{best.config.model.name}', "
            "whose own code may do what ONNX has not"
        )
    if reads_text(best.config):
        raise UserError(
            f"{folder}: expected a model of sound alone, got '{best.config.model.name}', which reads lyrics, too; "
            "tuning predict predicts with it"
        )
    if best.config.features.padding != "masked":
        raise UserError(
            f"{folder}: expected features.padding=masked, got '{best.config.features.padding}': padding that counts as "
            "sound is made before the model, which alone is exported"
        )
    file = folder / FILE
    file.unlink(missing_ok=True)
    program, shortest = _program(best)
    partial = folder / f"{FILE}.partial"
    try:
        _write(program, best, shortest, partial)
        clips, what = _clips(best)
        difference, scale = _compare(partial, best, clips, shortest)
        if not difference <= TOLERANCE * scale:
            raise UserError(
                f"{file}: expected the outputs of PyTorch within {TOLERANCE * scale:.1e}, got a difference of "
                f"{difference:.1e}; the file is deleted"
            )
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    frames = best.config.features.num_frames
    return difference, what, f"any number of clips, {f'{shortest} or more' if shortest else frames} frames"


def _program(best: Best) -> tuple[Any, int | None]:
    """Export the model; return the program and the fewest frames that it takes, None if their number is fixed."""
    frames = best.config.features.num_frames
    num_features = len(best.features.mean)
    model = copy.deepcopy(best.model)
    graph = Graph(model, best.features.mean, best.features.std, best.config.task.name == "classification").eval()
    fewest = max(1, model.min_frames)
    batch = torch.export.Dim("batch", min=1)
    # Short lengths may need another graph: one frame after pooling, too few for a lag. At last the length is fixed.
    lowest = [low for low in (LONGEST_LAG + 1, (LONGEST_LAG + 1) * fewest) if low < frames]
    for low in [*lowest, None]:
        inputs = (torch.zeros(3, frames, num_features), torch.tensor([frames, frames, max(1, frames // 2)]))
        shape: dict[int, Any] = {0: batch}
        if low is not None:
            shape[1] = torch.export.Dim("frames", min=low, max=MAX_FRAMES)
        try:
            with _quiet(), torch.no_grad():
                exported = torch.export.export(
                    graph, inputs, dynamic_shapes={"features": shape, "num_frames": {0: batch}}, strict=False
                )
                names = ["logits", "probabilities"] if graph.is_classes else ["outputs"]
                program = torch.onnx.export(
                    exported, input_names=["features", "num_frames"], output_names=names, opset_version=OPSET,
                    dynamo=True, verbose=False,
                )  # fmt: skip
            return program, low
        except Exception as error:  # torch has no common class for errors of its exporter
            last = error
    reason = " ".join(str(last).split())[:300]
    raise UserError(f"{best.config.model.name}: expected a model that can be exported, got: {reason}")


@contextmanager
def _quiet() -> Iterator[None]:
    """A context without the warnings of torch's exporter about its future and about other packages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _write(program: Any, best: Best, shortest: int | None, file: Path) -> None:
    """Write the graph with metadata that tell how to use it; lists and settings are JSON."""
    import onnx

    config = best.config
    model = program.model_proto
    frames = config.features.num_frames
    about = {
        "task": config.task.name,
        "labels": json.dumps(best.labels),
        "features": json.dumps(config.features.model_dump(mode="json")),
        "prepared_frames": str(best.num_frames),
        "frames": str(frames),
        "fewest_frames": str(shortest or frames),
        "input": "features: unnormalised, [clips, frames, features]; num_frames: of each clip, without padding",
        "normalisation": "in the graph",
        "model": config.model.name,
    }
    if config.data.target_range is not None:
        about["target_range"] = json.dumps(config.data.target_range)
    del model.metadata_props[:]
    for name, value in about.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())


Clips = list[tuple["np.ndarray", int]]  # unnormalised frames [frames, features] and how many are no padding


def _clips(best: Best) -> tuple[Clips, str]:
    """Some training clips, or noise of the same mean and deviation if the corpus can't be read; with a description."""
    config, features, frames = best.config, best.config.features, best.config.features.num_frames
    samples = num_samples(best.num_frames, features)
    found: Clips = []
    try:
        corpus, split = read_corpus(config)
        for clip in split.train[:COMPARED]:
            raw = storage.read_bytes(corpus.root, clip.id)
            waveform = decode(raw, features.sample_rate_hz, config.data, samples, features.segment, features.trim_db)
            values, num_valid = extract(waveform, features, best.num_frames)
            kept = values[segment_slice(num_valid, frames, features.segment)]
            row = np.zeros((frames, values.shape[1]), dtype=np.float32)
            row[: len(kept)] = kept
            found.append((row, len(kept)))
    except (UserError, AudioError, OSError) as error:
        found = []
        reason = str(error).splitlines()[0]
    if found:
        return found, f"{len(found)} clips of the corpus {corpus.name}, whole, shortened and padded"
    noise = np.random.default_rng(0).standard_normal((COMPARED, frames, len(best.features.mean)))
    rows = (noise * best.features.std + best.features.mean).astype(np.float32)
    return [(row, frames) for row in rows], f"{COMPARED} clips of noise, since the corpus is not at hand ({reason})"


def _compare(file: Path, best: Best, clips: Clips, shortest: int | None) -> tuple[float, float]:
    """The largest difference of all outputs, and the largest output, at least 1."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    difference, scale = 0.0, 1.0
    for features, num_frames in _batches(clips, shortest):
        outputs = session.run(None, {"features": features, "num_frames": num_frames})
        with torch.no_grad():
            batch = normalised(features, num_frames, best.features.mean, best.features.std)
            wanted = best.model(batch, torch.from_numpy(num_frames))
        expected = [wanted.numpy()]
        if len(outputs) > 1:
            expected.append(wanted.softmax(1).numpy())
        for found, known in zip(outputs, expected, strict=True):
            differences = np.abs(found.astype(np.float64) - known)
            difference = float(np.maximum(difference, differences.max()))  # NaN stays
            scale = max(scale, float(np.abs(known).max()))
    return difference, scale


def _batches(clips: Clips, shortest: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches to compare: all clips, one clip, shortened clips, and other lengths if the model takes them."""
    features = np.stack([row for row, _ in clips])
    num_frames = np.array([count for _, count in clips], dtype=np.int64)
    frames = features.shape[1]
    yield features, num_frames
    yield features[:1], num_frames[:1]
    shares = np.linspace(0, 1, len(clips))
    short = np.maximum(1, (num_frames * shares).astype(np.int64))
    yield features, short
    if shortest is not None:
        yield features[:, :shortest], np.minimum(num_frames, shortest)
        longer = np.concatenate([features, features[:, : frames // 2 + 1]], axis=1)
        yield longer, np.minimum(2 * num_frames, longer.shape[1])
        yield longer, num_frames
