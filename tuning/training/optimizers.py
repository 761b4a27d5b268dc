"""Optimisers by name, with the arithmetic of Keras's.

A new one is one function and one line in `OPTIMIZERS`; its keyword-only parameters are settings of the section `optim`.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from tuning.config.own_functions import chosen, options
from tuning.config.schema import OptimSettings
from tuning.models.base import pretrained_weights
from tuning.training.uncompiled import Adam, without_compiler

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]  # or in groups


class KerasAdam(Adam):
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
    learning rate, and g the weights' decay. With `centered` v is the variance: the square of the gradients' mean, which
    decays alike, is subtracted. Where rounding makes it negative, it is 0.
    """

    def __init__(
        self, params: Any, lr: float, rho: float, momentum: float, eps: float, centered: bool, weight_decay: float
    ) -> None:
        settings = {"lr": lr, "rho": rho, "momentum": momentum, "eps": eps, "centered": centered}
        super().__init__(params, settings | {"weight_decay": weight_decay})

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
            spread = squares
            if group["centered"]:
                means = _state(self, parameters, "mean")
                torch._foreach_mul_(means, group["rho"])
                torch._foreach_add_(means, gradients, alpha=1 - group["rho"])
                spread = list(torch._foreach_addcmul(squares, means, means, value=-1))
                torch._foreach_clamp_min_(spread, 0)
            roots = torch._foreach_add(spread, group["eps"])
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
    amsgrad: bool = False,
    epsilon: float = 1e-7,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Adam as Keras computes it. Source: Kingma and Ba 2015, end of section 2; `amsgrad`: Reddi, Kale and Kumar 2018.

    With `weight_decay` all weights shrink by learning_rate * weight_decay of themselves at each step, apart from the
    gradient, as in Keras's AdamW (Loshchilov and Hutter 2019).
    """
    given: list[Any] = list(parameters)
    weights = [p for entry in given for p in (entry["params"] if isinstance(entry, dict) else [entry])]
    return KerasAdam(
        given,
        lr=learning_rate,
        betas=(beta_1, beta_2),
        eps=epsilon,
        amsgrad=amsgrad,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        # A fused step takes weights for whole memory, whatever their strides. On a GPU it counts there, and reading the
        # count for epsilon would wait.
        fused=all(p.device.type == "cpu" and p.is_contiguous() for p in weights),
    )


def sgd(
    parameters: Parameters,
    learning_rate: float,
    *,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Gradient descent with momentum as Keras computes it.

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
    centered: bool = False,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """RMSprop as Keras computes it. `centered`: Graves 2013, section 4.2.

    With `weight_decay` so much of each weight is added to its gradient, as in `sgd`.
    """
    return KerasRMSprop(
        parameters,
        lr=learning_rate,
        rho=rho,
        momentum=momentum,
        eps=epsilon,
        centered=centered,
        weight_decay=weight_decay,
    )


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": adam,
    "rmsprop": rmsprop,
    "sgd": sgd,
}


def make_optimizer(parameters: Parameters, settings: OptimSettings) -> torch.optim.Optimizer:
    """The optimiser that the settings name, at the first learning rate."""
    function = chosen("optim.name", settings.name, OPTIMIZERS)
    without_compiler()
    made: torch.optim.Optimizer = function(
        parameters, settings.learning_rate, **options(function, settings.model_dump())
    )
    return made


def parameter_groups(model: Any, settings: OptimSettings) -> list[dict[str, Any]]:
    """The weights that are trained, in groups with schedules that begin at `rate_factor` times the learning rate.

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
