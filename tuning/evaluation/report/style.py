"""The common colours, dashes and layout of figures; every status has its own shape as well as its own colour."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

# The palette of Okabe and Ito, for all common kinds of colour vision.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#767676"

COLOURS = {"done": BLUE, "stopped": ORANGE, "failed": RED, "running": GREEN, "damaged": PURPLE}
SYMBOLS = {
    "done": "circle", "stopped": "diamond-open", "failed": "x", "running": "triangle-up", "damaged": "square-open",
}  # fmt: skip
DASHES = {"done": "solid", "stopped": "dash", "failed": "dot", "running": "dashdot", "damaged": "longdash"}
TEXTS = {"done": "#fff", "stopped": "#000", "failed": "#000", "running": "#000", "damaged": "#000"}
PATTERNS = {"done": "", "stopped": "/", "failed": "x", "running": ".", "damaged": "-"}

FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"


def laid_out(figure: go.Figure, height: int, **layout: Any) -> go.Figure:
    """Lay a figure out as wide as the page, in the page's font."""
    figure.update_layout(
        template="plotly_white",
        title=None,
        width=None,
        height=height,
        autosize=True,
        font={"family": FONT, "size": 13, "color": "#222"},
        margin={"l": 60, "r": 44, "t": 30, "b": 50},
        modebar={"orientation": "v"},
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "traceorder": "normal"},
        hoverlabel={"align": "left", "namelength": -1},
    )
    figure.update_layout(**layout)
    figure.update_xaxes(automargin=True, title_font_size=13)
    figure.update_yaxes(automargin=True, title_font_size=13)
    return figure


def wrapped(name: str, width: int = 10) -> str:
    """Break a setting's name after `_` and `.` into lines of about `width` letters."""
    lines = [""]
    for part in name.replace("_", "_\0").replace(".", ".\0").split("\0"):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "<br>".join(lines)


def shortened(label: str, most: int = 24) -> str:
    """Shorten a label to leave room for the figure; the ranking has the whole text."""
    return label if len(label) <= most else label[: most - 1] + "…"
