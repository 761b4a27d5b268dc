"""Load models and compute their outputs: those that finalize saved, and those of trials by their checkpoints."""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from tuning.config.schema import Config
from tuning.datasets import storage
from tuning.datasets.loaders.in_memory import Batch, TrialData
from tuning.datasets.store.reader import FeatureStatistics
from tuning.experiment.directory import TrialRecord
from tuning.experiment.reading import DamagedFileError, read_config, read_content, read_json, read_settings, understood
from tuning.models.pretrained import snapshot_of
from tuning.training.encoders import saved_layout, with_saved_encoder, without_pretrained_weights
from tuning.training.trainer import DamagedCheckpointError, model_inputs, read_checkpoint
from tuning.training.trial import build_model

# Clips in a batch of a saved model, in its test and in every prediction: other sizes may change the last bit.
CLIPS_PER_BATCH = 64
# Of the metadata in a file of weights: checksums of its bytes, and of what else the outputs depend on.
CHECKSUM = "crc32"
SETTINGS = "settings_crc32"
HEARD_BY = "encoder_content"  # in features.json: what identifies the encoder that computed the features


class Best(NamedTuple):
    """A trained model with all that prediction needs."""

    model: Any  # in evaluation mode, on the CPU
    config: Config  # config.features describes how frames are made
    labels: list[str]  # names of the outputs in order: classes, or targets
    features: FeatureStatistics  # mean and standard deviation for the normalisation of valid frames
    num_frames: int  # the length of prepared features, of which the model takes config.features.num_frames


def load_best(path: str | Path) -> Best:
    """Load the model, its settings, the names of its outputs and its normalisation from a folder best/.

    Runs no code from the folder. If `labels.json` does not name the classes, they are called "0", "1", ..., with a
    warning. Raises ValueError with the path if a file is missing, can't be read, or does not fit the others.
    """
    path = Path(path)
    config = with_saved_encoder(read_config(path / "config.yaml", read_settings(path / "config.yaml")), path)
    statistics, num_frames = _features(path / "features.json", config)
    weights, made_with = _weights(path / "model.safetensors")
    num_features, layout = len(statistics.mean), saved_layout(config, path)
    # Building the model draws random weights, which must not change the caller's random numbers.
    with torch.random.fork_rng(devices=[]):
        if config.task.name == "classification" and config.task.classes is None:
            classes = _num_outputs(str(path / "model.safetensors"), config, num_features, weights, layout)
            config = _with_classes(config, classes)
        model = build_model(config, num_features, layout)
    labels = _labels(path / "labels.json", config)
    _fill(model, weights, str(path / "model.safetensors"), "config.yaml")
    if made_with is not None and made_with != _settings_checksum(path):  # earlier versions wrote none
        files = f"{path / 'config.yaml'} or {path / 'features.json'}"
        raise DamagedFileError.told(files, "expected the model, features and normalisation of the weights, got others")
    return Best(model.eval(), config, labels, statistics, num_frames)


def load_members(path: str | Path) -> list[Best]:
    """Load the model of a folder best/, or those of its ensemble.

    Raises:
        ValueError: as `load_best`; the encoder of its features is another than when it was trained.
    """
    found = []
    for folder in member_folders(Path(path)):
        found.append(load_best(folder))
        _check_heard_by(folder / "features.json", found[-1].config)
    return found


def _check_heard_by(file: Path, config: Config) -> None:
    """Compare the encoder of a model's features with that of its training, as far as both are known."""
    if config.features.name != "encoder":
        return
    then, now = read_json(file, dict).get(HEARD_BY), snapshot_of(str(config.features.encoder))
    if then and now and then != now and len(then) == len(now):  # a folder's hash, or a commit of the hub
        raise ValueError(
            f"{file}: expected the encoder with which the model was trained ({then}), got another in "
            f"'{config.features.encoder}' ({now})"
        )


def load_checkpoint(folder: str, name: str = "best.pt") -> Best:
    """Load the model of a trial, of any search on disk or in an object store, from its best checkpoint.

    Runs no code from the file. Without names of classes they are called "0", "1", ..., with a warning.

    Args:
        folder: the trial's checkpoints, a path or a URI.
        name: of the file.

    Raises:
        ValueError: with the file's name, if it is missing or damaged, or was written by a version that did not keep
            settings and normalisation in it.
    """
    file = storage.below(folder, name)
    state = _state(folder, name)
    if "optimizer" in state and "config" not in state:
        raise ValueError(f"{file}: expected a checkpoint to predict with, best.pt, got one to resume a training from")
    if missing := [part for part in ("config", "features", "model") if part not in state]:
        raise ValueError(
            f"{file}: expected a checkpoint with its settings and normalisation, got one without {', '.join(missing)}; "
            "an older version wrote it"
        )
    config = without_pretrained_weights(read_config(file, state["config"]))
    with understood(file, "a checkpoint with settings, normalisation and weights"):
        mean, std = (np.array(state["features"][part], dtype=np.float32) for part in ("mean", "std"))
        frames = int(state["features"]["prepared_frames"])
        if not all(isinstance(weight, torch.Tensor) for weight in state["model"].values()):
            raise TypeError("weights that are no tensors")
    classes = config.task.name == "classification"
    with torch.random.fork_rng(devices=[]):
        if classes and config.task.classes is None:
            config = _with_classes(config, _num_outputs(file, config, len(mean), state["model"]))
        model = build_model(config, len(mean))
    labels = _class_names(file, state.get("labels"), config) if classes else config.task.targets
    _fill(model, state["model"], file, "its settings")
    return Best(model.eval(), config, labels, FeatureStatistics(mean, std), frames)


def _state(folder: str, name: str) -> dict[str, Any]:
    file = storage.below(folder, name)
    try:
        content = storage.read_bytes(folder, name)
    except FileNotFoundError:
        raise ValueError(f"{file}: expected a checkpoint, got no such file") from None
    except OSError as error:
        raise ValueError(f"{file}: expected a checkpoint, got: {' '.join(str(error).split())}") from None
    try:
        state = read_checkpoint(content, "cpu")
    except DamagedCheckpointError as error:
        raise ValueError(f"{file}: {error}") from None
    if not isinstance(state, dict):
        raise ValueError(f"{file}: expected a checkpoint with weights, got a {type(state).__name__}")
    return state


def trial_checkpoints(location: str, record: TrialRecord) -> list[tuple[str, str]]:
    """Folder and name of the best checkpoint of a trial, or of those of its inner folds as far as they are finished.

    `location` is the folder or URI of its search.
    """
    place = storage.below(storage.absolute(location), "trials", f"{record.number:04d}", "checkpoints")
    names = [f"fold-{number}/best.pt" for number in range(1, record.epochs + 1)] if record.folds else ["best.pt"]
    return [(place, name) for name in names]


def member_folders(best: Path) -> list[Path]:
    """The folders of all models of a folder best/ that form an ensemble, in the order in which they are averaged."""
    return [best, *sorted(path.parent for path in best.glob("members/*/config.yaml"))]


def outputs_of(best: Best, batch: Batch) -> np.ndarray:
    """Compute the outputs float32 [B, K] of a saved model for a batch of at most CLIPS_PER_BATCH clips, on the CPU.

    It uses as many threads as the training did, since each of them sums a part. So the outputs of a batch are the same
    in any process.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(best.config.resources.cpus_per_worker)
    try:
        with torch.no_grad():
            outputs: np.ndarray = best.model(*model_inputs(batch, torch.device("cpu"))).numpy()
    finally:
        torch.set_num_threads(threads)
    return outputs


def validation_outputs(best: Best, data: TrialData) -> np.ndarray:
    """Compute the outputs [N, K] of a saved model for the validation clips of data, in the order of `val_ids`."""
    return np.concatenate([outputs_of(best, batch) for batch in data.val_batches(CLIPS_PER_BATCH)])


def rows_of(wanted: Sequence[str], ids: Sequence[str]) -> list[int]:
    """The place of each wanted clip among `ids`."""
    row_of = {clip: row for row, clip in enumerate(ids)}
    return [row_of[clip] for clip in wanted]


def _features(file: Path, config: Config) -> tuple[FeatureStatistics, int]:
    """The normalisation, and the length of prepared features."""
    found = read_json(file, dict)
    settings = config.features.model_dump(mode="json")
    for name, value in settings.items():
        if name in found and found[name] != value:
            raise ValueError(
                f"{file}: expected the features of config.yaml, got a model made with others: "
                f"features.{name} is {value} there and {found[name]} here"
            )
    with understood(file, "a normalisation"):
        arrays = [np.array(found.get(name, []), dtype=np.float32) for name in ("mean", "std")]
        frames = int(found.get("prepared_frames", config.features.num_frames))
    # An encoder's own files say its size, and may not be where a model is tested.
    wanted = arrays[0].size if config.features.name == "encoder" else config.features.num_features
    if any(array.shape != (wanted,) for array in arrays):
        raise DamagedFileError.of(file, f"mean and std of {wanted} features", [array.size for array in arrays])
    if not all(np.isfinite(array).all() for array in arrays) or frames < config.features.num_frames:
        raise DamagedFileError.of(file, "numbers, and at least as many frames as the model takes", f"{frames} frames")
    return FeatureStatistics(*arrays), frames


def write_weights(best: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write weights in the format of safetensors into a folder best/ that has its settings and normalisation.

    The file's metadata have the CRC-32 of the weights, of which the format knows nothing, and that of the settings.
    """
    checksums = {CHECKSUM: f"{zlib.crc32(_data(save_tensors(weights))):08x}", SETTINGS: _settings_checksum(best)}
    (best / "model.safetensors").write_bytes(save_tensors(weights, metadata=checksums))


def _settings_checksum(best: Path) -> str:
    """The CRC-32 of what outputs depend on besides weights: the rest of config.yaml may be edited, and files laid out
    anew."""
    settings = read_settings(best / "config.yaml")
    content = [settings.get("model"), settings.get("features"), read_json(best / "features.json", dict)]
    return f"{zlib.crc32(json.dumps(content, sort_keys=True, default=str).encode()):08x}"


def _weights(file: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    """Read weights, and the checksum of the settings that they were written with, if it was written."""
    content = read_content(file)
    try:
        found: dict[str, torch.Tensor] = load_tensors(content)
        metadata = json.loads(content[8 : len(content) - len(_data(content))]).get("__metadata__", {})
        known, made_with = metadata.get(CHECKSUM), metadata.get(SETTINGS)
    except Exception as error:  # a damaged file raises whatever its reader stumbles over
        raise DamagedFileError.of(file, "weights in safetensors", error) from None
    if known is not None and known != f"{zlib.crc32(_data(content)):08x}":  # earlier versions wrote none
        raise DamagedFileError.told(file, "expected the weights that were written, got others")
    return found, made_with


def _data(content: bytes) -> memoryview:
    """What follows the header of a file of safetensors, whose length the first eight bytes say."""
    return memoryview(content)[8 + int.from_bytes(content[:8], "little") :]


def _labels(file: Path, config: Config) -> list[str]:
    if config.task.name == "regression":
        return config.task.targets
    found = read_json(file, dict) if file.exists() else {}
    return _class_names(f"{file}", found.get("classes"), config)


def _class_names(file: str, names: Sequence[str] | None, config: Config) -> list[str]:
    num_classes = len(config.task.classes or [])
    if not names:
        warnings.warn(
            f"{file}: no names of classes in it; they are called by their index, 0 to {num_classes - 1}", stacklevel=4
        )
        return [str(index) for index in range(num_classes)]
    if len(names) != num_classes:
        raise ValueError(f"{file}: expected names of {num_classes} classes, as the model has, got {len(names)}")
    return [str(name) for name in names]


def _with_classes(config: Config, num_classes: int) -> Config:
    classes = [str(index) for index in range(num_classes)]
    return config.model_copy(update={"task": config.task.model_copy(update={"classes": classes})})


def _num_outputs(
    file: str, config: Config, num_features: int, weights: dict[str, torch.Tensor], layout: str | None = None
) -> int:
    """Find the number of classes of a model whose settings do not name them, from the shapes of its weights."""
    two, three = (build_model(_with_classes(config, k), num_features, layout).state_dict() for k in (2, 3))
    for name, tensor in two.items():
        for axis, size in enumerate(tensor.shape):
            if size != three[name].shape[axis] and name in weights and weights[name].dim() == tensor.dim():
                return weights[name].shape[axis]
    raise ValueError(f"{file}: expected the output layer of {config.model.name}, found none")


def _fill(model: Any, weights: dict[str, torch.Tensor], file: str, settings: str) -> None:
    own = model.state_dict()
    problems = [f"no {name}" for name in own if name not in weights]
    problems += [f"{name}, which the model has not" for name in weights if name not in own]
    for name, tensor in own.items():
        if name in weights and weights[name].shape != tensor.shape:
            problems.append(f"{name} {list(weights[name].shape)} in place of {list(tensor.shape)}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{file}: expected weights of the model in {settings}, got {'; '.join(problems[:5])}{more}")
    model.load_state_dict(weights)
