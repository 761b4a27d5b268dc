"""Train one configuration: build its model, crop and augment its data, and train once or once per inner fold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tuning.config.schema import Config, import_model, parse_sent
from tuning.datasets.loaders.generated import ExtendedData
from tuning.datasets.loaders.kfold import Folds
from tuning.datasets.loaders.mixup import augment_data
from tuning.datasets.redaction import redacted_tree
from tuning.datasets.store.reader import FeatureStatistics
from tuning.experiment.checkpoint_upload import TrialUploads
from tuning.experiment.trial_spec import TrialSpec
from tuning.training.complexity import cost_of
from tuning.training.cross_validation import FoldResults
from tuning.training.encoders import located, reads_text
from tuning.training.ranking import ranking_metrics
from tuning.training.tasks import task_of
from tuning.training.trainer import Trainer, model_inputs


def build_model(config: Config, num_features: int, layout: str | None = None) -> Any:
    """Return the configuration's model with new weights from torch's global generator.

    `layout` is a folder with the configuration of the encoder whose layers are part of the model, to build these
    without their pretrained weights.
    """
    config = located(config)
    settings, layers, num_outputs = config.model, config.features.encoder_layers, task_of(config).num_outputs
    build, mixes = import_model(config.model.name), settings.layer_weights == "learnt"
    if not mixes and settings.encoder_training is None:
        return build(settings, num_features, num_outputs)
    from tuning.models.layer_mix import LayerMix
    from tuning.models.tuned_layers import Layers, TunedLayers

    if settings.encoder_training is None:
        if not isinstance(layers, list):
            raise ValueError(f"features.encoder_layers: expected numbers with model.layer_weights=learnt, got {layers}")
        return LayerMix(build(settings, num_features // len(layers), num_outputs), len(layers))
    assert isinstance(layers, int)
    rank = settings.lora_rank if settings.encoder_training == "lora" else None
    saves_memory, name = settings.gradient_checkpointing, layout or str(config.features.encoder)
    encoder = Layers(name, layers, rank, settings.lora_alpha, saves_memory, pretrained=layout is None)
    model = build(settings, num_features, num_outputs)
    return TunedLayers(LayerMix(model, encoder.num_states) if mixes else model, encoder, reads_all=mixes)


def train(
    spec: TrialSpec,
    data: Any,
    report: Any,
    rank: int = 0,
    world_size: int = 1,
    device: Any = None,
    splits: bool = True,
) -> None:
    """Run a trial's training, or with `split.inner_folds` one for each fold.

    Args:
        spec: the trial.
        data: what its `tuning.data.source.DataSource` opens.
        report: called with one row per epoch, or per fold.
        rank: number of this worker, from 0.
        world_size: number of workers.
        device: torch device; the CPU if None.
        splits: whether batches that do not fit into memory are trained in parts.
    """
    import torch

    config = located(parse_sent(spec.config), spec.encoder or None)
    torch.set_num_threads(config.resources.cpus_per_worker)
    checkpoints = Path(spec.directory) / "checkpoints" if spec.directory else None
    if spec.note:
        report = _noting(report, spec.note)
    if config.search.second_metric:
        report = _with_cost(report, config, data)
    uploads = None
    if checkpoints and spec.remote:
        uploads = TrialUploads(checkpoints, spec.remote, rank)
        checkpoints, report = uploads.folder, uploads.begin(report)
    if config.split.inner_folds is not None:
        train_folds(config, data, report, checkpoints, device, uploads, splits)
        return
    make_trainer(
        config, data, checkpoints, device, rank, world_size, splits=splits, clips_at_once=spec.clips_at_once
    ).fit(report)


def _noting(report: Any, note: str) -> Any:
    """Return a report function that appends a note to a trial's last row."""
    return lambda row: report(row | {"finished": f"{row['finished']}; {note}"} if row["finished"] else row)


def _with_cost(report: Any, config: Config, data: Any) -> Any:
    """Return a report function that adds the model's cost to each row."""
    some = data.fold(0) if config.split.inner_folds is not None else data
    cropped = cropped_data(some, config)
    name = config.search.second_metric
    assert name is not None
    model = build_model(config, cropped.num_features)
    others: list[Any] = []
    if reads_text(config):
        import torch

        _, *others = model_inputs(next(iter(cropped.val_batches(1))), torch.device("cpu"))
    found = cost_of(model, name, config.features.num_frames, cropped.num_features, others)
    return lambda row: report(row | {name: found})


def cropped_data(data: Any, config: Config) -> Any:
    """Return the data as the configuration's model reads them: cropped, with generated clips, effects, masks and mixup.

    Raises:
        ValueError: the data lack something that the configuration asks for.
    """
    features = config.features
    cropped = data.crop(features.num_frames, features.padding, features.segment).normalised(features.normalise)
    if isinstance(cropped, ExtendedData):
        cropped = replace(cropped, share=config.augment.synthetic_share)
    elif config.augment.synthetic_share > 0:
        raise ValueError(
            f"augment.synthetic_share: expected 0 where no clips were generated, got {config.augment.synthetic_share:g}"
        )
    return augment_data(cropped, features, config.augment)


def make_trainer(
    config: Config,
    data: Any,
    checkpoints: Path | None,
    device: Any = None,
    rank: int = 0,
    world_size: int = 1,
    **options: Any,
) -> Trainer:
    """Return a training whose model has the initial weights of the configuration's seed.

    `options` are `splits`, `clips_at_once` and `longer` of `Trainer`.
    """
    import torch

    torch.manual_seed(config.seed)
    cropped = cropped_data(data, config)
    model = build_model(config, cropped.num_features)
    task = task_of(config)
    task.check_labels(cropped.train_targets)
    return Trainer(
        model,
        cropped,
        task,
        config,
        ranking_metrics(config.task)[config.search.metric],
        device=device,
        checkpoints=checkpoints,
        rank=rank,
        world_size=world_size,
        about=_about(config, cropped.statistics, data.frames),
        **options,
    )


def _about(config: Config, statistics: FeatureStatistics, prepared_frames: int) -> dict[str, Any]:
    """What a checkpoint needs besides weights to become a model that predicts, as plain values."""
    return {
        "config": redacted_tree(config.model_dump(mode="json")),
        "labels": config.task.classes if config.task.name == "classification" else config.task.targets,
        "features": {
            "mean": statistics.mean.tolist(),
            "std": statistics.std.tolist(),
            "prepared_frames": prepared_frames,
        },
    }


def train_folds(
    config: Config,
    folds: Folds,
    report: Any,
    checkpoints: Path | None,
    device: Any = None,
    uploads: TrialUploads | None = None,
    splits: bool = True,
) -> None:
    """Cross-validate: train one model per fold, each from the same seed and with early stopping on its own validation.

    `report` is called with the row of `FoldResults` after each fold. After an interruption the current fold resumes
    from its last checkpoint, and finished folds are not trained again.

    Raises:
        FloatingPointError: a fold's loss is not finite, which fails the trial.
    """
    kept = checkpoints / FoldResults.FILE if checkpoints else None
    results = FoldResults(len(folds), config.search.metric, kept)
    add = uploads.after(results.add) if uploads else results.add
    if results.num_finished:  # the interruption may have come before the row was reported
        report(results.row())
    for number in range(results.num_finished, len(folds)):
        of_fold = checkpoints / f"fold-{number + 1}" if checkpoints else None
        try:
            make_trainer(config, folds.fold(number), of_fold, device, splits=splits).fit(add)
        except FloatingPointError as error:
            raise FloatingPointError(f"inner fold {number + 1}: {error}") from error
        report(results.row())
