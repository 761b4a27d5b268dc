"""Pooling over frames, with and without padding frames. Sequences are [batch, frames, channels]."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuning.models.layers import as_image, as_sequence, valid_frames
from tuning.models.settings import Pooling


class Pool(nn.Module):
    """Maximum or average over windows of frames. [B, T, C] -> [B, `num_frames(T)`, C].

    Fixed windows (`max`, `average`) have `size` frames and begin every `stride` frames, `size` if None. With padding
    `valid` incomplete windows are dropped. With `same` there are ceil(T / stride) windows, whose maximum or average
    is over the frames that exist. Adaptive windows (`adaptive_max`, `adaptive_average`) divide a sequence of any length
    into `adaptive_frames`: the i-th goes from floor(i T / adaptive_frames) to ceil((i + 1) T / adaptive_frames).

    With `lengths` [B] all windows leave out padding frames.
    Source: Keras's `MaxPooling1D`, `AveragePooling1D`, `AdaptiveMaxPooling1D` and `AdaptiveAveragePooling1D`. Keras
    3.15 on PyTorch counts the last frame twice in an average with uneven padding; on TensorFlow it does not.
    """

    def __init__(
        self,
        kind: Pooling = "max",
        size: int = 2,
        stride: int | None = None,
        padding: Literal["valid", "same"] = "valid",
        adaptive_frames: int = 1,
    ) -> None:
        super().__init__()
        self.size, self.stride, self.padding = size, stride or size, padding
        self.adaptive_frames = adaptive_frames if kind.startswith("adaptive") else None
        self.maximum = kind.endswith("max")

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        if self.adaptive_frames is None and self.size == self.stride == 1:
            return sequence
        frames = sequence.shape[1]
        pads = self._pads(frames)
        if lengths is None and not any(pads):
            return as_sequence(self._windows(as_image(sequence)))
        if lengths is None:
            lengths = torch.tensor([frames], device=sequence.device)
        # [B or 1, T, 1]; windows leave out frames beyond the clip, and a window without frames is 0.
        valid = valid_frames(lengths, frames)
        outside = -torch.inf if self.maximum else 0.0
        image = as_image(sequence.masked_fill(~valid, outside))
        pooled = self._windows(F.pad(image, pads, value=outside) if any(pads) else image)
        if self.maximum:
            return as_sequence(pooled.masked_fill(pooled == -torch.inf, 0))
        share = self._windows(F.pad(as_image(valid.to(sequence.dtype)), pads))
        return as_sequence(pooled / share.masked_fill(share == 0, 1))

    def num_frames(self, frames: int) -> int:
        """Return the number of frames that `frames` are pooled to; 0 where no window fits."""
        if self.adaptive_frames is not None:
            return self.adaptive_frames
        if self.padding == "same":
            return -(-frames // self.stride)
        return max(0, (frames - self.size) // self.stride + 1)

    def min_frames(self, wanted: int) -> int:
        """Return the smallest number of frames that is pooled to at least `wanted`."""
        if self.adaptive_frames is not None:
            return 1
        return (wanted - 1) * self.stride + (self.size if self.padding == "valid" else 1)

    def lengths(self, lengths: Tensor | None, frames: int) -> Tensor | None:
        """Return the clips' lengths [B], at least 1, after pooling a sequence of `frames` frames.

        A clip keeps as many windows as it has alone: with `valid` those that lie wholly in it, with `same` those that
        begin in it, padding in front aside. Adaptive windows count where they overlap with it.
        """
        if lengths is None:
            return None
        if self.adaptive_frames is not None:
            pooled = (lengths * self.adaptive_frames + frames - 1) // frames
        elif self.padding == "same":
            pooled = (lengths + self.stride - 1) // self.stride
        else:
            pooled = (lengths - self.size).div(self.stride, rounding_mode="floor") + 1
        return pooled.clamp(1, self.num_frames(frames))

    def _windows(self, image: Tensor) -> Tensor:
        if self.adaptive_frames is not None:
            adaptive = F.adaptive_max_pool2d if self.maximum else F.adaptive_avg_pool2d
            return adaptive(image, (1, self.adaptive_frames))
        fixed = F.max_pool2d if self.maximum else F.avg_pool2d
        return fixed(image, (1, self.size), (1, self.stride))

    def _pads(self, frames: int) -> tuple[int, int]:
        if self.adaptive_frames is not None or self.padding == "valid":
            return 0, 0
        total = max(0, (self.num_frames(frames) - 1) * self.stride + self.size - frames)
        return total // 2, total - total // 2


def mean_over_frames(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the mean over each clip's first `lengths` [B] frames, over all if None. [B, T, C] -> [B, C]."""
    if lengths is None:
        return sequence.mean(1)
    total = sequence.masked_fill(~valid_frames(lengths, sequence.shape[1]), 0).sum(1)
    return total / lengths[:, None]


def max_over_frames(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the maximum over each clip's first `lengths` [B] frames, over all if None. [B, T, C] -> [B, C]."""
    if lengths is None:
        return sequence.amax(1)
    return sequence.masked_fill(~valid_frames(lengths, sequence.shape[1]), -torch.inf).amax(1)


# Distances in frames over which changes are measured. The mean absolute change says how fast a feature moves.
LAGS = (1, 2, 4, 8, 16)
NUM_STATISTICS = 2 + len(LAGS)


Moments = tuple[Tensor, Tensor, Tensor, Tensor]


def _moments(sequence: Tensor, lengths: Tensor | None) -> Moments:
    """Return number of frames [B or 1, 1], mean [B, C], centred frames [B, T, C] (padding is 0), deviation [B, C]."""
    if lengths is None:
        count = sequence.new_full((1, 1), sequence.shape[1])
        mean = sequence.mean(1)
        centred = sequence - mean[:, None]
    else:
        valid = valid_frames(lengths, sequence.shape[1])
        count = lengths[:, None].to(sequence.dtype)
        mean = sequence.masked_fill(~valid, 0).sum(1) / count
        centred = (sequence - mean[:, None]).masked_fill(~valid, 0)
    squares = centred.square()
    variance = squares.mean(1) if lengths is None else squares.sum(1) / count
    return count, mean, centred, (variance + 1e-5).sqrt()


def statistics_over_frames(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Return mean, standard deviation, and mean absolute change over each of `LAGS`, of each channel.

    [B, T, C] -> [B, NUM_STATISTICS * C], statistic by statistic, without padding. The deviation divides by the number
    of frames and has 1e-5 under its root, so that its gradient exists where a channel is constant. The change is 0
    where a clip has too few frames for a lag.
    """
    return _statistics(sequence, lengths, _moments(sequence, lengths))


def _statistics(sequence: Tensor, lengths: Tensor | None, moments: Moments) -> Tensor:
    frames = sequence.shape[1]
    count, mean, _, deviation = moments
    found = [mean, deviation]
    if lengths is not None:
        valid = valid_frames(lengths, frames)
    for lag in LAGS:
        if lag >= frames:
            found.append(torch.zeros_like(mean))
            continue
        changes = (sequence[:, lag:] - sequence[:, :-lag]).abs()
        if lengths is not None:
            changes = changes.masked_fill(~valid[:, lag:], 0)
        found.append(changes.sum(1) / (count - lag).clamp(min=1))
    return torch.cat(found, dim=1)


NUM_TRENDS = 2


def trends_over_frames(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Return slope and curvature of each channel over a clip, in units of its deviation, without padding.

    [B, T, C] -> [B, NUM_TRENDS * C]: the mean over frames of d * t / sd, then of d * (t**2 - 1/3) / sd, where d is the
    difference from the mean, sd the deviation of `statistics_over_frames`, and t runs from -1 to 1 over the clip. These
    are the projections on the first and second Legendre polynomial, up to their norms.
    """
    return _trends(_moments(sequence, lengths))


def _trends(moments: Moments) -> Tensor:
    count, _, centred, deviation = moments
    steps = torch.arange(centred.shape[1], device=centred.device, dtype=centred.dtype) + 0.5
    time = (2 * steps / count - 1).unsqueeze(2)
    slope, bend = ((centred * shape).sum(1) / count / deviation for shape in (time, time.square() - 1 / 3))
    return torch.cat([slope, bend], dim=1)


def statistics_and_trends(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Return `statistics_over_frames` and `trends_over_frames`, concatenated. [B, T, C] -> [B, 9 C]."""
    moments = _moments(sequence, lengths)
    return torch.cat([_statistics(sequence, lengths, moments), _trends(moments)], dim=1)
