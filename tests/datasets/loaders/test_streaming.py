import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from pyarrow import parquet

from tests.helpers.recordings import SMALL, write_corpus
from tests.helpers.waiting import PATIENCE
from tuning.datasets.loaders import streaming as stream
from tuning.datasets.loaders.generated import ExtendedData, GeneratedClips
from tuning.datasets.loaders.in_memory import ResidentData, batch_bounds, draw_versions
from tuning.datasets.loaders.kfold import open_folds
from tuning.datasets.loaders.mixup import augment_data
from tuning.datasets.loaders.streaming import StreamedData, choose_loading, num_bytes, open_data, smallest_node
from tuning.datasets.settings import AugmentSettings, DataSettings, SplitSettings
from tuning.datasets.splits.split import inner_folds, partition_of, split_clips
from tuning.datasets.store.augmentation_bank import prepare_bank
from tuning.datasets.store.build import prepare
from tuning.datasets.store.reader import SealedError, read_part

FRAMES = 24
NUM_CLIPS = 40
EFFECTS = AugmentSettings(noise_prob=0.6, room_prob=0.5, versions=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory, ray_session):
    """Clips of 13, 21 and 24 valid frames in shards of eight, their split, and a bank of two effects."""
    folder = tmp_path_factory.mktemp("stream")
    corpus = write_corpus(folder / "corpus", NUM_CLIPS, num_groups=10)
    split = split_clips(corpus.clips, SplitSettings(val_share=0.2, test_share=0.2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuning.datasets.store.build.CLIPS_PER_SHARD", 8)
        place = (SMALL, FRAMES, DataSettings(prepared=str(folder / "prepared")))
        partitions, sealed = partition_of(corpus.clips, split), [clip.id for clip in split.test]
        prepared = prepare(corpus, partitions, *place)
        trained = split.train + split.val  # as inner folds have it
        bank = prepare_bank(corpus, partitions, trained, sealed, *place, EFFECTS, EFFECTS.combinations())
    return prepared, split, read_part(prepared, corpus.clips, sealed=()), bank


@pytest.fixture(scope="module")
def resident(made):
    return ResidentData.read(*made[:2], made[3])


@pytest.fixture(scope="module")
def streamed(made):
    return StreamedData.open(*made[:2], made[3])


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
    _, split, raw, _ = made
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


def literal_group_row(made, clip):
    """As `literal_row`, by the mean and deviation over all valid frames of the clip's group, whatever its part."""
    _, split, raw, _ = made
    group = split.groups()[clip]
    rows = [row for row, other in enumerate(raw.ids.tolist()) if split.groups()[other] == group]
    valid = np.concatenate([raw.features[row, : raw.num_frames[row]] for row in rows]).astype(np.float64)
    row, out = raw.ids.tolist().index(clip), np.zeros((FRAMES, raw.features.shape[2]))
    kept = raw.num_frames[row]
    out[:kept] = (raw.features[row, :kept] - valid.mean(axis=0)) / valid.std(axis=0)
    return out


@pytest.mark.parametrize("kind", ["resident", "streamed"])
def test_each_group_is_normalised_by_its_own_clips(made, kind):
    prepared, split, _, bank = made
    opened = open_data(prepared, split, kind, 0, bank, by_group=True)
    data = opened.crop(FRAMES, "masked", "middle").normalised("group")
    found = rows_of(data.train_batches(1, 7, 3), data.train_ids) | rows_of(data.val_batches(3), data.val_ids)
    assert len(found) == 32 and len({split.groups()[clip] for clip in found}) == 8
    for clip, (features, _, _) in found.items():
        np.testing.assert_allclose(features, literal_group_row(made, clip), atol=1e-4)
    by_train = rows_of(data.normalised("train").val_batches(3), data.val_ids)
    expected = rows_of(opened.val_batches(3), data.val_ids)
    assert all(np.array_equal(by_train[clip][0], row) for clip, (row, _, _) in expected.items())
    with pytest.raises(ValueError, match=r"features\.normalise: expected train for data that were opened without"):
        open_data(prepared, split, kind, 0, bank).normalised("group")


def test_a_groups_test_clips_have_no_part_in_it(made):
    """Nor do those of others: a search reads no sealed clip, also not for statistics."""
    prepared, split, _, _ = made
    data = ResidentData.read(prepared, split, by_group=True)
    assert sorted(data.by_clip) == sorted(clip.id for clip in split.train + split.val)
    by_group = {split.groups()[clip]: id(statistics) for clip, statistics in data.by_clip.items()}
    assert len(set(by_group.values())) == len(by_group) == 8


@pytest.mark.parametrize("kind", ["resident", "streamed"])
def test_groups_are_normalised_alike_in_every_inner_fold(made, kind):
    prepared, split, _, _ = made
    dealt = inner_folds(split, SplitSettings(inner_folds=4))
    folds = open_folds(prepared, dealt, kind, 0, by_group=True)
    seen = []
    for number in range(4):
        data = folds.fold(number).crop(FRAMES, "masked", "middle").normalised("group")
        for clip, (features, _, _) in rows_of(data.val_batches(5), data.val_ids).items():
            np.testing.assert_allclose(features, literal_group_row(made, clip), atol=1e-4)
            seen.append(clip)
    assert len(seen) == len(set(seen)) == 32


def test_versions_of_a_clip_are_normalised_by_its_group(made):
    prepared, split, _, bank = made
    effects = EFFECTS.model_copy(update={"noise_prob": 1.0})
    data = ResidentData.read(prepared, split, bank, by_group=True).crop(FRAMES, "masked", "middle")
    data = data.augmented(effects).normalised("group")
    drawn = draw_versions(effects, data.num_train, 3, 1)
    for index, (combination, version) in drawn.items():
        clip, versions = str(data.train_ids[index]), data.bank[combination]
        kept = versions.num_frames[index, version]
        own = data.by_clip[clip]
        expected = (versions.features[index, version, :kept] - own.mean) / own.std
        features = rows_of(data.train_batches(1, 7, 3), data.train_ids)[clip][0]
        np.testing.assert_allclose(features[:kept], expected, atol=1e-4)
        if index > 3:
            break


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


@pytest.mark.parametrize("effects", [False, True])
@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 6), (2, 5), (4, 8), (4, 10), (3, 23)])
def test_workers_share_every_global_batch(data, world_size, batch_size, effects):
    """Each clip once, as many steps for each worker, and in all what one worker would be given."""
    data = data.augmented(EFFECTS) if effects else data
    batches = [list(data.train_batches(3, batch_size, 1, rank, world_size)) for rank in range(world_size)]
    assert {len(of_worker) for of_worker in batches} == {data.num_batches(batch_size, world_size)}
    epoch = torch.cat([whole["features"] for whole in data.train_batches(3, batch_size, 1)])
    order = torch.cat([whole["indices"] for whole in data.train_batches(3, batch_size, 1)])
    assert sorted(order.tolist()) == list(range(24))
    done = 0
    for parts in zip(*batches, strict=True):
        (count,) = {part["num_clips"] for part in parts}
        for rank, part in enumerate(parts):
            assert len(part["indices"]) >= 2
            assert torch.equal(part["indices"], order[done : done + count][rank::world_size])
            assert torch.equal(part["features"], epoch[done : done + count][rank::world_size])
        done += count
    assert done == 24


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """Count what reading tasks read: [file, row] pairs, bytes of their files, and bytes of footers among them."""
    read, folder = stream._read, tmp_path / "counts"
    folder.mkdir()

    def reading(batch):
        import json
        import uuid
        from unittest.mock import patch

        import pyarrow

        sizes = []

        class Counted:
            def __init__(self, path):
                self.file, self.closed = open(path, "rb"), False  # noqa: SIM115
                self.seek, self.tell = self.file.seek, self.file.tell

            def read(self, size=-1):
                found = self.file.read(size)
                sizes.append(len(found))
                return found

            def close(self):
                self.closed = True
                self.file.close()

        class Disk:
            def open_input_file(self, path):
                return pyarrow.PythonFile(Counted(path), mode="r")

        with patch("tuning.datasets.storage.open_storage", lambda root: (Disk(), root)):
            table = read(batch)
        reads = [each for reads in batch["reads"] for each in json.loads(str(reads))]
        rows = [[f"{root}/{path}", row] for root, path, _, rows, _ in reads for row in rows]
        content = {"rows": rows, "bytes": sum(sizes), "returned": table.num_rows}
        (folder / uuid.uuid4().hex).write_text(json.dumps(content))
        return table

    monkeypatch.setattr(stream, "_read", reading)

    def found():
        each = [json.loads(file.read_text()) for file in folder.iterdir()]
        for file in folder.iterdir():
            file.unlink()
        rows = [tuple(row) for one in each for row in one["rows"]]
        assert sum(one["returned"] for one in each) == len(rows)
        return rows, sum(one["bytes"] for one in each)

    return found


def bytes_of(rows):
    """Of the columns that are read, of these rows, and of the footers of their files, whose length is read first."""
    footers = {path: parquet.read_metadata(path) for path, _ in rows}
    groups = [footers[path].row_group(row) for path, row in rows]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    wanted = sum(c.total_compressed_size for c in columns if not c.path_in_schema.startswith("digest"))
    return wanted, sum(footer.serialized_size + 12 for footer in footers.values())


@pytest.mark.parametrize("effects", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_all_workers_together_read_each_row_once(streamed, counted, world_size, effects):
    data = streamed.augmented(EFFECTS) if effects else streamed
    shares = []
    for rank in range(world_size):
        list(data.train_batches(2, 6, 0, rank, world_size))
        shares.append(counted())
    rows = [row for share, _ in shares for row in share]
    assert len(rows) == len(set(rows)) == 24
    assert max(len(share) for share, _ in shares) - min(len(share) for share, _ in shares) <= 4
    for share, size in shares:
        wanted, footers = bytes_of(share)
        assert wanted <= size <= wanted + footers
    drawn = draw_versions(EFFECTS, 24, 0, 2) if effects else {}
    assert sum("augmented" in path for path, _ in rows) == len(drawn)
    # The features of the clips are nearly all that is read of their rows.
    assert 24 * FRAMES * 13 * 4 <= sum(bytes_of(share)[0] for share, _ in shares) < 1.3 * 24 * FRAMES * 13 * 4


def test_validation_reads_each_row_once(streamed, counted):
    list(streamed.val_batches(3))
    rows, size = counted()
    assert len(rows) == len(set(rows)) == 8
    assert size <= sum(bytes_of(rows))


def test_wave_effects_are_those_of_resident_data(resident, streamed):
    """The same combination and version for each clip, in every epoch, but not for other seeds."""
    one, other = (data.augmented(EFFECTS) for data in (resident, replace(streamed, statistics=resident.statistics)))
    plain = rows_of(resident.train_batches(1, 5, 0), resident.train_ids)
    for epoch, seed in ((1, 0), (2, 0), (1, 7)):
        rows, streamed_rows = (rows_of(data.train_batches(epoch, 5, seed), data.train_ids) for data in (one, other))
        assert rows.keys() == streamed_rows.keys() == plain.keys()
        for clip, (features, num_frames, _) in rows.items():
            np.testing.assert_array_equal(streamed_rows[clip][0], features)
            assert streamed_rows[clip][1] == num_frames
        changed = sum(not np.array_equal(rows[clip][0], plain[clip][0]) for clip in rows)
        assert changed == len(draw_versions(EFFECTS, 24, seed, epoch)) > 12


def test_inner_folds_are_streamed_with_their_effects(made):
    prepared, split, _, bank = made
    folded = inner_folds(split, SplitSettings(inner_folds=2))
    resident, streamed = (open_folds(prepared, folded, way, 1 << 30, bank) for way in ("resident", "streamed"))
    for number in range(2):
        one, other = resident.fold(number).augmented(EFFECTS), streamed.fold(number).augmented(EFFECTS)
        assert isinstance(other, StreamedData)
        one, other = (rows_of(data.train_batches(1, 5, 0), data.train_ids) for data in (one, other))
        assert one.keys() == other.keys()
        for clip in one:
            np.testing.assert_allclose(one[clip][0], other[clip][0], atol=1e-4)


def test_generated_clips_are_added_to_streamed_ones(resident, streamed):
    shape = (12, FRAMES, 13)
    made = GeneratedClips(np.ones(shape, np.float32), np.zeros((12, 2), np.float32), np.full(12, FRAMES, np.int32))
    for data in (resident, streamed):
        batches = list(ExtendedData(data, made, share=0.5).train_batches(1, 6, 0))
        indices = torch.cat([batch["indices"] for batch in batches]).tolist()
        assert sorted(index for index in indices if index >= 0) == list(range(24))
        assert indices.count(-1) == 12


def test_a_shard_from_before_rows_had_groups_of_their_own_is_read(made, tmp_path, streamed):
    prepared, split, *_ = made
    for shard in prepared.shards:
        table = parquet.read_table(f"{prepared.root}/{shard.path}")
        parquet.write_table(table, tmp_path / shard.path, compression="none", write_statistics=False)
    shards = [replace(shard, checksum=None) for shard in prepared.shards]
    older = StreamedData.open(replace(prepared, root=str(tmp_path), shards=shards), split)
    for one, other in zip(older.train_batches(1, 5, 0), streamed.train_batches(1, 5, 0), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in ("features", "num_frames", "targets", "indices"))


GB = 10**9


def node(cpus, gpus, store, memory, alive=True):
    """As `ray.nodes()` has it: what a node lacks is left out."""
    resources = {name: count for name, count in (("CPU", cpus), ("GPU", gpus)) if count}
    return {"Alive": alive, "Resources": resources | {"object_store_memory": store * GB, "memory": memory * GB}}


def test_the_smallest_node_that_may_run_trials_decides():
    head, gone = node(0, 0, 1.0, 2.0), node(8, 0, 0.5, 0.5, alive=False)
    small, large, gpu = node(4, 0, 3.0, 9.0), node(16, 0, 50.0, 90.0), node(8, 1, 20.0, 40.0)
    assert smallest_node([head, large, small, gone], 1, 0) == 3 * GB
    assert smallest_node([head, large, small, gpu], 1, 1) == 20 * GB
    assert smallest_node([head, large, small, gpu], 8, 0) == 20 * GB
    assert smallest_node([large, node(4, 0, 30.0, 2.0)], 1, 0) == 2 * GB
    assert smallest_node([head], 1, 0) == GB  # before workers are started
    assert smallest_node([node(2, 0, 5.0, 9.0)], 1, 0.25) == 5 * GB


def test_rays_own_nodes_are_understood(ray_session):
    assert 1e7 < smallest_node(ray.nodes(), 1, 0) <= ray.cluster_resources()["object_store_memory"]


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
    prepared, split, raw, _ = made
    mixed = replace(split, train=split.train + split.test[:1], test=split.test[1:])
    for read in (ResidentData.read, StreamedData.open):
        with pytest.raises(SealedError, match="sealed for the test"):
            read(prepared, mixed)
    assert len(raw) == NUM_CLIPS


def test_test_shards_can_be_absent(made, tmp_path):
    prepared, split, *_ = made
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
    slow, read = streamed.train.paths[0], stream._read
    before = order(streamed, 1, 0)

    def read_slowly(batch):
        time.sleep(0.7 if slow in str(batch["reads"]) else 0)
        return read(batch)

    monkeypatch.setattr(stream, "_read", read_slowly)
    monkeypatch.setattr(stream, "TASK_BYTES", 1)  # a task for each shard
    assert order(streamed, 1, 0) == before


def test_loading_goes_by_size(made):
    assert choose_loading(50, 100, "auto") == "resident"
    assert choose_loading(51, 100, "auto") == "streamed"
    assert choose_loading(51, 100, "resident") == "resident"
    assert choose_loading(1, 100, "streamed") == "streamed"
    prepared, split, *_ = made
    assert num_bytes(prepared, split) == 32 * FRAMES * 13 * 4
    assert isinstance(open_data(prepared, split, "auto", 1 << 30), ResidentData)
    assert isinstance(open_data(prepared, split, "auto", 1000), StreamedData)
    bank = made[3]
    size = num_bytes(prepared, split, bank)
    assert size == num_bytes(prepared, split) + 24 * 3 * 3 * FRAMES * 13 * 4
    assert isinstance(open_data(prepared, split, "auto", 2 * size, bank), ResidentData)
    assert isinstance(open_data(prepared, split, "auto", 2 * size - 2, bank), StreamedData)


@pytest.mark.parametrize("frames", [0, FRAMES + 1])
def test_a_crop_longer_than_stored_is_an_error(data, frames):
    with pytest.raises(ValueError, match=f"features.num_frames: expected 1 to {FRAMES}, .* got {frames}"):
        data.crop(frames, "masked", "middle")
