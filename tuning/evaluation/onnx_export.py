"""Export a saved model to ONNX, and compare the outputs of onnxruntime with those of PyTorch."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tuning.config.errors import UserError
from tuning.data.plan import read_corpus
from tuning.datasets import storage
from tuning.datasets.features.audio import AudioError, decode, segment_slice
from tuning.datasets.features.frames import check_encoder, num_samples
from tuning.datasets.features.spectral import FrontEnd, extract
from tuning.datasets.loaders.in_memory import collate
from tuning.evaluation.onnx_graph import Graph, WaveformGraph, normalised
from tuning.evaluation.saved_model import Best, load_best, outputs_of
from tuning.models import MODELS
from tuning.training.encoders import reads_text

FILE = "model.onnx"
WAVEFORM_FILE = "waveform.onnx"
OPSET = 20
# Largest difference between onnxruntime's and PyTorch's outputs, relative to the largest output (at least 1).
TOLERANCE = 1e-4
COMPARED = 8  # clips of the corpus that are compared, also shortened and padded
LONGEST_LAG = 16  # frames over which a summary over time takes changes; fewer frames need another graph
MAX_FRAMES = 100_000  # an upper bound lets the exporter decide comparisons of lengths


def export(folder: Path, waveform: bool = False) -> tuple[Path, float, str, str]:
    """Write `model.onnx` into a folder best/ and compare its outputs; with `waveform`, `waveform.onnx`.

    Returns:
        The file, the largest difference, and descriptions of the compared clips and of the lengths that it takes.

    Raises:
        UserError: the model can't be read or exported, or its outputs differ. No file is then left.
    """
    try:
        best = load_best(folder)
        check_encoder(best.config.features)  # by which it hears what is compared
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
            "sound is not exported"
        )
    if best.config.model.encoder_training is not None and best.model.encoder.kind == "wavlm":
        raise UserError(
            f"{folder}: expected another encoder than a WavLM with model.encoder_training, since PyTorch does not "
            "export its attention"
        )
    if best.config.features.normalise == "group":
        raise UserError(
            f"{folder}: expected features.normalise=train, got group: what a recording is normalised by are others of "
            "its speaker or artist, which the graph does not hear"
        )
    if waveform:
        _check_waveform(folder, best)
    file = folder / (WAVEFORM_FILE if waveform else FILE)
    file.unlink(missing_ok=True)
    program, shortest = (_waveform_program(best), None) if waveform else _program(best)
    partial = folder / f"{file.name}.partial"
    try:
        _write(program, best, shortest, partial, waveform)
        sounds, what = _sounds(best)
        if waveform:
            difference, scale = _compare_waveforms(partial, best, sounds)
        else:
            difference, scale = _compare(partial, best, _clips(best, sounds), shortest)
        if not difference <= TOLERANCE * scale:
            raise UserError(
                f"{file}: expected the outputs of PyTorch within {TOLERANCE * scale:.1e}, got a difference of "
                f"{difference:.1e}; the file is deleted"
            )
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    frames = f"{shortest} or more" if shortest else best.config.features.num_frames
    lengths = f"samples at {best.config.features.sample_rate_hz} Hz" if waveform else f"{frames} frames"
    return file, difference, what, f"any number of clips, {'any number of ' if waveform else ''}{lengths}"


def _check_waveform(folder: Path, best: Best) -> None:
    """Refuse a model whose signal path can't be exported. Raises UserError."""
    features = best.config.features
    if features.name in ("encoder", "egemaps"):
        raise UserError(
            f"{folder}: expected features of mel, mfcc or chroma with waveform=true, got features.name="
            f"{features.name}, which is computed outside of the graph; without waveform=true its values are the input"
        )
    if features.trim_db is not None:
        raise UserError(
            f"{folder}: expected features.trim_db=null with waveform=true, got {features.trim_db:g}: which ends are "
            "silent is decided by the whole recording, before a segment is cut"
        )


def _graph(best: Best) -> Graph:
    model = copy.deepcopy(best.model)
    return Graph(model, best.features.mean, best.features.std, best.config.task.name == "classification")


def _waveform_program(best: Best) -> Any:
    """Export the model with its front end; any number of waveforms of any length."""
    features = best.config.features
    graph = WaveformGraph(_graph(best), FrontEnd(features, best.num_frames), features.num_frames).eval()
    samples = num_samples(best.num_frames, features)
    inputs = (torch.zeros(3, samples), torch.tensor([samples, samples, max(1, samples // 2)]))
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("samples", min=2)
    shapes = {"waveform": {0: batch, 1: length}, "num_samples": {0: batch}}
    try:
        return _exported(graph, inputs, shapes, best)
    except Exception as error:  # torch has no common class for errors of its exporter
        raise UserError(_why_not(best, error)) from error


def _exported(graph: torch.nn.Module, inputs: tuple[torch.Tensor, ...], shapes: dict[str, Any], best: Best) -> Any:
    outputs = ["logits", "probabilities"] if best.config.task.name == "classification" else ["outputs"]
    with _quiet(), torch.no_grad():
        program = torch.export.export(graph, inputs, dynamic_shapes=shapes, strict=False)
        return torch.onnx.export(
            program, input_names=list(shapes), output_names=outputs, opset_version=OPSET, dynamo=True, verbose=False
        )


def _why_not(best: Best, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    return f"{best.config.model.name}: expected a model that can be exported, got: {reason}"


def _program(best: Best) -> tuple[Any, int | None]:
    """Export the model; return the program and the fewest frames that it takes, None if their number is fixed."""
    frames = best.config.features.num_frames
    num_features = len(best.features.mean)
    graph = _graph(best).eval()
    fewest = max(1, best.model.min_frames)
    batch = torch.export.Dim("batch", min=1)
    # Short lengths may need another graph: one frame after pooling, too few for a lag. At last the length is fixed.
    lowest = [low for low in (LONGEST_LAG + 1, (LONGEST_LAG + 1) * fewest) if low < frames]
    for low in [*lowest, None]:
        inputs = (torch.zeros(3, frames, num_features), torch.tensor([frames, frames, max(1, frames // 2)]))
        shape: dict[int, Any] = {0: batch}
        if low is not None:
            shape[1] = torch.export.Dim("frames", min=low, max=MAX_FRAMES)
        try:
            return _exported(graph, inputs, {"features": shape, "num_frames": {0: batch}}, best), low
        except Exception as error:  # torch has no common class for errors of its exporter
            last = error
    raise UserError(_why_not(best, last))


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


def _write(program: Any, best: Best, shortest: int | None, file: Path, waveform: bool) -> None:
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
        "normalisation": "in the graph",
        "model": config.model.name,
    }
    if waveform:
        about["sample_rate_hz"] = str(config.features.sample_rate_hz)
        about["input"] = "waveform: mono, [clips, samples]; num_samples: of each clip, without padding"
    else:
        about["fewest_frames"] = str(shortest or frames)
        about["input"] = "features: unnormalised, [clips, frames, features]; num_frames: of each clip, without padding"
    if config.data.target_range is not None:
        about["target_range"] = json.dumps(config.data.target_range)
    del model.metadata_props[:]
    for name, value in about.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())


Clips = list[tuple["np.ndarray", int]]  # unnormalised frames [frames, features] and how many are no padding


def _sounds(best: Best) -> tuple[list[np.ndarray], str]:
    """Waveforms of some training clips as predictions hear them, or noise if the corpus can't be read; and which."""
    config, features = best.config, best.config.features
    samples = num_samples(best.num_frames, features)
    found: list[np.ndarray] = []
    try:
        corpus, split = read_corpus(config)
        for clip in split.train:
            raw = storage.read_bytes(corpus.root, clip.id)
            with suppress(AudioError):  # as preparation leaves it out
                found.append(
                    decode(raw, features.sample_rate_hz, config.data, samples, features.segment, features.trim_db)
                )
            if len(found) == COMPARED:
                break
        if found:
            return found, f"{len(found)} clips of the corpus {corpus.name}, whole, shortened and padded"
        reason = "none can be used"
    except (UserError, OSError) as error:
        reason = str(error).splitlines()[0]
    rng = np.random.default_rng(0)
    # Louder and softer, so that outputs differ.
    noise = [rng.standard_normal(samples).astype(np.float32) * 0.3**number for number in range(COMPARED)]
    return noise, f"{COMPARED} clips of noise, since the corpus is not at hand ({reason})"


def _clips(best: Best, sounds: list[np.ndarray]) -> Clips:
    """The features of waveforms."""
    features, frames = best.config.features, best.config.features.num_frames
    found: Clips = []
    for waveform in sounds:
        values, num_valid = extract(waveform, features, best.num_frames)
        kept = values[segment_slice(num_valid, frames, features.segment)]
        row = np.zeros((frames, values.shape[1]), dtype=np.float32)
        row[: len(kept)] = kept
        found.append((row, len(kept)))
    return found


def _compare_waveforms(file: Path, best: Best, sounds: list[np.ndarray]) -> tuple[float, float]:
    """The largest difference from what `tuning predict` computes, and the largest output, at least 1."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    features = best.config.features
    shares = np.linspace(0, 1, len(sounds))
    shorter = [waveform[: max(1, int(share * len(waveform)))] for waveform, share in zip(sounds, shares, strict=True)]
    longer = [np.concatenate([waveform, waveform[: len(waveform) // 2]]) for waveform in sounds]
    difference, scale = 0.0, 1.0
    for batch in (sounds, sounds[:1], shorter, longer):
        counts = np.array([len(waveform) for waveform in batch])
        padded = np.stack([np.pad(waveform, (0, counts.max() - len(waveform))) for waveform in batch])
        outputs = session.run(None, {"waveform": padded, "num_samples": counts})
        rows = [(0, num_valid, values) for values, num_valid in (extract(w, features, best.num_frames) for w in batch)]
        no_targets = np.zeros((1, 1), np.float32)
        known = outputs_of(
            best,
            collate(rows, no_targets, best.features, features.num_frames, features.padding, features.segment),
        )
        difference = float(np.maximum(difference, np.abs(outputs[0].astype(np.float64) - known).max()))  # NaN stays
        scale = max(scale, float(np.abs(known).max()))
    return difference, scale


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
