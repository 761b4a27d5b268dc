"""Plan a search for each fold of a corpus, each of which seals its own fold. Imports neither torch nor Ray."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tuning.config.distributions import plain
from tuning.config.errors import UserError
from tuning.config.loader import parse_overrides
from tuning.config.space import Space
from tuning.data.plan import Plan, make_plan, read_clips, split_of, training_clips, with_augmentation, with_corpus
from tuning.datasets.corpus import Corpus
from tuning.datasets.splits.split import Split, fold_sizes

FIXED = ("split.test_fold", "split.val_fold", "split.dev_groups")
LONGEST_TAG = 40


@dataclass(frozen=True)
class FoldPlan:
    """One fold: its name, the checked search that seals it, and its split. `tag` is its name in paths."""

    name: str
    tag: str
    plan: Plan
    split: Split


@dataclass(frozen=True)
class FoldsPlan:
    """All folds of a corpus.

    Args:
        name: of the whole; the searches are called NAME-fold-TAG.
        method: how clips fall into folds.
        corpus: the clips.
        folds: in order.
        ensemble: number of trials that are retrained in each fold and predict together.
        greedy: whether they are chosen by what they say together, and may be fewer.
    """

    name: str
    method: str
    corpus: Corpus
    folds: list[FoldPlan]
    ensemble: int
    greedy: bool = False


def plan_folds(words: list[str], ensemble: int = 1, greedy: bool = False) -> FoldsPlan:
    """Plan the searches of all folds from the settings of a command line, and check every split before the first.

    Raises:
        UserError: as a search of these settings; a fold that is fixed; clips without folds and groups; a fold whose
            split can't be searched; one trial to choose greedily.
    """
    if greedy and ensemble < 2:
        raise UserError("select: expected ensemble=K with at least 2 trials, got greedy without")
    given = parse_overrides(words)
    plan = make_plan(words)
    for path in FIXED:
        if path in given or (path != FIXED[0] and getattr(plan.config.split, path.partition(".")[2]) is not None):
            got = plain(given[path] if path in given else plan.space.settings[path])
            raise UserError(f"{path}: expected none, since every fold is the test once, got {got}")
    if (minutes := plan.config.search.time_budget_minutes) is not None:
        wanted = "search.time_budget_minutes: expected null, so that all folds are searched alike"
        raise UserError(f"{wanted}, got {minutes:g}")
    corpus = read_clips(plan.config)
    plan = with_corpus(plan, corpus)
    try:
        method, sizes = fold_sizes(corpus.clips, plan.config.split)
    except ValueError as error:
        raise UserError(str(error)) from None
    folds = []
    for name, tag in zip(sizes, _tags(list(sizes)), strict=True):
        of_fold = {"split.method": method, "split.test_fold": name}
        space = Space(plan.space.settings | of_fold, plan.space.distributions)
        search = f"{plan.name}-fold-{tag}"
        run = plan.run.model_copy(update={"name": search})
        sealed = replace(
            plan, run=run, space=space, config=space.fixed(), overrides=plan.overrides | of_fold | {"name": search}
        )
        try:
            split = split_of(corpus, sealed.config)
            sealed = with_augmentation(sealed, len(training_clips(split, sealed.config)))
        except UserError as error:
            raise UserError(f"{error} (fold '{name}' as the test)") from None
        if ensemble > sealed.total:
            raise UserError(f"ensemble: expected at most the {sealed.total} trials of a search, got {ensemble}")
        folds.append(FoldPlan(name, tag, sealed, split))
    return FoldsPlan(plan.name, method, corpus, folds, ensemble, greedy)


def _tags(names: list[str]) -> list[str]:
    """The folds' names as they may be part of a search's name; their numbers where one of them may not."""
    usable = all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) and len(name) <= LONGEST_TAG for name in names)
    if usable and len({name.casefold() for name in names}) == len(names):
        return names
    return [f"{number:0{len(str(len(names)))}d}" for number in range(1, len(names) + 1)]
