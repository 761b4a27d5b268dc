"""Plot the trials' scores in order and epoch by epoch, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tuning.evaluation.leaderboard import pareto_front
from tuning.evaluation.report.gather import Gathered
from tuning.evaluation.report.style import BLUE, COLOURS, DASHES, GREY, ORANGE, PURPLE, SYMBOLS, laid_out
from tuning.experiment.directory import TrialRecord
from tuning.training.ranking import Mode, better

CURVES = 30  # trials whose curves are drawn one by one; the others are a band
FEW_TRIALS = 20  # have a tick each; of more the ticks are whole numbers by themselves
LEFT_OUT = 0.03  # share of the values, the poorest, that an axis may leave out


def value_range(values: Sequence[float], mode: Mode) -> tuple[float, float] | None:
    """The range of an axis without a few very poor values; None to show all values.

    The poorest 3 % are left out if they are further from the others than the others are from each other.
    """
    finite = np.array([value for value in values if np.isfinite(value)])
    if len(finite) < 10:
        return None
    low, high = float(finite.min()), float(finite.max())
    if mode == "min":
        edge = float(np.quantile(finite, 1 - LEFT_OUT))
        return (low - 0.05 * (edge - low), edge + 0.05 * (edge - low)) if high - edge > edge - low else None
    edge = float(np.quantile(finite, LEFT_OUT))
    return (edge - 0.05 * (high - edge), high + 0.05 * (high - edge)) if edge - low > high - edge else None


def draw_history(search: Gathered) -> go.Figure:
    """Plot every trial's value by its number, the best so far and the constant predictor."""
    figure = go.Figure()
    scored = sorted(search.scored, key=lambda record: record.number)
    for status in COLOURS:
        group = [record for record in scored if record.status == status]
        if group:
            figure.add_scatter(
                x=[record.number for record in group],
                y=[search.value(record) for record in group],
                mode="markers",
                name=f"{status} ({len(group)})",
                marker={"symbol": SYMBOLS[status], "color": COLOURS[status], "size": 7},
                hovertemplate=f"trial %{{x}}: %{{y:.4f}}<extra>{status}</extra>",
            )
    _failed_marks(figure, search)
    best: float | None = None
    steps = []
    for record in scored:
        value = search.value(record)
        if value is not None and record.is_whole and better(search.mode, value, best):
            best = value
            steps.append((record.number, value))
    if steps:
        steps.append((max(record.number for record in search.ranked), steps[-1][1]))
        x, y = zip(*steps, strict=True)
        line = {"shape": "hv", "color": "#000", "width": 1.5}
        figure.add_scatter(x=x, y=y, mode="lines", name="best so far", line=line, hoverinfo="skip")
    _constant(figure, search)
    last = max((record.number for record in search.ranked), default=1)
    few = {"dtick": 1, "range": [0.5, last + 0.5]} if last <= FEW_TRIALS else {}
    figure.update_xaxes(title="trial", tickformat="d", **few)
    shown = value_range([search.value(record) or 0.0 for record in scored], search.mode)
    figure.update_layout(yaxis={"title": search.metric, "range": shown})
    return laid_out(figure, 380)


def draw_front(search: Gathered, second: str) -> go.Figure:
    """Plot every trial's value by the cost of its model, with a line along the Pareto front."""
    figure = go.Figure()
    front = pareto_front(search.comparable, search.metric, search.mode, second)
    on = sorted((record for record in search.comparable if record.number in front), key=lambda r: r.metrics[second])
    line = {"shape": "hv", "color": "#000", "width": 1.5}
    costs, values = [record.metrics[second] for record in on], [search.value(record) for record in on]
    figure.add_scatter(x=costs, y=values, mode="lines", name="Pareto front", line=line, hoverinfo="skip")
    for status in COLOURS:
        group = [r for r in search.comparable if r.status == status and second in r.metrics]
        if group:
            figure.add_scatter(
                x=[record.metrics[second] for record in group],
                y=[search.value(record) for record in group],
                mode="markers+text",
                text=[str(record.number) if record.number in front else "" for record in group],
                textposition="top center",
                name=f"{status} ({len(group)})",
                marker={"symbol": SYMBOLS[status], "color": COLOURS[status], "size": 8},
                customdata=[record.number for record in group],
                hovertemplate=f"trial %{{customdata}}: %{{y:.4f}}, {second} %{{x}}<extra>{status}</extra>",
            )
    figure.update_xaxes(title=second)
    shown = value_range([search.value(record) or 0.0 for record in search.comparable], search.mode)
    figure.update_layout(yaxis={"title": search.metric, "range": shown})
    return laid_out(figure, 380)


def _failed_marks(figure: go.Figure, search: Gathered) -> None:
    failed = [record for record in search.ranked if record.status == "failed"]
    if failed:  # they have no value, so they are drawn on the axis
        figure.add_scatter(
            x=[record.number for record in failed],
            y=[0.02] * len(failed),
            yaxis="y2",
            mode="markers",
            name=f"failed ({len(failed)}), no value",
            marker={"symbol": SYMBOLS["failed"], "color": COLOURS["failed"], "size": 8},
            hovertemplate="trial %{x}<extra>failed</extra>",
        )
        figure.update_layout(yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True})


def _constant(figure: go.Figure, search: Gathered) -> None:
    if search.metric not in search.baseline:
        return
    value = search.baseline[search.metric]
    figure.add_hline(value, line={"dash": "dot", "color": PURPLE, "width": 1.5})
    label = {"dash": "dot", "color": PURPLE, "width": 1.5}
    figure.add_scatter(x=[None], y=[None], mode="lines", line=label, name=f"constant predictor ({value:.4f})")


def draw_curves(search: Gathered) -> go.Figure:
    """Plot the ranking metric by epoch or fold: the best trials one by one, all others as a band."""
    figure = go.Figure()
    with_curve = [record for record in search.ranked if search.curves[record.number]]
    shown, others = with_curve[:CURVES], with_curve[CURVES:]
    _band(figure, [search.curves[record.number] for record in others])
    for position, record in reversed(list(enumerate(shown, start=1))):
        _curve(figure, search, position, record)
    for status in dict.fromkeys(record.status for record in shown):
        line = {"dash": DASHES[status], "color": GREY, "width": 1.5}
        figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=status, showlegend=True)
    _constant(figure, search)
    values = [value for record in with_curve for _, value in search.curves[record.number]]
    longest = max((x for record in with_curve for x, _ in search.curves[record.number]), default=1)
    title = "folds done" if search.unit == "folds" else "epoch"
    figure.update_xaxes(title=title, rangemode="tozero", dtick=1 if longest <= 20 else None)
    figure.update_yaxes(title=search.metric, range=value_range(values, search.mode))
    return laid_out(figure, 440)


def _curve(figure: go.Figure, search: Gathered, position: int, record: TrialRecord) -> None:
    x, y = zip(*search.curves[record.number], strict=True)
    first = position == 1
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines" if len(x) > 1 else "markers",
        name=f"rank 1: trial {record.number}",
        showlegend=first,
        opacity=1.0 if first else 0.75,
        marker={"symbol": SYMBOLS[record.status], "color": BLUE if first else GREY},
        line={"color": BLUE if first else GREY, "width": 3 if first else 1, "dash": DASHES[record.status]},
        hovertemplate=f"rank {position}: trial {record.number}, {record.status}<br>%{{x}}: %{{y:.4f}}<extra></extra>",
    )
    if first and record.best_epoch in x:
        best = {"symbol": "star", "size": 13, "color": ORANGE, "line": {"color": "#000", "width": 1}}
        at = [y[x.index(record.best_epoch)]]
        name = f"its {search.kept}" if record.folds is None else "its mean over folds"
        figure.add_scatter(x=[record.best_epoch], y=at, mode="markers", name=name, marker=best, hoverinfo="skip")


def _band(figure: go.Figure, curves: list[list[tuple[int, float]]]) -> None:
    """Plot the median and the middle 80 % of the trials that reached each epoch."""
    columns: dict[int, list[float]] = {}
    for curve in curves:
        for epoch, value in curve:
            if np.isfinite(value):
                columns.setdefault(epoch, []).append(value)
    if not columns:
        return
    epochs = sorted(columns)
    low, middle, high = np.array([np.quantile(columns[epoch], [0.1, 0.5, 0.9]) for epoch in epochs]).T
    count: list[Any] = [len(columns[epoch]) for epoch in epochs]
    name = f"the other {len(curves)}: middle 80 %"
    nothing, fill = {"width": 0}, "rgba(86, 180, 233, 0.25)"
    figure.add_scatter(x=epochs, y=high, mode="lines", line=nothing, showlegend=False, hoverinfo="skip")
    figure.add_scatter(
        x=epochs, y=low, mode="lines", line=nothing, fill="tonexty", fillcolor=fill, name=name, hoverinfo="skip"
    )
    figure.add_scatter(
        x=epochs,
        y=middle,
        mode="lines",
        line={"color": "#56B4E9", "width": 2},
        name="their median",
        customdata=count,
        hovertemplate="median of %{customdata} others<br>%{x}: %{y:.4f}<extra></extra>",
    )
