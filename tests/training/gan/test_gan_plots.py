"""Pictures of a GAN: what is drawn, read from the figure, and that a file comes of it."""

import numpy as np
import pytest

from tuning.training.gan import plots as gan_plots

ROWS = [
    {
        "epoch": epoch,
        "generator_loss": 0.7 + epoch,
        "discriminator_loss": 0.5,
        "loss_ratio": (0.7 + epoch) / 0.5,
        "accuracy_real": 0.9,
        "accuracy_fake": 0.8,
        "generator_steps": 6,
        "discriminator_steps": 18 - epoch,
    }
    for epoch in range(1, 6)
]


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (5, 12, 8)), rng.uniform(-0.5, 0.5, (5, 12, 8))


def is_png(file):
    return file.read_bytes().startswith(b"\x89PNG")


def test_pairs_stand_side_by_side(tmp_path, figures, clips):
    gan_plots.draw_pairs(tmp_path / "p.png", clips[0][:2], clips[1][:2], ["sad_calm", "neutral"])
    assert is_png(tmp_path / "p.png")
    panels = figures[0].axes[:4]
    for number, panel in enumerate(panels):
        np.testing.assert_array_equal(panel.images[0].get_array(), clips[number % 2][number // 2].T)
        assert panel.images[0].get_clim() == (-1, 1)
    assert [panel.get_title() for panel in panels] == ["real", "generated", "", ""]
    assert panels[2].get_ylabel() == "neutral\nmel band"


@pytest.mark.parametrize(("draw", "axis"), [(gan_plots.draw_profiles, (0, 1)), (gan_plots.draw_evolution, (0, 2))])
def test_means_over_clips(tmp_path, figures, clips, draw, axis):
    draw(tmp_path / "m.png", *clips)
    assert is_png(tmp_path / "m.png")
    lines = {line.get_label(): line.get_ydata() for line in figures[0].axes[0].lines}
    np.testing.assert_allclose(lines["real"], clips[0].mean(axis))
    np.testing.assert_allclose(lines["generated"], clips[1].mean(axis))


def test_amplitudes_are_shares(tmp_path, figures, clips):
    gan_plots.draw_amplitudes(tmp_path / "a.png", *clips)
    assert is_png(tmp_path / "a.png")
    stairs = [patch.get_data() for patch in figures[0].axes[0].patches]
    assert len(stairs) == 4
    for data in stairs:
        assert data.values.sum() == pytest.approx(1)
    values, edges = stairs[-1].values, stairs[-1].edges
    assert values[(edges[1:] < -0.55) | (edges[:-1] > 0.55)].sum() == 0


def test_what_follows_a_short_clip_is_left_out(tmp_path, figures, clips):
    ends = np.array([12, 4, 7, 1, 9])
    over = np.broadcast_to((np.arange(12) >= ends[:, None])[..., None], clips[0].shape)
    real, fake = (np.ma.masked_array(np.where(over, -1.0, x), over) for x in clips)
    gan_plots.draw_profiles(tmp_path / "p.png", real, fake)
    gan_plots.draw_evolution(tmp_path / "e.png", real, fake)
    gan_plots.draw_amplitudes(tmp_path / "a.png", real, fake)
    gan_plots.draw_pairs(tmp_path / "s.png", real[:2], fake[:2], ["sad_calm", "neutral"])
    expected = np.mean([clip[:end].mean(0) for clip, end in zip(clips[0], ends, strict=True)], axis=0)
    np.testing.assert_allclose(figures[0].axes[0].lines[0].get_ydata(), expected)
    levels = [clips[0][ends > frame, frame].mean() for frame in range(12)]
    np.testing.assert_allclose(figures[1].axes[0].lines[0].get_ydata(), levels)
    heard = np.concatenate([clip[:end].ravel() for clip, end in zip(clips[1], ends, strict=True)])
    stairs = figures[2].axes[0].patches[-1].get_data()
    np.testing.assert_allclose(stairs.values, np.histogram(heard, stairs.edges)[0] / heard.size)
    assert figures[3].axes[2].images[0].get_array().mask[:, 4:].all()


def test_bars_of_the_quality(tmp_path, figures):
    parts = {"frechet": 0.4, "moments": 0.9, "smoothness": 0.8, "frequency": 1.0, "dynamic_range": 0.0}
    gan_plots.draw_quality(tmp_path / "q.png", parts, 62.0)
    assert is_png(tmp_path / "q.png")
    axes = figures[0].axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([40, 90, 80, 100, 0])
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "dynamic range"
    assert axes.get_title() == "quality 62 of 100: good"


def test_training_curves(tmp_path, figures):
    rows = [ROWS[0] | {"discriminator_gradient_norm": None}, *ROWS[1:]]
    gan_plots.draw_training(tmp_path / "t.png", rows, 0.6, 0.95)
    assert is_png(tmp_path / "t.png")
    losses, accuracies, ratio, steps = figures[0].axes
    curves = {line.get_label(): list(line.get_ydata()) for line in losses.lines}
    assert curves["generator"] == [row["generator_loss"] for row in ROWS]
    assert [line.get_ydata()[0] for line in accuracies.lines][2:] == [0.6, 0.95]
    assert list(ratio.lines[0].get_ydata()) == [row["loss_ratio"] for row in ROWS]
    assert list(steps.lines[1].get_ydata()) == [17, 16, 15, 14, 13]
