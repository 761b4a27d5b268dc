"""Train without importing PyTorch's compiler, which takes as long as importing PyTorch itself.

The optimizers of torch 2.13 import `torch._dynamo` (850 modules, 1.5 s of CPU in every process that trains) for two
functions: one ends a graph that is being compiled, the other keeps a function out of such a graph. Where nothing is
compiled neither does anything. So a stand-in has these two, and is replaced by the compiler as soon as anything else of
it is asked for, as `torch.compile` does.
"""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo"
REMEMBERED = "__dynamo_disable"  # where torch keeps what `disable` has made of a function


class StandIn(ModuleType):
    """The compiler until it is needed."""

    def __init__(self) -> None:
        super().__init__(COMPILER)
        self._kept_out: list[Any] = []

    def graph_break(self, msg: str = "") -> None:
        """Do nothing, since no graph is being compiled."""

    def disable(self, fn: Callable[..., Any] | None = None, *arguments: Any, **options: Any) -> Any:
        """Return the function as it is for torch's own functions, and what the compiler makes of it for others."""
        if fn is None or options != {"wrapping": False}:
            return self._compiler().disable(fn, *arguments, **options)
        self._kept_out.append(fn)
        return fn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compiler(), name)

    def _compiler(self) -> Any:
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
            for function in self._kept_out:
                vars(function).pop(REMEMBERED, None)
        return importlib.import_module(COMPILER)


def install() -> None:
    """Let the stand-in be imported in place of the compiler, unless that was imported before."""
    if COMPILER not in sys.modules:
        sys.modules[COMPILER] = torch._dynamo = StandIn()
