"""The quality of generated spectrograms: every figure by its definition, and that the score ranks."""

import numpy as np
import pytest
import scipy.linalg

from tuning.datasets.demo import music as demo
from tuning.datasets.features.spectral import extract
from tuning.datasets.settings import FeatureSettings
from tuning.models.gan_settings import GANSettings
from tuning.training.gan.metrics import band, compare, embed, frechet_distance, score, sub_scores
from tuning.training.gan.trainer import GANTrainer

FEATURES = FeatureSettings(name="mel", window_samples=1024, num_mels=32)


@pytest.fixture(scope="module")
def pieces():
    """96 clips [96, 32, 32] of the demo's artists in turn within -1 and 1, and their labels."""
    clips, labels = [], []
    for number in range(96):
        timbre = demo.draw_timbre(number % demo.NUM_ARTISTS)
        piece = demo.draw_piece(number % demo.NUM_ARTISTS, number // demo.NUM_ARTISTS, timbre)
        clips.append(extract(demo.render(piece, timbre, seconds=2).astype(np.float32), FEATURES, 32)[0])
        labels.append((piece.valence, piece.arousal))
    return np.clip((np.stack(clips) + 30) / 50, -1, 1).astype(np.float32), np.array(labels, dtype=np.float32)


def vectors(seed, shape=(50, 6)):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1])) + rng.normal(size=shape[1])


@pytest.mark.parametrize("clips", [50, 5])
def test_frechet_distance_equals_the_formula_with_scipys_root(clips):
    first, second = vectors(0), vectors(1, (clips, 6))
    c1, c2 = np.cov(first.T), np.cov(second.T)
    root = scipy.linalg.sqrtm(c1 @ c2)
    expected = np.sum((first.mean(0) - second.mean(0)) ** 2) + np.trace(c1 + c2 - 2 * root.real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_of_known_sets():
    first = vectors(0)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first, first + 2) == pytest.approx(6 * 4)
    assert frechet_distance(first[:, :1], 3 * first[:, :1]) == pytest.approx(
        4 * first[:, 0].mean() ** 2 + 4 * first[:, 0].var(ddof=1)
    )


def test_embedding_by_its_definition():
    clips = np.random.default_rng(0).normal(size=(3, 9, 20))
    found = embed(clips)
    assert found.shape == (3, 32)
    for clip, row in zip(clips, found, strict=True):
        change = np.mean([np.abs(clip[t + 1] - clip[t]) for t in range(8)], axis=0)
        curves = (clip.mean(0), 0, 12), (clip.std(0), 0, 6), (change, 0, 6), (clip.mean(1), 1, 9)
        expected = []
        for curve, first, end in curves:
            size = len(curve)
            for k in range(first, end):
                wave = np.cos(np.pi * k * (2 * np.arange(size) + 1) / (2 * size))
                expected.append(np.mean(curve * wave) * (1 if k == 0 else np.sqrt(2)))
        np.testing.assert_allclose(row, expected, atol=1e-12)
    assert embed(clips[:, :5, :5]).shape == (3, 19)


def test_figures_by_their_definition():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(8, 10, 12)) + np.arange(12) / 3, rng.normal(size=(8, 10, 12)) + np.arange(12) / 5
    figures = compare(real, fake)
    assert figures["mean_difference"] == pytest.approx((fake.mean() - real.mean()) / real.std())
    assert figures["std_difference"] == pytest.approx(fake.std() / real.std() - 1)
    changes = [np.mean([abs(c[t + 1] - c[t]) for c in x for t in range(9)]) for x in (real, fake)]
    assert figures["smoothness_ratio"] == pytest.approx(changes[1] / changes[0])
    profiles = [x.reshape(-1, 12).mean(0) for x in (real, fake)]
    assert figures["frequency_correlation"] == pytest.approx(np.corrcoef(*profiles)[0, 1])
    spans = [np.percentile(x, 95) - np.percentile(x, 5) for x in (real, fake)]
    assert figures["dynamic_range_ratio"] == pytest.approx(spans[1] / spans[0])
    a, b = embed(real), embed(fake)
    assert figures["frechet_distance"] == pytest.approx(frechet_distance(a, b))
    halves = [frechet_distance(x, y) for x in (a[::2], a[1::2]) for y in (b[::2], b[1::2])]
    variance = np.trace(np.cov(a.T))
    expected = (np.mean(halves) - frechet_distance(a[::2], a[1::2])) / variance
    assert figures["frechet_excess"] == pytest.approx(expected)


def ended(clips, ends, beyond):
    """The clips with frames `beyond` their ends, masked."""
    over = np.broadcast_to((np.arange(clips.shape[1]) >= ends[:, None])[..., None], clips.shape)
    return np.ma.masked_array(np.where(over, beyond, clips), over)


def test_frames_beyond_a_clip_s_end_count_nowhere():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(8, 12, 6)) + np.arange(6) / 3, rng.normal(size=(8, 12, 6)) + np.arange(6) / 5
    ends, others = np.array([12, 3, 7, 1, 9, 12, 2, 5]), np.array([4, 12, 8, 6, 1, 2, 12, 10])
    figures = compare(ended(real, ends, 0.0), ended(fake, others, 0.0))
    assert figures == compare(ended(real, ends, 1e3), ended(fake, others, -1e3))
    assert all(np.isfinite(list(figures.values())))
    levels = [np.concatenate([c[:n] for c, n in zip(x, m, strict=True)]) for x, m in ((real, ends), (fake, others))]
    assert figures["mean_difference"] == pytest.approx((levels[1].mean() - levels[0].mean()) / levels[0].std())
    # Of clips of the same length, the same as without what follows.
    whole, cut = ended(real, np.full(8, 10), 7.0), ended(fake, np.full(8, 10), -7.0)
    assert compare(whole, cut) == pytest.approx(compare(real[:, :10], fake[:, :10]))
    np.testing.assert_allclose(embed(whole), embed(real[:, :10]), atol=1e-12)


PERFECT = {
    "frechet_excess": 0.0,
    "mean_difference": 0.0,
    "std_difference": 0.0,
    "smoothness_ratio": 1.0,
    "frequency_correlation": 1.0,
    "dynamic_range_ratio": 1.0,
}


@pytest.mark.parametrize(
    ("changed", "frechet", "others"),
    [
        ({}, 1, [1, 1, 1, 1]),
        ({"frechet_excess": -0.1}, 1, [1, 1, 1, 1]),
        ({"frechet_excess": 2.0}, 0.25, [1, 1, 1, 1]),
        ({"mean_difference": -0.5, "std_difference": 0.5}, 1, [0.5, 1, 1, 1]),
        ({"smoothness_ratio": 4.0}, 1, [1, 1 / 16, 1, 1]),
        ({"smoothness_ratio": 0.25}, 1, [1, 1 / 16, 1, 1]),
        ({"smoothness_ratio": 0.0}, 1, [1, 0, 1, 1]),
        ({"frequency_correlation": 0.5}, 1, [1, 1, 0.5, 1]),
        ({"frequency_correlation": -0.5, "frechet_excess": 2.0}, 0.25, [1, 1, 0, 1]),
        ({"dynamic_range_ratio": 2.0}, 1, [1, 1, 1, 0.5]),
    ],
)
def test_score_by_its_formula(changed, frechet, others):
    parts = sub_scores(PERFECT | changed)
    assert list(parts) == ["frechet", "moments", "smoothness", "frequency", "dynamic_range"]
    assert list(parts.values()) == pytest.approx([frechet, *others])
    assert score(PERFECT | changed) == pytest.approx(100 * frechet ** (2 / 3) * (sum(others) / 4) ** (1 / 3))


def test_bands():
    assert [band(s) for s in (100, 70, 69.99, 50, 49.99, 0)] == [
        "excellent",
        "excellent",
        "good",
        "good",
        "poor",
        "poor",
    ]


def test_score_has_no_steps():
    for name in PERFECT:
        values = np.linspace(-3, 1 if name.endswith("correlation") else 3, 6001)
        scores = np.array([score(PERFECT | {name: value}) for value in values])
        if name.endswith("ratio"):
            values, scores = values[values > 0.1], scores[values > 0.1]
        assert np.abs(np.diff(scores)).max() < 0.2
        assert scores.min() >= 0 and scores.max() <= 100


def test_score_ranks_real_then_trained_then_noise(pieces):
    clips, labels = pieces
    settings = GANSettings(channels=[32, 16, 16, 8], discriminator_channels=[8, 16, 16, 32], learning_rate=2e-3)
    ends = np.full(len(clips), clips.shape[1])
    training = GANTrainer(settings, clips, labels, ends, seed=0)
    untrained = score(compare(clips, training.generate(labels, ends, 0)))
    for _ in range(10):
        training.one_epoch()
    trained = score(compare(clips, training.generate(labels, ends, 0)))
    real = score(compare(clips[0::2], clips[1::2]))
    noise = score(compare(clips, np.random.default_rng(0).uniform(-1, 1, clips.shape)))
    assert real > 90 > trained > 33 > max(noise, untrained)


def test_noise_and_repetition_are_poor(pieces):
    clips, _ = pieces
    rng = np.random.default_rng(0)
    poor = {
        "noise of the right levels": rng.permutation(clips.ravel()).reshape(clips.shape),
        "noise of each mel's levels": clips.mean((0, 1)) + clips.std((0, 1)) * rng.normal(size=clips.shape),
        "one clip again and again": np.repeat(clips[5:6], len(clips), axis=0),
        "the mean clip": np.repeat(clips.mean(0, keepdims=True), len(clips), axis=0),
        "silence": np.full_like(clips, -1),
    }
    for name, generated in poor.items():
        assert band(score(compare(clips, generated))) == "poor", name


def test_few_clips_raise_the_distance_and_not_the_excess(pieces):
    clips, _ = pieces
    many, few = compare(clips[:48], clips[48:]), compare(clips[:24], clips[24:48])
    assert few["frechet_distance"] > 1.1 * many["frechet_distance"]
    assert abs(many["frechet_excess"]) < 0.1 and abs(few["frechet_excess"]) < 0.1


def test_generated_constants_score_zero_not_nan():
    real = np.random.default_rng(0).normal(size=(6, 8, 4))
    parts = sub_scores(compare(real, np.zeros_like(real)))
    assert parts["smoothness"] == parts["frequency"] == parts["dynamic_range"] == 0
    assert all(np.isfinite(list(parts.values())))


def test_what_cannot_be_compared():
    real = np.random.default_rng(0).normal(size=(6, 8, 4))
    with pytest.raises(ValueError, match=r"shape \(6, 8, 4\), got \(5, 8, 4\)"):
        compare(real, real[:5])
    with pytest.raises(ValueError, match="at least 4 clips"):
        compare(real[:3], real[:3])
    with pytest.raises(ValueError, match="got constant ones"):
        compare(np.zeros_like(real), real)
