"""The page: figures and tables in one HTML file that asks nothing of a network."""

from __future__ import annotations

import importlib.resources
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jinja2
import markupsafe
import plotly.graph_objects as go
import plotly.offline

from tuning.evaluation.leaderboard import second_metric
from tuning.evaluation.report import tables
from tuning.evaluation.report.figures import CURVES, draw_curves, draw_front, draw_history
from tuning.evaluation.report.gather import Gathered
from tuning.evaluation.report.settings import AXES, DRAWS, LINES, Settings
from tuning.evaluation.report.timeline import draw_timeline

# Lines of a long list that the page has.
LISTED = 200
ERRORS = 20

# What the page lets the browser do. Plotly sets styles as it draws; Optuna 4's parallel coordinates compile code.
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; base-uri 'none'; form-action 'none'"
)


@dataclass
class Section:
    """A heading, figures or the reason why there are none, and how to read them."""

    id: str
    title: str
    figures: list[markupsafe.Markup] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    note: str = ""
    why_not: str = ""

    def add(self, figure: go.Figure) -> None:
        """Take a figure as data for the page's script."""
        self.figures.append(_as_data(figure))
        self.heights.append(int(figure.layout.height))


def render(search: Gathered) -> str:
    """The whole page."""
    files = importlib.resources.files("tuning.evaluation.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    nonce = secrets.token_urlsafe(12)
    columns, rows = tables.leaderboard(search)
    failed = [record for record in search.ranked if record.status == "failed"]
    return environment.from_string((files / "page.html.jinja").read_text(encoding="utf-8")).render(
        search=search,
        nonce=nonce,
        policy=POLICY.format(nonce=nonce),
        style=markupsafe.Markup((files / "page.css").read_text(encoding="utf-8")),
        script=markupsafe.Markup((files / "page.js").read_text(encoding="utf-8")),
        plotly=markupsafe.Markup(plotly.offline.get_plotlyjs()),
        summary=tables.summary(search),
        is_running=any(not record.is_final for record in search.ranked),
        columns=columns,
        rows=rows,
        sections=_sections(search),
        test_rows=tables.test_rows(search),
        environment=tables.environment(search),
        quarantine=search.quarantine[:LISTED],
        more_quarantined=max(0, len(search.quarantine) - LISTED),
        failed=[(record.number, record.reason, search.errors.get(record.number, "")) for record in failed[:ERRORS]],
        more_failed=max(0, len(failed) - ERRORS),
    )


def _sections(search: Gathered) -> list[Section]:
    history = Section(
        "history", "Trials in order", note="An axis may leave out a few very poor values; double-click shows all."
    )
    curves = Section("curves", "Learning curves")
    timeline = Section("timeline", "When and where trials ran")
    nothing = "no trial came to a value yet" if search.ranked else "no trial was begun"
    _fill(history, lambda: draw_history(search) if search.scored else None, nothing)
    has_curves = any(search.curves.values())
    _fill(curves, lambda: draw_curves(search) if has_curves else None, nothing)
    kind = "means over the folds done so far" if search.unit == "folds" else "each epoch on validation clips"
    curves.note = (
        f"{search.metric}, {kind}: the {CURVES} best trials one by one, all others as a band of those that came as "
        "far. Dashed: stopped by the scheduler; dotted: failed; dash and dot: not ended."
    )
    _fill(timeline, lambda: draw_timeline(search), "no times were recorded")
    timeline.note = (
        "A lane is a worker's machine and a place on it. The number is the trial's; … follows it where the trial was "
        "not over: cut off and continued, or not ended. A trial that failed before its first epoch left no machine."
    )
    return [history, curves, *_of_costs(search), *_of_settings(search), timeline]


def _of_costs(search: Gathered) -> list[Section]:
    second = second_metric(search.comparable)
    if second is None:
        return []
    front = Section("front", f"{search.metric} and {second}")
    _fill(front, lambda: draw_front(search, second), "")
    front.note = "The line joins the trials that no other beats in one without being worse in the other."
    return [front]


def _of_settings(search: Gathered) -> list[Section]:
    importance = Section("importance", "What mattered")
    coordinates = Section("coordinates", "Settings of all trials together")
    slices = Section("slices", "Each setting alone")
    found = [importance, coordinates, slices]
    try:
        settings = Settings(search)
        if not settings.varied:
            for section in found:
                section.why_not = "no setting has two values among trials with a result"
            return found
        if settings.why_not:
            importance.why_not = settings.why_not
        else:
            importance.add(settings.draw_importance())
        coordinates.add(settings.draw_coordinates())
        for figure in settings.draw_slices():
            slices.add(figure)
    except Exception as error:  # of Optuna's plots: the rest of the page is worth having
        for section in found:
            if not section.figures:
                section.why_not = section.why_not or f"could not be drawn: {type(error).__name__}: {error}"
        return found
    count = len(settings.records)
    importance.note = (
        f"An estimate from {count} trials (Optuna's PED-ANOVA): how much each setting tells the best tenth of the "
        f"trials from all. The whiskers are the least and the most that {DRAWS} draws of four fifths of them gave; "
        "settings whose whiskers overlap are not told apart. It is no effect size, and a search that learns has looked "
        "at good settings more often."
    )
    which = "that mattered most" if settings.importance else "that come first"
    more = f" The {AXES} of {len(settings.ordered)} settings {which}." if len(settings.ordered) > AXES else ""
    half = LINES // 2
    thin = f" The {half} best trials and {half} evenly from the other {count - half}." if count > LINES else ""
    beyond = " Poorer values than the axis has are drawn at its end." if settings.range else ""
    coordinates.note = f"A line is a trial; dark is good.{more}{thin}{beyond}"
    slices.note = "A point is a trial, the later the darker. Stopped trials count with their best epoch."
    if len(search.comparable) < len(search.scored):
        slices.note += " Trials without all their folds are left out here and above: their values don't compare."
    return found


def _fill(section: Section, draw: Callable[[], go.Figure | None], nothing: str) -> None:
    try:
        figure = draw()
    except Exception as error:  # of one figure: the rest of the page is worth having
        section.why_not = f"could not be drawn: {type(error).__name__}: {error}"
        return
    if figure is None:
        section.why_not = nothing
    else:
        section.add(figure)


def _as_data(figure: go.Figure) -> markupsafe.Markup:
    """A figure as JSON that no text in it can end."""
    content: dict[str, Any] = json.loads(figure.to_json())
    content["layout"].pop("template", None)
    content["layout"]["template"] = TEMPLATE
    text = json.dumps(content, separators=(",", ":"))
    return markupsafe.Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


# Of plotly_white what these figures need; whole, it is 7 kB in each.
TEMPLATE = {
    "layout": {
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": {"gridcolor": "#e6e6e6", "linecolor": "#999", "zerolinecolor": "#ccc", "showline": True},
        "yaxis": {"gridcolor": "#e6e6e6", "linecolor": "#999", "zerolinecolor": "#ccc", "showline": True},
    }
}
