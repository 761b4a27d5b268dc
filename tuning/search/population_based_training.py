"""Population-based training: the poorest trials continue from the best ones' weights with changed settings.

Every `search.perturb_epochs` the trials wait for each other. Then the poorest share takes over weights and optimiser of
the best share, and all continue. Because they wait, only the values of that epoch and the seed decide: the same search
takes the same course at any concurrency, and after a kill. Source: Jaderberg et al. 2017, 'Population based
training of neural networks', appendix A.1 for the synchronous form.

Ray's own scheduler needs Tune's checkpoints, forgets who took over what, and draws from global generators. Here the
trials' `checkpoints/last.pt` are what is taken over, and `exploits.json` in each trial's folder is the record.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tuning.config.distributions import LISTED, Distribution, fraction
from tuning.config.errors import UserError
from tuning.config.schema import Config
from tuning.config.space import Space
from tuning.experiment.directory import SearchFolder, TrialRecord, read_progress, write_json
from tuning.experiment.exploits import FILE, current_params, exploits
from tuning.experiment.reading import read_json, understood
from tuning.experiment.trial_spec import TrialSpec
from tuning.training.ranking import Mode
from tuning.training.trainer import read_checkpoint, write_checkpoint

log = logging.getLogger("tuning.search")

# A copied number is multiplied with one of these unless it is drawn anew. Source: Jaderberg et al. 2017, section 4.1.
FACTORS = (0.8, 1.2)

# In the search's folder: the last epoch after which all copying was done.
STATE = "population.json"


def take_over(folder: Path, donor: Path, rate: float) -> None:
    """Copy another trial's weights and optimiser into a trial, which keeps its record, best epoch and random numbers.

    The state of early stopping and of a plateau is copied, too: it belongs to the curve of those weights.

    Args:
        folder: of the trial.
        donor: folder of the other, which has trained as many epochs.
        rate: new learning rate as a multiple of the other's, so that what a plateau made of it stays in proportion.
    """
    file = folder / "checkpoints" / "last.pt"
    own, other = (read_checkpoint(place, "cpu") for place in (file, donor / "checkpoints" / "last.pt"))
    assert own["own"]["epoch"] == other["own"]["epoch"], "both wait at the same epoch"
    taken = {name: other["own"][name] for name in ("steps", "wait", "mark")}
    taken["base_rate"] = other["own"]["base_rate"] * rate
    write_checkpoint(file, other | {"random_state": own["random_state"], "own": own["own"] | taken})


class Population(FIFOScheduler):
    """Tune's scheduler of a population whose trials wait for each other.

    Args:
        space: what is searched.
        config: plain settings of the search.
        mode: direction of the ranking metric.
        folder: the search's folder.
        records: what earlier runs recorded.
        total: number of trials of the whole search.
        concurrent: most trials at once.
        make_spec: number and parameters -> the trial.
    """

    def __init__(
        self,
        space: Space,
        config: Config,
        mode: Mode,
        folder: SearchFolder,
        records: list[TrialRecord],
        total: int,
        concurrent: int,
        make_spec: Callable[[int, dict[str, Any]], TrialSpec],
    ) -> None:
        super().__init__()
        self.space, self.config, self.folder, self.make_spec = space, config, folder, make_spec
        self.concurrent, self.sign = concurrent, 1 if mode == "min" else -1
        self.every = config.search.perturb_epochs
        final = {record.number for record in records if record.is_final}
        self.active = set(range(1, total + 1)) - final
        # Oriented so that less is better, by trial and epoch.
        self.scores: dict[int, dict[int, float]] = {number: {} for number in self.active}
        self.params: dict[int, dict[str, Any]] = {}
        for record in records:
            if record.number in self.active:
                self.params[record.number] = current_params(folder.trial(record.number)) or record.params
                for row in read_progress(folder.trial(record.number)):
                    self.scores[record.number][int(row["epoch"])] = self._score(row)
        self.trials: dict[int, Trial] = {}
        self.paused: set[int] = set()
        self.stopping: set[int] = set()  # trials stopped early, as other schedulers have it: none
        self.released = self._released_before()
        self._next_generation()

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing for Tune's snapshot: a search is resumed from the trials' folders."""
        return {}

    def num_waiting(self) -> int:
        """Number of trials that wait for others."""
        return len(self.paused)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Take in a trial, which may be one that was cut off."""
        number = trial.config["number"]
        self.trials[number], self.params[number] = trial, trial.config["params"]

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Let a trial continue, or pause it where it must wait for others."""
        number, epoch = trial.config["number"], result["epoch"]
        if result.get("finished"):
            return TrialScheduler.CONTINUE
        self.scores[number][epoch] = self._score(result)
        if epoch != self.released + self.every:
            return TrialScheduler.CONTINUE
        self.paused.add(number)
        if self._next_generation() and trial.config["params"] == self.params[number]:
            self.paused.discard(number)
            return TrialScheduler.CONTINUE
        return TrialScheduler.PAUSE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Let the others not wait for a trial that ended."""
        self._leave(trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Let the others not wait for a trial that failed for good."""
        if not trial.should_recover():
            self._leave(trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Let the others not wait for a trial that ended before it ran."""
        self._leave(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return a trial that never ran, or else the first that need not wait any longer."""
        trials = tune_controller.get_trials()
        pending = [trial for trial in trials if trial.status == Trial.PENDING]
        if pending:
            return pending[0]
        if sum(trial.status == Trial.RUNNING for trial in trials) >= self.concurrent:
            return None
        for trial in trials:
            number = trial.config["number"]
            if trial.status == Trial.PAUSED and self._is_free(number):
                trial.set_config(self.make_spec(number, self.params[number]).as_dict())
                self.paused.discard(number)
                return trial
        return None

    def _leave(self, trial: Trial) -> None:
        number = trial.config["number"]
        self.active.discard(number)
        self.paused.discard(number)
        self._next_generation()

    def _is_free(self, number: int) -> bool:
        return max(self.scores[number], default=0) < self.released + self.every

    def _score(self, row: dict[str, Any]) -> float:
        return self.sign * float(row[self.config.search.metric])

    def _released_before(self) -> int:
        """Return the last epoch after which the unfinished trials continued; 0 at the start of a population."""
        file = self.folder.path / STATE
        if not file.exists():
            return 0
        with understood(file, "the last generation of a population"):
            state = read_json(file, dict)
            return int(state["epoch"]) if self.active & set(state["trials"]) else 0

    def _next_generation(self) -> bool:
        """If all trials have reached the epoch, let the poorest copy the best and release all; say whether they had."""
        epoch = self.released + self.every
        if not self.active or any(epoch not in self.scores[number] for number in self.active):
            return False
        ranked = sorted(self.active, key=lambda number: (self.scores[number][epoch], number))
        share = min(math.ceil(len(ranked) * self.config.search.exploit_share), len(ranked) // 2)
        for number in ranked[len(ranked) - share :]:
            best = ranked[int(fraction(self.config.seed, number, epoch, "pbt.trial") * share)]
            self._exploit(number, best, epoch)
        # Only now may any of them continue: a kill before this leaves every trial at the same epoch.
        write_json(self.folder.path / STATE, {"epoch": epoch, "trials": sorted(self.active)})
        self.released = epoch
        return True

    def _exploit(self, number: int, best: int, epoch: int) -> None:
        """Copy the best trial into this one, on disk. After a kill in the middle it is done again."""
        folder, search = self.folder.trial(number), self.config.search
        known = exploits(folder)
        earlier = [entry for entry in known if entry["epoch"] < epoch]
        before = known[len(earlier)]["before"] if len(known) > len(earlier) else self.params[number]
        taken = self.params[best]
        after = explore(self.space, taken, self.config.seed, number, epoch, search.resample_probability)
        rates = [self.space.config(params).optim.learning_rate for params in (taken, after)]
        take_over(folder, self.folder.trial(best), rates[1] / rates[0])
        entry = {"epoch": epoch, "trial": best, "before": before, "after": after}
        write_json(folder / FILE, [*earlier, entry])
        spec = self.make_spec(number, after)
        write_json(folder / "params.json", {"searched": after, "config": spec.config})
        self.params[number] = after
        log.info("trial %d takes over trial %d after epoch %d: %s", number, best, epoch, json.dumps(after))


def explore(
    space: Space, params: dict[str, Any], seed: int, number: int, epoch: int, resample: float
) -> dict[str, Any]:
    """Return another trial's settings, changed at random.

    A number is multiplied with one of `FACTORS`, within its range; a listed value is replaced by a neighbour; with
    probability `resample` a value is drawn anew. The same seed, trial and epoch give the same changes. If the changed
    values are not allowed together, the other's settings are returned unchanged.
    """
    changed: dict[str, Any] = {}
    for path in space.in_order():
        if not space.is_active(path, changed):
            continue
        distribution = space.distributions[path]
        anew, how = (fraction(seed, number, epoch, f"pbt.{draw}.{path}") for draw in ("anew", "how"))
        if path not in params or anew < resample:
            changed[path] = distribution.at(how)
        else:
            changed[path] = _moved(distribution, params[path], up=how >= 0.5)
    try:
        space.config(changed)
    except UserError:
        return params
    return changed


def _moved(distribution: Distribution, value: Any, up: bool) -> Any:
    if distribution.kind in LISTED:
        place = distribution.values.index(value) + (1 if up else -1)
        return distribution.values[min(max(place, 0), len(distribution.values) - 1)]
    low, high = distribution.values
    moved = value * FACTORS[up]
    if distribution.kind in ("int", "logint"):
        moved = max(value + 1, round(moved)) if up else min(value - 1, round(moved))
    return min(max(moved, low), high)
