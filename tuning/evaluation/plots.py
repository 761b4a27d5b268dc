"""Draw pictures of trials and of a search's winner: learning curves, confusion matrix, true and predicted values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tuning.experiment.pictures import BEST_COLOUR, TRAIN_COLOUR, VAL_COLOUR, picture

SHARES_UP_TO = 16  # classes; with more, a cell has room for the count alone
LOG_ABOVE = 30.0  # largest over smallest loss; beyond it a linear axis would show little but the first epoch
LONGEST_NAME = 24


def draw_confusion(file: Path, table: np.ndarray, classes: Sequence[str], uar: float, clips: str) -> None:
    """Draw counts by true class (rows) and predicted class (columns), coloured by the share of the row.

    Args:
        file: to write to.
        table: counts [K, K].
        classes: names of the K classes.
        uar: unweighted average recall, for the title.
        clips: a description of the clips, for the title.
    """
    total = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, total, out=np.zeros(table.shape), where=total > 0)
    names, size = [_short(name) for name in classes], len(classes)
    labels = [f"{name} ({count})" for name, count in zip(names, total[:, 0].tolist(), strict=True)]
    side = max(0.62 * size, 2.5)
    with picture(file, (side + 2.8, side + 1.7)) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.spines[:].set_visible(False)
        crowded = size > 4 or max(map(len, names)) > 8
        turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        axes.set_xticks(range(size), names, **turned)
        axes.set_yticks(range(size), labels)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class (clips)")
        axes.set_title(f"UAR {uar:.3f} on {clips}")
        for row, column in np.ndindex(*table.shape):
            share, count = shares[row, column], table[row, column]
            text = f"{count}\n{share:.0%}" if count and size <= SHARES_UP_TO else str(count)
            colour = "white" if share > 0.55 else "black" if count else "0.65"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=colour)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, format=lambda share, _: f"{share:.0%}")
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)


def draw_history(
    file: Path,
    rows: Sequence[dict[str, str]],
    metric: str,
    best_epoch: int | None,
    title: str,
    kept: str = "best epoch",
) -> None:
    """Draw the losses of a trial over its epochs, and the ranking metric below them if it is another one.

    A trial with inner folds has a point for each fold, the mean over the folds so far, and no best epoch.

    Args:
        file: to write to.
        rows: the trial's `progress.csv`; values may be empty.
        metric: that ranks the trials.
        best_epoch: to mark in both plots.
        title: of the picture.
        kept: what that epoch is called.
    """
    panels = 1 if metric == "val_loss" else 2
    folds = any(row.get("fold") for row in rows)
    with picture(file, (7, 1.2 + 2.8 * panels)) as figure:
        axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
        _curve(axes[0], rows, "train_loss", TRAIN_COLOUR, "training")
        _curve(axes[0], rows, "val_loss", VAL_COLOUR, "validation")
        losses = [value for name in ("train_loss", "val_loss") for _, value in _points(rows, name)]
        if losses and min(losses) > 0 and max(losses) > LOG_ABOVE * min(losses):
            axes[0].set_yscale("log")
            axes[0].yaxis.set_major_formatter(lambda loss, _: f"{loss:g}")
        axes[0].set_ylabel("loss, without penalties")
        if panels == 2:
            _curve(axes[1], rows, metric, VAL_COLOUR, "validation")
            axes[1].set_ylabel(metric)
        for panel in axes:
            if not folds:
                _mark_best(panel, rows, metric, best_epoch, kept, value=panel is axes[-1])
            panel.grid(axis="y", color="0.9")
        axes[0].legend(frameon=False)
        axes[-1].set_xlabel("inner folds, the mean over so many" if folds else "epoch")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        figure.suptitle(title)


def draw_curves(
    file: Path, curves: Mapping[str, Sequence[dict[str, str]]], metric: str, best_epochs: Mapping[str, int | None]
) -> None:
    """Draw the ranking metric of several trials over their epochs, or inner folds, with each one's best epoch.

    Args:
        file: to write to.
        curves: each trial's `progress.csv` by its name in the legend.
        metric: that ranks the trials.
        best_epochs: by the same names.
    """
    folds = any(row.get("fold") for rows in curves.values() for row in rows)
    with picture(file, (7, 4)) as figure:
        axes = figure.add_subplot()
        for number, (name, rows) in enumerate(curves.items()):
            points, colour = _points(rows, metric), f"C{number}"
            axes.plot(*zip(*points, strict=True), color=colour, label=name)
            epoch = 0 if folds else best_epochs[name] or 0
            if (value := dict(points).get(epoch)) is not None:
                axes.plot([epoch], [value], "o", color=colour, markersize=6)
        axes.set(xlabel="inner folds, the mean over so many" if folds else "epoch", ylabel=metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y", color="0.9")
        axes.legend(frameon=False)


def _curve(axes: Axes, rows: Sequence[dict[str, str]], name: str, colour: str, label: str) -> None:
    points = _points(rows, name)
    if points:
        marker = "o" if len(points) <= 30 else ""
        axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker, markersize=3.5)


def _points(rows: Sequence[dict[str, str]], name: str) -> list[tuple[int, float]]:
    return [(int(row["epoch"]), float(row[name])) for row in rows if row.get(name)]


def _mark_best(
    axes: Axes, rows: Sequence[dict[str, str]], metric: str, epoch: int | None, kept: str, value: bool
) -> None:
    if epoch is None:
        return
    axes.axvline(epoch, color=BEST_COLOUR, linestyle="--", linewidth=1, zorder=0, label=f"{kept} ({epoch})")
    found = dict(_points(rows, metric)).get(epoch)
    if value and found is not None:
        axes.plot([epoch], [found], "o", color=VAL_COLOUR, markeredgecolor="black", markersize=7, zorder=5)
        axes.set_title(f"{metric} {found:.4f} in epoch {epoch}", fontsize=10)


def draw_scatter(
    file: Path, targets: np.ndarray, outputs: np.ndarray, names: Sequence[str], scores: dict[str, float], title: str
) -> None:
    """Draw true against predicted values in a panel for each target, with the diagonal where they are equal.

    Args:
        file: to write to.
        targets: labels [N, K].
        outputs: predictions [N, K].
        names: of the K targets.
        scores: metrics such as `test_r2_<target>`, for the titles of the panels.
        title: of the picture.
    """
    columns = min(len(names), 3)
    lines = math.ceil(len(names) / columns)
    with picture(file, (3.9 * columns + 0.3, 4.2 * lines + 0.4)) as figure:
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, name, true, found in zip(panels, names, targets.T, outputs.T, strict=False):
            low, high = (float(pick([pick(true), pick(found)])) for pick in (np.min, np.max))
            margin = 0.05 * (high - low) or 0.5
            ends = (low - margin, high + margin)
            axes.plot(ends, ends, color=BEST_COLOUR, linestyle="--", linewidth=1)
            axes.scatter(true, found, s=18 if len(true) <= 500 else 6, alpha=0.6, color=TRAIN_COLOUR, linewidths=0)
            axes.set(xlim=ends, ylim=ends, aspect="equal", xlabel="true", ylabel="predicted")
            figures = [(label, scores.get(f"test_{key}_{name}")) for key, label in (("r2", "R²"), ("ccc", "CCC"))]
            known = [f"{label} {score:.3f}" for label, score in figures if score is not None]
            axes.set_title("\n".join(filter(None, [_short(name), ", ".join(known)])))
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        figure.suptitle(title)


def _short(name: str) -> str:
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"
