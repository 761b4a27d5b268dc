import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.recordings import RATE, SMALL, encode, tone, write_corpus
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.features.audio import decode
from tuning.datasets.features.frames import num_samples
from tuning.datasets.features.spectral import extract
from tuning.datasets.features.waveform_effects import EFFECTS
from tuning.datasets.hashing import digest_of
from tuning.datasets.loaders.in_memory import ResidentData, draw_versions
from tuning.datasets.loaders.streaming import StreamedData, num_bytes, open_data
from tuning.datasets.settings import AugmentSettings, DataSettings, SplitSettings, effect_combinations
from tuning.datasets.splits.split import partition_of, split_clips
from tuning.datasets.store import build as shards
from tuning.datasets.store.augmentation_bank import bank_bytes, bank_key, prepare_bank
from tuning.datasets.store.build import prepare
from tuning.datasets.store.reader import FeatureStatistics, Part, SealedError, Versions, read_part, read_versions

FRAMES = 24
LEVEL = 0.01  # of the statistical tests
ORDER = ("speed", "stretch", "pitch", "formant", "room", "noise")
PLAIN = AugmentSettings()  # no probability matters to what a bank holds
# As documented for speech: together above 1.
THREE = AugmentSettings(stretch_prob=0.5, room_prob=0.4, noise_prob=0.5)
COMBINED = ["stretch", "room", "noise", "stretch+room", "stretch+noise", "room+noise", "stretch+room+noise"]
NAMES = [*COMBINED, "speed", "pitch", "formant", "speed+stretch", "speed+stretch+pitch+formant+room+noise"]
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

    def bank(self, names, augment=PLAIN, clips=None, **options):
        clips = self.split.train if clips is None else clips
        return prepare_bank(
            self.corpus, self.partitions, clips, self.sealed, SMALL, FRAMES, self.quality, augment, names, **options
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory, ray_session):
    """A place with its features and a bank of each effect, of three effects in all combinations, and of all six."""
    place = Place(tmp_path_factory.mktemp("bank"), 120)
    return place, place.prepare(), place.bank(NAMES)


@pytest.fixture
def place(tmp_path, ray_session):
    return Place(tmp_path)


@pytest.fixture
def forbid_ray(monkeypatch):
    def refuse(units):
        raise AssertionError(f"{len(units)} shards would be made")

    return lambda: monkeypatch.setattr(shards, "_run", refuse)


def extracted(bank):
    return {name: prepared.num_extracted for name, prepared in bank.items()}


def middle(waveform, length):
    start = max(0, len(waveform) - length) // 2
    return waveform[start : start + length]


def chained(waveform, effects, rng_of, settings, keep):
    """Effects applied one after the other, by hand."""
    assert list(effects) == [effect for effect in ORDER if effect in effects]
    tempo = [effect for effect in effects if effect in ("speed", "stretch")]
    reach = np.prod([getattr(settings, f"{effect}_range")[1] for effect in tempo])
    waveform = middle(waveform, int(np.ceil(keep * reach)))
    for effect in tempo:
        waveform = EFFECTS[effect](waveform, RATE, rng_of(effect), settings)
    waveform = middle(waveform, keep)
    for effect in effects:
        if effect not in tempo:
            waveform = EFFECTS[effect](waveform, RATE, rng_of(effect), settings)
    return waveform.astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_the_bank_holds_the_features_of_changed_recordings(made, name):
    place, _, bank = made
    train = place.split.train
    found = read_versions(bank[name], [clip.id for clip in train], place.sealed)
    assert found.features.shape == (len(train), 2, FRAMES, 13)
    keep = num_samples(FRAMES, SMALL)
    for position in (0, 1, 2, len(train) - 1):
        clip = train[position].id
        raw = Path(place.corpus.root, clip).read_bytes()
        waveform = decode(raw, RATE, place.quality, 4 * keep, "middle")
        seed = bank[name].digests[clip]
        for version in range(2):

            def rng_of(effect, seed=seed, version=version):
                return np.random.default_rng(int(digest_of(seed, effect, str(version)), 16))

            changed = chained(waveform, name.split("+"), rng_of, AugmentSettings(), keep)
            expected, num_valid = extract(changed, SMALL, FRAMES)
            np.testing.assert_array_equal(found.features[position, version], expected)
            assert found.num_frames[position, version] == num_valid
        assert not np.array_equal(found.features[position, 0], found.features[position, 1])


def test_combinations_are_the_subsets_in_the_order_of_sound():
    assert tuple(EFFECTS) == ORDER
    everything = AugmentSettings(**{f"{effect}_prob": 0.5 for effect in EFFECTS}).combinations()
    assert len(everything) == len(set(everything)) == 63
    assert everything[:7] == [*ORDER, "speed+stretch"] and everything[-1] == "speed+stretch+pitch+formant+room+noise"
    assert sorted(THREE.combinations()) == sorted(COMBINED)
    # What is drawn for every clip is in all of them.
    assert AugmentSettings(pitch_prob=1.0, noise_prob=0.2).combinations() == ["pitch", "pitch+noise"]
    assert AugmentSettings(pitch_prob=1.0, noise_prob=1.0).combinations() == ["pitch+noise"]
    assert AugmentSettings().combinations() == []


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
    assert bank_key(THREE) == bank_key(AugmentSettings(noise_prob=0.9, mask_prob=0.3))
    assert bank_key(THREE) != bank_key(AugmentSettings(noise_range=(0.1, 0.2)))


@pytest.mark.parametrize("change", [{"noise_range": (0.001, 0.02)}, {"versions": 3}])
def test_what_the_bank_holds_makes_it_anew(place, change):
    place.bank(["noise"])
    assert extracted(place.bank(["noise"], AugmentSettings(**change))) == {"noise": len(place.split.train)}


def test_another_extraction_makes_it_anew(place, monkeypatch):
    place.bank(["noise"])
    monkeypatch.setattr("tuning.datasets.store.shard_index.AUGMENTATION_VERSION", 99)
    assert extracted(place.bank(["noise"])) == {"noise": len(place.split.train)}


@pytest.mark.parametrize(
    ("change", "kept"),
    [({"room_seconds": (0.1, 0.2)}, ["stretch+noise"]), ({"noise_range": (0.001, 0.02)}, ["room", "stretch+room"])],
)
def test_a_range_makes_those_combinations_anew_that_have_its_effect(place, change, kept):
    names = ["room", "stretch+room", "stretch+noise"]
    place.bank(names)
    again = extracted(place.bank(names, AugmentSettings(**change)))
    assert [name for name, count in again.items() if count == 0] == kept


def test_another_effect_is_made_alone_and_the_same_as_with_others(place, tmp_path):
    # Long, and at another rate: where a cut starts then decides where its resampled samples lie.
    for number, clip in enumerate(place.corpus.clips):
        (tmp_path / "corpus" / clip.id).write_bytes(encode(tone(3, seed=number, rate=11025), 11025))
    one = place.bank(["noise"])
    names = effect_combinations(["speed", "stretch", "noise"])
    several = place.bank(names)
    num = len(place.split.train)
    assert extracted(several) == {name: 0 if name == "noise" else num for name in names}
    assert one["noise"].shards == several["noise"].shards
    ids = [clip.id for clip in place.split.train]
    for name in ("speed", "speed+noise", "speed+stretch+noise"):
        place.quality = DataSettings(prepared=str(tmp_path / name))
        others = {} if "stretch" in name else {"stretch_range": (0.6, 1.9)}
        alone = place.bank([name], AugmentSettings(**others))
        np.testing.assert_array_equal(*(read_versions(bank[name], ids, ()).features for bank in (several, alone)))


def test_a_task_that_would_hold_too_much_makes_some_combinations_at_a_time(place, tmp_path, monkeypatch):
    names = ["stretch", "noise", "stretch+noise"]
    together = place.bank(names)
    place.quality = DataSettings(prepared=str(tmp_path / "other"))
    monkeypatch.setattr("tuning.datasets.store.augmentation_bank.TASK_BYTES", 2 * 16 * 2 * FRAMES * 13 * 4)
    asked, make = [], shards.make_missing

    def making(root, indexes, *rest):
        asked.append(list(indexes))
        return make(root, indexes, *rest)

    monkeypatch.setattr("tuning.datasets.store.augmentation_bank.make_missing", making)
    apart = place.bank(names)
    assert asked == [["stretch", "noise"], ["stretch+noise"]]
    assert extracted(apart) == extracted(together)
    ids = [clip.id for clip in place.split.train]
    for name in names:
        np.testing.assert_array_equal(*(read_versions(bank[name], ids, ()).features for bank in (together, apart)))


def test_a_bank_larger_than_the_disk_is_refused_before_it_is_made(place, forbid_ray):
    forbid_ray()
    expected = len(place.split.train) * 100 * 4 * 20_000_000 * 13 * 4  # clips, versions, combinations, bytes
    with pytest.raises(ValueError, match=r"augment: expected a bank that fits on the disk") as error:
        prepare_bank(
            place.corpus, place.partitions, place.split.train, place.sealed, SMALL, 20_000_000, place.quality,
            AugmentSettings(versions=100), ["noise", "room", "room+noise", "pitch"],
        )  # fmt: skip
    assert f"got {expected / 1e9:.2g} GB to be made" in str(error.value)


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
    augmented, alone = data.augmented(THREE), {}
    plain = rows_of(data.train_batches(1, 8, 0))
    for name, versions in data.bank.items():
        for version in range(2):
            part = replace(
                data.train, features=versions.features[:, version], num_frames=versions.num_frames[:, version]
            )
            # As if these had been the clips, normalised by the statistics of the clips as they are.
            alone[name, version] = rows_of(replace(data, train=part).train_batches(1, 8, 0))
    seen = set()
    for clip, row in rows_of(augmented.train_batches(1, 8, 0)).items():
        matches = [key for key, rows in alone.items() if torch.equal(rows[clip], row)]
        assert len(matches) == 1 or torch.equal(row, plain[clip])
        seen.update(matches)
    assert {name for name, _ in seen} == set(COMBINED)
    assert {version for _, version in seen} == {0, 1}


def test_draws_follow_seed_and_epoch_and_nothing_else(data):
    augmented = data.augmented(THREE)
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
    cropped = data.crop(10, "masked", "middle").augmented(THREE)
    full = data.augmented(THREE)
    for one, other in zip(cropped.train_batches(1, 8, 0), full.train_batches(1, 8, 0), strict=True):
        for row, whole, valid in zip(one["features"], other["features"], other["num_frames"].tolist(), strict=True):
            kept = min(10, valid)
            start = (valid - kept) // 2
            assert torch.equal(row[:kept], whole[start : start + kept])
            assert not row[kept:].any()


def test_validation_order_and_statistics_stay(data):
    augmented = data.augmented(THREE)
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
    shared = ray.get(ray.put(data)).augmented(THREE)
    for versions in shared.bank.values():
        assert not versions.features.flags.owndata
        assert not versions.features.flags.writeable
    assert len(rows_of(shared.train_batches(1, 8, 0))) == data.num_train


def test_what_is_not_prepared_is_an_error(data, made):
    place, prepared, bank = made
    few = ResidentData.read(prepared, place.split, {"noise": bank["noise"]})
    with pytest.raises(
        ValueError, match=r"augment: expected a bank of 'room', which may be drawn, got one of \['noise'\]"
    ):
        few.augmented(AugmentSettings(room_prob=0.1))
    with pytest.raises(ValueError, match=r"augment: expected a bank of 'pitch\+noise', which may be drawn"):
        data.augmented(AugmentSettings(pitch_prob=0.1, noise_prob=0.1))
    with pytest.raises(ValueError, match=r"augment.versions: expected 2, as the bank has, got 3"):
        data.augmented(AugmentSettings(room_prob=0.1, versions=3))


def test_a_bank_has_its_size_and_is_streamed_where_it_does_not_fit(made):
    place, prepared, bank = made
    plain = num_bytes(prepared, place.split)
    size = num_bytes(prepared, place.split, bank)
    assert size - plain == bank_bytes(bank, len(place.split.train)) == len(place.split.train) * 12 * 2 * FRAMES * 13 * 4
    assert isinstance(open_data(prepared, place.split, "auto", 2 * size, bank), ResidentData)
    assert isinstance(open_data(prepared, place.split, "auto", 2 * size - 2, bank), StreamedData)
    with pytest.raises(ValueError, match=r"augment: expected a bank of 'noise', which .* got one of \[\]"):
        StreamedData.open(prepared, place.split).augmented(AugmentSettings(noise_prob=0.1))


SIX = AugmentSettings(
    speed_prob=0.1, stretch_prob=0.5, pitch_prob=0.3, formant_prob=0.0, room_prob=0.25, noise_prob=0.5, versions=3
)


@pytest.fixture(scope="module")
def codes():
    """What 100 epochs of 200 clips are given, from a bank whose rows say which combination and version they are."""
    num_clips = 200
    part = Part(
        np.array([str(clip) for clip in range(num_clips)]),
        np.zeros((num_clips, 1, 1), dtype=np.float32),
        np.ones(num_clips, dtype=np.int32),
        np.zeros((num_clips, 1), dtype=np.float32),
    )
    bank = {}
    for subset in range(1, 64):
        name = "+".join(effect for place, effect in enumerate(ORDER) if subset >> place & 1)
        rows = 10 * subset + np.arange(3, dtype=np.float32)
        bank[name] = Versions(
            np.broadcast_to(rows[:, None, None], (num_clips, 3, 1, 1)), np.ones((num_clips, 3), dtype=np.int32)
        )
    statistics = FeatureStatistics(np.zeros(1, dtype=np.float32), np.ones(1, dtype=np.float32))
    data = ResidentData(part, part, statistics, 1, bank).augmented(SIX)
    found = [batch["features"].flatten() for epoch in range(100) for batch in data.train_batches(epoch, 32, 5)]
    return np.divmod(np.concatenate(found).astype(int), 10)


def test_every_combination_is_drawn_as_often_as_independent_effects_are(codes):
    """By chi-square against the product of the probabilities."""
    subsets, versions = codes
    counts = np.bincount(subsets, minlength=64)

    def p_value(chances):
        product = np.array(
            [np.prod([p if subset >> place & 1 else 1 - p for place, p in enumerate(chances)]) for subset in range(64)]
        )
        assert product.sum() == pytest.approx(1) and not counts[product == 0].any()
        kept = product > 0
        return scipy.stats.chisquare(counts[kept], len(subsets) * product[kept]).pvalue

    assert p_value([0.1, 0.5, 0.3, 0.0, 0.25, 0.5]) > LEVEL
    assert p_value([0.1, 0.5, 0.32, 0.0, 0.25, 0.5]) < LEVEL
    assert scipy.stats.chisquare(np.bincount(versions[subsets > 0])).pvalue > LEVEL


def test_effects_are_drawn_independently_of_one_another_and_of_versions(codes):
    subsets, versions = codes
    drawn = {effect: subsets >> place & 1 for place, effect in enumerate(ORDER) if effect != "formant"}
    limit = 3.5 / np.sqrt(len(subsets))  # of the standard deviation of a correlation of zero
    for one, other in itertools.combinations(drawn.values(), 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < limit
    changed = subsets > 0
    for one in drawn.values():
        table = [np.bincount(versions[changed & (one == value)], minlength=3) for value in (0, 1)]
        assert scipy.stats.chi2_contingency(table).pvalue > LEVEL / len(drawn)


@given(st.sampled_from(ORDER), st.floats(0, 1), st.integers(0, 1000), st.integers(1, 1000))
def test_the_draws_of_an_effect_do_not_depend_on_the_probabilities_of_others(other, chance, seed, epoch):
    def clips(**more):
        drawn = draw_versions(AugmentSettings(**{"noise_prob": 0.4} | more), 50, seed, epoch)
        return {clip for clip, (name, _) in drawn.items() if "noise" in name.split("+")}

    assert other == "noise" or clips() == clips(**{f"{other}_prob": chance})


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
    """Each training clip decoded, each effect drawn by a coin, applied and extracted; nothing is prepared."""
    rng = np.random.default_rng(seed)
    keep = num_samples(FRAMES, SMALL)
    rows = {}
    for position, clip in enumerate(place.split.train):
        waveform = decode(Path(place.corpus.root, clip.id).read_bytes(), RATE, place.quality, 4 * keep, "middle")
        effects = [effect for effect in ORDER if rng.random() < getattr(settings, f"{effect}_prob")]
        waveform = chained(waveform, effects, lambda effect: rng, settings, keep)
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


def test_bank_and_on_the_fly_have_the_same_distribution(compared):
    other = AugmentSettings(stretch_prob=0.2, room_prob=0.9, noise_prob=0.3)
    assert compared.p_value(THREE, THREE) > LEVEL
    assert compared.p_value(other, other) > LEVEL
    # Had one probability been another, this would show it.
    assert compared.p_value(other.model_copy(update={"room_prob": 0.0}), other) < LEVEL
    assert compared.p_value(THREE, THREE.model_copy(update={"stretch_prob": 0.0})) < LEVEL
    assert compared.p_value(THREE, THREE.model_copy(update={"room_prob": 1.0})) < LEVEL


def test_effects_that_are_always_drawn_have_the_same_distribution_together(compared):
    both = AugmentSettings(stretch_prob=1.0, noise_prob=1.0)
    assert compared.p_value(both, both) > LEVEL
    assert compared.p_value(both, both.model_copy(update={"stretch_prob": 0.0})) < LEVEL


@pytest.mark.parametrize(
    ("effect", "other_range"),
    [
        ("stretch", {"stretch_range": (1.1, 1.5)}),
        ("pitch", {"pitch_semitones": 0.4}),
        ("noise", {"noise_range": (0.005, 0.015)}),
        ("speed", {"speed_range": (0.85, 1.05)}),
        ("room", {"room_seconds": (0.02, 0.1)}),
        ("formant", {"formant_range": (0.97, 1.03)}),
    ],
)
def test_each_effect_has_the_same_distribution_in_the_bank(compared, effect, other_range):
    only = AugmentSettings(**{f"{effect}_prob": 1.0})
    assert compared.p_value(only, only) > LEVEL
    assert compared.p_value(only, only.model_copy(update=other_range)) < LEVEL
