"""Every file of a prepared store with flipped bits, cut, empty or gone: harmless, or named and made again."""

import contextlib
import functools
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.helpers.recordings import RATE, encode, tone, write_corpus
from tests.helpers.s3 import s3_server
from tuning.data.data_module import DataModule
from tuning.data.plan import make_plan
from tuning.datasets import storage
from tuning.datasets.checksum import CHECKSUM, Checksum, DamagedError
from tuning.datasets.store import build
from tuning.datasets.store.shard_index import read_rows, read_shard, tensor

FLIPS = 40
KINDS = {  # what the names of the files have in common
    "shard of training clips": ("features", "train-", ".parquet"),
    "shard of test clips": ("features", "test-", ".parquet"),
    "record": ("features", "train-", ".json"),
    "index": ("features", "index", ".json"),
    "shard of augmented clips": ("augmented", "train-", ".parquet"),
    "record of augmented clips": ("augmented", "val-", ".json"),
    "digests": ("digests", "", ".json"),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("damage") / "corpus", 12)


@pytest.fixture
def module(corpus, monkeypatch):
    """A function that prepares, in this process, what a search over the corpus reads."""

    def inline(jobs, task, device):
        for job in jobs:
            yield build.make_shard({"job": json.dumps(job)}, task)

    monkeypatch.setattr(build, "_results", inline)
    monkeypatch.setattr(DataModule, "_node_bytes", lambda self: 1 << 40)

    @functools.cache
    def plan_for(place):
        return make_plan(
            [
                "data.corpus=manifest", f"data.root={corpus.root}", f"data.prepared={place}", "augment.noise_prob=0.5",
                "data.group_column=artist", "augment.versions=1", f"features.sample_rate_hz={RATE}",
                "features.num_frames=16", "features.num_mels=16", "features.num_mfcc=13", "features.window_samples=256",
                "features.hop_samples=200", "model.conv_filters=[4, 4]",
            ]
        )  # fmt: skip

    def prepared(place):
        found = DataModule.read(plan_for(place).space)
        found.prepare()
        return found

    return prepared


def values(module):
    """All that a search, its retraining and its test read: clips of each part, their features, and the bank."""
    data = module.final_source(module.config).open()
    parts = {
        name: (part.ids.tolist(), part.features, part.num_frames)
        for name, part in (("train", data.train), ("test", data.val))
    }
    return parts | {name: ([], made.features, made.num_frames) for name, made in data.bank.items()}


def same(one, other):
    return one.keys() == other.keys() and all(
        a[0] == b[0] and np.array_equal(a[1], b[1]) and np.array_equal(a[2], b[2])
        for a, b in zip(one.values(), other.values(), strict=True)
    )


def file_of(place, kind):
    folder, front, end = KINDS[kind]
    names = [n for n in storage.list_files(place) if n.startswith(f"{folder}/") and n.endswith(end)]
    return min(n for n in names if n.rpartition("/")[2].startswith(front))


def damages(content, rng, flips):
    """What may become of a file: a bit is flipped, or it is cut, empty or gone."""
    for _ in range(flips):
        position = rng.randrange(8 * len(content))
        changed = bytearray(content)
        changed[position // 8] ^= 1 << position % 8
        yield "flipped", bytes(changed)
    yield "cut", content[: len(content) // 2]
    yield "empty", b""
    yield "gone", None


FAST = ("shard of training clips", "index", "digests")  # in a folder; the others are of the same kinds


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        pytest.param(where, kind, marks=[] if where == "folder" and kind in FAST else pytest.mark.slow)
        for where in ("folder", "s3")
        for kind in KINDS
    ],
)
def test_every_damage_is_harmless_or_named_and_made_again(module, tmp_path, capsys, kind, where):
    with s3_server(tmp_path / "server.log") if where == "s3" else contextlib.nullcontext():
        place = f"s3://emotion/{kind.replace(' ', '_')}" if where == "s3" else str(tmp_path / "prepared")
        expected = values(module(place))
        name = file_of(place, kind)
        whole = storage.read_bytes(place, name)
        capsys.readouterr()
        named = 0
        for what, content in damages(whole, random.Random(1), FLIPS if where == "folder" else 3):
            if content is None:
                storage.delete(place, name)
            else:
                storage.write_bytes(place, name, content)
            assert same(values(module(place)), expected), what
            printed = capsys.readouterr().out
            if name.endswith(".parquet"):
                assert f"{name} is damaged" in printed, what
                assert storage.read_bytes(place, name) == whole
            named += f"{name} is damaged" in printed
            assert printed.count("is damaged") <= 1
            storage.write_bytes(place, name, whole)
        assert named or kind.startswith("record")  # which the index remembers


@pytest.mark.parametrize("kind", ["record", "record of augmented clips"])
def test_a_damaged_record_that_no_index_remembers_is_named_and_its_shard_made_again(module, tmp_path, capsys, kind):
    place = str(tmp_path)
    expected = values(module(place))
    name = file_of(place, kind)
    whole = storage.read_bytes(place, name)
    for what, content in damages(whole, random.Random(2), 15):
        storage.delete(place, f"{name.rpartition('/')[0]}/index.json")
        if content is not None:
            storage.write_bytes(place, name, content)
            capsys.readouterr()
            found = module(place)
            assert same(values(found), expected), what
            kept = json.loads(content) if what == "flipped" and b"\x00" not in content and is_json(content) else {}
            if kept.get(CHECKSUM) == json.loads(whole)[CHECKSUM]:
                assert f"{name} is damaged" in capsys.readouterr().out, what
        storage.write_bytes(place, name, whole)


def is_json(content):
    try:
        return isinstance(json.loads(content), dict)
    except ValueError:
        return False


def test_a_store_of_an_earlier_version_without_checksums_is_read(module, tmp_path, capsys):
    place = str(tmp_path)
    before = module(place)
    expected = values(before)
    for name in storage.list_files(place):
        if name.endswith(".json"):
            content = json.loads(storage.read_bytes(place, name))
            content.pop(CHECKSUM)
            records = content.values() if name.endswith("index.json") else [content]
            for record in records:
                if "checksum" in record:
                    del record["checksum"]
            storage.write_bytes(place, name, json.dumps(content).encode())
    capsys.readouterr()
    again = module(place)
    assert same(values(again), expected)
    assert {made.num_extracted for made in again.features.values()} == {0}
    assert "is damaged" not in capsys.readouterr().out
    # What can be seen without a checksum is seen.
    name = file_of(place, "shard of training clips")
    for content in (b"", b"PAR1" * 50, storage.read_bytes(place, name)[:-3]):
        storage.write_bytes(place, name, content)
        assert same(values(module(place)), expected)
        assert f"{name} is damaged" in capsys.readouterr().out


def test_features_of_an_earlier_version_that_are_not_finite_are_made_again(module, tmp_path, capsys):
    place = str(tmp_path)
    expected = values(module(place))
    name = file_of(place, "shard of training clips")
    folder, path = f"{place}/{name.rpartition('/')[0]}", name.rpartition("/")[2]
    record = json.loads(storage.read_bytes(place, name.replace(".parquet", ".json")))
    table = read_shard(folder, path, ["clip", "digest", "num_frames", "features"], None)
    from tuning.datasets.store.shard_index import Record, counts, write_shard

    broken = np.array(tensor(table))
    broken[0, 0, 0] = np.nan
    write_shard(folder, Record.from_dict(record), counts(table), broken)
    for file in (path.replace(".parquet", ".json"), "index.json"):
        content = json.loads(storage.read_bytes(folder, file))
        for each in content.values() if file == "index.json" else [content]:
            if isinstance(each, dict):
                each.pop("checksum", None)
        content.pop(CHECKSUM)
        storage.write_bytes(folder, file, json.dumps(content).encode())
    capsys.readouterr()
    assert same(values(module(place)), expected)
    assert f"{name} is damaged (values that are not finite) and is made again" in capsys.readouterr().out


def test_a_disk_that_damages_what_is_made_again_ends_with_the_file(module, tmp_path, monkeypatch):
    from tuning.config.errors import UserError

    place = str(tmp_path)
    made = module(place)
    monkeypatch.setattr(
        "tuning.data.data_module.check",
        functools.partial(_always_damaged, str(tmp_path), file_of(place, "shard of training clips")),
    )
    with pytest.raises(UserError, match=r"train-.*parquet: expected the file as it was written, got another content"):
        made.source(made.config)


def _always_damaged(folder, name, *arguments):
    raise DamagedError(folder, name, "another content of the same size")


def test_a_row_that_is_read_alone_is_checked_too(module, tmp_path):
    """As streamed trials read: by the checksums of pages and of the footer."""
    made = next(iter(module(str(tmp_path)).features.values()))
    shard = next(shard for shard in made.shards if shard.partition == "train")
    columns = ["clip", "num_frames", "features"]
    expected = read_rows(made.root, shard.path, [1], columns, shard.checksum)
    whole = storage.read_bytes(made.root, shard.path)
    assert shard.checksum == Checksum.of(memoryview(whole))
    from tuning.datasets.store.shard_index import _footer

    seen = 0
    for what, content in damages(whole, random.Random(5), 300):
        if content is None:
            storage.delete(made.root, shard.path)
        else:
            storage.write_bytes(made.root, shard.path, content)
        _footer.cache_clear()
        try:
            assert read_rows(made.root, shard.path, [1], columns, shard.checksum).equals(expected), what
        except DamagedError as error:
            seen += 1
            assert error.name == shard.path  # noqa: PT017 - what is unseen must be harmless
    assert seen > 30


def test_a_damaged_shard_is_not_copied_from(module, tmp_path, capsys):
    """Another split copies rows by their digest; those of a damaged shard are extracted."""
    place = str(tmp_path)
    before = module(place)
    expected = values(before)
    name = file_of(place, "shard of training clips")
    content = bytearray(storage.read_bytes(place, name))
    content[len(content) // 2] ^= 1
    storage.write_bytes(place, name, bytes(content))
    other = DataModule(before.space, before.corpus, before.split)
    other._partitions = {clip.id: f"fold-{number % 2}" for number, clip in enumerate(before.corpus.clips)}
    other.prepare()
    (made,) = other.features.values()
    assert 0 < made.num_extracted < 12
    assert f"{name} is damaged" in capsys.readouterr().out
    assert same(values(module(place)), expected)


def test_a_wild_recording_is_quarantined_in_every_part(module, corpus, tmp_path):
    wild = tone(1).copy()
    wild[7] = 1e30
    root = tmp_path / "corpus"
    found = write_corpus(root, 40, num_groups=40)
    for clip in found.clips[::10]:
        (root / clip.id).write_bytes(encode(wild, subtype="FLOAT"))
    partitions = {clip.id: ("train", "val", "test")[number % 3] for number, clip in enumerate(found.clips)}
    plan = make_plan(["data.max_quarantined_share=0.5", f"data.prepared={tmp_path}/prepared"])
    config = plan.config
    made = build.prepare(found, partitions, config.features, 8, config.data)
    assert [clip for clip, _ in made.quarantine] == [clip.id for clip in found.clips[::10]]
    assert {reason for _, reason in made.quarantine} == {
        "too loud: peak 1e+30 where full scale is 1, expected at most 100"
    }


def test_empty_files_in_two_parts_are_no_leak(module, tmp_path):
    root = tmp_path / "corpus"
    found = write_corpus(root, 40, num_groups=40)
    for clip in found.clips[::2]:
        (root / clip.id).write_bytes(b"")
    words = ["data.corpus=manifest", f"data.root={root}", "data.group_column=artist", "data.max_quarantined_share=0.6"]
    data = DataModule.read(make_plan([*words, f"data.prepared={tmp_path}/prepared", "features.num_frames=8"]).space)
    data.prepare_features(lambda done, total: None)
    assert len(data.split.unusable) == 20 and set(data.split.unusable.values()) == {"train", "val", "test"}


class Harm:
    """A pickle that makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_shard_by_another_hand_runs_no_code(tmp_path):
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray

    table = pa.table({"clip": ArrowPythonObjectArray.from_objects([Harm(tmp_path / "harm")] * 2)})
    parquet.write_table(table, tmp_path / "whole.parquet")
    parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=1)
    for name in ("whole", "rows"):
        for read in (read_shard, functools.partial(read_rows, rows=[1])):
            with pytest.raises(DamagedError, match=r"a column clip of extension<ray\.data\.arrow_pickled_object"):
                read(str(tmp_path), f"{name}.parquet", columns=["clip"], checksum=None)
    assert not (tmp_path / "harm").exists()
    table["clip"].to_pylist()
    assert (tmp_path / "harm").exists()  # as it would have
