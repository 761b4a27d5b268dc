"""Learning-rate schedules by name, with the arithmetic of Keras's.

A new one is one function and one line in `SCHEDULES`; its keyword-only parameters are settings of the section `optim`,
or lengths that `make_schedule` gives: `total_steps`, `steps_per_epoch`, and to `cosine` its `restart_steps`.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tuning.config.own_functions import chosen, options
from tuning.config.schema import OptimSettings


def constant(step: int, learning_rate: float) -> float:
    """The learning rate itself."""
    return learning_rate


def exponential(
    step: int, learning_rate: float, *, decay_steps: float = 1000, decay_rate: float = 0.96, staircase: bool = True
) -> float:
    """learning_rate * decay_rate ** (step / decay_steps); with `staircase` the exponent is rounded down.

    >>> [exponential(step, 1.0, decay_steps=10, decay_rate=0.5) for step in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.25]
    """
    decays = step // decay_steps if staircase else step / decay_steps
    return float(learning_rate * decay_rate**decays)


def cosine(
    step: int,
    learning_rate: float,
    *,
    total_steps: int,
    alpha: float = 0.1,
    final_learning_rate: float | None = None,
    restart_steps: Sequence[int] = (),
) -> float:
    """Half a cosine from the learning rate down to `alpha` of it at `total_steps`, and constant from there.

    With `final_learning_rate` it ends there, whatever it began with. `total_steps` is the real number of steps, batches
    per epoch times epochs. At each of `restart_steps`, in order, it begins anew, over the steps that are left. Source:
    Loshchilov and Hutter 2017, 'SGDR'.

    >>> [round(cosine(step, 1.0, total_steps=10), 3) for step in (0, 5, 10, 11)]
    [1.0, 0.55, 0.1, 0.1]
    >>> [round(cosine(step, 1.0, total_steps=10, restart_steps=[6]), 3) for step in (0, 5, 6, 8, 10)]
    [1.0, 0.55, 1.0, 0.55, 0.1]
    """
    start = max((restart for restart in restart_steps if restart <= step), default=0)
    fraction = min(step - start, total_steps - start) / (total_steps - start)
    wave = (1 + math.cos(math.pi * fraction)) / 2
    if final_learning_rate is not None:
        return final_learning_rate + (learning_rate - final_learning_rate) * wave
    return learning_rate * (alpha + (1 - alpha) * wave)


def step(
    step: int, learning_rate: float, *, steps_per_epoch: int, step_epochs: int = 10, step_factor: float = 0.5
) -> float:
    """The learning rate times `step_factor` for every `step_epochs` whole epochs done.

    >>> [step(done, 1.0, steps_per_epoch=2, step_epochs=3) for done in (0, 5, 6, 12)]
    [1.0, 1.0, 0.5, 0.25]
    """
    return learning_rate * step_factor ** (step // (steps_per_epoch * step_epochs))


# Steps count from 0: the rate of a step is the schedule's value before it. `Plateau` moves between epochs what is
# constant within them.
SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "exponential": exponential,
    "cosine": cosine,
    "plateau": constant,
    "step": step,
}


def make_schedule(
    settings: OptimSettings, epochs: int, steps_per_epoch: int, unfreezing: Iterable[int] = (), longer: float = 1.0
) -> Callable[[int, float], float]:
    """Return the schedule that the settings name: a function of the steps done and the rate that it begins with.

    In the first `warmup_epochs` the rate rises in equal parts, from 1 / steps of it at the first step to the whole at
    the last; the schedule begins after them, over the steps that are left. At the start of each epoch of `unfreezing`,
    counted from 1, `restarts=unfreezing` begins it anew, unless the rate still rises. `longer`: how many times as many
    steps an epoch has as in the training that `decay_steps` was chosen for, which is stretched by it.
    """
    function = chosen("optim.schedule", settings.schedule, SCHEDULES)
    warmup = min(settings.warmup_epochs, epochs - 1) * steps_per_epoch
    lengths: dict[str, Any] = {
        "total_steps": epochs * steps_per_epoch - warmup,
        "steps_per_epoch": steps_per_epoch,
        "decay_steps": settings.decay_steps * longer,
    }
    if settings.schedule == "cosine":
        starts = [(epoch - 1) * steps_per_epoch - warmup for epoch in unfreezing if settings.restarts == "unfreezing"]
        lengths["restart_steps"] = [start for start in starts if start > 0]
    schedule = functools.partial(function, **options(function, settings.model_dump() | lengths))
    if not warmup:
        return schedule
    return lambda done, rate: rate * (done + 1) / warmup if done < warmup else schedule(done - warmup, rate)


def base_rates(rates: Sequence[float], settings: OptimSettings, epochs: int) -> list[float]:
    """Return the rates that the schedule of a recorded training started its epochs from, without the warm-up.

    A training that repeats the recorded one starts its schedule from them, and so has the rates that `Plateau` chose.

    Args:
        rates: recorded at the last step of each epoch, from the first on.
        settings: of a schedule that is constant after its warm-up, as `plateau` is.
        epochs: most epochs of the training that they were recorded of.

    >>> base_rates([0.5, 1.0, 1.0, 0.1], OptimSettings(schedule="plateau", warmup_epochs=2), epochs=9)
    [1.0, 1.0, 1.0, 0.1]
    """
    # Where an epoch ends the ramp has come as far for any number of steps in it.
    schedule = make_schedule(settings, epochs, steps_per_epoch=1)
    return [rate / schedule(epoch, 1.0) for epoch, rate in enumerate(rates)]


@dataclass
class Plateau:
    """Lowers the learning rate when a metric has not become better for `patience` epochs, as Keras does.

    Better is by more than `min_delta`, an absolute difference. Keras's patience p is p - 1 of PyTorch's scheduler,
    which lowers only after more than `patience` epochs.
    """

    mode: Literal["min", "max"]
    patience: int = 5
    factor: float = 0.5
    min_delta: float = 1e-4
    min_learning_rate: float = 1e-6
    best: float | None = None
    wait: int = 0

    def after_epoch(self, value: float, learning_rate: float) -> float:
        """The next epoch's learning rate, from the metric of the one that ended and the rate it had."""
        margin = self.min_delta if self.mode == "min" else -self.min_delta
        if self.best is None or (value + margin < self.best if self.mode == "min" else value + margin > self.best):
            self.best, self.wait = value, 0
            return learning_rate
        self.wait += 1
        if self.wait < self.patience or learning_rate <= self.min_learning_rate:
            return learning_rate
        self.wait = 0
        return max(learning_rate * self.factor, self.min_learning_rate)

    def lowered(self, learning_rate: float, share: float) -> float:
        """The learning rate of weights that began at `learning_rate`, where the others are lowered to `share`."""
        return max(learning_rate * share, min(learning_rate, self.min_learning_rate))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to go on."""
        return {"best": self.best, "wait": self.wait}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best, self.wait = state["best"], state["wait"]


def make_plateau(settings: OptimSettings, mode: Literal["min", "max"]) -> Plateau | None:
    """The plateau rule for a metric of that direction; none where the schedule is another."""
    if settings.schedule != "plateau":
        return None
    return Plateau(
        mode,
        patience=settings.plateau_patience,
        factor=settings.plateau_factor,
        min_delta=settings.plateau_min_delta,
        min_learning_rate=settings.min_learning_rate,
    )
