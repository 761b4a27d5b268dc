"""Look at a table of recordings and propose a search: columns, split, metric, space. Imports neither torch nor Ray."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tuning.config.distributions import counted
from tuning.config.errors import UserError
from tuning.config.loader import parse_overrides
from tuning.data.balance import Balance, read_balance
from tuning.data.keys import bank_cost
from tuning.data.plan import Plan, make_plan, training_clips, with_corpus
from tuning.datasets.corpora import layout
from tuning.datasets.corpora.columns import Columns, columns_of
from tuning.experiment.machine import num_cpus
from tuning.models.encoder_shapes import SPEECH_RATE_HZ, speech_shape

# The space by task and number of clips: up to so many, this one. docs/corpora.md says what was measured of it.
SPACES: dict[str, list[tuple[float, str]]] = {
    "classification": [(3000, "ser_ensemble"), (10_000, "ser_demo"), (math.inf, "ser")],
    "regression": [(1000, "crnn_statistics"), (3000, "crnn"), (math.inf, "crnn_full")],
}
# Where `features.encoder` or eGeMAPS is given; up to so many clips an encoder is worth naming where none is.
ENCODER_SPACES = {"classification": "ser_encoder", "regression": "music_encoder"}
ENCODER_CLIPS = 3000
WORTH = {
    "classification": "for 1,440 clips of speech a test UAR of 0.77 where networks without one had 0.64: the same with "
    "features.encoder=openai/whisper-base, or a folder that has it",
    "regression": "for 400 songs test R2 of 0.65 (arousal) and 0.33 (valence) where networks without one had 0.56 and "
    "0.27: the same with features.encoder=musicnn/MSD_musicnn (pip install --no-deps musicnn)",
}
# Below so many clips one validation split is luck, and each trial is a cross-validation.
FEW_CLIPS, INNER_FOLDS = 600, 4
# Seconds of one core for a clip in an epoch that may be trained, and to prepare it once, as searches on real corpora
# took (the heads of the space files); of an encoder also for each augmented version. The others need a GPU at real
# lengths.
EPOCH_SECONDS = {
    "crnn_statistics": 0.010, "crnn": 0.006, "ser_ensemble": 0.003, "ser_demo": 0.005, "ser_encoder": 0.0007,
    "music_encoder": 0.0008,
}  # fmt: skip
PREPARE_SECONDS = {"ser_ensemble": 0.75, "ser_encoder": 0.33, "music_encoder": 1.7}
PREPARE_USUALLY = 0.05
SCALES = [(-1, 1), (0, 1), (1, 5), (1, 7), (1, 9), (1, 10), (0, 10), (0, 100)]
VALENCE_AROUSAL = ["valence", "arousal"]


@dataclass(frozen=True)
class Proposal:
    """A search for a table of recordings.

    Args:
        space: name of a built-in space.
        words: settings of the corpus, its split and the metric, as of a command line.
        lines: what was chosen and why, by a short name.
    """

    space: str
    words: list[str]
    lines: list[tuple[str, str]]


def propose(file: str, given: list[str]) -> Proposal:
    """Propose a search for the recordings that a CSV file lists; `given` settings take the place of what is guessed.

    Raises:
        UserError: no such file, no column of recordings, no labels that are known by name, or a corpus that no search
            could read.
    """
    path, overrides = Path(file), parse_overrides(given)
    if not path.is_file():
        raise UserError(f"{file}: expected a CSV file that lists recordings and their labels, got none there")
    try:
        table = layout.read_table(str(path.absolute().parent), path.name, file)
        table.require_one(file, *filter(None, table.header))
    except ValueError as error:
        raise UserError(str(error)) from None
    found = columns_of(table, VALENCE_AROUSAL)
    guessed = {name: value for name, value in _settings(path, table, found, overrides) if name not in overrides}
    written = {name: value if isinstance(value, str) else json.dumps(value) for name, value in guessed.items()}
    words = [*given, *(f"{name}={value}" for name, value in written.items())]
    task = str(overrides.get("task.name", guessed.get("task.name", "regression")))
    encoded = "features.encoder" in overrides or overrides.get("features.name") == "egemaps"
    space = ENCODER_SPACES[task] if encoded else next(name for most, name in SPACES[task] if len(table.rows) <= most)
    if space == "music_encoder" and "features.pooled_seconds" not in overrides:
        words += _seconds(overrides.get("features.encoder"))
    of_task = ["search.metric=val_uar"] if task == "classification" and "search.metric" not in overrides else []
    if task == "classification":
        of_task += [] if "loss.name" in overrides else ["loss.name=cross_entropy"]
    words = [*words, *of_task]
    plan = make_plan([f"space={space}", *words])
    balance = None
    if _is_small(plan, len(table.rows)) and "split.inner_folds" not in overrides:
        folded = [*words, f"split.inner_folds={INNER_FOLDS}"]
        with suppress(UserError):  # as with too few speakers for so many folds
            plan = make_plan([f"space={space}", *folded])
            balance, words = read_balance(plan), folded
    if balance is None:
        plan = make_plan([f"space={space}", *words])
        balance = read_balance(plan)
    lines = list(_lines(space, with_corpus(plan, balance.corpus), balance))
    if not encoded and len(table.rows) <= ENCODER_CLIPS:
        lines.append(("encoder", f"a small head on a pretrained encoder had {WORTH[task]}"))
    return Proposal(space, words, [*lines, *(("note", unused) for unused in found.unused)])


def _seconds(encoder: object) -> list[str]:
    """The word that lets an encoder hear as much as it can, where there is such a limit, as of Whisper."""
    try:
        shape = speech_shape(str(encoder))
    except ValueError:
        return []  # the plan says what is wrong with it
    most = shape.max_frames
    return [] if most is None else [f"features.pooled_seconds={shape.num_samples(most) / SPEECH_RATE_HZ:g}"]


def _is_small(plan: Plan, num_clips: int) -> bool:
    return num_clips < FEW_CLIPS and plan.config.data.split_column is None


def _settings(
    path: Path, table: layout.Table, found: Columns, overrides: dict[str, object]
) -> Iterator[tuple[str, object]]:
    """Settings of the corpus by what its table seems to hold."""
    yield "data.corpus", "manifest"
    file_column = str(overrides.get("data.file_column", found.file or ""))
    if file_column not in table.header:
        raise UserError(
            f"data.file_column: expected the column with each recording's path, got none that is known by its name or "
            f"content; {path.name} has: {', '.join(table.header)}"
        )
    yield "data.file_column", file_column
    root = str(overrides.get("data.root", "")) or _root(path, [row[file_column].strip() for _, row in table.rows])
    yield "data.root", root
    yield "data.manifest", os.path.relpath(path.absolute(), Path(root).absolute())
    is_classes = overrides.get("task.name") == "classification" or "data.label_column" in overrides
    if found.label and not {"task.targets", "data.target_columns"} & set(overrides):
        is_classes, label = True, found.label
        yield "data.label_column", label
    if is_classes:
        yield "task.name", "classification"
    else:
        yield from _numbers(path, table, found, overrides)
    if found.group:
        yield "data.group_column", found.group
    if found.split:
        yield "data.split_column", found.split
    elif found.fold:
        yield "data.fold_column", found.fold


def _numbers(
    path: Path, table: layout.Table, found: Columns, overrides: dict[str, object]
) -> Iterator[tuple[str, object]]:
    targets = overrides.get("data.target_columns") or overrides.get("task.targets") or found.targets
    columns = [str(target) for target in targets] if isinstance(targets, list) else []
    if not columns:
        raise UserError(
            f"data.label_column: expected a column of classes (label, emotion or class) or of numbers (valence, "
            f"arousal) in {path.name}, which has: {', '.join(table.header)}; name it: data.label_column=... or "
            "task.targets=[...]"
        )
    yield "task.name", "regression"
    yield "task.targets", [column.casefold() for column in columns]
    yield "data.target_columns", columns
    try:
        values = [float(row[column]) for _, row in table.rows for column in columns]
    except (KeyError, ValueError):
        return  # the corpus's own reader names what is wrong
    low, high = min(values), max(values)
    scale = next(((least, most) for least, most in SCALES if least <= low and high <= most), None)
    if scale not in (None, SCALES[0]):
        yield "data.target_range", list(scale or ())


def _root(path: Path, files: list[str]) -> str:
    """The folder below which the first recording is: the table's own, one in it, or the one above."""
    here = path.parent
    try:
        inside = sorted(entry for entry in here.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        inside = []
    for folder in [here, *inside, here.parent]:
        if files and (folder / files[0]).is_file():
            return str(folder)
    return str(here)


def _lines(space: str, plan: Plan, balance: Balance) -> Iterator[tuple[str, str]]:
    config, corpus, split = plan.config, balance.corpus, balance.split
    groups = {clip.group for clip in corpus.clips if clip.group is not None}
    of_groups = f", {len(groups)} speakers or artists" if groups else ""
    labels = ", ".join(config.task.classes or config.task.targets)
    yield "corpus", f"{counted(len(corpus.clips), 'clip')}{of_groups}; {config.task.name} of {labels}"
    if (scale := config.data.target_range) is not None:
        yield "scale", f"{scale[0]:g} to {scale[1]:g}, by the smallest and the largest label; set data.target_range"
    parts = f"{len(split.train)} to train, {len(split.val)} to validate, {len(split.test)} sealed for the test"
    folds = config.split.inner_folds
    inner = f"; with so few clips each trial is a cross-validation over {folds} inner folds" if folds else ""
    yield "split", f"{split.method}: {parts}{inner}"
    if groups or any(clip.fold is not None for clip in corpus.clips):
        yield "", "to test every fold once, in a search for each: tuning folds"
    yield "metric", f"{config.search.metric}: {_of_metric(config.search.metric)}"
    yield "space", f"{space}: {plan.total} trials of at most {counted(plan.space.largest('training.epochs'), 'epoch')}"
    yield "time", _time(space, plan, balance)
    for note in dict.fromkeys([*corpus.notes, *split.notes, *balance.hints]):
        yield "note", note


def _of_metric(metric: str) -> str:
    known = {
        "val_uar": "the mean recall of the classes, in which small ones count as much as large ones",
        "val_loss": "the mean squared error on validation clips, lower is better",
    }
    return known.get(metric, "as set")


def _time(space: str, plan: Plan, balance: Balance) -> str:
    """The time that the search may take on this machine's cores, from what others took."""
    cores = num_cpus()
    measured = "to measure it: --dry-run probe=true"
    if space not in EPOCH_SECONDS:
        return f"at real lengths this space needs a GPU; {measured}"
    folds, clips = plan.config.split.inner_folds, len(balance.split.train)
    if folds is not None:
        clips = (clips + len(balance.split.val)) * (folds - 1)
    epochs = plan.total * clips * plan.space.largest("training.epochs")
    prepared = len(balance.corpus.clips)
    if space in ENCODER_SPACES.values():
        prepared += bank_cost(plan.space).versions * len(training_clips(balance.split, plan.config))
    preparing = PREPARE_SECONDS.get(space, PREPARE_USUALLY) * prepared
    minutes = (epochs * EPOCH_SECONDS[space] + preparing) / min(cores, plan.total) / 60
    shown = f"{minutes / 60:.0f} hours" if minutes > 180 else counted(max(1, round(minutes)), "minute")
    return f"about {shown} on {counted(cores, 'CPU core')}, by what other corpora took; {measured}"
