"""Repeat the best trials of a search with other seeds, as trials of a search of its own in replicates/."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuning.config.distributions import Distribution, counted, plain
from tuning.config.errors import UserError
from tuning.config.schema import Config, flattened, identifying
from tuning.config.space import Space
from tuning.data.data_module import DataModule
from tuning.data.plan import Plan, planned_points
from tuning.datasets.hashing import digest_of
from tuning.evaluation.leaderboard import with_results
from tuning.evaluation.significance import Decision, decide
from tuning.experiment.directory import SearchFolder, TrialRecord, read_progress
from tuning.experiment.recorded import config_of, loading_of
from tuning.search.backend import choose_backend
from tuning.search.resources import cluster_resources, plan_resources, start_ray
from tuning.search.tuner import run_search
from tuning.training.ranking import Mode

FOLDER = "replicates"


@dataclass(frozen=True)
class Candidate:
    """A configuration that may win the search.

    Args:
        record: of its best trial.
        config: its settings.
        repeats: numbers of other trials with the same settings, and the same seed, so the same network.
    """

    record: TrialRecord
    config: Config
    repeats: tuple[int, ...] = ()

    @property
    def number(self) -> int:
        """The trial's number, by which the candidate is named."""
        return self.record.number


@dataclass(frozen=True)
class Replicate:
    """One training of a candidate with another seed: its record, and the folder of its search."""

    record: TrialRecord
    folder: SearchFolder


def candidates(folder: SearchFolder, space: Space) -> list[Candidate]:
    """The distinct configurations of the trials that have a result, best first."""
    found: dict[str, Candidate] = {}
    for record in with_results(folder, space):
        config = config_of(folder, record.number)
        known = found.setdefault(_identity(config), Candidate(record, config))
        if known.record is not record:
            found[_identity(config)] = replace(known, repeats=(*known.repeats, record.number))
    return list(found.values())


def _identity(config: Config) -> str:
    """A text that is equal for equal trainings: all settings except how the search proceeds and where it runs."""
    return json.dumps(identifying(flattened(config.model_dump(mode="json", exclude={"search"}))), sort_keys=True)


def replicate_space(space: Space, chosen: Sequence[Candidate], seeds: list[int]) -> Space:
    """A space whose trials are the chosen configurations with each of the seeds."""
    points = [candidate.record.params | {"seed": seed} for candidate in chosen for seed in seeds]
    search = {
        "search.algorithm": "random",
        "search.scheduler": "none",
        "search.num_trials": len(points),
        "search.time_budget_minutes": None,
        "search.points_to_evaluate": points,
    }
    settings = {path: value for path, value in space.settings.items() if path != "seed"} | search
    return Space(settings, space.distributions | {"seed": Distribution("choice", tuple(seeds))})


def other_seeds(config: Config, count: int) -> list[int]:
    """Seeds other than that of the search."""
    return [config.seed + number for number in range(1, count + 1)]


def replicate(
    folder: SearchFolder,
    plan: Plan,
    chosen: Sequence[Candidate],
    num_seeds: int,
    data: DataModule,
) -> list[list[Replicate]]:
    """Train each of k configurations with n = `num_seeds` seeds that the search did not use; return replicates [k][n].

    After an interruption the same call resumes; what was trained is not trained again.

    Raises:
        UserError: a replicate failed, or they were stopped.
    """
    config, seeds = plan.config, other_seeds(plan.config, num_seeds)
    space = replicate_space(plan.space, chosen, seeds)
    count = len(chosen) * num_seeds
    wanted = [[_identity(space.config(each.record.params | {"seed": seed})) for seed in seeds] for each in chosen]
    planned = {_identity(space.config(point)) for point in planned_points(space, space.fixed())}
    assert planned == {each for row in wanted for each in row}, "the planned replicates are those asked for"
    # The name contains a hash of the settings, so that replicates of others are never taken for these.
    names = "-".join(str(candidate.number) for candidate in chosen)
    name = f"trials-{names}-seeds-{num_seeds}-{digest_of(*(each for row in wanted for each in row))[:8]}"
    with SearchFolder(folder.path / FOLDER, name) as own:
        if own.num_ended < count:
            print(f"repeat    {len(chosen)} best configurations with {num_seeds} seeds each", flush=True)
            start_ray(config)
            data.prepare_banks()
            shared, _ = data.share(loading_of(own) or loading_of(folder))
            if not own.exists:
                own.create(space, {}, data.identity(), data.split)
            fits = plan_resources(config, *cluster_resources())
            rows = [read_progress(folder.trial(each.number)) for each in chosen]
            took = [sum(float(row["seconds"]) for row in each) for each in rows]
            resources, _ = choose_backend(config, fits, lambda: min(took))
            repeats = replace(plan, space=data.as_shared(space), config=space.fixed(), total=count)
            if reason := run_search(own, repeats, shared, resources):
                raise UserError(f"{own.path}: stopped ({reason}); the same command resumes")
        trained = _trained(own, config.search.metric)
        return [[trained[identity] for identity in row] for row in wanted]


def _trained(own: SearchFolder, metric: str) -> dict[str, Replicate]:
    """The replicates by the identity of their training.

    Raises:
        UserError: one of them failed.
    """
    found = {}
    for record in own.records():
        if metric not in record.metrics or record.status == "failed":
            raise UserError(
                f"{own.trial(record.number)}: expected a result of every repetition, got a failed one "
                f"({record.reason}); choose fewer trials (top=), so that this one is not among them"
            )
        found[_identity(config_of(own, record.number))] = Replicate(record, own)
    return found


def choose(chosen: Sequence[Candidate], replicates: list[list[Replicate]], metric: str, mode: Mode) -> Decision:
    """Choose between the configurations by their replicates, and print the confidence of the choice."""
    decision = decide([[each.record.metrics[metric] for each in row] for row in replicates], mode)
    n = decision.num_scores
    for position, index in enumerate(decision.order, start=1):
        half = f" ± {decision.half_widths[index]:.4f}" if decision.half_widths else ""
        then = chosen[index].record.metrics[metric]
        print(
            f"  {position}. trial {chosen[index].number}: {metric} {decision.means[index]:.4f}{half} "
            f"over {counted(n, 'seed')} (in the search {then:.4f})"
        )
    winner, others = chosen[decision.winner].number, [chosen[index].number for index in decision.not_told_apart]
    if n > 1 and len(chosen) > 1:
        if others:
            print(f"winner    trial {winner}, not told apart from {listed(others)} (95 %, all comparisons together)")
        else:
            print(f"winner    trial {winner}, better than each of the others (95 %, all comparisons together)")
        print(f"          a difference of {plain(decision.detectable)} would be found in 4 of 5 such comparisons")
    return decision


def listed(numbers: Sequence[int]) -> str:
    """Trials as text: "trial 3", "trials 1, 3"."""
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def written(
    chosen: Sequence[Candidate], replicates: list[list[Replicate]], decision: Decision, config: Config
) -> dict[str, Any]:
    """The scores of the replicates for `metrics.json`."""
    metric = config.search.metric
    return {
        "metric": metric,
        "seeds": other_seeds(config, decision.num_scores),
        "scores": {
            str(candidate.number): [each.record.metrics[metric] for each in row]
            for candidate, row in zip(chosen, replicates, strict=True)
        },
        "winner": chosen[decision.winner].number,
        "not_told_apart": [chosen[index].number for index in decision.not_told_apart],
        "detectable": decision.detectable,
    }
