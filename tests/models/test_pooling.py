import math

import numpy as np
import pytest
import torch

from tests.helpers.keras_reference import keras
from tests.helpers.keras_reference import layers as keras_layers
from tuning.models.pooling import (
    NUM_STATISTICS,
    NUM_TRENDS,
    Pool,
    max_over_frames,
    mean_over_frames,
    statistics_and_trends,
    statistics_over_frames,
    trends_over_frames,
)

KINDS = ["max", "average"]


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


def by_hand(values: torch.Tensor, kind: str, windows: list[range], length: int) -> torch.Tensor:
    """Maximum or average over each window's frames that are within the sequence and the clip. [T, C] -> [T', C]."""
    pooled = []
    for window in windows:
        inside = values[[frame for frame in window if 0 <= frame < length]]
        empty = torch.zeros(values.shape[1])
        pooled.append(empty if len(inside) == 0 else inside.amax(0) if kind.endswith("max") else inside.mean(0))
    return torch.stack(pooled)


def windows_of(frames: int, size: int, stride: int, padding: str) -> list[range]:
    """Frames of each window as Keras documents them; `same` puts the odd frame of padding at the end."""
    if padding == "valid":
        return [range(start, start + size) for start in range(0, frames - size + 1, stride)]
    count = math.ceil(frames / stride)
    left = max(0, (count - 1) * stride + size - frames) // 2
    return [range(k * stride - left, k * stride - left + size) for k in range(count)]


@pytest.mark.parametrize("frames", [7, 8, 12, 13])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("stride", [None, 1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_pooling_equals_keras_and_windows_by_hand(kind, size, stride, padding, frames):
    # Negative values, where a padding of zeros would win the maximum.
    sequence = torch.randn(2, frames, 3) - 2
    pool = Pool(kind, size, stride, padding)
    ours = pool(sequence)
    windows = windows_of(frames, size, stride or size, padding)
    expected = torch.stack([by_hand(clip, kind, windows, frames) for clip in sequence])
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
    assert ours.shape[1] == pool.num_frames(frames)
    theirs = {"max": keras_layers.MaxPooling1D, "average": keras_layers.AveragePooling1D}[kind]
    reference = theirs(size, strides=stride, padding=padding)(sequence)
    assert reference.shape == ours.shape
    uneven = sum(frame >= frames for w in windows for frame in w) != sum(frame < 0 for w in windows for frame in w)
    # On PyTorch, Keras repeats the edge frame where the padding is uneven; only an average shows it.
    if kind == "max" or not uneven:
        torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("frames", "wanted"), [(12, 4), (13, 4), (7, 5), (3, 5)])
@pytest.mark.parametrize("kind", ["adaptive_max", "adaptive_average"])
def test_adaptive_pooling_equals_keras_and_windows_by_hand(kind, frames, wanted):
    sequence = torch.randn(2, frames, 3)
    theirs = {
        "adaptive_max": keras_layers.AdaptiveMaxPooling1D,
        "adaptive_average": keras_layers.AdaptiveAveragePooling1D,
    }[kind]
    pool = Pool(kind, adaptive_frames=wanted)
    torch.testing.assert_close(pool(sequence), theirs(wanted)(sequence), rtol=1e-6, atol=1e-6)
    windows = [range(k * frames // wanted, -(-(k + 1) * frames // wanted)) for k in range(wanted)]
    expected = torch.stack([by_hand(clip, kind, windows, frames) for clip in sequence])
    torch.testing.assert_close(pool(sequence), expected, rtol=1e-6, atol=1e-6)
    assert pool.num_frames(frames) == wanted


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 3), (4, 4), (3, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize("kind", [*KINDS, "adaptive_max", "adaptive_average"])
def test_padding_counts_in_no_window(kind, size, stride, padding):
    frames, lengths = 13, torch.tensor([13, 12, 9, 4, 1])
    sequence = torch.randn(len(lengths), frames, 3) - 2
    for clip, length in enumerate(lengths):
        sequence[clip, length:] = torch.nan
    sequence.requires_grad_()
    pool = Pool(kind, size, stride, padding, adaptive_frames=5)
    pooled, kept = pool(sequence, lengths), pool.lengths(lengths, frames)
    windows = windows_of(frames, size, stride, padding)
    if kind.startswith("adaptive"):
        windows = [range(k * frames // 5, -(-(k + 1) * frames // 5)) for k in range(5)]
    for clip, length in enumerate(lengths.tolist()):
        if kind.startswith("adaptive"):
            counted = sum(window.start < length for window in windows)
        else:
            counted = len(windows_of(length, size, stride, padding))
        assert kept[clip] == max(1, counted)
        expected = by_hand(sequence[clip], kind, windows, length)[: kept[clip]]
        torch.testing.assert_close(pooled[clip, : kept[clip]], expected, rtol=1e-5, atol=1e-6)
    pooled.sum().backward()
    assert sequence.grad.isfinite().all()


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_lengths_are_those_of_the_clip_alone(padding):
    for size, stride in [(2, 2), (3, 3), (4, 1), (3, 2)]:
        pool = Pool("max", size, stride, padding)
        for length in range(size, 20):
            assert pool.lengths(torch.tensor([length]), 20).item() == pool.num_frames(length)
    assert Pool("max", 2).lengths(None, 20) is None


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_the_fewest_frames_are_just_enough(padding):
    for size in (1, 2, 3, 4):
        for stride in (1, 2, 3):
            pool = Pool("max", size, stride, padding)
            for wanted in (1, 2, 5):
                fewest = pool.min_frames(wanted)
                assert pool.num_frames(fewest) >= wanted
                assert fewest == 1 or pool.num_frames(fewest - 1) < wanted


def test_global_pooling_equals_keras_and_a_literal_formula():
    sequence, lengths = torch.randn(4, 9, 3) - 2, torch.tensor([9, 5, 1, 8])
    mask = torch.arange(9) < lengths[:, None]
    theirs = keras_layers.GlobalAveragePooling1D()
    torch.testing.assert_close(mean_over_frames(sequence, None), theirs(sequence))
    torch.testing.assert_close(max_over_frames(sequence, None), keras_layers.GlobalMaxPooling1D()(sequence))
    torch.testing.assert_close(mean_over_frames(sequence, lengths), theirs(sequence, mask=mask))
    literal_mean = torch.stack([clip[:n].sum(0) / n for clip, n in zip(sequence, lengths, strict=True)])
    literal_max = torch.stack([clip[:n].amax(0) for clip, n in zip(sequence, lengths, strict=True)])
    torch.testing.assert_close(mean_over_frames(sequence, lengths), literal_mean)
    assert torch.equal(max_over_frames(sequence, lengths), literal_max)
    # What the guide's third pattern would give: masked, then averaged over all frames.
    assert not torch.allclose(mean_over_frames(sequence, lengths), (sequence * mask[..., None]).mean(1))


def test_statistics_equal_numpy_on_each_clip_alone():
    sequence, lengths = torch.randn(4, 40, 3), torch.tensor([40, 21, 1, 9])
    found = statistics_over_frames(sequence, lengths)
    assert found.shape == (4, 3 * NUM_STATISTICS)
    for clip, length, row in zip(sequence.numpy(), lengths, found, strict=True):
        values = clip[:length]
        changes = [
            np.abs(values[lag:] - values[:-lag]).mean(axis=0) if length > lag else np.zeros(3)
            for lag in (1, 2, 4, 8, 16)
        ]
        literal = np.concatenate([values.mean(axis=0), np.sqrt(values.var(axis=0) + 1e-5), *changes])
        np.testing.assert_allclose(row, literal, atol=1e-5)
    torch.testing.assert_close(
        statistics_over_frames(sequence, torch.full((4,), 40)), statistics_over_frames(sequence, None)
    )


def test_trends_equal_numpy_on_each_clip_alone():
    sequence, lengths = torch.randn(4, 40, 3), torch.tensor([40, 21, 1, 9])
    sequence[1] += 0.3 * torch.arange(40)[:, None]  # what rises has a positive slope
    found = trends_over_frames(sequence, lengths)
    for clip, length, row in zip(sequence.numpy(), lengths.tolist(), found, strict=True):
        values = clip[:length]
        time = np.array([(2 * number + 1) / length - 1 for number in range(length)])[:, None]
        normal = (values - values.mean(axis=0)) / np.sqrt(values.var(axis=0) + 1e-5)
        literal = [np.mean(normal * time, axis=0), np.mean(normal * (time**2 - 1 / 3), axis=0)]
        np.testing.assert_allclose(row, np.concatenate(literal), atol=1e-5)
    assert (found[1, :3] > 0.5).all()
    torch.testing.assert_close(trends_over_frames(sequence, torch.full((4,), 40)), trends_over_frames(sequence, None))
    both = statistics_and_trends(sequence, lengths)
    assert torch.equal(both, torch.cat([statistics_over_frames(sequence, lengths), found], 1))
    assert both.shape == (4, 3 * (NUM_STATISTICS + NUM_TRENDS))
