from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import scipy.stats
import torch

from tests.helpers.recordings import RATE, SMALL, encode, tone, write_corpus
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.features.audio import decode
from tuning.datasets.features.spectral import extract, num_samples
from tuning.datasets.features.waveform_effects import EFFECTS, apply
from tuning.datasets.hashing import digest_of
from tuning.datasets.loaders.in_memory import ResidentData
from tuning.datasets.loaders.streaming import StreamedData, num_bytes, open_data
from tuning.datasets.settings import AugmentSettings, DataSettings, SplitSettings
from tuning.datasets.splits.split import partition_of, split_clips
from tuning.datasets.store import build as shards
from tuning.datasets.store.augmentation_bank import bank_bytes, bank_key, prepare_bank
from tuning.datasets.store.build import prepare
from tuning.datasets.store.reader import FeatureStatistics, Part, SealedError, Versions, read_part, read_versions

FRAMES = 24
LEVEL = 0.01  # of the statistical tests
EQUAL = AugmentSettings(**{f"{effect}_prob": 0.15 for effect in EFFECTS})
TWO = ("noise", "speed")


class Place:
    """A corpus, its split and where its features and banks lie."""

    def __init__(self, folder, num_clips=30):
        self.corpus = write_corpus(folder / "corpus", num_clips, num_groups=10)
        self.split = split_clips(self.corpus.clips, SplitSettings(val_share=0.2, test_share=0.2))
        self.partitions = partition_of(self.corpus.clips, self.split)
        self.quality = DataSettings(prepared=str(folder / "prepared"))
        self.sealed = {clip.id for clip in self.split.test}

    def prepare(self):
        return prepare(self.corpus, self.partitions, SMALL, FRAMES, self.quality)

    def bank(self, effects, augment=EQUAL, clips=None, **options):
        clips = self.split.train if clips is None else clips
        return prepare_bank(
            self.corpus, self.partitions, clips, self.sealed, SMALL, FRAMES, self.quality, augment, effects, **options
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory, ray_session):
    """A place with its features and a bank of all effects."""
    place = Place(tmp_path_factory.mktemp("bank"), 120)
    return place, place.prepare(), place.bank(list(EFFECTS))


@pytest.fixture
def place(tmp_path, ray_session):
    return Place(tmp_path)


@pytest.fixture
def forbid_ray(monkeypatch):
    def refuse(units):
        raise AssertionError(f"{len(units)} shards would be made")

    return lambda: monkeypatch.setattr(shards, "_run", refuse)


def extracted(bank):
    return {effect: prepared.num_extracted for effect, prepared in bank.items()}


@pytest.mark.parametrize("effect", EFFECTS)
def test_the_bank_holds_the_features_of_changed_recordings(made, effect):
    place, _, bank = made
    train = place.split.train
    found = read_versions(bank[effect], [clip.id for clip in train], place.sealed)
    assert found.features.shape == (len(train), 2, FRAMES, 13)
    keep = num_samples(FRAMES, SMALL)
    for position in (0, 1, 2, len(train) - 1):
        clip = train[position].id
        raw = Path(place.corpus.root, clip).read_bytes()
        waveform = decode(raw, RATE, place.quality, 2 * keep, "middle")
        seed = bank[effect].digests[clip]
        for version in range(2):
            rng = np.random.default_rng(int(digest_of(seed, effect, str(version)), 16))
            changed = apply(effect, waveform, RATE, rng, EQUAL, keep, "middle")
            expected, num_valid = extract(changed, SMALL, FRAMES)
            np.testing.assert_array_equal(found.features[position, version], expected)
            assert found.num_frames[position, version] == num_valid
        assert not np.array_equal(found.features[position, 0], found.features[position, 1])


def test_only_training_clips_are_in_it(made):
    place, _, bank = made
    train = {clip.id for clip in place.split.train}
    for prepared in bank.values():
        assert {clip for shard in prepared.shards for clip in shard.clip_ids} == train
        assert prepared.digests.keys() == train


def test_no_other_recording_is_opened(place):
    for clip in place.split.val + place.split.test:
        Path(place.corpus.root, clip.id).unlink()
    assert extracted(place.bank(["noise"])) == {"noise": len(place.split.train)}


def test_a_test_clip_is_refused(place, forbid_ray):
    forbid_ray()
    with pytest.raises(SealedError, match=r"augment: 1 clips are sealed for the test, 'clip_"):
        place.bank(["noise"], clips=place.split.train + place.split.test[:1])


def test_a_second_time_nothing_is_made(place, forbid_ray):
    first = place.bank(TWO)
    forbid_ray()
    seen = []
    again = place.bank(TWO, on_progress=lambda done, total: seen.append((done, total)))
    num = len(place.split.train)
    assert extracted(first) == {"noise": num, "speed": num}
    assert extracted(again) == {"noise": 0, "speed": 0}
    assert seen == [(num, num)]
    assert [prepared.shards for prepared in again.values()] == [prepared.shards for prepared in first.values()]


def test_probabilities_and_other_effects_change_nothing(place, forbid_ray):
    place.bank(TWO)
    forbid_ray()
    place.bank(["noise"], AugmentSettings(noise_prob=0.9, mixup_prob=0.5, time_masks=3, stretch_range=(0.7, 1.3)))
    assert bank_key(EQUAL) == bank_key(AugmentSettings(noise_prob=0.9, mask_prob=0.3))
    assert bank_key(EQUAL) != bank_key(AugmentSettings(noise_range=(0.1, 0.2)))


@pytest.mark.parametrize("change", [{"noise_range": (0.001, 0.02)}, {"versions": 3}])
def test_what_the_bank_holds_makes_it_anew(place, change):
    place.bank(["noise"])
    assert extracted(place.bank(["noise"], AugmentSettings(**change))) == {"noise": len(place.split.train)}


def test_another_extraction_makes_it_anew(place, monkeypatch):
    place.bank(["noise"])
    monkeypatch.setattr("tuning.datasets.store.shard_index.AUGMENTATION_VERSION", 99)
    assert extracted(place.bank(["noise"])) == {"noise": len(place.split.train)}


def test_another_effect_is_made_alone_and_the_same_as_with_others(place, tmp_path):
    # Long, and at another rate: where a cut starts then decides where its resampled samples lie.
    for number, clip in enumerate(place.corpus.clips):
        (tmp_path / "corpus" / clip.id).write_bytes(encode(tone(3, seed=number, rate=11025), 11025))
    one = place.bank(["noise"])
    both = place.bank(TWO)
    assert extracted(both) == {"noise": 0, "speed": len(place.split.train)}
    assert one["noise"].shards == both["noise"].shards
    place.quality = DataSettings(prepared=str(tmp_path / "other"))
    alone = place.bank(["speed"], AugmentSettings(stretch_range=(0.6, 1.9)))
    ids = [clip.id for clip in place.split.train]
    for effect_bank in (both, alone):
        assert effect_bank["speed"].versions == 2
    np.testing.assert_array_equal(*(read_versions(b["speed"], ids, ()).features for b in (both, alone)))


def test_another_clip_is_made_alone(place):
    train = place.split.train
    first = place.bank(["noise"], clips=train[:-1])
    second = place.bank(["noise"])
    assert (extracted(first), extracted(second)) == ({"noise": len(train) - 1}, {"noise": 1})
    ids = [clip.id for clip in train]
    old = read_versions(first["noise"], ids[:-1], ())
    new = read_versions(second["noise"], ids, ())
    np.testing.assert_array_equal(old.features, new.features[:-1])
    np.testing.assert_array_equal(old.num_frames, new.num_frames[:-1])


def test_bad_recordings_are_absent(place, tmp_path):
    name = "broken.wav"
    (tmp_path / "corpus" / name).write_bytes(encode(tone(1))[:-100])
    gone = [Clip(name, (0.0, 0.0), group="g0"), Clip("absent.wav", (0.0, 0.0), group="g0")]
    place.corpus = Corpus("manifest", place.corpus.root, place.corpus.clips + gone)
    place.partitions |= {clip.id: "train" for clip in gone}
    bank = place.bank(["noise"], clips=place.split.train + gone)
    assert [clip for clip, _ in bank["noise"].quarantine] == [name]
    ids = [clip.id for clip in place.split.train]
    assert len(read_versions(bank["noise"], ids, ()).features) == len(ids)
    with pytest.raises(ValueError, match=r"augment: the bank in .* lacks 1 clips, 'broken.wav' among them"):
        read_versions(bank["noise"], [*ids, name], ())


def test_a_clip_that_is_just_loud_enough_is_in_the_bank(place, tmp_path):
    """Another cut of it may have a slightly lower peak."""
    quiet = 0.1 * tone(1)
    peak = 20 * np.log10(np.abs(quiet).max())
    (tmp_path / "corpus" / "quiet.wav").write_bytes(encode(quiet, subtype="FLOAT"))
    place.quality = place.quality.model_copy(update={"silence_dbfs": float(peak) + 0.1})
    clip = Clip("quiet.wav", (0.0, 0.0))
    place.corpus = Corpus("manifest", place.corpus.root, [clip])
    place.partitions = {"quiet.wav": "train"}
    assert place.bank(["noise"], clips=[clip])["noise"].quarantine == []


@pytest.fixture(scope="module")
def data(made):
    place, prepared, bank = made
    return ResidentData.read(prepared, place.split, bank)


def rows_of(batches):
    return {int(i): f for batch in batches for i, f in zip(batch["indices"], batch["features"], strict=True)}


def test_rows_of_the_bank_stand_in_place_of_clips(data):
    augmented, alone = data.augmented(EQUAL), {}
    plain = rows_of(data.train_batches(1, 8, 0))
    for effect, versions in data.bank.items():
        for version in range(2):
            part = replace(
                data.train, features=versions.features[:, version], num_frames=versions.num_frames[:, version]
            )
            # As if these had been the clips, normalised by the statistics of the clips as they are.
            alone[effect, version] = rows_of(replace(data, train=part).train_batches(1, 8, 0))
    seen = set()
    for clip, row in rows_of(augmented.train_batches(1, 8, 0)).items():
        matches = [key for key, rows in alone.items() if torch.equal(rows[clip], row)]
        assert len(matches) == 1 or torch.equal(row, plain[clip])
        seen.update(matches)
    assert {effect for effect, _ in seen} == set(EFFECTS)
    assert {version for _, version in seen} == {0, 1}


def test_draws_follow_seed_and_epoch_and_nothing_else(data):
    augmented = data.augmented(EQUAL)
    whole = rows_of(augmented.train_batches(3, 8, 1))

    def same(other):
        return all(torch.equal(whole[clip], other[clip]) for clip in whole)

    assert same(rows_of(augmented.train_batches(3, 8, 1)))
    assert same(rows_of(augmented.train_batches(3, 5, 1)))
    joining = len(data.train_ids) // 2 - 1  # leaves a rest of 2 or 3 clips, which joins another batch for two workers
    assert augmented.num_batches(joining, 2) < augmented.num_batches(joining)
    for batch_size in (8, joining):
        workers = [rows_of(augmented.train_batches(3, batch_size, 1, rank, 2)) for rank in range(2)]
        assert workers[0].keys().isdisjoint(workers[1])
        assert same(workers[0] | workers[1])
    assert not same(rows_of(augmented.train_batches(4, 8, 1)))
    assert not same(rows_of(augmented.train_batches(3, 8, 2)))


def test_crops_reach_the_bank(data):
    cropped = data.crop(10, "masked", "middle").augmented(EQUAL)
    full = data.augmented(EQUAL)
    for one, other in zip(cropped.train_batches(1, 8, 0), full.train_batches(1, 8, 0), strict=True):
        for row, whole, valid in zip(one["features"], other["features"], other["num_frames"].tolist(), strict=True):
            kept = min(10, valid)
            start = (valid - kept) // 2
            assert torch.equal(row[:kept], whole[start : start + kept])
            assert not row[kept:].any()


def test_validation_order_and_statistics_stay(data):
    augmented = data.augmented(EQUAL)
    for one, other in zip(augmented.val_batches(5), data.val_batches(5), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert augmented.statistics is data.statistics
    for one, other in zip(augmented.train_batches(1, 8, 0), data.train_batches(1, 8, 0), strict=True):
        assert torch.equal(one["indices"], other["indices"])
        assert torch.equal(one["targets"], other["targets"])


def test_without_probabilities_the_clips_are_as_they_are(data):
    assert data.augmented(AugmentSettings()).augment is None
    rows = (rows_of(d.train_batches(1, 8, 0)) for d in (data, data.augmented(AugmentSettings())))
    one, other = rows
    assert all(torch.equal(one[clip], other[clip]) for clip in one)


def test_the_bank_is_shared_without_a_copy(data):
    shared = ray.get(ray.put(data)).augmented(EQUAL)
    for versions in shared.bank.values():
        assert not versions.features.flags.owndata
        assert not versions.features.flags.writeable
    assert len(rows_of(shared.train_batches(1, 8, 0))) == data.num_train


def test_what_is_not_prepared_is_an_error(data, made):
    place, prepared, bank = made
    few = ResidentData.read(prepared, place.split, {"noise": bank["noise"]})
    with pytest.raises(ValueError, match=r"augment.room_prob: no bank of 'room' was prepared, got \['noise'\]"):
        few.augmented(AugmentSettings(room_prob=0.1))
    with pytest.raises(ValueError, match=r"augment.versions: expected 2, as the bank has, got 3"):
        data.augmented(AugmentSettings(room_prob=0.1, versions=3))


def test_a_bank_needs_memory(made):
    place, prepared, bank = made
    plain = num_bytes(prepared, place.split)
    size = num_bytes(prepared, place.split, bank)
    assert size - plain == bank_bytes(bank, len(place.split.train)) == len(place.split.train) * 6 * 2 * FRAMES * 13 * 4
    assert isinstance(open_data(prepared, place.split, "auto", 2 * size, bank), ResidentData)
    with pytest.raises(ValueError, match=r"augment: stretch_prob, .* needs data.loading=resident, got 'auto' \(feat"):
        open_data(prepared, place.split, "auto", 2 * size - 2, bank)
    streamed = StreamedData.open(prepared, place.split)
    assert streamed.augmented(AugmentSettings(time_masks=1)) is streamed
    with pytest.raises(ValueError, match=r"augment: noise_prob needs data.loading=resident, got 'streamed'"):
        streamed.augmented(AugmentSettings(noise_prob=0.1))


def test_effects_are_drawn_as_often_as_set():
    """Chi-square over 40 epochs of 200 clips whose rows say which effect and version they are."""
    settings = AugmentSettings(
        stretch_prob=0.3, pitch_prob=0.05, noise_prob=0.2, speed_prob=0.1, room_prob=0.0, formant_prob=0.15, versions=3
    )
    num_clips = 200
    part = Part(
        np.array([str(clip) for clip in range(num_clips)]),
        np.zeros((num_clips, 1, 1), dtype=np.float32),
        np.ones(num_clips, dtype=np.int32),
        np.zeros((num_clips, 1), dtype=np.float32),
    )
    bank = {}
    for number, effect in enumerate(EFFECTS, start=1):
        codes = 10 * number + np.arange(3, dtype=np.float32)
        bank[effect] = Versions(
            np.broadcast_to(codes[:, None, None], (num_clips, 3, 1, 1)), np.ones((num_clips, 3), dtype=np.int32)
        )
    statistics = FeatureStatistics(np.zeros(1, dtype=np.float32), np.ones(1, dtype=np.float32))
    data = ResidentData(part, part, statistics, 1, bank).augmented(settings)
    codes = np.concatenate(
        [batch["features"].flatten() for epoch in range(40) for batch in data.train_batches(epoch, 32, 5)]
    )
    effects, versions = np.divmod(codes.astype(int), 10)
    chances = [0.2, *(getattr(settings, f"{effect}_prob") for effect in EFFECTS)]
    counts = np.bincount(effects, minlength=7)
    assert counts[5] == 0

    def p_value(chances):
        kept = np.array(chances) > 0
        return scipy.stats.chisquare(counts[kept], len(codes) * np.array(chances)[kept]).pvalue

    assert p_value(chances) > LEVEL
    assert p_value([0.2, 0.3, 0.05, 0.17, 0.13, 0.0, 0.15]) < LEVEL  # noise 0.17, not 0.2
    assert scipy.stats.chisquare(np.bincount(versions[effects > 0])).pvalue > LEVEL


def summaries(rows, plain):
    """Figures of each clip [clips, 5], most of them beside the clip as it is: what each effect shows in."""
    found = []
    for clip, (values, valid) in rows.items():
        clean, clean_valid = plain[clip]
        change = values[: min(valid, clean_valid)] - clean[: min(valid, clean_valid)]
        found.append(
            [
                valid / clean_valid,
                np.abs(change).mean(),
                change[:, 0].mean(),
                change[:, 1:4].mean(),
                values[:valid].std(axis=0).mean() - clean[:clean_valid].std(axis=0).mean(),
            ]
        )
    return np.array(found)


def on_the_fly(place, settings, seed):
    """Each training clip decoded, one effect drawn by numpy's `choice`, applied and extracted; nothing is prepared."""
    rng = np.random.default_rng(seed)
    chances = [getattr(settings, f"{effect}_prob") for effect in EFFECTS]
    keep = num_samples(FRAMES, SMALL)
    rows = {}
    for position, clip in enumerate(place.split.train):
        waveform = decode(Path(place.corpus.root, clip.id).read_bytes(), RATE, place.quality, 2 * keep, "middle")
        effect = rng.choice([*EFFECTS, "none"], p=[*chances, 1 - sum(chances)])
        if effect != "none":
            waveform = apply(effect, waveform, RATE, rng, settings, keep, "middle")
        rows[position] = extract(waveform, SMALL, FRAMES)
    return rows


def from_the_bank(data, settings, seed):
    """One epoch of batches, in the features' own units."""
    std, mean = data.statistics.std, data.statistics.mean
    return {
        int(index): (features.numpy() * std + mean, int(valid))
        for batch in data.augmented(settings).train_batches(1, 16, seed)
        for index, features, valid in zip(batch["indices"], batch["features"], batch["num_frames"], strict=True)
    }


class Comparison:
    """Whether draws from the bank and augmentation on the fly have the same distribution.

    By Kolmogorov and Smirnov's two-sample test for each of five figures, the smallest p-value times five (Bonferroni).
    """

    def __init__(self, place, prepared, data):
        self.place, self.data = place, data
        part = read_part(prepared, place.split.train, place.sealed)
        number = {clip.id: position for position, clip in enumerate(place.split.train)}
        self.order = [number[clip] for clip in part.ids.tolist()]
        self.plain = {
            position: (part.features[row], int(part.num_frames[row])) for row, position in enumerate(self.order)
        }

    def p_value(self, from_bank, fresh):
        here = summaries(on_the_fly(self.place, fresh, seed=1), self.plain)
        drawn = {self.order[index]: row for index, row in from_the_bank(self.data, from_bank, seed=2).items()}
        there = summaries(dict(sorted(drawn.items())), self.plain)
        assert len(here) == len(there) == len(self.place.split.train) >= 70
        figures = zip(here.T, there.T, strict=True)
        return here.shape[1] * min(scipy.stats.ks_2samp(one, other).pvalue for one, other in figures)


@pytest.fixture(scope="module")
def compared(made, data):
    place, prepared, _ = made
    return Comparison(place, prepared, data)


MIXTURE = AugmentSettings(
    stretch_prob=0.1, pitch_prob=0.1, noise_prob=0.1, speed_prob=0.1, room_prob=0.4, formant_prob=0.1
)


def test_bank_and_on_the_fly_have_the_same_distribution(compared):
    assert compared.p_value(MIXTURE, MIXTURE) > LEVEL
    assert compared.p_value(EQUAL, EQUAL) > LEVEL
    # Had one probability been another, this would show it.
    assert compared.p_value(MIXTURE.model_copy(update={"room_prob": 0.0}), MIXTURE) < LEVEL
    assert compared.p_value(EQUAL, EQUAL.model_copy(update={"noise_prob": 0.0, "room_prob": 0.0})) < LEVEL


@pytest.mark.parametrize(
    ("effect", "other_range"),
    [
        ("stretch", {"stretch_range": (1.1, 1.5)}),
        ("pitch", {"pitch_semitones": 0.4}),
        ("noise", {"noise_range": (0.005, 0.015)}),
        ("speed", {"speed_range": (0.85, 1.05)}),
        ("room", {"room_seconds": (0.4, 1.0)}),
        ("formant", {"formant_range": (0.97, 1.03)}),
    ],
)
def test_each_effect_has_the_same_distribution_in_the_bank(compared, effect, other_range):
    only = AugmentSettings(**{f"{effect}_prob": 1.0})
    assert compared.p_value(only, only) > LEVEL
    assert compared.p_value(only, only.model_copy(update=other_range)) < LEVEL
