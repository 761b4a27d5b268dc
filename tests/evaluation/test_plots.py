"""Pictures: what is drawn, read from the figure, and that a file comes of it."""

import numpy as np
import pytest

from tuning.evaluation import plots


def texts(axes):
    return [text.get_text() for text in axes.texts]


def is_png(file):
    return file.read_bytes().startswith(b"\x89PNG") and [path.name for path in file.parent.iterdir()] == [file.name]


def test_confusion_shows_counts_and_is_coloured_by_the_row(tmp_path, figures):
    table = np.array([[3, 1, 0], [0, 0, 0], [1, 0, 9]])
    plots.draw_confusion(tmp_path / "c.png", table, ["sad", "$a$", "日本"], 0.825, "14 test clips")
    assert is_png(tmp_path / "c.png")
    axes = figures[0].axes[0]
    assert axes.get_title() == "UAR 0.825 on 14 test clips"
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25, 0], [0, 0, 0], [0.1, 0, 0.9]])
    assert texts(axes) == ["3\n75%", "1\n25%", "0", "0", "0", "0", "1\n10%", "0", "9\n90%"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sad (4)", "$a$ (0)", "日本 (10)"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["sad", "$a$", "日本"]


def test_many_classes_have_counts_alone_and_long_names_stay_apart(tmp_path, figures):
    names = [f"a class with a rather long name {number}" for number in range(17)]
    plots.draw_confusion(tmp_path / "c.png", np.eye(17, dtype=int), names, 1.0, "17 test clips")
    axes = figures[0].axes[0]
    assert texts(axes)[0] == "1"
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert len(set(labels)) == 17 and max(map(len, labels)) == plots.LONGEST_NAME


@pytest.mark.parametrize("metric", ["val_loss", "val_uar"])
def test_history_has_both_losses_and_marks_the_best_epoch(tmp_path, figures, metric):
    rows = [
        {"epoch": str(e), "train_loss": str(2 / e), "val_loss": str(1 + abs(e - 3)), "val_uar": "" if e == 2 else "0.5"}
        for e in range(1, 6)
    ]
    plots.draw_history(tmp_path / "h.png", rows, metric, 3, "trial 7")
    assert is_png(tmp_path / "h.png")
    first, *others = figures[0].axes
    assert len(others) == (metric != "val_loss")
    curves = {line.get_label(): line for line in first.lines}
    assert curves["training"].get_ydata() == pytest.approx([2, 1, 2 / 3, 0.5, 0.4])
    assert list(curves["validation"].get_ydata()) == [3, 2, 1, 2, 3]
    assert list(curves["best epoch (3)"].get_xdata()) == [3, 3]
    last = figures[0].axes[-1]
    assert last.get_title() == f"{metric} {1.0 if metric == 'val_loss' else 0.5:.4f} in epoch 3"
    if others:
        assert list(last.lines[0].get_xdata()) == [1, 3, 4, 5]  # an empty cell is no point
    assert first.get_yscale() == "linear"


def test_history_of_a_loss_that_falls_far_is_logarithmic_with_plain_numbers(tmp_path, figures):
    rows = [{"epoch": str(e), "train_loss": str(10.0 ** (4 - e)), "val_loss": "1"} for e in range(1, 6)]
    plots.draw_history(tmp_path / "h.png", rows, "val_loss", 5, "trial 1")
    axes = figures[0].axes[0]
    assert axes.get_yscale() == "log"
    assert "100" in [label.get_text() for label in axes.get_yticklabels()]


def test_history_of_inner_folds_marks_no_epoch(tmp_path, figures):
    rows = [{"epoch": str(k), "fold": str(k), "val_loss": "1.5", "val_uar": str(k / 10)} for k in (1, 2, 3)]
    plots.draw_history(tmp_path / "h.png", rows, "val_uar", 3, "trial 1")
    assert [line.get_label() for line in figures[0].axes[0].lines] == ["validation"]
    assert len(figures[0].axes[1].lines) == 1 and "inner folds" in figures[0].axes[1].get_xlabel()


@pytest.mark.parametrize("num_targets", [1, 2, 4])
def test_scatter_has_a_panel_per_target(tmp_path, figures, num_targets):
    true = np.random.default_rng(0).normal(size=(20, num_targets))
    names = [f"target {k}" for k in range(num_targets)]
    scores = {"test_r2_target 0": 0.25, "test_ccc_target 0": 0.5}
    plots.draw_scatter(tmp_path / "s.png", true, true * 0.5, names, scores, "20 test clips")
    assert is_png(tmp_path / "s.png")
    panels = [axes for axes in figures[0].axes if axes.get_visible()]
    assert [axes.get_title().split("\n")[0] for axes in panels] == names
    assert panels[0].get_title() == "target 0\nR² 0.250, CCC 0.500"
    for k, axes in enumerate(panels):
        np.testing.assert_allclose(axes.collections[0].get_offsets(), np.stack([true[:, k], true[:, k] * 0.5], axis=1))
        assert axes.get_xlim() == axes.get_ylim()


def test_constant_predictions_and_labels_can_be_drawn(tmp_path):
    plots.draw_scatter(tmp_path / "s.png", np.zeros((3, 1)), np.zeros((3, 1)), ["valence"], {}, "3 test clips")
    assert is_png(tmp_path / "s.png")
