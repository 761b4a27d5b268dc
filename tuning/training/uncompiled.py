"""Optimizers of PyTorch without its compiler, whose import takes as long as that of PyTorch itself.

torch 2.13 imports `torch._dynamo` (850 modules, 1.5 s of CPU in every process that trains) when an optimizer is made
and when it steps, to say what a graph that is being compiled may not enter. Where nothing is compiled, nothing comes
of it.
"""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

COMPILER = "torch._dynamo"
KEPT_OUT = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
REPLACEMENT = "__dynamo_disable"  # where torch keeps what the compiler has made of a function
_ADAM_STEP = inspect.unwrap(torch.optim.Adam.step)


def without_compiler() -> None:
    """Let optimizers call their methods, not what the compiler makes of them, unless it was imported before."""
    if COMPILER not in sys.modules:
        for name in KEPT_OUT:
            function = inspect.unwrap(getattr(Optimizer, name))
            vars(function).setdefault(REPLACEMENT, function)


class Adam(torch.optim.Adam):
    """PyTorch's Adam; making it and stepping do not import the compiler."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        without_compiler()
        super().__init__(*arguments, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, as PyTorch computes it."""
        return _ADAM_STEP(self, closure)
