"""Generated clips among training clips: how many, which, on which scale, and never in validation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tuning.datasets.loaders.generated import ExtendedData, GeneratedClips, steps_per_epoch
from tuning.datasets.loaders.in_memory import ResidentData
from tuning.datasets.loaders.mixup import AugmentedData
from tuning.datasets.settings import AugmentSettings, FeatureSettings
from tuning.datasets.store.reader import FeatureStatistics, Part

FRAMES, FEATURES, REAL, MADE = 6, 3, 25, 17


@pytest.fixture
def data():
    rng = np.random.default_rng(0)

    def part(count, name):
        ids = np.array([f"{name}{number}" for number in range(count)])
        values = rng.normal(5, 2, (count, FRAMES, FEATURES)).astype(np.float32)
        return Part(ids, values, np.full(count, FRAMES, np.int32), rng.uniform(-1, 1, (count, 2)).astype(np.float32))

    train, val = part(REAL, "t"), part(7, "v")
    real = ResidentData(train, val, FeatureStatistics.of([(train.num_frames, train.features)]), FRAMES)
    made = rng.normal(9, 1, (MADE, FRAMES, FEATURES)).astype(np.float32)
    labels = np.stack([np.arange(MADE), np.arange(MADE)], 1).astype(np.float32) + 100
    return real, ExtendedData(real, GeneratedClips(made, labels, np.full(MADE, FRAMES, np.int32)))


def with_share(data, share):
    return ExtendedData(data[0], data[1].generated, share)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("batch_size", [4, 8, 64])
def test_every_real_clip_once_and_so_many_generated_ones(data, share, batch_size):
    mixed = with_share(data, share)
    batches = list(mixed.train_batches(1, batch_size, seed=3))
    assert len(batches) == mixed.num_batches(batch_size)
    indices = torch.cat([batch["indices"] for batch in batches])
    assert sorted(indices[indices >= 0].tolist()) == list(range(REAL))
    assert int((indices < 0).sum()) == round(share * REAL)
    assert all(batch["num_clips"] == len(batch["features"]) == len(batch["targets"]) for batch in batches)
    # Each batch has its part of both, within a clip.
    for batch in batches:
        real = int((batch["indices"] >= 0).sum())
        assert abs(int((batch["indices"] < 0).sum()) - share * real) <= 1


def test_they_are_normalised_by_the_real_clips_statistics_and_keep_their_labels(data):
    mixed = with_share(data, 1.0)
    seen = []
    for batch in mixed.train_batches(1, 10, seed=0):
        for index, features, targets in zip(batch["indices"], batch["features"], batch["targets"], strict=True):
            if index < 0:
                number = int(targets[0]) - 100
                seen.append(number)
                own = mixed.generated.features[number]
                expected = (own - mixed.inner.statistics.mean) / mixed.inner.statistics.std
                assert np.allclose(features.numpy(), expected, atol=1e-5)
    # 25 draws of 17: all of them once before any comes again.
    assert sorted(seen[:MADE]) == list(range(MADE)) and len(seen) == REAL
    assert mixed.statistics is data[0].statistics and mixed.num_train == REAL


def test_an_epoch_follows_from_seed_and_number_alone(data):
    mixed = with_share(data, 0.5)

    def labels(epoch, seed):
        return torch.cat([batch["targets"] for batch in mixed.train_batches(epoch, 8, seed)]).tolist()

    assert labels(2, 1) == labels(2, 1) != labels(3, 1) != labels(3, 2)


def test_workers_share_a_batch(data):
    mixed = with_share(data, 1.0)
    whole = [sorted(b["targets"][:, 0].tolist()) for b in mixed.train_batches(1, 8, seed=0, world_size=2)]
    parts = [list(mixed.train_batches(1, 8, seed=0, rank=rank, world_size=2)) for rank in range(2)]
    for both in zip(*parts, strict=True):
        targets = torch.cat([part["targets"] for part in both])[:, 0].tolist()
        assert sum(len(part["targets"]) for part in both) == both[0]["num_clips"] == both[1]["num_clips"]
        assert len(set(targets)) == len(targets)
    assert len(whole) == len(parts[0])


def test_validation_is_of_real_clips_whatever_the_share(data):
    for share in (0.0, 1.0):
        mixed = with_share(data, share)
        for one, other in zip(mixed.val_batches(4), data[0].val_batches(4), strict=True):
            assert all(torch.equal(one[name], other[name]) for name in ("features", "targets", "indices"))
    without = list(with_share(data, 0.0).train_batches(1, 8, seed=0))
    for one, other in zip(without, data[0].train_batches(1, 8, seed=0), strict=True):
        assert torch.equal(one["features"], other["features"])


def test_what_is_written_is_read(data, tmp_path):
    made = data[1].generated
    made.write(str(tmp_path / "gan"))
    found = GeneratedClips.read(str(tmp_path / "gan"))
    assert (found.features == made.features).all() and (found.targets == made.targets).all()
    shorter = replace(made, num_frames=np.arange(MADE, dtype=np.int32) % FRAMES + 1)
    shorter.write(str(tmp_path / "shorter"))
    assert (GeneratedClips.read(str(tmp_path / "shorter")).num_frames == shorter.num_frames).all()


@pytest.mark.parametrize(("frames", "segment"), [(FRAMES, "middle"), (4, "middle"), (4, "start")])
def test_a_generated_clip_ends_where_it_should(data, frames, segment):
    """What is cut is cut of its valid frames, as of a recording's."""
    ends = np.arange(MADE, dtype=np.int32) % FRAMES + 1
    mixed = replace(with_share(data, 1.0), generated=replace(data[1].generated, num_frames=ends))
    seen = set()
    for batch in mixed.crop(frames, "masked", segment).train_batches(1, 10, seed=0):
        for index, features, targets, kept in zip(
            *(batch[name] for name in ("indices", "features", "targets", "num_frames")), strict=True
        ):
            if index < 0:
                number = int(targets[0]) - 100
                own = mixed.generated.features[number]
                start = (ends[number] - kept) // 2 if segment == "middle" else 0
                assert kept == min(ends[number], frames)
                expected = (own[start : start + kept] - mixed.statistics.mean) / mixed.statistics.std
                np.testing.assert_allclose(features[:kept], expected, atol=1e-5)
                assert not features[kept:].any()
                seen.add(number)
    assert len(seen) == MADE


FEATURES_OF = FeatureSettings(name="mel", num_mels=FEATURES, num_frames=FRAMES)


@pytest.mark.parametrize("share", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("workers", [2, 3])
def test_a_clip_of_a_batch_has_the_same_mask_on_one_and_on_several_workers(data, share, workers):
    settings = AugmentSettings(mask_prob=0.7, time_masks=2, time_mask_frames=3, freq_masks=1, freq_mask_bands=2)
    masked = AugmentedData(with_share(data, share), FEATURES_OF, settings)
    size = round(8 * (1 + share))  # eight real clips, and three batches of them with any number of workers
    whole = list(masked.train_batches(1, size, seed=4))
    parts = [list(masked.train_batches(1, size, seed=4, rank=rank, world_size=workers)) for rank in range(workers)]
    assert len(whole) == len(parts[0]) == 3
    for number, batch in enumerate(whole):
        assert (batch["features"] == 0).any()
        for rank, part in enumerate(parts):
            assert part[number]["num_clips"] == batch["num_clips"]
            for name in ("features", "targets", "indices", "num_frames"):
                assert torch.equal(part[number][name], batch[name][rank::workers]), name


def test_mixup_takes_generated_clips_on_every_worker(data):
    settings = AugmentSettings(mixup_prob=1.0)
    mixed = AugmentedData(with_share(data, 1.0), FEATURES_OF, settings)
    parts = [list(mixed.train_batches(1, 10, seed=0, rank=rank, world_size=2)) for rank in range(2)]
    for both in zip(*parts, strict=True):
        assert both[0]["mix"] == both[1]["mix"]
        assert sum(len(part["partner_targets"]) for part in both) == both[0]["num_clips"]
        for part in both:
            assert part["features"].shape[0] == len(part["targets"]) == len(part["partner_targets"])


@pytest.mark.parametrize(("batch_size", "share"), [(2, 3.0), (4, 10.0), (3, 1.0)])
def test_every_worker_has_a_real_clip_of_every_batch(data, batch_size, share):
    mixed = with_share(data, share)
    parts = [list(mixed.train_batches(1, batch_size, seed=0, rank=rank, world_size=2)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == mixed.num_batches(batch_size, 2)
    assert all((batch["indices"] >= 0).any() for part in parts for batch in part)
    real = torch.cat([batch["indices"] for part in parts for batch in part])
    assert sorted(real[real >= 0].tolist()) == list(range(REAL))


def clips_of(count):
    rng = np.random.default_rng(0)
    ids = np.array([f"c{number:03d}" for number in range(count)])
    values = rng.normal(size=(count, 4, 3)).astype(np.float32)
    return Part(ids, values, np.full(count, 4, np.int32), rng.uniform(-1, 1, (count, 2)).astype(np.float32))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(("count", "batch_size"), [(64, 16), (65, 16), (67, 8), (5, 32), (33, 2)])
def test_steps_of_an_epoch_are_those_that_the_data_give(count, batch_size, share, workers):
    part = clips_of(count)
    real = ResidentData(part, part, FeatureStatistics.of([(part.num_frames, part.features)]), 4)
    data = ExtendedData(real, GeneratedClips(part.features, part.targets, part.num_frames), share)
    found = steps_per_epoch(count, batch_size, share, workers)
    assert found == data.num_batches(batch_size, workers)
    if workers == 1:
        assert found == len(list(data.train_batches(1, batch_size, 0)))
