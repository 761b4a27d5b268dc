"""Optimisers by name, with the arithmetic of Keras's. A new one is one function and one line in `OPTIMIZERS`."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


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
    there a change of the rate acts at once on all past gradients; here it acts on the new ones only.
    """

    def __init__(self, params: Any, lr: float, momentum: float, nesterov: bool) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in parameters]
            if not parameters:
                continue
            rate, momentum = float(group["lr"]), group["momentum"]
            if momentum == 0:
                torch._foreach_add_(parameters, gradients, alpha=-rate)
                continue
            for p in parameters:
                if not self.state[p]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
            velocities = [self.state[p]["velocity"] for p in parameters]
            torch._foreach_mul_(velocities, momentum)
            torch._foreach_add_(velocities, gradients, alpha=-rate)
            if group["nesterov"]:
                torch._foreach_add_(parameters, velocities, alpha=momentum)
                torch._foreach_add_(parameters, gradients, alpha=-rate)
            else:
                torch._foreach_add_(parameters, velocities)
        return loss


def adam(
    parameters: Iterable[Tensor],
    learning_rate: float,
    *,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
) -> torch.optim.Optimizer:
    """Adam as Keras computes it. Source: guide part 8, optimiser 1; Kingma and Ba 2015, end of section 2."""
    return KerasAdam(parameters, lr=learning_rate, betas=(beta_1, beta_2), eps=epsilon)


def sgd(
    parameters: Iterable[Tensor], learning_rate: float, *, momentum: float = 0.9, nesterov: bool = True
) -> torch.optim.Optimizer:
    """Gradient descent with momentum as Keras computes it. Source: guide part 8, optimiser 3."""
    return KerasSGD(parameters, lr=learning_rate, momentum=momentum, nesterov=nesterov)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": adam,
    "sgd": sgd,
}
