import csv
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.helpers.recordings import RATE, SMALL, bad_recordings, encode, tone, write_corpus
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.features import library_versions as versions
from tuning.datasets.features.audio import decode
from tuning.datasets.features.frames import num_samples
from tuning.datasets.features.spectral import extract
from tuning.datasets.settings import DataSettings, FeatureSettings
from tuning.datasets.store import build as shards
from tuning.datasets.store.build import prepare
from tuning.datasets.store.quarantine import QuarantineError
from tuning.datasets.store.reader import read_part
from tuning.models.encoder_shapes import SpeechShape

FRAMES = 24


@pytest.fixture
def quality(tmp_path):
    return DataSettings(prepared=str(tmp_path / "prepared"))


def thirds(corpus, shift=0):
    """Cells by position: a new shift is what a new seed of the split does."""
    return {clip.id: ("train", "val", "test")[(i + shift) % 3] for i, clip in enumerate(corpus.clips)}


def features_of(prepared, corpus):
    part = read_part(prepared, corpus.clips, sealed=())
    return {clip: (part.features[i], part.num_frames[i]) for i, clip in enumerate(part.ids.tolist())}


def same_features(one, other):
    assert one.keys() == other.keys()
    for clip in one:
        np.testing.assert_array_equal(one[clip][0], other[clip][0])
        assert one[clip][1] == other[clip][1]


@pytest.fixture
def forbid_ray(monkeypatch):
    def refuse(units):
        raise AssertionError(f"{len(units)} shards would be made")

    return lambda: monkeypatch.setattr(shards, "_run", refuse)


def test_features_are_those_of_each_recording(tmp_path, quality, ray_session):
    corpus = write_corpus(tmp_path / "corpus")
    seen = []
    prepared = prepare(corpus, thirds(corpus), SMALL, FRAMES, quality, lambda done, total: seen.append((done, total)))
    assert (prepared.num_extracted, prepared.num_reused, prepared.quarantine) == (12, 0, [])
    assert (prepared.num_frames, prepared.num_features) == (FRAMES, 13)
    assert seen[0] == (0, 12)
    assert seen[-1] == (12, 12)
    found = features_of(prepared, corpus)
    for clip in corpus.clips:
        raw = (tmp_path / "corpus" / clip.id).read_bytes()
        waveform = decode(raw, RATE, quality, num_samples(FRAMES, SMALL), "middle")
        expected, num_valid = extract(waveform, SMALL, FRAMES)
        np.testing.assert_array_equal(found[clip.id][0], expected)
        assert found[clip.id][1] == num_valid
    cell_of = thirds(corpus)
    assert all({cell_of[clip] for clip in shard.clip_ids} == {shard.partition} for shard in prepared.shards)


def test_shards_hold_plain_arrow_tensors_and_no_labels(tmp_path, quality, ray_session):
    import pyarrow as pa
    from pyarrow import parquet

    corpus = write_corpus(tmp_path / "corpus", 3)
    prepared = prepare(corpus, dict.fromkeys(thirds(corpus), "train"), SMALL, FRAMES, quality)
    (shard,) = prepared.shards
    schema = parquet.read_schema(Path(prepared.root) / shard.path)
    assert schema.names == ["clip", "digest", "num_frames", "features"]
    assert schema.field("features").type == pa.fixed_shape_tensor(pa.float32(), [FRAMES, 13])


def test_second_time_nothing_is_done_and_ray_is_not_imported(tmp_path, quality, ray_session, forbid_ray):
    corpus = write_corpus(tmp_path / "corpus")
    first = prepare(corpus, thirds(corpus), SMALL, FRAMES, quality)
    forbid_ray()
    second = prepare(corpus, thirds(corpus), SMALL, FRAMES, quality)
    assert (second.num_extracted, second.num_reused) == (0, 12)
    assert second.shards == first.shards
    program = f"""
import sys
from tests.helpers.recordings import SMALL
from tuning.datasets.settings import DataSettings
from tuning.datasets.corpus import load_corpus
from tuning.datasets.store.build import prepare
data = DataSettings(corpus="manifest", root={corpus.root!r}, prepared={quality.prepared!r})
corpus = load_corpus(data, ["valence", "arousal"])
cells = {thirds(corpus)!r}
assert prepare(corpus, cells, SMALL, {FRAMES}, data).num_extracted == 0
assert not {{"ray", "torch", "scipy.signal", "numba"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[3])


def test_a_changed_file_is_extracted_alone(tmp_path, quality, ray_session):
    corpus = write_corpus(tmp_path / "corpus")
    before = features_of(prepare(corpus, thirds(corpus), SMALL, FRAMES, quality), corpus)
    (tmp_path / "corpus" / "clip_04.wav").write_bytes(encode(tone(1.3, seed=99)))
    prepared = prepare(corpus, thirds(corpus), SMALL, FRAMES, quality)
    assert (prepared.num_extracted, prepared.num_reused) == (1, 11)
    after = features_of(prepared, corpus)
    assert not np.array_equal(before["clip_04.wav"][0], after["clip_04.wav"][0])
    del before["clip_04.wav"], after["clip_04.wav"]
    same_features(before, after)


def test_a_touched_file_is_hashed_again_but_not_extracted(tmp_path, quality, ray_session, forbid_ray):
    corpus = write_corpus(tmp_path / "corpus", 3)
    prepare(corpus, thirds(corpus), SMALL, FRAMES, quality)
    os.utime(tmp_path / "corpus" / "clip_00.wav", (1, 1))
    forbid_ray()
    assert prepare(corpus, thirds(corpus), SMALL, FRAMES, quality).num_extracted == 0


def test_a_changed_setting_extracts_all_and_leaves_the_old_shards(tmp_path, quality, ray_session, forbid_ray):
    corpus = write_corpus(tmp_path / "corpus")
    prepare(corpus, thirds(corpus), SMALL, FRAMES, quality)
    more_mels = SMALL.model_copy(update={"num_mels": 40})
    assert prepare(corpus, thirds(corpus), more_mels, FRAMES, quality).num_extracted == 12
    forbid_ray()
    assert prepare(corpus, thirds(corpus), SMALL, FRAMES, quality).num_extracted == 0
    # What a trial sees of the stored frames does not change what is stored.
    shorter = SMALL.model_copy(update={"num_frames": 10})
    assert prepare(corpus, thirds(corpus), shorter, FRAMES, quality).num_extracted == 0


def test_what_the_fingerprint_depends_on(quality):
    def mark(features=SMALL, frames=FRAMES, data=quality):
        return shards.features_fingerprint(features, frames, data)

    mel = SMALL.model_copy(update={"name": "mel"})
    assert mark() != mark(mel)
    assert mark(mel) == mark(mel.model_copy(update={"num_mfcc": 5}))
    assert mark() != mark(SMALL.model_copy(update={"num_mfcc": 5}))
    assert mark() == mark(SMALL.model_copy(update={"fmax_hz": RATE / 2}))
    assert mark() != mark(frames=FRAMES + 1)
    assert mark() != mark(data=quality.model_copy(update={"silence_dbfs": -60.0}))
    assert mark() == mark(data=quality.model_copy(update={"max_quarantined_share": 0.5}))


def released(monkeypatch, library):
    """Another release of a library, as an upgrade brings it."""
    installed = versions.installed
    monkeypatch.setattr(versions, "installed", lambda name: "99.0" if name == library else installed(name))
    if library == "libsndfile":
        monkeypatch.setattr(soundfile, "__libsndfile_version__", "99.0")


@pytest.mark.parametrize("library", ["librosa", "soxr", "libsndfile", "transformers"])
def test_features_of_another_library_are_others(quality, monkeypatch, library):
    before = shards.features_fingerprint(SMALL, FRAMES, quality)
    released(monkeypatch, library)
    assert (shards.features_fingerprint(SMALL, FRAMES, quality) == before) == (library == "transformers")


@pytest.mark.parametrize("library", ["torch", "transformers", "librosa"])
def test_states_of_another_library_are_others(quality, monkeypatch, library):
    states = FeatureSettings(name="encoder", encoder="some/wavlm")
    shape = SpeechShape((16, 16, 16), 320, 400, True)
    monkeypatch.setattr("tuning.datasets.store.shard_index.speech_shape", lambda name: shape)
    before = shards.features_fingerprint(states, FRAMES, quality)
    released(monkeypatch, library)
    assert shards.features_fingerprint(states, FRAMES, quality) != before


def test_exchanged_recordings_of_one_size_and_time_are_found_with_verify(tmp_path, quality, ray_session):
    corpus = write_corpus(tmp_path / "corpus", 2)
    one, two = (tmp_path / "corpus" / clip.id for clip in corpus.clips)
    for file, seed in ((one, 1), (two, 2)):
        file.write_bytes(encode(tone(1, seed)))
        os.utime(file, (1, 1))
    assert one.stat().st_size == two.stat().st_size
    cells = dict.fromkeys((clip.id for clip in corpus.clips), "train")
    before = features_of(prepare(corpus, cells, SMALL, FRAMES, quality), corpus)
    one.rename(tmp_path / "kept")
    two.rename(one)
    (tmp_path / "kept").rename(two)
    same_features(features_of(prepare(corpus, cells, SMALL, FRAMES, quality), corpus), before)  # as documented
    verified = prepare(corpus, cells, SMALL, FRAMES, quality.model_copy(update={"verify": True}))
    exchanged = {one.name: before[two.name], two.name: before[one.name]}
    same_features(features_of(verified, corpus), exchanged)
    same_features(features_of(prepare(corpus, cells, SMALL, FRAMES, quality), corpus), exchanged)  # and remembered


def test_another_split_copies_and_extracts_nothing(tmp_path, quality, ray_session):
    corpus = write_corpus(tmp_path / "corpus")
    first = prepare(corpus, thirds(corpus), SMALL, FRAMES, quality)
    second = prepare(corpus, thirds(corpus, shift=1), SMALL, FRAMES, quality)
    assert (second.num_extracted, second.num_reused) == (0, 12)
    assert {shard.path for shard in first.shards}.isdisjoint(shard.path for shard in second.shards)
    same_features(features_of(first, corpus), features_of(second, corpus))


def test_an_interrupted_preparation_goes_on(tmp_path, quality, ray_session, monkeypatch):
    monkeypatch.setattr(shards, "CLIPS_PER_SHARD", 2)
    corpus = write_corpus(tmp_path / "corpus", 24)

    def interrupt(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, thirds(corpus), SMALL, FRAMES, quality, interrupt)
    prepared = prepare(corpus, thirds(corpus), SMALL, FRAMES, quality)
    assert prepared.num_extracted <= 22
    assert prepared.num_extracted + prepared.num_reused == 24
    fresh = prepare(corpus, thirds(corpus), SMALL, FRAMES, quality.model_copy(update={"prepared": str(tmp_path / "2")}))
    same_features(features_of(prepared, corpus), features_of(fresh, corpus))


@pytest.mark.parametrize("lost", [".json", ".parquet"])
def test_a_half_written_shard_is_made_again(tmp_path, quality, ray_session, lost):
    corpus = write_corpus(tmp_path / "corpus")
    prepared = prepare(corpus, thirds(corpus), SMALL, FRAMES, quality)
    shard = Path(prepared.root) / prepared.shards[0].path
    shard.with_suffix(lost).unlink()
    (shard.parent / f"{shard.name}.0123.partial").write_bytes(b"half")
    again = prepare(corpus, thirds(corpus), SMALL, FRAMES, quality)
    assert again.num_extracted == len(prepared.shards[0].clip_ids)
    same_features(features_of(prepared, corpus), features_of(again, corpus))


@pytest.fixture
def bad_corpus(tmp_path):
    good = write_corpus(tmp_path / "corpus", 16)
    for name, (raw, _) in bad_recordings().items():
        if raw is not None:
            (tmp_path / "corpus" / name).write_bytes(raw)
    (tmp_path / "corpus" / "folder.wav").mkdir()
    names = [*bad_recordings(), "folder.wav"]
    return Corpus("manifest", good.root, good.clips + [Clip(name, (0.0, 0.0)) for name in names])


def test_bad_recordings_are_not_tried_again_beside_a_changed_file(bad_corpus, quality, ray_session):
    quality = quality.model_copy(update={"max_quarantined_share": 0.6})
    cells = dict.fromkeys((clip.id for clip in bad_corpus.clips), "train")
    first = prepare(bad_corpus, cells, SMALL, FRAMES, quality)
    (Path(bad_corpus.root) / "clip_00.wav").write_bytes(encode(tone(1, seed=77)))
    second = prepare(bad_corpus, cells, SMALL, FRAMES, quality)
    assert second.num_extracted == 1
    assert second.quarantine == first.quarantine


def test_bad_recordings_are_quarantined_with_their_reasons(bad_corpus, quality, ray_session, forbid_ray):
    quality = quality.model_copy(update={"max_quarantined_share": 0.6})
    cells = dict.fromkeys((clip.id for clip in bad_corpus.clips), "train")
    prepared = prepare(bad_corpus, cells, SMALL, FRAMES, quality)
    expected = {name: kind for name, (_, kind) in bad_recordings().items()} | {"folder.wav": "not a file"}
    assert {clip: reason.partition(":")[0] for clip, reason in prepared.quarantine} == expected
    with open(prepared.quarantine_table, newline="") as file:
        assert list(csv.reader(file)) == [["clip", "reason"], *map(list, prepared.quarantine)]
    part = read_part(prepared, bad_corpus.clips, sealed=())
    assert sorted(part.ids) == [f"clip_{number:02d}.wav" for number in range(16)]
    forbid_ray()
    again = prepare(bad_corpus, cells, SMALL, FRAMES, quality)
    assert (again.num_extracted, again.quarantine) == (0, prepared.quarantine)


def test_too_many_bad_recordings_stop(bad_corpus, quality, ray_session):
    cells = dict.fromkeys((clip.id for clip in bad_corpus.clips), "train")
    with pytest.raises(
        QuarantineError,
        match=r"data.max_quarantined_share: 15 of 31 recordings \(48.4%\) .* 5.0%; most often: 4 truncated, .*\.csv",
    ) as caught:
        prepare(bad_corpus, cells, SMALL, FRAMES, quality)
    assert Path(caught.value.table).read_text().startswith("clip,reason\n")


def test_a_cell_without_usable_recordings_stops(bad_corpus, quality, ray_session):
    quality = quality.model_copy(update={"max_quarantined_share": 1.0})
    cells = {clip.id: "train" if clip.id.startswith("clip_") else "val" for clip in bad_corpus.clips}
    with pytest.raises(QuarantineError, match=r"data.root: no recording of 'val' can be used"):
        prepare(bad_corpus, cells, SMALL, FRAMES, quality)


def test_a_file_that_changes_meanwhile_is_an_error(tmp_path, quality, ray_session, monkeypatch):
    corpus = write_corpus(tmp_path / "corpus", 3)
    real = shards.digest_files

    def stale(*args):
        digests, reasons = real(*args)
        return digests | {"clip_01.wav": "0" * 32}, reasons

    monkeypatch.setattr(shards, "digest_files", stale)
    with pytest.raises(ValueError, match=r"data.root: 'clip_01.wav' changed while it was read"):
        prepare(corpus, dict.fromkeys(thirds(corpus), "train"), SMALL, FRAMES, quality)


def test_a_file_that_only_this_machine_had_is_told_from_one_that_changed(tmp_path, quality, ray_session, monkeypatch):
    corpus = write_corpus(tmp_path / "corpus", 3)
    real = shards.digest_files

    def then_gone(*args):
        found = real(*args)
        (tmp_path / "corpus" / "clip_01.wav").unlink()
        return found

    monkeypatch.setattr(shards, "digest_files", then_gone)
    words = (
        "data.root: expected a folder that every machine reads, got one where 'clip_01.wav' was there a moment ago and "
        f"can't be read on {platform.node()} (No such file or directory)"
    )
    with pytest.raises(ValueError, match=re.escape(words)):
        prepare(corpus, dict.fromkeys(thirds(corpus), "train"), SMALL, FRAMES, quality)


def test_a_uri_serves_as_well_as_a_folder(tmp_path, ray_session, forbid_ray):
    corpus = write_corpus(tmp_path / "corpus", 3)
    corpus = Corpus("manifest", f"file://{corpus.root}", corpus.clips)
    data = DataSettings(prepared=f"file://{tmp_path}/prepared")
    cells = dict.fromkeys(thirds(corpus), "train")
    prepared = prepare(corpus, cells, SMALL, FRAMES, data)
    assert prepared.num_extracted == 3
    assert len(features_of(prepared, corpus)) == 3
    forbid_ray()
    prepare(corpus, cells, SMALL, FRAMES, data)
