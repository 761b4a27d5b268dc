"""Size and speed of a model, which a search may rank by as a second metric."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

WARM_UPS, PASSES = 5, 31


def cost_of(model: Any, name: str, num_frames: int, num_features: int, others: Sequence[Any] = ()) -> float:
    """Return one of `COSTS` for a model that takes features [clips, frames, features] and `others` of one clip.

    `parameters`: trained weights. `size_mb`: all weights and buffers, 1 MB = 10**6 bytes. `latency_ms`: median time to
    predict one clip on this machine's CPU with the trial's threads, while other trials train at the same time.
    """
    import torch

    if name == "parameters":
        return float(sum(p.numel() for p in model.parameters() if p.requires_grad))
    if name == "size_mb":
        tensors = [*model.parameters(), *model.buffers()]
        return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6)
    assert name == "latency_ms", name
    clip, seconds = torch.zeros(1, num_frames, num_features), []
    model.eval()
    with torch.inference_mode():
        for _ in range(WARM_UPS + PASSES):
            began = time.perf_counter()
            model(clip, *others)
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[WARM_UPS:]) * 1000
