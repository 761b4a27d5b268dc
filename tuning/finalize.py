"""After the search: retrain the winner and test it once. `python -m tuning.finalize results/NAME`."""

from __future__ import annotations

import csv
import datetime
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning.checks import UserError
from tuning.config import Config, parse_config

if TYPE_CHECKING:
    from datasets.resident import ResidentData
    from datasets.splits import Split
    from tuning.search.folder import SearchFolder, TrialRecord
    from tuning.space import Space

USAGE = """\
python -m tuning.finalize results/NAME [again=true]

Retrains the winner of a finished search on its training and validation clips, for as many epochs as its best one
took, tests it once on the sealed test clips, and writes results/NAME/best/. A second look at the test is refused
unless again=true; every look is recorded.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input, 1 anything else."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"--help", "-h"} & set(arguments):
        print(USAGE)
        return 0
    try:
        again = "again=true" in arguments
        paths = [argument for argument in arguments if argument != "again=true"]
        if len(paths) != 1:
            raise UserError(f"expected one folder of a search, got {paths or 'none'}\n{USAGE}")
        from tuning.search.folder import SearchFolder

        path = Path(paths[0])
        if not (path / "config.yaml").exists():
            raise UserError(f"{path}: expected the folder of a search (with its config.yaml)")
        with SearchFolder(path.parent, path.name) as folder:
            finalize(folder, again)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def finalize(folder: SearchFolder, again: bool = False) -> dict[str, float]:
    """Retrain the winner, test it, write `best/`; the test's metrics.

    Raises:
        UserError: an unfinished search, another corpus than the search's, no test clips, or a second look at them.
    """
    import numpy as np

    from tuning.plan import read_corpus
    from tuning.space import read_recorded
    from tuning.stages import corpus_fingerprint, prepare_features, usable_split
    from tuning.training import VALIDATION_BATCH

    looks_file = folder.path / "test_looks.json"
    looks = json.loads(looks_file.read_text(encoding="utf-8")) if looks_file.exists() else []
    if looks and not again:
        raise UserError(
            f"{folder.path}: expected a search whose test clips nobody has looked at, got one tested on "
            f"{looks[-1]['when']} (trial {looks[-1]['trial']}); again=true looks once more and records it"
        )
    space = read_recorded(folder.path / "config.yaml")
    winner, config = _winner(folder, space)
    corpus, split = read_corpus(config)
    folder.check_identity(space, corpus_fingerprint(corpus, config))
    prepared = prepare_features(space, config, corpus, split, _no_progress)
    split = usable_split(split, prepared)
    if not split.test:
        raise UserError(f"{folder.path}: expected clips that are sealed for the test, got none (split.method)")

    data = _data(prepared, split, config)
    training = _retrain(folder, config, data, winner)
    outputs = np.concatenate([training.predict(batch).cpu().numpy() for batch in data.val_batches(VALIDATION_BATCH)])
    metrics = {f"test_{name}": value for name, value in training.task.metrics(data.val_targets, outputs).items()}
    constant = training.task.constant_baseline(data.train_targets, data.val_targets)
    looks.append({"when": _now(), "trial": winner.number, "metrics": metrics})
    from tuning.search.folder import write_json

    # Recorded before anything is shown: a look counts even if what follows fails.
    write_json(looks_file, looks)
    constant = {f"test_{name.removeprefix('val_')}": value for name, value in constant.items()}
    _write_best(folder, config, training, data, winner, {"test": metrics, "constant": constant})
    _write_predictions(folder, config, split, data, outputs)
    _print(folder, config, winner, metrics, constant, len(outputs))
    return metrics


def _no_progress(done: int, total: int) -> None:
    """Features are there since the search, or are few: nothing to say."""
    if done < total:
        from tuning.search.resources import start_ray

        start_ray(Config())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _winner(folder: SearchFolder, space: Space) -> tuple[TrialRecord, Config]:
    from tuning.leaderboard import rank
    from tuning.tasks import check_metric

    shared = space.fixed()
    mode = check_metric(space, shared)
    records = folder.records()
    metric = shared.search.metric
    ranked = [r for r in rank(records, metric, mode) if r.status in ("done", "stopped") and metric in r.metrics]
    running = [record.number for record in records if not record.is_final]
    if running or not ranked:
        raise UserError(
            f"{folder.path}: expected a finished search with a winner, got "
            f"{f'trials that have not ended ({running})' if running else 'no trial with a result'}"
        )
    params = json.loads((folder.trial(ranked[0].number) / "params.json").read_text(encoding="utf-8"))
    return ranked[0], parse_config(params["config"])


def _data(prepared: dict[str, Any], split: Split, config: Config) -> ResidentData:
    """Training and validation clips to train on, test clips in validation's place."""
    from datasets.reading import FeatureStatistics, read_part
    from datasets.resident import ResidentData
    from tuning.stages import variant_key

    variant = prepared[variant_key(config.features)]
    sealed = {clip.id for clip in split.test}
    train = read_part(variant, split.train + split.val, sealed)
    test = read_part(variant, split.test, sealed=())
    statistics = FeatureStatistics.of([(train.num_frames, train.features)])
    return ResidentData(train, test, statistics, variant.num_frames).crop(config.features.num_frames)


def _retrain(folder: SearchFolder, config: Config, data: ResidentData, winner: TrialRecord) -> Any:
    """The winner trained for the epochs that its best took; no clip decides when to stop.

    A rate that was lowered by looking at validation clips is replayed from the trial's record.
    """
    import torch

    from tuning.search.folder import read_progress
    from tuning.tasks import ranking_metrics, task_of
    from tuning.training import Training
    from tuning.trial import build_model

    rates = [float(row["learning_rate"]) for row in read_progress(folder.trial(winner.number))]
    assert winner.best_epoch is not None
    torch.set_num_threads(config.resources.cpus_per_worker)
    torch.manual_seed(config.seed)
    mode = ranking_metrics(config.task.targets)[config.search.metric]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(config, data.num_features)
    training = Training(model, data, task_of(config), config, mode, device=device)
    print(f"retrain   trial {winner.number} for {winner.best_epoch} epochs on {data.num_train} clips", flush=True)
    for epoch in range(1, winner.best_epoch + 1):
        training.epoch = epoch
        if config.optim.schedule == "plateau":
            training.base_rate = rates[epoch - 1]
        training.train_epoch()
    return training


def _write_best(
    folder: SearchFolder, config: Config, training: Any, data: ResidentData, winner: TrialRecord, scores: dict[str, Any]
) -> None:
    from omegaconf import OmegaConf
    from safetensors.torch import save_file

    from tuning.search.folder import write_json, write_text

    best = folder.path / "best"
    best.mkdir(exist_ok=True)
    write_text(best / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json"))))
    weights = {name: tensor.contiguous().cpu() for name, tensor in training.model.state_dict().items()}
    save_file(weights, best / "model.safetensors")
    write_json(best / "labels.json", {"targets": config.task.targets, "target_range": config.data.target_range})
    statistics = {"mean": data.statistics.mean.tolist(), "std": data.statistics.std.tolist()}
    write_json(best / "features.json", config.features.model_dump(mode="json") | statistics)
    validation = {"trial": winner.number, "epochs": winner.best_epoch, "validation": winner.metrics}
    write_json(best / "metrics.json", validation | scores)


def _write_predictions(folder: SearchFolder, config: Config, split: Split, data: ResidentData, outputs: Any) -> None:
    from tuning.search.folder import write_text

    groups = {clip.id: clip.group for clip in split.test}
    targets = config.task.targets
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["clip", "group", *targets, *(f"predicted_{target}" for target in targets)])
    for clip, wanted, found in zip(data.val_ids.tolist(), data.val_targets.tolist(), outputs.tolist(), strict=True):
        writer.writerow([clip, groups[clip], *wanted, *found])
    write_text(folder.path / "best" / "test_predictions.csv", stream.getvalue())


def _print(
    folder: SearchFolder,
    config: Config,
    winner: TrialRecord,
    metrics: dict[str, float],
    constant: dict[str, float],
    num_clips: int,
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    names = [name for name in metrics if name.removeprefix("test_").split("_")[0] in ("rmse", "r2", "ccc", "pearson")]
    for heading in ("metric", "validation", "test", "constant"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for name in names:
        on_val = winner.metrics.get(f"val_{name.removeprefix('test_')}")
        cells = [on_val, metrics[name], constant.get(name)]
        table.add_row(name.removeprefix("test_"), *("" if cell is None else f"{cell:.4f}" for cell in cells))
    print(f"test      {num_clips} sealed clips, looked at once and recorded in {folder.path / 'test_looks.json'}")
    Console(file=sys.stdout, width=100, highlight=False).print(table)
    print(f"model     {folder.path / 'best'}")


if __name__ == "__main__":
    sys.exit(main())
