"""Choose trials that predict well together, by greedy forward selection on validation clips.

Caruana, Niculescu-Mizil, Crew & Ksikes (2004), "Ensemble selection from libraries of models", ICML; here without
replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tuning.config.errors import UserError
from tuning.config.schema import Config
from tuning.data.data_module import DataModule
from tuning.data.keys import DataKey, data_key
from tuning.data.source import DataSource
from tuning.evaluation.repeated_seeds import Candidate
from tuning.evaluation.saved_model import load_checkpoint, rows_of, trial_checkpoints, validation_outputs
from tuning.search.compute import compute
from tuning.training.ranking import Mode, better
from tuning.training.tasks import task_of, validation_metrics
from tuning.training.trial import cropped_data

POOL = 50  # of the best trials, from which members are chosen


@dataclass(frozen=True)
class Selection:
    """The chosen trials in the order in which they were added, and the score on validation after each was added."""

    chosen: list[Candidate]
    scores: list[float]
    pool: int
    size: int
    metric: str

    def record(self) -> dict[str, Any]:
        """How the members were chosen, as JSON."""
        return {
            "by": "greedy", "at_most": self.size, "metric": self.metric, "scores": self.scores, "pool": self.pool
        }  # fmt: skip

    def sentence(self) -> str:
        """How the members were chosen, for a person."""
        return (
            f"chosen among the {self.pool} best by greedy forward selection on validation, {self.metric} "
            f"{' -> '.join(f'{score:.4f}' for score in self.scores)}"
        )


class Validated(NamedTuple):
    """What a model says of the clips that validated it: ids [N], labels [N, targets], outputs [N, K]."""

    ids: list[str]
    targets: np.ndarray
    outputs: np.ndarray


def select(location: str, pool: Sequence[Candidate], size: int, known: DataModule, mode: Mode) -> Selection:
    """Choose at most `size` trials of a pool, whose order is that of their rank.

    Outputs are those of each trial's best checkpoint for its validation clips; with inner folds those of each fold's
    model for that fold, and a score is the mean over folds, as in the ranking.

    Args:
        location: folder or URI of the search.
        pool: candidates, best first.
        size: the most members.
        known: the data of the search, its features prepared.
        mode: direction of its ranking metric.
    """
    found = _validate_all(location, pool, known)
    config = pool[0].config
    task, metric = task_of(config), config.search.metric
    order, scores = choose(
        [[fold.outputs for fold in folds] for folds in found],
        lambda number, together: validation_metrics(task, found[0][number].targets, together).get(metric),
        task.mean_outputs,
        mode,
        size,
    )
    if not order:
        raise UserError(f"select: expected a trial whose {metric} is defined on every validation part, got none")
    return Selection([pool[place] for place in order], scores, len(pool), size, metric)


def choose(
    outputs: Sequence[Sequence[np.ndarray]],
    score: Callable[[int, np.ndarray], float | None],
    mean: Callable[[Sequence[np.ndarray]], np.ndarray],
    mode: Mode,
    size: int,
) -> tuple[list[int], list[float]]:
    """Choose models: first the best alone, then whichever improves what is chosen most, until none does.

    Args:
        outputs: of each model for the clips of each fold.
        score: of outputs together for the clips of a fold; None where it is undefined.
        mean: what several models predict together.
        mode: whether a lower or a higher score is better.
        size: the most models.

    Returns:
        Numbers of models in the order in which they were chosen, and the mean score over folds after each.
    """
    chosen: list[int] = []
    scores: list[float] = []
    while len(chosen) < size:
        best: tuple[float, int] | None = None
        for number in range(len(outputs)):
            if number in chosen:
                continue
            members = [outputs[member] for member in (*chosen, number)]
            of_folds = [score(fold, mean([each[fold] for each in members])) for fold in range(len(outputs[0]))]
            if any(value is None for value in of_folds):
                continue
            value = float(np.mean([value for value in of_folds if value is not None]))
            if best is None or better(mode, value, best[0]):
                best = value, number
        if best is None or (scores and not better(mode, best[0], scores[-1])):
            break
        scores.append(best[0])
        chosen.append(best[1])
    return chosen, scores


def _validate_all(location: str, pool: Sequence[Candidate], known: DataModule) -> list[list[Validated]]:
    """What each candidate says of its validation clips, by inner fold, in the order of clips of the first."""
    by_data: dict[DataKey, list[int]] = {}
    for place, candidate in enumerate(pool):
        by_data.setdefault(data_key(candidate.config), []).append(place)
    found: dict[int, list[Validated]] = {}
    for places in by_data.values():
        config = _plain(pool[places[0]].config)
        wanted = [(trial_checkpoints(location, pool[place].record), _plain(pool[place].config)) for place in places]
        found |= zip(places, compute(config, validate, known.source(config), wanted), strict=True)
    first = found[0]
    return [[_in_order(fold, of.ids) for fold, of in zip(found[place], first, strict=True)] for place in sorted(found)]


def _plain(config: Config) -> Config:
    """The configuration without what changes training clips alone, so that no bank and no GAN is needed."""
    off = {name: 0.0 for name in type(config.augment).model_fields if name.endswith("_prob") and name != "mask_prob"}
    return config.model_copy(update={"augment": config.augment.model_copy(update=off | {"synthetic_share": 0.0})})


def validate(source: DataSource, wanted: Sequence[tuple[Sequence[tuple[str, str]], Config]]) -> list[list[Validated]]:
    """Load each trial's checkpoints, one for each inner fold, and compute outputs; in this process."""
    data = source.open()
    found = []
    for checkpoints, config in wanted:
        folds = []
        for number, (folder, name) in enumerate(checkpoints):
            loader = cropped_data(data.fold(number) if config.split.inner_folds is not None else data, config)
            outputs = validation_outputs(load_checkpoint(folder, name), loader)
            folds.append(Validated(loader.val_ids.tolist(), loader.val_targets, outputs))
        found.append(folds)
    return found


def _in_order(found: Validated, ids: Sequence[str]) -> Validated:
    """The same with clips in the order of `ids`: other features may lie in other shards."""
    rows = rows_of(ids, found.ids)
    return Validated(list(ids), found.targets[rows], found.outputs[rows])
