"""One configuration -> data, model, training: the adapter between `training.py` and Ray.

Two backends, one loop. One worker trains in the Tune trial itself, which starts in under a second; several
workers are a TorchTrainer inside the Tune trial (seven to ten seconds to its first result).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning.config import Config, import_model, parse_config
from tuning.folds import FoldResults
from tuning.stages import data_key
from tuning.tasks import ranking_metrics, task_of

if TYPE_CHECKING:
    from tuning.folds import Folds
    from tuning.training import Training


def build_model(config: Config, num_features: int) -> Any:
    """The configuration's model with fresh weights from torch's generator."""
    return import_model(config.model.name)(config.model, num_features, task_of(config).num_outputs)


def train(spec: dict[str, Any], data: Any, report: Any, rank: int = 0, world_size: int = 1, device: Any = None) -> None:
    """Run a trial's training, or with `split.inner_folds` one for each fold.

    Args:
        spec: `config` (plain, nested), and `directory` of the trial, or None to keep no checkpoints.
        data: what `datasets.stream`, or `tuning.folds` for inner folds, gave for the configuration's feature variant.
        report: takes one row per epoch, or per fold.
        rank: this worker, among `world_size`.
        device: torch device; CPU if none.
    """
    import torch

    config = parse_config(spec["config"])
    torch.set_num_threads(config.resources.cpus_per_worker)
    checkpoints = Path(spec["directory"]) / "checkpoints" if spec["directory"] else None
    if config.split.inner_folds is not None:
        train_folds(config, data, report, checkpoints, device)
        return
    make_training(config, data, checkpoints, device, rank, world_size).run(report)


def make_training(
    config: Config, data: Any, checkpoints: Path | None, device: Any = None, rank: int = 0, world_size: int = 1
) -> Training:
    """A training that begins with the weights that the configuration's seed gives."""
    import torch

    from datasets.augmented import augment_data
    from tuning.training import Training

    torch.manual_seed(config.seed)
    cropped = augment_data(data.crop(config.features.num_frames), config.features, config.augment)
    model = build_model(config, cropped.num_features)
    task = task_of(config)
    task.check_labels(cropped.train_targets)
    return Training(
        model,
        cropped,
        task,
        config,
        ranking_metrics(config.task)[config.search.metric],
        device=device,
        checkpoints=checkpoints,
        rank=rank,
        world_size=world_size,
    )


def train_folds(config: Config, folds: Folds, report: Any, checkpoints: Path | None, device: Any = None) -> None:
    """A cross-validation: one model per fold, each from the same seed and stopped early by its own validation clips.

    `report` gets the row of `FoldResults` after each fold. After a cut the fold in hand goes on from its last
    checkpoint, and folds that ended are not trained again.

    Raises:
        FloatingPointError: as a training; one fold's failure is the trial's.
    """
    kept = checkpoints / FoldResults.FILE if checkpoints else None
    results = FoldResults(len(folds), config.search.metric, kept)
    if results.num_finished:  # cut off after that fold, perhaps before it was reported
        report(results.row())
    for number in range(results.num_finished, len(folds)):
        of_fold = checkpoints / f"fold-{number + 1}" if checkpoints else None
        try:
            make_training(config, folds.fold(number), of_fold, device).run(results.add)
        except FloatingPointError as error:
            raise FloatingPointError(f"inner fold {number + 1}: {error}") from error
        report(results.row())


def run_trial(spec: dict[str, Any], data: dict[str, Any]) -> None:
    """A Tune trial: trains here, or on a group of workers.

    Args:
        spec: as for `train`, with `number` of the trial and `search`'s name.
        data: references to each feature variant's data in Ray's object store, by `data_key`.
    """
    import ray
    from ray import tune

    config = parse_config(spec["config"])
    reference = data[data_key(config)]
    if config.resources.workers_per_trial > 1:
        _run_workers(spec, config, reference)
        return
    import torch

    gpu = bool(ray.get_gpu_ids()) and torch.cuda.is_available()
    device = torch.device("cuda") if gpu else torch.device("cpu")
    gpus = config.resources.gpus_per_worker
    if gpu and gpus is not None and gpus < 1:
        # Ray's fractions are bookkeeping: without a cap one trial could take the others' memory.
        torch.cuda.set_per_process_memory_fraction(gpus)
    train(spec, ray.get(reference), tune.report, device=device)


def _run_workers(spec: dict[str, Any], config: Config, reference: Any) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    resources = config.resources
    gpus = spec["gpus_per_worker"]
    per_worker = {"CPU": float(resources.cpus_per_worker)} | ({"GPU": gpus} if gpus else {})
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"spec": spec, "reference": [reference]},
        scaling_config=ScalingConfig(
            num_workers=resources.workers_per_trial, use_gpu=bool(gpus), resources_per_worker=per_worker
        ),
        run_config=RunConfig(
            name=f"{spec['search']}-{spec['number']:04d}",
            storage_path=spec["scratch"],
            callbacks=[TuneReportCallback()],
        ),
    )
    trainer.fit()


def _train_worker(loop: dict[str, Any]) -> None:
    import ray
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    train(
        loop["spec"],
        ray.get(loop["reference"][0]),
        ray.train.report,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
    )
