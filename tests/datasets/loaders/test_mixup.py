from dataclasses import replace

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch

from tests.helpers.recordings import SMALL, tone
from tuning.datasets.features.spectral import extract
from tuning.datasets.loaders.in_memory import ResidentData
from tuning.datasets.loaders.mixup import AugmentedData, augment_data
from tuning.datasets.loaders.spec_augment import spans
from tuning.datasets.settings import AugmentSettings, stored_features
from tuning.datasets.store.reader import FeatureStatistics, Part

FRAMES, NUM_CLIPS = 24, 30
CROP = (17, "masked", "middle")
MASKS = AugmentSettings(time_masks=2, time_mask_frames=5, freq_masks=2, freq_mask_bands=8)
TIME = AugmentSettings(time_masks=2, time_mask_frames=5)
FREQ = AugmentSettings(freq_masks=2, freq_mask_bands=8)
MIXUP = AugmentSettings(mixup_prob=1.0)


def features_named(name, num_deltas=0):
    return SMALL.model_copy(update={"name": name, "deltas": num_deltas})


def resident(features):
    """Clips of 13, 21 and 24 valid frames."""
    made = [extract(tone(0.3 + 0.2 * (n % 3), seed=n), features, FRAMES) for n in range(NUM_CLIPS + 10)]
    values, num_frames = np.stack([v for v, _ in made]), np.array([n for _, n in made], dtype=np.int32)
    targets = np.random.default_rng(0).uniform(-1, 1, (len(made), 2)).astype(np.float32)
    ids = np.array([f"clip_{n:02d}" for n in range(len(made))])
    parts = [
        Part(ids[rows], values[rows], num_frames[rows], targets[rows])
        for rows in (slice(None, NUM_CLIPS), slice(NUM_CLIPS, None))
    ]
    return ResidentData(*parts, FeatureStatistics.of([(parts[0].num_frames, parts[0].features)]), FRAMES)


def pairs(features, settings, epoch=1, seed=3, batch_size=7):
    """Each augmented training batch with the untouched one, of the stored features."""
    inner = resident(stored_features(features, settings))
    data = AugmentedData(inner, features, settings)
    return list(
        zip(data.train_batches(epoch, batch_size, seed), inner.train_batches(epoch, batch_size, seed), strict=True)
    )


def slopes(static, num_valid, order):
    """Derivatives over the valid frames [features, frames]; 0 in the padding."""
    found = scipy.signal.savgol_filter(static[:, :num_valid], 9, polyorder=order, deriv=order, mode="nearest")
    return np.pad(found, ((0, 0), (0, static.shape[1] - num_valid)))


@pytest.mark.parametrize("num_deltas", [0, 1, 2])
@pytest.mark.parametrize("name", ["mel", "mfcc", "mel+mfcc", "mfcc+chroma", "mel+mfcc+chroma"])
def test_cepstra_are_those_of_the_masked_mel(name, num_deltas):
    """Everything is computed anew from the masked mel: scipy's DCT, then slopes over the valid frames."""
    features = features_named(name, num_deltas)
    stored = stored_features(features, FREQ)
    statistics = resident(stored).statistics
    columns = AugmentedData(resident(stored), features, FREQ).statistics
    num_masked = 0
    for masked, plain in pairs(features, FREQ):
        hidden = hidden_bands(stored, plain, FREQ)
        num_masked += int(hidden.sum())
        for row, valid in enumerate(plain["num_frames"].tolist()):
            raw = plain["features"][row].numpy() * statistics.std + statistics.mean
            static = raw[:valid, : sum(stored.widths.values())].astype(np.float64)
            mel = static[:, :32]
            mel[:, hidden[row]] = statistics.mean[:32][hidden[row]]
            parts = []
            for part in features.widths:
                if part == "mel":
                    parts.append(mel)
                elif part == "mfcc":
                    parts.append(scipy.fft.dct(mel, type=2, norm="ortho", axis=1)[:, :13])
                else:
                    parts.append(static[:, -12:])
            expected = np.concatenate(parts, axis=1).T
            blocks = [expected, *(slopes(expected, valid, order) for order in range(1, num_deltas + 1))]
            normal = (np.concatenate(blocks).T - columns.mean) / columns.std
            np.testing.assert_allclose(masked["features"][row, :valid], normal, atol=1e-3)
            in_units = (masked["features"][row, :valid].numpy() - normal) * columns.std
            np.testing.assert_allclose(in_units, 0, atol=3e-3 if num_deltas else 1e-3)
            assert (masked["features"][row, valid:] == 0).all()
    assert num_masked > 0


def hidden_bands(stored, plain, settings):
    """Bands that the same draw hides in a mel spectrogram alone, read off its zeros."""
    mel = stored.model_copy(update={"name": "mel", "deltas": 0})
    inner = resident(mel)
    data = AugmentedData(inner, mel, settings)
    for masked in data.train_batches(1, 7, 3):
        if torch.equal(masked["indices"], plain["indices"]):
            return (masked["features"] == 0).all(dim=1).numpy()
    raise AssertionError("no such batch")


def test_cepstra_within_a_ten_thousandth_of_librosas():
    """In dB, on features that are not normalised: mean 0, deviation 1."""
    import librosa

    features = features_named("mel+mfcc")
    inner = resident(features)
    width = features.num_features
    statistics = FeatureStatistics(np.full(width, -40, dtype=np.float32), np.ones(width, dtype=np.float32))
    data = AugmentedData(replace(inner, statistics=statistics), features, FREQ)
    for batch in data.train_batches(1, 7, 3):
        for row, valid in zip(batch["features"], batch["num_frames"].tolist(), strict=True):
            mel, mfcc = np.split(row[:valid].double().numpy() - 40, [32], axis=1)
            np.testing.assert_allclose(mfcc, librosa.feature.mfcc(S=mel.T, n_mfcc=13).T, atol=1e-4)


@pytest.mark.parametrize("name", ["mfcc", "mel", "chroma"])
def test_time_masks_hide_whole_stretches_and_nothing_else(name):
    num_masked = 0
    for masked, plain in pairs(features_named(name, 1), TIME):
        hidden = (masked["features"] == 0).all(dim=2)
        for row, valid in enumerate(plain["num_frames"].tolist()):
            kept = ~hidden[row]
            assert torch.equal(masked["features"][row, kept], plain["features"][row, kept])
            inside = hidden[row, :valid]
            assert inside.sum() <= 2 * min(5, valid // 2)
            starts = (inside[1:] & ~inside[:-1]).sum() + inside[0]
            assert starts <= 2
            num_masked += int(inside.sum())
    # Two masks of 0 to 5 frames, overlapping now and then.
    assert 3 < num_masked / NUM_CLIPS < 5


def test_widths_and_places_are_spread_evenly():
    uniform = torch.rand(20_000, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    hidden = spans(uniform, torch.full((20_000,), 3), torch.full((20_000,), 6), 10)
    assert not hidden[:, 6:].any()
    widths = hidden.sum(dim=1)
    counts = torch.bincount(widths, minlength=4)
    assert ((counts - 5000).abs() < 4 * (20_000 * 0.25 * 0.75) ** 0.5).all()
    starts = hidden[widths == 2].int().argmax(dim=1)
    places = torch.bincount(starts, minlength=5)
    assert len(places) == 5 and ((places - counts[2] / 5).abs() < 4 * (float(counts[2]) * 0.16) ** 0.5).all()


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_share_of_masked_clips(share):
    settings = TIME.model_copy(update={"mask_prob": share, "time_masks": 20})
    changed = 0
    for epoch in range(20):
        for masked, plain in pairs(features_named("mel"), settings, epoch=epoch, batch_size=30):
            changed += int((masked["features"] != plain["features"]).flatten(1).any(dim=1).sum())
    assert changed == pytest.approx(share * 20 * NUM_CLIPS, abs=4 * (20 * NUM_CLIPS * share * (1 - share)) ** 0.5)


@pytest.mark.parametrize("settings", [MASKS, MIXUP])
def test_draws_follow_seed_epoch_and_batch(settings):
    def drawn(epoch=1, seed=3):
        return [batch["features"] for batch, _ in pairs(features_named("mfcc"), settings, epoch, seed)]

    def same(one, other):
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    assert same(drawn(), drawn())
    # The order of the clips moves with seed and epoch, too; what is masked must differ within one order.
    batches = pairs(features_named("mel"), TIME, batch_size=10)
    hidden = [(masked["features"] == 0).all(dim=2)[:, :13] for masked, _ in batches]
    assert not torch.equal(hidden[0], hidden[1])
    assert not same(drawn(), drawn(epoch=2))
    assert not same(drawn(), drawn(seed=4))


@pytest.mark.parametrize(("batch_size", "sizes"), [(8, [8, 8, 8, 6]), (9, [9, 9, 12])])
def test_masks_do_not_depend_on_the_number_of_workers_but_where_a_rest_joins(batch_size, sizes):
    """A rest of 3 clips is a batch of its own for one worker, and joins the batch before it for two."""
    features = features_named("mfcc")
    inner = resident(stored_features(features, MASKS))
    data = AugmentedData(inner, features, MASKS)
    alone = list(data.train_batches(2, batch_size, 1))
    left, right = (list(data.train_batches(2, batch_size, 1, rank, 2)) for rank in range(2))
    assert [batch["num_clips"] for batch in left] == sizes
    alike = [n for n, size in enumerate(sizes) if alone[n]["num_clips"] == size]
    assert len(alike) == len(alone) if batch_size == 8 else alike == [0, 1]
    for n in alike:
        torch.testing.assert_close(alone[n]["features"][0::2], left[n]["features"], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone[n]["features"][1::2], right[n]["features"], atol=1e-5, rtol=0)
    if batch_size == 9:
        joined = torch.empty(12, *left[2]["features"].shape[1:])
        joined[0::2], joined[1::2] = left[2]["features"], right[2]["features"]
        apart = torch.cat([alone[2]["features"], alone[3]["features"]])
        assert not torch.equal(joined == 0, apart == 0)


def test_mixup_is_the_formula():
    shares = []
    for epoch in range(10):
        for mixed, plain in pairs(features_named("mfcc"), MIXUP, epoch=epoch):
            share = mixed["mix"]
            shares.append(share)
            partners = [
                int((plain["targets"] == target).all(dim=1).nonzero()[0, 0]) for target in mixed["partner_targets"]
            ]
            assert sorted(partners) == list(range(len(partners)))
            for row, partner in enumerate(partners):
                expected = share * plain["features"][row] + (1 - share) * plain["features"][partner]
                torch.testing.assert_close(mixed["features"][row], expected)
                assert mixed["num_frames"][row] == max(plain["num_frames"][row], plain["num_frames"][partner])
                assert (mixed["features"][row, mixed["num_frames"][row] :] == 0).all()
            for name in ("targets", "indices", "num_clips"):
                assert torch.equal(torch.as_tensor(mixed[name]), torch.as_tensor(plain[name]))
    # Beta(0.4, 0.4) has mean 1/2 and variance 1/(4 * 1.8).
    assert len(set(shares)) == len(shares)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.16)
    assert np.var(shares) == pytest.approx(1 / 7.2, abs=0.05)


def test_mixup_happens_in_its_share_of_batches():
    settings = AugmentSettings(mixup_prob=0.3)
    batches = [batch for epoch in range(60) for batch, _ in pairs(features_named("mfcc"), settings, epoch=epoch)]
    share = sum("mix" in batch for batch in batches) / len(batches)
    assert share == pytest.approx(0.3, abs=4 * (0.21 / len(batches)) ** 0.5)


def test_workers_mix_alike_and_within_their_part():
    features = features_named("mfcc")
    inner = resident(features)
    data = AugmentedData(inner, features, AugmentSettings(mixup_prob=0.5))
    workers = [list(data.train_batches(1, 6, 0, rank, 2)) for rank in range(2)]
    assert [batch.get("mix") for batch in workers[0]] == [batch.get("mix") for batch in workers[1]]
    assert {"mix" in batch for batch in workers[0]} == {True, False}
    for worker in workers:
        for batch in worker:
            if "mix" in batch:
                assert sorted(map(tuple, batch["targets"].tolist())) == sorted(
                    map(tuple, batch["partner_targets"].tolist())
                )


@pytest.mark.parametrize(("name", "num_deltas"), [("mfcc", 0), ("mfcc+chroma", 2), ("mel", 1)])
def test_validation_is_untouched_and_has_the_features_asked_for(name, num_deltas):
    features = features_named(name, num_deltas)
    settings = MASKS.model_copy(update={"mixup_prob": 1.0})
    data = augment_data(resident(stored_features(features, settings)), features, settings)
    plain = resident(features)
    assert (data.num_features, data.num_train, data.num_val, data.frames) == (features.num_features, 30, 10, FRAMES)
    assert data.num_batches(7, 2) == plain.num_batches(7, 2)
    np.testing.assert_array_equal(data.statistics.mean, plain.statistics.mean)
    np.testing.assert_array_equal(data.statistics.std, plain.statistics.std)
    for one, other in zip(data.crop(*CROP).val_batches(4), plain.crop(*CROP).val_batches(4), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    batch = next(iter(data.crop(*CROP).train_batches(1, 4, 0)))
    assert batch["features"].shape == (4, 17, features.num_features)
    np.testing.assert_array_equal(data.train_targets, plain.train_targets)
    np.testing.assert_array_equal(data.val_ids, plain.val_ids)


def test_without_augmentation_the_data_stay_themselves():
    features = features_named("mfcc")
    data = resident(features)
    assert augment_data(data, features, AugmentSettings()) == data
    assert isinstance(augment_data(data, features, TIME), AugmentedData)
    assert not isinstance(augment_data(data, features, TIME.model_copy(update={"mask_prob": 0.0})), AugmentedData)


def test_the_arrays_in_memory_are_not_written():
    features = features_named("mel")
    inner = resident(features)
    before = inner.train.features.copy(), inner.train.targets.copy()
    list(AugmentedData(inner, features, MASKS.model_copy(update={"mixup_prob": 1.0})).train_batches(1, 7, 3))
    np.testing.assert_array_equal(inner.train.features, before[0])
    np.testing.assert_array_equal(inner.train.targets, before[1])


def test_what_shards_must_hold():
    names = {name: stored_features(features_named(name), FREQ).name for name in ("mfcc", "mel", "mfcc+chroma")}
    assert names == {"mfcc": "mel+mfcc", "mel": "mel", "mfcc+chroma": "mel+mfcc+chroma"}
    assert type(SMALL).model_validate(stored_features(features_named("mfcc", 2), FREQ).model_dump()).num_features == 135
    assert stored_features(features_named("chroma"), TIME).name == "chroma"
    with pytest.raises(
        ValueError, match=r"augment\.freq_masks: expected 0 with features.name=chroma, which has no mel bands"
    ):
        stored_features(features_named("chroma"), FREQ)
    wide = FREQ.model_copy(update={"freq_mask_bands": 33})
    with pytest.raises(
        ValueError, match=r"augment\.freq_mask_bands: expected at most features.num_mels \(32\), got 33"
    ):
        stored_features(features_named("mel"), wide)
