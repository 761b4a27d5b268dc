"""What a command line asks for, checked before torch or Ray is imported."""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import dataclass, replace
from typing import Any

from tuning.config.distributions import LISTED, plain
from tuning.config.errors import UserError, nearest
from tuning.config.population import check_population
from tuning.config.schema import Config, RunSettings
from tuning.config.space import Space, brought_along, flatten, load
from tuning.data.text import text_variants
from tuning.datasets.corpus import Corpus, load_classes, load_corpus
from tuning.datasets.settings import FeatureSettings
from tuning.datasets.splits.split import Split, inner_folds, split_clips
from tuning.datasets.storage import is_uri
from tuning.models.encoder_shapes import check_speech_encoder
from tuning.training.encoders import check_encoders, image_variants, reads_text
from tuning.training.tasks import Mode, check_metric

# Configurations that are checked one by one before the search; the others are checked as trials.
CHECKED = 500

# Object stores that pyarrow opens; file:// is a folder treated like one.
SCHEMES = ("s3", "gs", "file")


@dataclass(frozen=True)
class Plan:
    """A checked search.

    Args:
        run: what the command line alone says.
        space: what is searched.
        config: settings that all trials share; searched ones stand at their first or lowest value.
        mode: direction of the ranking metric.
        overrides: as given.
        total: number of trials.
    """

    run: RunSettings
    space: Space
    config: Config
    mode: Mode
    overrides: dict[str, Any]
    total: int

    @property
    def name(self) -> str:
        """The search's name."""
        assert self.run.name is not None
        return self.run.name


def make_plan(arguments: list[str]) -> Plan:
    """The plan of a command line; reads the space file and, where one is asked for, a speech encoder's settings.

    Raises:
        UserError: with path, expectation, what came and the nearest known name.
    """
    run, space, overrides = load(arguments)
    _check_storage(run.storage)
    if run.mlflow and not importlib.util.find_spec("mlflow"):
        raise UserError(
            f"mlflow: expected null unless MLflow is installed, got '{run.mlflow}'; "
            "install it: pip install 'audio-emotion-tuning[mlflow]'"
        )
    config = space.fixed()
    space.config({path: d.at(1 - 1e-9) for path, d in space.distributions.items()})
    if config.search.scheduler == "pbt" and is_uri(run.storage):
        raise UserError(
            "search.scheduler: expected another than pbt with storage in an object store, got pbt: trials take over "
            "each other's weights on a disk that all share"
        )
    _check_search(space, config)
    _check_encoders(space)
    check_encoders([*text_variants(space).values(), *image_variants(space)])
    mode = check_metric(space, config)
    points = planned_points(space, config)
    for point in points[:CHECKED]:
        space.config(point)
    total = config.search.num_trials if config.search.algorithm == "optuna" else len(points)
    assert total is not None
    return Plan(run, space, config, mode, overrides, total)


def with_classes(plan: Plan, corpus: Corpus) -> Plan:
    """The plan with the corpus's classes, which its trials are to tell apart.

    Raises:
        UserError: a ranking metric of a class that there is not.
    """
    if not corpus.classes:
        return plan
    space = Space({**plan.space.settings, "task.classes": corpus.classes}, plan.space.distributions)
    config = space.fixed()
    check_metric(space, config)
    return replace(plan, space=space, config=config)


def planned_points(space: Space, config: Config) -> list[dict[str, Any]]:
    """The trials that are known beforehand: all of a grid or of random draws, else the points tried first."""
    first = [flatten(point, space.fields) for point in config.search.points_to_evaluate]
    if config.search.algorithm == "grid":
        return space.grid()
    if config.search.algorithm == "optuna":
        return first[: config.search.num_trials]
    return list(itertools.islice(space.samples(config.seed, first), config.search.num_trials))


def _check_storage(location: str) -> None:
    scheme, mark, rest = location.partition("://")
    if mark and (scheme not in SCHEMES or not rest):
        raise UserError(
            f"storage: expected a folder, or a URI like s3://bucket/folder ({', '.join(SCHEMES)}), got '{location}'"
        )


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
    if given is not None and len(search.points_to_evaluate) > given:
        count = len(search.points_to_evaluate)
        raise UserError(f"search.points_to_evaluate: expected at most search.num_trials ({given}) points, got {count}")
    for number, point in enumerate(search.points_to_evaluate, start=1):
        for path, value in flatten(point, space.fields).items():
            where = f"search.points_to_evaluate: point {number}: {path}"
            if path not in space.distributions:
                hint = nearest(path, space.distributions)
                raise UserError(f"{where}: expected a searched setting{hint}")
            if not space.distributions[path].contains(value):
                raise UserError(f"{where}: expected a value of {space.distributions[path]}, got {plain(value)}")


def _check_encoders(space: Space) -> None:
    """Every speech encoder and layer that a trial may ask for, since all are prepared before the first."""
    variants = [config.features for config in space.variants("features.")]
    # Not a trial's own check: where the name is searched, the encoder is idle in the trials with another.
    if all(features.name != "encoder" for features in variants):
        for features in variants:
            if features.encoder is not None:
                raise UserError(
                    f"features.encoder: expected null unless features.name=encoder, got '{features.encoder}' "
                    f"with {features.name}"
                )
    try:
        for features in variants:
            _check_encoder(features)
    except ValueError as error:
        raise UserError(str(error)) from None


def _check_encoder(features: FeatureSettings) -> None:
    if features.name == "encoder":
        check_speech_encoder(features.encoder, features.encoder_layer)


def read_corpus(config: Config) -> tuple[Corpus, Split]:
    """The clips with their labels, and who trains, validates and is sealed for the test.

    Raises:
        UserError: no such corpus, a wrong manifest, groups that cross splits.
    """
    task = config.task
    try:
        _check_encoder(config.features)  # by settings of an earlier search, too
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
        split = split_clips(corpus.clips, config.split, corpus.dev_groups)
        if config.split.inner_folds is not None:  # whether the clips allow it is said before anything is computed
            inner_folds(split, config.split)
        return corpus, split
    except ValueError as error:
        raise UserError(str(error)) from error


def say_what_the_corpus_brings(plan: Plan) -> None:
    """Say which settings the corpus sets, where the command line does not."""
    defaults = plan.space.fields
    brought = brought_along(plan.config.data.corpus, plan.config.model.name, defaults)
    shortened = [
        f"{path} {plain(value)} in place of {plain(defaults[path].get_default())}"
        for path, value in brought.items()
        if path in plan.space.settings and path not in plan.overrides and not path.startswith("data.")
    ]
    if shortened:
        print(f"corpus    the {plan.config.data.corpus} corpus sets {', '.join(shortened)}")
