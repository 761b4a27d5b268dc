"""Plot when and where trials ran: a bar for each stretch, in a lane of its machine."""

from __future__ import annotations

import datetime
import heapq
from dataclasses import dataclass

import plotly.graph_objects as go

from tuning.evaluation.report.gather import Gathered
from tuning.evaluation.report.style import COLOURS, PATTERNS, TEXTS, laid_out
from tuning.experiment.directory import TrialRecord
from tuning.experiment.timeline import Stretch

MANY = 200  # bars, which leave no room for lines between them
UNKNOWN = "machine not recorded"


@dataclass(frozen=True)
class Bar:
    """A stretch of a trial in its lane."""

    record: TrialRecord
    stretch: Stretch
    lane: str
    part: int
    parts: int

    @property
    def is_cut(self) -> bool:
        """Whether the trial had not ended at the end of the bar."""
        return self.part < self.parts or not self.record.is_final


def bars_of(search: Gathered) -> list[Bar]:
    """Put every recorded stretch into a lane; a machine has as many lanes as trials ran on it at once."""
    by_worker: dict[str, list[tuple[Stretch, TrialRecord, int, int]]] = {}
    for record in search.ranked:
        stretches = search.stretches[record.number]
        for part, stretch in enumerate(stretches, start=1):
            by_worker.setdefault(stretch.worker or UNKNOWN, []).append((stretch, record, part, len(stretches)))
    bars = []
    for worker, found in sorted(by_worker.items()):
        free: list[int] = []  # unused lanes, the lowest first
        busy: list[tuple[datetime.datetime, int]] = []
        num_lanes = 0
        for stretch, record, part, parts in sorted(found, key=lambda each: (each[0].began, each[1].number)):
            while busy and busy[0][0] <= stretch.began:
                heapq.heappush(free, heapq.heappop(busy)[1])
            if not free:
                num_lanes += 1
                free = [num_lanes]
            lane = heapq.heappop(free)
            heapq.heappush(busy, (stretch.seen, lane))
            bars.append(Bar(record, stretch, f"{worker}  {lane}", part, parts))
    return bars


def draw_timeline(search: Gathered) -> go.Figure | None:
    """Plot the bars by status; None if no times were recorded."""
    bars = bars_of(search)
    if not bars:
        return None
    figure = go.Figure()
    for status in COLOURS:
        group = [bar for bar in bars if bar.record.status == status]
        if not group:
            continue
        figure.add_bar(
            base=[_utc(bar.stretch.began) for bar in group],
            x=[max(1.0, (bar.stretch.seen - bar.stretch.began).total_seconds() * 1000) for bar in group],
            y=[bar.lane for bar in group],
            orientation="h",
            name=status,
            text=[f"{bar.record.number}{'…' if bar.is_cut else ''}" for bar in group],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            insidetextfont={"color": TEXTS[status]},
            constraintext="inside",
            marker={
                "color": COLOURS[status],
                "pattern": {
                    "shape": PATTERNS[status],
                    "fillmode": "overlay",
                    "fgcolor": "rgba(255, 255, 255, 0.6)",
                    "size": 7,
                    "solidity": 0.25,
                },
                "line": {"color": "#fff", "width": 1 if len(bars) < MANY else 0},
            },
            customdata=[[_words(bar), _utc(bar.stretch.seen)] for bar in group],
            hovertemplate="%{customdata[0]}<br>%{base} to %{customdata[1]}<extra></extra>",
        )
    _mark_failures(figure, bars)
    lanes = sorted({bar.lane for bar in bars}, key=lambda lane: (lane.rpartition("  ")[0], int(lane.split()[-1])))
    figure.update_xaxes(title="UTC", type="date")
    figure.update_yaxes(categoryorder="array", categoryarray=lanes[::-1], type="category")
    height = min(900, 140 + 30 * len(lanes))
    return laid_out(figure, height, barmode="overlay", bargap=0.15, uniformtext={"minsize": 9, "mode": "hide"})


def _mark_failures(figure: go.Figure, bars: list[Bar]) -> None:
    """Mark failures by a cross, since the bar of a trial that failed at once can't be seen."""
    failed = [bar for bar in bars if bar.record.status == "failed" and bar.part == bar.parts]
    if failed:
        figure.add_scatter(
            x=[_utc(bar.stretch.seen) for bar in failed],
            y=[bar.lane for bar in failed],
            mode="markers",
            name="where it failed",
            marker={"symbol": "x", "size": 7, "color": "#000"},
            hoverinfo="skip",
        )


def _utc(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _words(bar: Bar) -> str:
    part = f", part {bar.part} of {bar.parts}" if bar.parts > 1 else ""
    cut = ", cut off" if bar.is_cut and bar.part < bar.parts else ", not ended" if bar.is_cut else ""
    return f"trial {bar.record.number}, {bar.record.status}{part}{cut}"
