"""Say what has to be known with the scores of a search, in the same words wherever they are shown.

The leaderboard, the report, the log and the model card all show what `score_notes` returns.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuning.config.distributions import plain
from tuning.config.schema import Config
from tuning.config.space import Space
from tuning.data import known_encoders
from tuning.datasets.splits.split import Split
from tuning.experiment.directory import SearchFolder, TrialRecord, write_json, write_text
from tuning.training.ranking import Mode, better

FILE = "notes.json"


@dataclass(frozen=True)
class Source:
    """What is to be known with the scores of some configurations.

    Args:
        deciding: dotted paths of the settings that decide whether there is anything.
        cautions: what is to be said of a configuration, a sentence each; the first comma or colon ends its gist.
    """

    deciding: tuple[str, ...]
    cautions: Callable[[Config], list[str]]


TRANSDUCTIVE = (
    "features are normalised by all clips of each speaker or artist, those of the test too (transductive): on a single "
    "recording of a new one the model can't be used, and scores are not to be compared with those of models that can"
)


def _transductive(config: Config) -> list[str]:
    return [TRANSDUCTIVE] if config.features.normalise == "group" else []


SOURCES = [
    Source(("features.normalise",), _transductive),
    *(
        Source(deciding, functools.partial(known_encoders.known_encoder_cautions, of))
        for of, deciding in known_encoders.PLACES.items()
    ),
]


def cautions(settings: Space | Sequence[Config], split: Split) -> list[str]:
    """What has to be known with every score of a search, or of some of its configurations, on a split.

    What does not hold for all of them says for which.
    """
    found = split.cautions()
    for source in SOURCES:
        configs = list(settings.variants(source.deciding)) if isinstance(settings, Space) else settings
        said = [source.cautions(config) for config in configs]
        for caution in dict.fromkeys(caution for each in said for caution in each):
            holding = [config for config, each in zip(configs, said, strict=True) if caution in each]
            found.append(caution + _where(holding, configs, source.deciding))
    return found


def _where(holding: Sequence[Config], configs: Sequence[Config], deciding: Sequence[str]) -> str:
    """By which settings those of some configurations, for which something holds, differ from the others."""
    if len(holding) == len(configs):
        return ""
    values = {path: (_values(holding, path), _values(configs, path)) for path in deciding}
    told = [f"{path}={' or '.join(mine)}" for path, (mine, known) in values.items() if len(mine) < len(known)]
    return f"; in trials with {', '.join(told)}" if told else "; in some trials"


def _values(configs: Sequence[Config], path: str) -> list[str]:
    section, _, leaf = path.partition(".")
    values: list[Any] = [getattr(getattr(config, section), leaf, None) for config in configs]
    return list(dict.fromkeys(map(plain, values)))


def cautions_of_trials(folder: SearchFolder, configs: Sequence[Config], split: Split) -> list[str]:
    """`cautions` of some trials of a search, with the user's table of encoders as it was when they ran."""
    table = folder.path / known_encoders.TABLE
    if table.exists():
        kept = {"known_table": str(table)}
        configs = [config.model_copy(update={"data": config.data.model_copy(update=kept)}) for config in configs]
    return cautions(configs, split)


def score_notes(
    known: Sequence[str], best: TrialRecord | None, baseline: Mapping[str, float], metric: str, mode: Mode
) -> list[str]:
    """Cautions (`cautions`), and whether the best trial is no better than the constant predictor.

    Args:
        known: cautions, as recorded with the search.
        best: the best trial; None if none has a result.
        baseline: the constant predictor's metrics; without the ranking one nothing is compared.
        metric: that ranks the trials.
        mode: its direction.
    """
    value, constant = best.value(metric) if best else None, baseline.get(metric)
    if value is None or constant is None or better(mode, value, constant):
        return list(known)
    figures = f"({metric} {value:.4f}, constant {constant:.4f})"
    told = f"the best trial is no better than the constant predictor {figures}: it has learned nothing that helps on "
    return [*known, f"{told}these clips"]


def search_notes(
    folder: SearchFolder, ranked: Sequence[TrialRecord], baseline: Mapping[str, float], metric: str, mode: Mode
) -> list[str]:
    """`score_notes` of a search in its folder, of which `ranked` are the trials, best first."""
    best = next((record for record in ranked if record.value(metric) is not None), None)
    return score_notes(_read_cautions(folder), best, baseline, metric, mode)


def tested_notes(metrics: Mapping[str, float], constant: Mapping[str, float], metric: str, mode: Mode) -> list[str]:
    """Whether a tested model is no better than the constant predictor, by `metric` without its `val_`."""
    name = f"test_{metric.removeprefix('val_')}"
    value, least = metrics.get(name), constant.get(name)
    if value is None or least is None or better(mode, value, least):
        return []
    short = name.removeprefix("test_")
    return [f"{short} {value:.4f} is no better than the constant predictor's {least:.4f} on the test"]


def metric_of_test(config: Config, mode: Mode) -> tuple[str, Mode]:
    """The metric by which a test is judged, with its direction: the ranking one, or in place of the loss its own."""
    if config.search.metric != "val_loss":
        return config.search.metric, mode
    return ("val_uar", "max") if config.task.name == "classification" else ("val_rmse", "min")


def write_cautions(folder: SearchFolder, space: Space, split: Split) -> None:
    """Record the cautions of a search for all who show its scores later, and the user's table that some come from.

    A later run need not name the table again.
    """
    kept = folder.path / known_encoders.TABLE
    if (table := space.fixed().data.known_table) is not None:
        write_text(kept, Path(table).read_text(encoding="utf-8"))
    if kept.exists():
        space = Space({**space.settings, known_encoders.SETTING: str(kept)}, space.distributions)
    write_json(folder.path / FILE, cautions(space, split))


def log_scores(
    folder: SearchFolder, ranked: Sequence[TrialRecord], metric: str, mode: Mode, baseline: Mapping[str, float]
) -> None:
    """Write the best trial's score with its notes into the search's log."""
    logger = logging.getLogger("tuning.search")
    best = next((record for record in ranked if record.value(metric) is not None), None)
    if best is not None:
        logger.info("best trial %d: %s %.4f", best.number, metric, best.value(metric))
    for note in search_notes(folder, ranked, baseline, metric, mode):
        logger.info("note: %s", note)


def _read_cautions(folder: SearchFolder) -> list[str]:
    """The recorded cautions; none of a search of an earlier version."""
    file = folder.path / FILE
    if not file.exists():
        return []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        found = None
    if isinstance(found, list):
        return [str(caution) for caution in found]
    return [
        f"{FILE} can't be read, and what it says of these scores is missing; the search's command, typed again with "
        "more trials, has it written again"
    ]
