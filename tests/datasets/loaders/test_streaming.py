import itertools
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from tests.helpers.recordings import SMALL, write_corpus
from tests.helpers.waiting import PATIENCE
from tuning.datasets.loaders import streaming as stream
from tuning.datasets.loaders.in_memory import ResidentData, batch_bounds
from tuning.datasets.loaders.mixup import augment_data
from tuning.datasets.loaders.streaming import StreamedData, choose_loading, num_bytes, open_data
from tuning.datasets.settings import AugmentSettings, DataSettings, SplitSettings
from tuning.datasets.splits.split import partition_of, split_clips
from tuning.datasets.store.build import prepare
from tuning.datasets.store.reader import SealedError, read_part

FRAMES = 24
NUM_CLIPS = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory, ray_session):
    """Clips of 13, 21 and 24 valid frames in shards of eight, and their split."""
    folder = tmp_path_factory.mktemp("stream")
    corpus = write_corpus(folder / "corpus", NUM_CLIPS, num_groups=10)
    split = split_clips(corpus.clips, SplitSettings(val_share=0.2, test_share=0.2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuning.datasets.store.build.CLIPS_PER_SHARD", 8)
        prepared = prepare(
            corpus, partition_of(corpus.clips, split), SMALL, FRAMES, DataSettings(prepared=str(folder / "prepared"))
        )
    return prepared, split, read_part(prepared, corpus.clips, sealed=())


@pytest.fixture(scope="module")
def resident(made):
    return ResidentData.read(*made[:2])


@pytest.fixture(scope="module")
def streamed(made):
    return StreamedData.open(*made[:2])


@pytest.fixture(params=["resident", "streamed"])
def data(request):
    return request.getfixturevalue(request.param)


def rows_of(batches, ids):
    """Features, valid frames and targets by clip id; no clip twice."""
    rows = {}
    for batch in batches:
        for features, num_frames, targets, index in zip(
            *(batch[k] for k in ("features", "num_frames", "targets", "indices")), strict=True
        ):
            assert ids[index] not in rows
            rows[str(ids[index])] = (features.numpy(), int(num_frames), tuple(targets.tolist()))
    return rows


def literal_row(made, clip, frames=FRAMES):
    """The middle valid frames, less the mean, over the deviation; zeros behind them."""
    _, split, raw = made
    train = np.isin(raw.ids, [c.id for c in split.train])
    valid = np.concatenate([x[:n] for x, n in zip(raw.features[train], raw.num_frames[train], strict=True)])
    mean, std = valid.astype(np.float64).mean(axis=0), valid.astype(np.float64).std(axis=0)
    row = raw.ids.tolist().index(clip)
    kept = min(frames, raw.num_frames[row])
    start = (raw.num_frames[row] - kept) // 2
    out = np.zeros((frames, raw.features.shape[2]))
    out[:kept] = (raw.features[row, start : start + kept] - mean) / std
    return out, kept


@pytest.mark.parametrize("frames", [FRAMES, 17, 10])
def test_batches_are_the_normalised_clips(made, data, frames):
    split = made[1]
    data = data.crop(frames, "masked", "middle")
    for part, ids, batches in (
        (split.train, data.train_ids, data.train_batches(epoch=1, batch_size=7, seed=3)),
        (split.val, data.val_ids, data.val_batches(batch_size=3)),
    ):
        rows = rows_of(batches, ids)
        assert sorted(rows) == sorted(clip.id for clip in part)
        for clip in part:
            features, num_frames, targets = rows[clip.id]
            expected, kept = literal_row(made, clip.id, frames)
            assert num_frames == kept
            assert features.shape == (frames, 13)
            np.testing.assert_allclose(features, expected, atol=1e-4)
            assert (features[kept:] == 0).all()
            np.testing.assert_allclose(targets, clip.targets, rtol=1e-6)


def test_types_and_sizes(data):
    batch = next(iter(data.train_batches(0, 4, 0)))
    assert batch.pop("num_clips") == 4
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.items()} == {
        "features": (torch.float32, (4, FRAMES, 13)),
        "num_frames": (torch.int64, (4,)),
        "targets": (torch.float32, (4, 2)),
        "indices": (torch.int64, (4,)),
    }
    assert (data.num_train, data.num_val, data.num_features, data.frames) == (24, 8, 13, FRAMES)


def order(data, epoch, seed):
    return torch.cat([batch["indices"] for batch in data.train_batches(epoch, 5, seed)]).tolist()


def test_order_follows_seed_and_epoch(data):
    assert order(data, 1, 0) == order(data, 1, 0)
    assert len({tuple(order(data, epoch, seed)) for epoch, seed in itertools.product((1, 2), (0, 1))}) == 4
    assert order(data, 1, 0) != sorted(order(data, 1, 0))


def test_resident_and_streamed_agree(resident, streamed):
    np.testing.assert_array_equal(resident.train_ids, streamed.train_ids)
    np.testing.assert_allclose(resident.statistics.mean, streamed.statistics.mean, rtol=1e-6)
    np.testing.assert_allclose(resident.statistics.std, streamed.statistics.std, rtol=1e-6)
    streamed = replace(streamed, statistics=resident.statistics)
    for one, other in zip(resident.val_batches(3), streamed.val_batches(3), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = (rows_of(d.train_batches(2, 5, 0), d.train_ids) for d in (resident, streamed))
    assert one.keys() == other.keys()
    for clip in one:
        np.testing.assert_array_equal(one[clip][0], other[clip][0])


def test_masks_and_mixup_work_on_both(data):
    augmented = augment_data(data, SMALL, AugmentSettings(time_masks=2, mixup_prob=0.5))
    epochs = [list(augmented.train_batches(1, 5, 0)) for _ in range(2)]
    plain = list(data.train_batches(1, 5, 0))
    for one, again, before in zip(*epochs, plain, strict=True):
        assert torch.equal(one["features"], again["features"])
        assert one.get("mix") == again.get("mix")
        assert torch.equal(one["indices"], before["indices"])
        assert not torch.equal(one["features"], before["features"])
    assert {"mix" in batch for batch in epochs[0]} == {True, False}


def test_small_windows_still_give_every_clip_once(streamed, monkeypatch):
    monkeypatch.setattr("tuning.datasets.loaders.streaming.WINDOW_BYTES", 1)
    assert sorted(order(streamed, 1, 0)) == list(range(24))


def test_workers_share_every_global_batch(data):
    alone = list(data.train_batches(3, 6, 1))
    pair = [list(data.train_batches(3, 6, 1, rank, 2)) for rank in range(2)]
    assert len(alone) == len(pair[0]) == len(pair[1]) == 4
    for whole, left, right in zip(alone, *pair, strict=True):
        assert whole["num_clips"] == left["num_clips"] == right["num_clips"]
        assert torch.equal(whole["features"][0::2], left["features"])
        assert torch.equal(whole["features"][1::2], right["features"])


@pytest.mark.parametrize("num_clips", range(1, 40))
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_no_worker_is_left_without_two_clips(num_clips, world_size):
    bounds = batch_bounds(num_clips, 8, world_size)
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(num_clips))
    if num_clips >= 8:
        assert all(
            len(range(start, stop)[rank::world_size]) >= 2 for start, stop in bounds for rank in range(world_size)
        )
    assert all(stop - start == 8 for start, stop in bounds[:-1])


def test_a_shard_with_a_test_clip_is_not_opened(made, tmp_path, ray_session):
    prepared, split, raw = made
    mixed = replace(split, train=split.train + split.test[:1], test=split.test[1:])
    for read in (ResidentData.read, StreamedData.open):
        with pytest.raises(SealedError, match="sealed for the test"):
            read(prepared, mixed)
    assert len(raw) == NUM_CLIPS


def test_test_shards_can_be_absent(made, tmp_path):
    prepared, split, _ = made
    copy = tmp_path / "copy"
    copy.mkdir()
    opened = [shard for shard in prepared.shards if shard.partition != "test"]
    assert 0 < len(opened) < len(prepared.shards)
    for shard in opened:
        (copy / shard.path).write_bytes((Path(prepared.root) / shard.path).read_bytes())
    elsewhere = replace(prepared, root=str(copy))
    for data in (ResidentData.read(elsewhere, split), StreamedData.open(elsewhere, split)):
        assert sorted(order(data, 1, 0)) == list(range(24))


def test_shared_arrays_are_neither_copied_nor_written(resident):
    shared = ray.get(ray.put(resident))
    assert not shared.train.features.flags.owndata
    assert not shared.train.features.flags.writeable
    before = shared.train.features.copy()
    for batch in shared.crop(10, "masked", "middle").train_batches(1, 5, 0):
        batch["features"].add_(1)
        batch["targets"].add_(1)
    np.testing.assert_array_equal(shared.train.features, before)
    np.testing.assert_array_equal(shared.train.targets, resident.train.targets)


def test_streams_while_trials_hold_every_cpu(streamed):
    @ray.remote(num_cpus=int(ray.cluster_resources()["CPU"]))
    def trial(data):
        return [sum(len(batch["targets"]) for batch in data.train_batches(epoch, 5, 0)) for epoch in range(2)]

    assert ray.get(trial.remote(streamed), timeout=PATIENCE) == [24, 24]


def test_a_slow_shard_does_not_change_the_order(streamed, monkeypatch, ray_session):
    slow, read = streamed.train_shards[0], stream._read_table

    def read_slowly(batch, root):
        time.sleep(0.7 if slow in batch["shard"] else 0)
        return read(batch, root)

    monkeypatch.setattr(stream, "_read_table", read_slowly)
    rows = stream._stream(streamed.root, streamed.train_shards, streamed.train_ids)
    assert [index for index, _, _ in rows] == list(range(24))


def test_loading_goes_by_size(made):
    assert choose_loading(50, 100, "auto") == "resident"
    assert choose_loading(51, 100, "auto") == "streamed"
    assert choose_loading(51, 100, "resident") == "resident"
    assert choose_loading(1, 100, "streamed") == "streamed"
    prepared, split, _ = made
    assert num_bytes(prepared, split) == 32 * FRAMES * 13 * 4
    assert isinstance(open_data(prepared, split, "auto", 1 << 30), ResidentData)
    assert isinstance(open_data(prepared, split, "auto", 1000), StreamedData)


@pytest.mark.parametrize("frames", [0, FRAMES + 1])
def test_a_crop_longer_than_stored_is_an_error(data, frames):
    with pytest.raises(ValueError, match=f"features.num_frames: expected 1 to {FRAMES}, .* got {frames}"):
        data.crop(frames, "masked", "middle")
