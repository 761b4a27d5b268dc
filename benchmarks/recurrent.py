"""Measure the cost of recurrent dropout in an LSTM layer: fused, fused without it, and as loops over frames.

`python -m benchmarks.recurrent [--frames 300] [--units 128] [--channels 128] [--batch 32] [--repeats 15]`

Forward and backward of one layer, one thread, in turns: the layer of `models/lstm.py` with recurrent dropout; it
without, which is PyTorch's fused kernel; loops over frames with the mask on the weight; loops with masks per gate on
the state, as Keras does. All have the same masks, and their outputs are compared first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report import machine, publish, spread, table
from tuning.models.layers import dropout_mask
from tuning.models.lstm import LSTM

RATE = 0.2
TOLERANCE = 1e-5  # largest difference between the outputs of the layer and of the loop


def step_loop(layer: LSTM, sequence: Tensor, on_the_weight: bool) -> Tensor:
    """Apply the layer as in training, but frame by frame; each gate has its own mask on the previous state.

    Masks are on the weight's columns (one matrix product per frame) or on the state (one per gate and frame).
    """
    units = layer.units
    mask = dropout_mask(layer.weight_hh, (4, 1, units), layer.recurrent_dropout)
    kernel = layer.weight_hh.view(4, units, units)
    masked = (kernel * mask).view(4 * units, units)
    into = F.linear(sequence, layer.weight_ih, layer.bias)
    state = cell = sequence.new_zeros(len(sequence), units)
    states = []
    for frame in into.unbind(1):
        if on_the_weight:
            recurrent = F.linear(state, masked)
        else:
            recurrent = torch.cat([F.linear(state * mask[gate], kernel[gate]) for gate in range(4)], dim=1)
        in_gate, forget, candidate, out_gate = (frame + recurrent).chunk(4, 1)
        cell = forget.sigmoid() * cell + in_gate.sigmoid() * candidate.tanh()
        state = out_gate.sigmoid() * cell.tanh()
        states.append(state)
    return torch.stack(states, dim=1)


def timed(function: Callable[[Tensor], Tensor], sequence: Tensor) -> float:
    """Milliseconds of a forward and backward pass."""
    began = time.perf_counter()
    function(sequence).square().mean().backward()
    return 1000 * (time.perf_counter() - began)


def check(functions: Iterable[Callable[[Tensor], Tensor]], sequence: Tensor) -> float:
    """The largest difference between the outputs under the same masks. Raises SystemExit above the tolerance."""
    outputs = []
    for function in functions:
        torch.manual_seed(1)
        outputs.append(function(sequence).detach())
    difference = max(float((other - outputs[0]).abs().max()) for other in outputs[1:])
    if difference > TOLERANCE:
        raise SystemExit(f"a loop is not the layer: outputs differ by {difference:g}")
    return difference


def main(arguments: list[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("frames", 300), ("units", 128), ("channels", 128), ("batch", 32), ("repeats", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", help="also write the table to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sequence = torch.randn(options.batch, options.frames, options.channels)
    masked = LSTM(options.channels, options.units, recurrent_dropout=RATE).train()
    plain = LSTM(options.channels, options.units).train()
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "fused, no recurrent dropout": plain,
        "fused, recurrent dropout on the weight": masked,
        "loop, recurrent dropout on the weight": lambda values: step_loop(masked, values, True),
        "loop, recurrent dropout on the state": lambda values: step_loop(masked, values, False),
    }
    difference = check(list(functions.values())[1:], sequence)
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(options.repeats + 2):
        for name, function in functions.items():
            milliseconds = timed(function, sequence)
            if repeat >= 2:  # the first two warm up
                times[name].append(milliseconds)
    reference = times["fused, no recurrent dropout"]
    rows = []
    for name, values in times.items():
        ratios = [value / other for value, other in zip(values, reference, strict=True)]
        rows.append([name, *spread(values, 1), f"{statistics.median(ratios):.2f}"])
    header = ["one training step of the layer, ms", "median", "min", "max", "ratio"]
    notes = (
        f"Batch {options.batch} x {options.frames} frames x {options.channels} channels, {options.units} units, "
        f"{options.repeats} repeats in turns, one thread.\nLayer and loops differ by {difference:.1e} at most. "
        f"{machine('torch')}"
    )
    publish(f"## Recurrent dropout\n\n{table(header, rows)}\n\n{notes}", options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
