"""Pictures of a GAN's training and of what it draws beside real clips, as PNG.

Spectrograms are within -1 and 1 unless in dB. Frames beyond a clip's end are masked (`numpy.ma`) and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tuning.experiment.pictures import BEST_COLOUR, picture
from tuning.training.gan.metrics import BANDS, band

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REAL_COLOUR, GENERATED_COLOUR = "tab:blue", "tab:orange"
GENERATOR_COLOUR, DISCRIMINATOR_COLOUR = "tab:orange", "tab:blue"
HISTOGRAM_BINS = 60


def draw_pairs(file: Path, real: np.ndarray, generated: np.ndarray, names: Sequence[str]) -> None:
    """Real [N, T, F] and generated clips of the same labels side by side, a row for each of the N names."""
    with picture(file, (8.5, 0.8 + 1.7 * len(names))) as figure:
        axes = figure.subplots(len(names), 2, squeeze=False, sharex=True, sharey=True)
        for row, clips in zip(axes, zip(real, generated, strict=True), strict=True):
            for panel, clip in zip(row, clips, strict=True):
                image = panel.imshow(clip.T, origin="lower", aspect="auto", cmap="magma", vmin=-1, vmax=1)
        for panel, title in zip(axes[0], ("real", "generated"), strict=True):
            panel.set_title(title)
        for panel, name in zip(axes[:, 0], names, strict=True):
            panel.set_ylabel(f"{name}\nmel band")
        for panel in axes[-1]:
            panel.set_xlabel("frame")
        figure.colorbar(image, ax=axes, shrink=0.8, label="level, scaled")


def draw_spectrogram(file: Path, decibels: np.ndarray, frame_seconds: float, title: str) -> None:
    """Draw a mel spectrogram in dB [T, F] over seconds, with the lowest band at the bottom."""
    num_frames, num_bands = decibels.shape
    with picture(file, (7, 3.2)) as figure:
        axes = figure.add_subplot()
        extent = (0.0, num_frames * frame_seconds, -0.5, num_bands - 0.5)
        image = axes.imshow(decibels.T, origin="lower", aspect="auto", cmap="magma", extent=extent)
        axes.set(xlabel="s", ylabel="mel band", title=title)
        figure.colorbar(image, ax=axes, label="dB")


def draw_profiles(file: Path, real: np.ndarray, generated: np.ndarray) -> None:
    """Mean level of each mel band over clips [N, T, F] and frames, in a band of one deviation between clips."""
    _draw_means(file, real.mean(1), generated.mean(1), "mel band", "frequency profile")


def draw_evolution(file: Path, real: np.ndarray, generated: np.ndarray) -> None:
    """Mean level of each frame over clips [N, T, F] and mel bands, in a band of one deviation between clips."""
    _draw_means(file, real.mean(2), generated.mean(2), "frame", "temporal evolution")


def draw_amplitudes(file: Path, real: np.ndarray, generated: np.ndarray) -> None:
    """How often each level occurs in the clips [N, T, F]."""
    edges = np.linspace(-1, 1, HISTOGRAM_BINS + 1)
    with picture(file, (7, 4)) as figure:
        axes = figure.add_subplot()
        for clips, colour, label in _both(real, generated):
            levels = np.ma.compressed(clips)
            shares = np.histogram(levels, edges)[0] / levels.size
            axes.stairs(shares, edges, fill=True, alpha=0.25, color=colour)
            axes.stairs(shares, edges, color=colour, label=label)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.set(xlabel="level, scaled", ylabel="share of all values", title="amplitudes")
        axes.legend(frameon=False)


def draw_quality(file: Path, sub_scores: dict[str, float], score: float) -> None:
    """Bars of what the quality score [0, 100] is made of, each within 0 and 1."""
    with picture(file, (7, 3.6)) as figure:
        axes = figure.add_subplot()
        names = ["Fréchet" if name == "frechet" else name.replace("_", " ") for name in sub_scores]
        bars = axes.barh(names, [100 * value for value in sub_scores.values()], color=GENERATED_COLOUR)
        axes.bar_label(bars, fmt="%.0f", padding=4)
        for lowest, word in BANDS:
            axes.axvline(lowest, color=BEST_COLOUR, linestyle="--", linewidth=1, zorder=0)
            axes.text(lowest + 1, -0.6, word, color=BEST_COLOUR, fontsize=9, va="bottom")
        axes.axvline(score, color="black", linewidth=1.5)
        axes.invert_yaxis()
        axes.set(xlim=(0, 108), xlabel="closeness to the real clips, 100 for equal; the line is the quality")
        axes.set_xticks(range(0, 101, 20))
        axes.set_title(f"quality {score:.0f} of 100: {band(score)}", pad=14)


def draw_training(file: Path, rows: Sequence[dict[str, Any]], weak: float, strong: float) -> None:
    """Losses, their ratio, the discriminator's accuracies with the limits of the adaptive rule, and the steps.

    Args:
        file: where the picture goes.
        rows: of `GANTrainer.rows`.
        weak: accuracy below which the discriminator makes more steps.
        strong: accuracy above which it makes fewer, or the generator more.
    """
    from matplotlib.ticker import MaxNLocator

    with picture(file, (10, 6.5)) as figure:
        (losses, accuracies), (ratio, steps) = figure.subplots(2, 2, sharex=True)
        sides = (("generator", GENERATOR_COLOUR), ("discriminator", DISCRIMINATOR_COLOUR))
        for name, colour in sides:
            _curve(losses, rows, f"{name}_loss", colour, name)
            _curve(steps, rows, f"{name}_steps", colour, name)
        for name, colour in (("real", REAL_COLOUR), ("fake", GENERATED_COLOUR)):
            _curve(accuracies, rows, f"accuracy_{name}", colour, "real" if name == "real" else "generated")
        for limit in (weak, strong):
            accuracies.axhline(limit, color=BEST_COLOUR, linestyle="--", linewidth=1)
        _curve(ratio, rows, "loss_ratio", "0.2", "")
        ratio.axhline(1, color=BEST_COLOUR, linestyle="--", linewidth=1)
        losses.set_ylabel("loss")
        accuracies.set(ylabel="discriminator's accuracy", ylim=(-0.02, 1.02))
        ratio.set(ylabel="generator's loss / discriminator's", xlabel="epoch")
        steps.set(ylabel="steps", xlabel="epoch")
        steps.set_ylim(bottom=0)
        for panel in (losses, accuracies, steps):
            panel.legend(frameon=False)
        for panel in (losses, accuracies, ratio, steps):
            panel.grid(axis="y", color="0.9")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _curve(axes: Axes, rows: Sequence[dict[str, Any]], name: str, colour: str, label: str) -> None:
    marker = "o" if len(rows) <= 30 else ""
    epochs, values = [row["epoch"] for row in rows], [row[name] for row in rows]
    axes.plot(epochs, values, color=colour, label=label, marker=marker, markersize=3.5)


def _draw_means(file: Path, real: np.ndarray, generated: np.ndarray, place: str, title: str) -> None:
    """Means and deviations over the first axis [N, places]."""
    with picture(file, (7, 4)) as figure:
        axes = figure.add_subplot()
        for values, colour, label in _both(real, generated):
            mean, deviation = values.mean(0), values.std(0)
            axes.plot(mean, color=colour, label=label)
            axes.fill_between(range(len(mean)), mean - deviation, mean + deviation, color=colour, alpha=0.15, lw=0)
        axes.set(xlabel=place, ylabel="mean level, scaled", title=title)
        axes.grid(axis="y", color="0.9")
        axes.legend(frameon=False)


def _both(real: np.ndarray, generated: np.ndarray) -> list[tuple[np.ndarray, str, str]]:
    return [(real, REAL_COLOUR, "real"), (generated, GENERATED_COLOUR, "generated")]
