"""Check a command line and plan its search, before torch or Ray is imported."""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, overload

from tuning.config.distributions import LISTED, plain
from tuning.config.errors import UserError, cast, nearest, type_name
from tuning.config.loader import POINTS, flatten, load
from tuning.config.population import check_population
from tuning.config.schema import Config, RunSettings, without_effect
from tuning.config.space import Space, brought_along, point_key
from tuning.data.encoder_layers import check_sound_encoders, with_numbered_layers
from tuning.data.known_encoders import check_known_encoders
from tuning.data.remarks import remarks
from tuning.data.text import text_variants
from tuning.datasets import is_demo
from tuning.datasets.corpora.layout import first_names
from tuning.datasets.corpus import Clip, Corpus, load_classes, load_corpus
from tuning.datasets.features.frames import check_encoder
from tuning.datasets.settings import FEW_CLIPS
from tuning.datasets.splits.split import Split, inner_folds, split_clips
from tuning.datasets.storage import is_uri
from tuning.training.encoders import check_encoders, image_variants, reads_text
from tuning.training.ranking import Mode, check_metric

ENABLED = "augment.enabled"

# Planned configurations that are checked before the search; further ones are checked when their trials begin.
MAX_CHECKED_POINTS = 500

# A larger grid is a mistake: no search ends it.
MOST_GRID_POINTS = 100_000

# URI schemes of object stores that pyarrow opens; file:// is a local folder that is treated as one.
SCHEMES = ("s3", "gs", "file")


@dataclass(frozen=True)
class Plan:
    """A checked search.

    Args:
        run: settings of the command line that are not part of the space.
        space: settings and distributions.
        config: settings that all trials share; searched ones have their first or lowest value.
        mode: direction of the ranking metric.
        overrides: the settings of the command line as given.
        total: number of trials.
        fixed: settings that the space file searches, or the command line sets, without effect: augmentation is off.
        augmentation: why `augment.enabled=auto` is on or off; empty where it is not asked for.
    """

    run: RunSettings
    space: Space
    config: Config
    mode: Mode
    overrides: dict[str, Any]
    total: int
    fixed: tuple[str, ...] = ()
    augmentation: str = ""

    @property
    def name(self) -> str:
        """The search's name."""
        assert self.run.name is not None
        return self.run.name


def make_plan(arguments: list[str]) -> Plan:
    """Read the space file and the settings of a command line, and check that they fit together.

    Raises:
        UserError: with path, expectation, what came and the nearest known name.
    """
    return plan_of(*load(arguments))


def plan_of(run: RunSettings, space: Space, overrides: dict[str, Any], decided: str = "") -> Plan:
    """Check that what `tuning.config.loader.load` has read fits together.

    `decided` says why `augment.enabled=auto` is on or off, once that is known.

    Raises:
        UserError: with path, expectation and what came.
    """
    _check_storage(run.storage)
    for setting in ("data.prepared", "data.root", "data.fold_lists"):
        check_location(setting, space.settings.get(setting))
    if run.mlflow and not importlib.util.find_spec("mlflow"):
        raise UserError(
            f"mlflow: expected null unless MLflow is installed, got '{run.mlflow}'; "
            "install it: pip install 'audio-emotion-tuning[mlflow]'"
        )
    if searched := space.dependencies(ENABLED):
        got = space.distributions.get(ENABLED) or f"one that depends on {', '.join(searched)}"
        raise UserError(f"{ENABLED}: expected {type_name(space.fields[ENABLED].annotation)} for all trials, got {got}")
    config, given = space.fixed(), space
    if config.augment.enabled is False:
        space = without_augmentation(space)
        config = space.fixed()
    for point in space.highest():
        space.config(point)
    if config.search.scheduler == "pbt" and is_uri(run.storage):
        raise UserError(
            "search.scheduler: expected another than pbt with storage in an object store, got pbt, whose trials take "
            "over each other's weights on a shared disk"
        )
    _check_search(space, config)
    check_known_encoders(space)  # before an encoder is fetched
    check_sound_encoders(space)
    space = with_numbered_layers(space)
    config = space.fixed()
    check_encoders([*text_variants(space).values(), *image_variants(space)])
    mode = check_metric(space, config)
    points = planned_points(space, config)
    for point in itertools.islice(points, MAX_CHECKED_POINTS):
        space.config(point)
    total = config.search.num_trials if config.search.algorithm == "optuna" else len(points)
    assert total is not None
    fixed = [path for path in given.distributions if path not in space.distributions]
    if config.augment.enabled is False:
        asked = [path for path in overrides if path.startswith("augment.") and path != ENABLED]
        fixed += [path for path in asked if path not in fixed]
    return Plan(run, space, config, mode, overrides, total, tuple(fixed), decided)


def with_corpus(plan: Plan, corpus: Corpus) -> Plan:
    """The plan with the classes of its corpus as outputs, whose groups are as the plan needs them.

    Raises:
        UserError: the ranking metric is that of an unknown class; clips without a group, or alone in it, are to be
            normalised by groups.
    """
    if "group" in plan.space.values("features.normalise"):
        check_groups(corpus.clips)
        if corpus.folds_share_groups:
            raise UserError(
                f"features.normalise: expected train or none where {corpus.folds_share_groups} share speakers, whose "
                "training and test clips would be normalised together, got group"
            )
    if not corpus.classes:
        return plan
    space = Space({**plan.space.settings, "task.classes": corpus.classes}, plan.space.distributions)
    config = space.fixed()
    check_metric(space, config)
    return replace(plan, space=space, config=config)


def check_groups(clips: Sequence[Clip]) -> None:
    """Check that each clip is one of several of its speaker or artist, by which its features are normalised.

    Raises:
        UserError: it is not.
    """
    setting = "features.normalise: expected train where"
    if lone := next((clip.id for clip in clips if clip.group is None), None):
        raise UserError(
            f"{setting} no speaker or artist is known (data.group_column), got group with none for '{lone}'"
        )
    counts = Counter(clip.group for clip in clips)
    if alone := [f"'{group}'" for group, count in counts.items() if count == 1]:
        raise UserError(
            f"{setting} a speaker or artist has a single clip that can be used, got group with {len(alone)} such of "
            f"{len(counts)}: {first_names(alone)}"
        )


def without_augmentation(space: Space) -> Space:
    """The space with the section `augment` at its defaults, which are off, and with one GAN, which nobody trains.

    Points that are tried first lose the settings that are no longer searched; those that become alike are one.
    """
    searched = {path: d for path, d in space.distributions.items() if not path.startswith(("augment.", "gan."))}
    settings = {path: value for path, value in space.settings.items() if not path.startswith("augment.")}
    settings |= {path: d.at(0.0) for path, d in space.distributions.items() if path.startswith("gan.")}
    points: list[dict[str, Any]] = []
    for given in settings.get(POINTS, []):
        point = {path: value for path, value in flatten(given, space.fields).items() if path in searched}
        if point and point not in points:
            points.append(point)
    settings |= {POINTS: points} if points or POINTS in settings else {}
    return Space(settings | {ENABLED: False}, searched)


def with_augmentation(plan: Plan, num_clips: int, begun: Space | None = None) -> Plan:
    """The plan with `augment.enabled=auto` decided by the number of training clips.

    A search that was begun keeps what its space `begun` says, so that it is extended as it was begun.

    Raises:
        UserError: without augmentation nothing is searched.
    """
    if plan.config.augment.enabled != "auto":
        return plan
    if begun is not None and (then := begun.fixed().augment.enabled) != "auto":
        on, why = then, "as this search was begun"
    else:
        on = num_clips < FEW_CLIPS
        why = f"{num_clips:,} training clips, {'fewer than' if on else 'at least'} {FEW_CLIPS:,}"
    space = Space({**plan.space.settings, ENABLED: on}, plan.space.distributions)
    return plan_of(plan.run, space, plan.overrides, f"{'on' if on else 'off'}: {why}")


def print_augmentation(plan: Plan) -> None:
    """Print why augmentation is on or off, and which settings are not searched because it is off."""
    if plan.augmentation:
        print(f"augment   {plan.augmentation}")
    if plan.fixed:
        print(f"note      {', '.join(plan.fixed)}: without effect, since augmentation is off")


class Points(Sequence[dict[str, Any]]):
    """Settings of trials that are known in advance, in order; each is drawn when it, or a later one, is asked for."""

    def __init__(self, source: Iterator[dict[str, Any]], total: int) -> None:
        self._source, self._total = source, total
        self._drawn: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return self._total

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, place: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, place: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(place, slice):
            return [self[number] for number in range(self._total)[place]]
        number = range(self._total)[place]
        self._drawn += itertools.islice(self._source, max(0, number + 1 - len(self._drawn)))
        return self._drawn[number]


def planned_points(space: Space, config: Config) -> Points:
    """Settings of the trials that are known in advance: all of a grid or random search, else the points tried first."""
    if config.search.algorithm == "grid":
        return Points(space.grid(), int(space.size()))
    first = _first_points(space, config)
    most = config.search.num_trials or 0
    if config.search.algorithm == "optuna":
        return Points(iter(first), min(len(first), most))
    return Points(space.samples(config.seed, first), int(min(most, space.size())))


def _first_points(space: Space, config: Config) -> list[dict[str, Any]]:
    """The points tried first, each with the defaults of what it leaves out.

    Raises:
        UserError: a point with a setting that is not searched or with a value, or default, that can't be drawn.
    """
    points: dict[Hashable, dict[str, Any]] = {}
    for number, written in enumerate(config.search.points_to_evaluate, start=1):
        given, where = flatten(written, space.fields), f"search.points_to_evaluate: point {number}"
        for path in given:
            if path not in space.distributions:
                hint = nearest(path, space.distributions)
                raise UserError(f"{where}: {path}: expected a searched setting{hint}")
        given = {path: cast(f"{where}: {path}", value, space.fields[path]) for path, value in given.items()}
        point = space.completed(given)
        for path, value in point.items():
            if not space.distributions[path].contains(value):
                got = plain(value) if path in given else f"none, and the default {plain(value)} is not in it"
                raise UserError(f"{where}: {path}: expected a value of {space.distributions[path]}, got {got}")
        points.setdefault(point_key(point), point)
    return list(points.values())


def _check_storage(location: str) -> None:
    check_location("storage", location)
    scheme, mark, rest = location.partition("://")
    if mark and (scheme not in SCHEMES or not rest):
        raise UserError(f"storage: {_PLACE}, got '{location}'")


_PLACE = f"expected a folder, or a URI like s3://bucket/folder ({', '.join(SCHEMES)})"
_ALMOST_URI = re.compile(rf"({'|'.join(SCHEMES)}|[a-z][a-z0-9+.-]+(?=:/)):/?([^/].*)?", re.IGNORECASE)


def check_location(setting: str, location: object) -> None:
    """Refuse a path that was meant as a URI, `s3:/bucket`: it would name a folder here.

    Raises:
        UserError: with the URI, where its scheme is known.
    """
    if isinstance(location, str) and (found := _ALMOST_URI.fullmatch(location)):
        scheme, rest = found[1].lower(), found[2] or ""
        hint = f"; did you mean '{scheme}://{rest}'?" if scheme in SCHEMES and rest else ""
        raise UserError(f"{setting}: {_PLACE}, got '{location}'{hint}")


def _check_search(space: Space, config: Config) -> None:
    search, given = config.search, config.search.num_trials
    space.in_order()
    if search.algorithm == "grid":
        ranges = [path for path, d in space.distributions.items() if d.kind not in LISTED]
        if ranges:
            kind = space.distributions[ranges[0]].kind
            raise UserError(f"{ranges[0]}: expected grid or choice for search.algorithm grid, got {kind}")
        if given is not None:
            raise UserError(f"search.num_trials: expected null for algorithm grid, whose size is fixed, got {given}")
        if search.points_to_evaluate:
            raise UserError("search.points_to_evaluate: expected none for algorithm grid, which tries all")
        if (count := space.size()) > MOST_GRID_POINTS:
            got = f"{count:,}" if count < math.inf else "more than can be counted"
            raise UserError(
                f"search.algorithm: expected another than grid for more than {MOST_GRID_POINTS:,} trials, got a grid "
                f"of {got}; random and optuna try search.num_trials of them"
            )
    elif given is None:
        raise UserError(f"search.num_trials: expected integer at least 1 for algorithm {search.algorithm}, got null")
    if search.algorithm == "optuna" and not space.distributions:
        raise UserError("search.algorithm: expected grid or random where nothing is searched, got optuna")
    if search.algorithm == "optuna" and search.sampler == "cmaes" and search.second_metric:
        raise UserError("search.sampler: expected tpe, gp, qmc or random with search.second_metric, got cmaes")
    if search.scheduler == "pbt" and search.second_metric:
        raise UserError("search.scheduler: expected another than pbt with search.second_metric, got pbt")
    if search.scheduler == "pbt":
        check_population(space, config)
    if search.sampler == "cmaes" and not importlib.util.find_spec("cmaes"):
        raise UserError("search.sampler: expected a sampler that is installed, got cmaes; install the package 'cmaes'")


def read_clips(config: Config, make: bool = True) -> Corpus:
    """Read the clips with their labels, and remark on them. A demo corpus that is missing is made, or only described.

    Raises:
        UserError: no such corpus, a wrong manifest.
    """
    if not make and is_demo(config.data.corpus):
        from tuning.datasets.demo.writer import only_described

        with only_described():
            return read_clips(config)
    task = config.task
    try:
        check_encoder(config.features)  # settings of an earlier search were not checked in this process
        check_encoders([config])
        if task.name == "classification":
            corpus = load_classes(config.data, task.classes, task.merge_classes, task.drop_other_classes)
        else:
            corpus = load_corpus(config.data, task.targets)
        if reads_text(config) and (without := next((clip.id for clip in corpus.clips if clip.text is None), None)):
            raise ValueError(
                f"data.corpus: expected lyrics for every clip with model.name={config.model.name}, got none for "
                f"'{without}'; with data.corpus=manifest data.text_column names the column with their files"
            )
        return replace(corpus, notes=[*corpus.notes, *remarks(corpus)])
    except ValueError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        if not is_demo(config.data.corpus):  # which is made below data.prepared
            raise
        why = error.strerror or error
        raise UserError(f"data.prepared: expected a folder to write in, got '{config.data.prepared}' ({why})") from None


def split_of(corpus: Corpus, config: Config) -> Split:
    """Split the clips of a corpus; too few clips for inner folds are an error before anything is computed.

    Raises:
        UserError: groups in several splits, a fold that is not there, too few clips.
    """
    try:
        split = split_clips(corpus.clips, config.split, corpus.dev_groups, corpus.folds_share_groups)
        if config.split.inner_folds is not None:
            inner_folds(split, config.split)
        return replace(split, is_cross_validated=config.split.inner_folds is not None)
    except ValueError as error:
        raise UserError(str(error)) from error


def read_corpus(config: Config, make: bool = True) -> tuple[Corpus, Split]:
    """Read the clips with their labels, and split them. A demo corpus that is missing is made, or only described.

    Raises:
        UserError: no such corpus, a wrong manifest, groups in several splits.
    """
    corpus = read_clips(config, make)
    return corpus, split_of(corpus, config)


def training_clips(split: Split, config: Config) -> list[Clip]:
    """The clips that train; with inner folds also those of validation, which all folds but one train on."""
    return split.train + split.val if config.split.inner_folds is not None else split.train


def print_corpus_defaults(plan: Plan) -> None:
    """Print the settings that the corpus brings along, unless the command line sets them."""
    defaults = plan.space.fields
    defaults_of_corpus = brought_along(plan.config.data.corpus, plan.config.model.name, defaults)
    changed = [
        f"{path} {plain(value)} in place of {plain(defaults[path].get_default())}"
        for path, value in defaults_of_corpus.items()
        if path in plan.space.settings
        and path not in plan.overrides
        and not path.startswith("data.")
        and attrgetter(path)(plan.config) == value  # of pooled features a clip is one frame, whatever is set
    ]
    if changed:
        print(f"corpus    the {plan.config.data.corpus} corpus sets {', '.join(changed)}")


def print_licences(plan: Plan) -> None:
    """Print on which terms features may be used, where these are not those of the project."""
    if "egemaps" in plan.space.values("features.name"):
        print(
            "licence   egemaps is computed by openSMILE, under the audEERING Research License: for research, teaching "
            "and personal use; a product, or a model in one, needs a licence of audEERING GmbH"
        )


def print_unread_settings(plan: Plan) -> None:
    """Print the searched settings of a space file that no trial reads, since the command line made another choice."""
    for path, (needed, got) in without_effect(plan.space.written()).items():
        if path in plan.space.distributions:
            print(f"note      {path} is searched in vain: it counts only with {needed}, and this is {got}")
