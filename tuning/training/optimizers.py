"""Optimisers and learning-rate schedules by name, with the arithmetic of Keras's.

A new one is one function and one line in `OPTIMIZERS` or `SCHEDULES`; its keyword-only parameters are settings of
the section `optim` with the same name.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tuning.config.schema import OptimSettings
from tuning.models.base import pretrained_weights

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]  # or in groups


class KerasAdam(torch.optim.Adam):
    """Adam with epsilon added before the bias correction, as Keras does.

    Keras: w -= lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps), which is PyTorch's step with
    eps / sqrt(1 - beta2^t) in place of eps. The first steps are where it shows: 32 times eps at t = 1.
    The step t is the largest in a group; it is read from the state, so a restored optimiser continues exactly.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        epsilons = [group["eps"] for group in self.param_groups]
        try:
            for group in self.param_groups:
                steps = (self.state[p]["step"] for p in group["params"] if self.state.get(p))
                t = 1 + max((float(step) for step in steps), default=0.0)
                group["eps"] /= math.sqrt(1 - group["betas"][1] ** t)
            return super().step(closure)
        finally:
            # The settings stay what the user gave, in a checkpoint too.
            for group, epsilon in zip(self.param_groups, epsilons, strict=True):
                group["eps"] = epsilon


class KerasSGD(torch.optim.Optimizer):
    """SGD whose velocity holds the learning rate: v = momentum * v - lr * g, as Keras does.

    The weights move by v, or with Nesterov by momentum * v - lr * g. PyTorch's velocity holds bare gradients, so
    there a change of the rate acts at once on all past gradients; here it acts on the new ones only. With
    `weight_decay` g is the gradient plus weight_decay * w, as in PyTorch.
    """

    def __init__(self, params: Any, lr: float, momentum: float, nesterov: bool, weight_decay: float) -> None:
        settings = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = _evaluate(closure)
        for group in self.param_groups:
            parameters, gradients = _with_gradients(group)
            if not parameters:
                continue
            rate, momentum = float(group["lr"]), group["momentum"]
            if momentum == 0:
                torch._foreach_add_(parameters, gradients, alpha=-rate)
                continue
            velocities = _state(self, parameters, "velocity")
            torch._foreach_mul_(velocities, momentum)
            torch._foreach_add_(velocities, gradients, alpha=-rate)
            if group["nesterov"]:
                torch._foreach_add_(parameters, velocities, alpha=momentum)
                torch._foreach_add_(parameters, gradients, alpha=-rate)
            else:
                torch._foreach_add_(parameters, velocities)
        return loss


class KerasRMSprop(torch.optim.Optimizer):
    """RMSprop with epsilon inside the root: v = rho * v + (1 - rho) * g², step lr * g / sqrt(v + eps), as Keras does.

    PyTorch adds epsilon to the root, which for gradients near zero is another step: 3e-4 against 1e-7 as the
    least denominator. With momentum the weights move by -m, m = momentum * m + step; as in `KerasSGD` it holds the
    learning rate, and g the weights' decay.
    """

    def __init__(self, params: Any, lr: float, rho: float, momentum: float, eps: float, weight_decay: float) -> None:
        settings = {"lr": lr, "rho": rho, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = _evaluate(closure)
        for group in self.param_groups:
            parameters, gradients = _with_gradients(group)
            if not parameters:
                continue
            squares = _state(self, parameters, "square")
            torch._foreach_mul_(squares, group["rho"])
            torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["rho"])
            roots = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(roots)
            steps = list(torch._foreach_mul(gradients, float(group["lr"])))
            torch._foreach_div_(steps, roots)
            if group["momentum"] > 0:
                velocities = _state(self, parameters, "velocity")
                torch._foreach_mul_(velocities, group["momentum"])
                torch._foreach_add_(velocities, steps)
                steps = velocities
            torch._foreach_sub_(parameters, steps)
        return loss


def _evaluate(closure: Callable[[], Any] | None) -> Any:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _with_gradients(group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """A group's weights that have gradients, and those, plus `weight_decay` times the weights where it is not 0."""
    parameters = [p for p in group["params"] if p.grad is not None]
    gradients = [p.grad for p in parameters]
    if group["weight_decay"] != 0 and parameters:
        return parameters, list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
    return parameters, gradients


def _state(optimizer: torch.optim.Optimizer, parameters: list[Tensor], name: str) -> list[Tensor]:
    """One tensor of state per parameter, zero at first."""
    for p in parameters:
        if name not in optimizer.state[p]:
            optimizer.state[p][name] = torch.zeros_like(p)
    return [optimizer.state[p][name] for p in parameters]


def adam(
    parameters: Parameters,
    learning_rate: float,
    *,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Adam as Keras computes it. Source: guide part 8, optimiser 1; Kingma and Ba 2015, end of section 2.

    With `weight_decay` all weights shrink by learning_rate * weight_decay of themselves at each step, apart from the
    gradient, as in Keras's AdamW (Loshchilov and Hutter 2019).
    """
    return KerasAdam(
        parameters,
        lr=learning_rate,
        betas=(beta_1, beta_2),
        eps=epsilon,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
    )


def sgd(
    parameters: Parameters,
    learning_rate: float,
    *,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Gradient descent with momentum as Keras computes it. Source: guide part 8, optimiser 3.

    With `weight_decay` so much of each weight is added to its gradient, as PyTorch does: an L2 penalty of half of it.
    """
    return KerasSGD(parameters, lr=learning_rate, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)


def rmsprop(
    parameters: Parameters,
    learning_rate: float,
    *,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-7,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """RMSprop as Keras computes it, not centred. Source: guide part 8, optimiser 2.

    With `weight_decay` so much of each weight is added to its gradient, as in `sgd`.
    """
    return KerasRMSprop(
        parameters, lr=learning_rate, rho=rho, momentum=momentum, eps=epsilon, weight_decay=weight_decay
    )


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": adam,
    "rmsprop": rmsprop,
    "sgd": sgd,
}


def make_optimizer(parameters: Parameters, settings: OptimSettings) -> torch.optim.Optimizer:
    """The optimiser that the settings name, at the first learning rate."""
    function = OPTIMIZERS[settings.name]
    return function(parameters, settings.learning_rate, **_options(function, settings.model_dump()))


def parameter_groups(model: Any, settings: OptimSettings) -> list[dict[str, Any]]:
    """The weights that are trained, in groups that the schedule's rate is multiplied for by their `rate_factor`.

    It is 1, and for the model's `encoder_parameters()` and what its `unfreezing()` names, if it has any, what leads to
    `encoder_learning_rate`. From the epoch `first_epoch` on a group is trained. All groups are there from the start,
    since an optimiser that is made anew loses the state of the weights that were trained before.
    """
    stages = pretrained_weights(model)
    known = {id(parameter) for _, parameters in stages for parameter in parameters}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups: list[dict[str, Any]] = [{"params": others, "rate_factor": 1.0, "first_epoch": 1}]
    factor = (settings.encoder_learning_rate or settings.learning_rate) / settings.learning_rate
    for epoch, parameters in stages:
        if parameters:
            groups.append({"params": parameters, "rate_factor": factor, "first_epoch": epoch})
    return groups


def constant(step: int, learning_rate: float) -> float:
    """The learning rate itself."""
    return learning_rate


def exponential(
    step: int, learning_rate: float, *, decay_steps: float = 1000, decay_rate: float = 0.96, staircase: bool = True
) -> float:
    """learning_rate * decay_rate ** (step / decay_steps); with `staircase` the exponent is rounded down.

    Source: guide part 8, schedule 1.

    >>> [exponential(step, 1.0, decay_steps=10, decay_rate=0.5) for step in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.25]
    """
    decays = step // decay_steps if staircase else step / decay_steps
    return float(learning_rate * decay_rate**decays)


def cosine(
    step: int, learning_rate: float, *, total_steps: int, alpha: float = 0.1, restart_steps: Sequence[int] = ()
) -> float:
    """Half a cosine from the learning rate down to `alpha` of it at `total_steps`, and constant from there.

    `total_steps` is the real number of steps, batches per epoch times epochs. At each of `restart_steps`, in order, it
    begins anew, over the steps that are left. Source: guide part 8, schedule 2; the ViT guide, section 4.

    >>> [round(cosine(step, 1.0, total_steps=10), 3) for step in (0, 5, 10, 11)]
    [1.0, 0.55, 0.1, 0.1]
    >>> [round(cosine(step, 1.0, total_steps=10, restart_steps=[6]), 3) for step in (0, 5, 6, 8, 10)]
    [1.0, 0.55, 1.0, 0.55, 0.1]
    """
    start = max((restart for restart in restart_steps if restart <= step), default=0)
    fraction = min(step - start, total_steps - start) / (total_steps - start)
    return learning_rate * (alpha + (1 - alpha) * (1 + math.cos(math.pi * fraction)) / 2)


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
    """The schedule that the settings name, as a function of the steps done and the rate that it begins with.

    In the first `warmup_epochs` the rate rises in equal parts, from 1 / steps of it at the first step to the whole at
    the last; the schedule begins after them, over the steps that are left. At the start of each epoch of `unfreezing`,
    counted from 1, `restarts=unfreezing` begins it anew, unless the rate still rises. `longer`: by what factor an epoch
    has more steps than where `decay_steps` was chosen, which is stretched by it.
    """
    function, warmup = SCHEDULES[settings.schedule], min(settings.warmup_epochs, epochs - 1) * steps_per_epoch
    starts = [(epoch - 1) * steps_per_epoch - warmup for epoch in unfreezing if settings.restarts == "unfreezing"]
    lengths = {
        "total_steps": epochs * steps_per_epoch - warmup,
        "steps_per_epoch": steps_per_epoch,
        "restart_steps": [start for start in starts if start > 0],
        "decay_steps": settings.decay_steps * longer,
    }
    schedule = functools.partial(function, **_options(function, settings.model_dump() | lengths))
    if not warmup:
        return schedule
    return lambda done, rate: rate * (done + 1) / warmup if done < warmup else schedule(done - warmup, rate)


def base_rates(rates: Sequence[float], settings: OptimSettings, epochs: int) -> list[float]:
    """The rate that the schedule began each epoch with, from the rates that ended them: without the warm-up's ramp.

    What `Plateau` made of the learning rate, for a training that follows a recorded one: as such a base it gives these
    rates again.

    Args:
        rates: of the last step of each epoch, from the first on.
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
    which lowers only after more than `patience` epochs. Source: guide part 8, schedule 3; part 9 has patience 7.
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


def _options(function: Callable[..., Any], settings: dict[str, Any]) -> dict[str, Any]:
    """A function's keyword-only parameters among the settings; those that are None keep the function's default."""
    names = [name for name, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY]
    return {name: settings[name] for name in names if settings[name] is not None}
