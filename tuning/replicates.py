"""The best trials of a search repeated with other seeds, as trials of a search of their own: replicates/."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tuning.checks import UserError
from tuning.config import Config
from tuning.decide import Decision, decide
from tuning.distributions import Distribution, plain
from tuning.plan import Plan
from tuning.space import Space
from tuning.tasks import Mode

if TYPE_CHECKING:
    from datasets.corpus import Corpus
    from datasets.splits import Split
    from tuning.search.folder import SearchFolder, TrialRecord

FOLDER = "replicates"


def replicate_space(space: Space, chosen: list[TrialRecord], seeds: list[int]) -> Space:
    """A space whose only trials are the chosen ones with each of the seeds."""
    points = [record.params | {"seed": seed} for record in chosen for seed in seeds]
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
    """Seeds that the search did not train with."""
    return [config.seed + number for number in range(1, count + 1)]


def replicate(
    folder: SearchFolder,
    plan: Plan,
    chosen: list[TrialRecord],
    num_seeds: int,
    corpus: Corpus,
    split: Split,
    prepared: dict[str, Any],
) -> list[list[float]]:
    """Train each of the chosen trials with `num_seeds` seeds that the search did not use; their scores [k, n].

    Interrupted, the same call goes on; what was trained is not trained again.

    Raises:
        UserError: a repetition failed, or they were stopped.
    """
    from tuning.search.folder import SearchFolder
    from tuning.search.resources import cluster_resources, plan_resources, start_ray
    from tuning.search.starting import when_needed
    from tuning.search.tuner import run_search
    from tuning.stages import corpus_fingerprint, prepare_banks, share_data

    config = plan.config
    space = replicate_space(plan.space, chosen, other_seeds(config, num_seeds))
    count = len(chosen) * num_seeds
    names = "-".join(str(record.number) for record in chosen)
    with SearchFolder(folder.path / FOLDER, f"trials-{names}-seeds-{num_seeds}") as own:
        if sum(record.is_final for record in own.records()) < count:
            print(f"repeat    {len(chosen)} best trials with {num_seeds} seeds each", flush=True)
            start_ray(config)
            banks = prepare_banks(plan.space, config, corpus, split, when_needed(config))
            data, _ = share_data(prepared, banks, split, plan.space, config)
            if not own.exists:
                own.create(space, {}, corpus_fingerprint(corpus, config))
            resources = plan_resources(config, *cluster_resources())
            if reason := run_search(
                own, replace(plan, space=space, config=space.fixed(), total=count), data, resources
            ):
                raise UserError(f"{own.path}: stopped ({reason}); the same command goes on")
        return _scores(own, config.search.metric, len(chosen), num_seeds)


def _scores(own: SearchFolder, metric: str, num_chosen: int, num_seeds: int) -> list[list[float]]:
    records = own.records()
    for record in records:
        if metric not in record.metrics or record.status == "failed":
            raise UserError(
                f"{own.trial(record.number)}: expected every repetition to come to a result, got a failed one "
                f"({record.reason}); choose fewer trials (top=), so that this one is not among them"
            )
    values = [record.metrics[metric] for record in records]
    return [values[number * num_seeds : (number + 1) * num_seeds] for number in range(num_chosen)]


def choose(chosen: list[TrialRecord], scores: list[list[float]], metric: str, mode: Mode) -> Decision:
    """Decide between the repeated trials, and say how sure that is."""
    decision = decide(scores, mode)
    n = decision.num_scores
    for place, number in enumerate(decision.order, start=1):
        half = f" ± {decision.half_widths[number]:.4f}" if decision.half_widths else ""
        then = chosen[number].metrics[metric]
        print(
            f"  {place}. trial {chosen[number].number}: {metric} {decision.means[number]:.4f}{half} "
            f"over {n} seeds (in the search {then:.4f})"
        )
    winner, others = chosen[decision.winner].number, [chosen[number].number for number in decision.not_told_apart]
    if n > 1 and len(chosen) > 1:
        if others:
            print(f"winner    trial {winner}, not told apart from {_listed(others)} (95 %, all comparisons together)")
        else:
            print(f"winner    trial {winner}, better than each of the others (95 %, all comparisons together)")
        print(f"          a difference of {plain(decision.detectable)} would be found in 4 of 5 such comparisons")
    return decision


def _listed(numbers: list[int]) -> str:
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def written(chosen: list[TrialRecord], scores: list[list[float]], decision: Decision, config: Config) -> dict[str, Any]:
    """The repetitions for the record."""
    return {
        "metric": config.search.metric,
        "seeds": other_seeds(config, decision.num_scores),
        "scores": {str(record.number): row for record, row in zip(chosen, scores, strict=True)},
        "winner": chosen[decision.winner].number,
        "not_told_apart": [chosen[number].number for number in decision.not_told_apart],
        "detectable": decision.detectable,
    }
