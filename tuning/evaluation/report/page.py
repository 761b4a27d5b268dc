"""Render figures and tables as one HTML file that needs no network."""

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
from tuning.experiment.directory import DAMAGED

LISTED = 200  # lines of a long list that are shown
ERRORS = 20  # failed trials whose traceback is shown

# The content security policy. Plotly sets styles while it draws; Optuna 4's parallel coordinates compile code.
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; base-uri 'none'; form-action 'none'"
)


@dataclass
class Section:
    """A section of the page: a title, figures or the reason why there are none, and a note on how to read them."""

    id: str
    title: str
    figures: list[markupsafe.Markup] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    note: str = ""
    why_not: str = ""

    def add(self, figure: go.Figure) -> None:
        """Add a figure as data for the page's script."""
        self.figures.append(_as_data(figure))
        self.heights.append(int(figure.layout.height))


def render(search: Gathered) -> str:
    """Render the whole page as HTML."""
    files = importlib.resources.files("tuning.evaluation.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    nonce = secrets.token_urlsafe(12)
    columns, rows = tables.leaderboard(search)
    failed = [record for record in search.ranked if record.status in ("failed", DAMAGED)]
    test_heading, test_rows = tables.test_table(search)
    classes, confused = tables.confusion_table(search)
    return environment.from_string((files / "page.html.jinja").read_text(encoding="utf-8")).render(
        search=search,
        nonce=nonce,
        policy=POLICY.format(nonce=nonce),
        style=markupsafe.Markup((files / "page.css").read_text(encoding="utf-8")),
        script=markupsafe.Markup((files / "page.js").read_text(encoding="utf-8")),
        plotly=markupsafe.Markup(plotly.offline.get_plotlyjs()),
        summary=tables.summary(search),
        is_running=any(record.status == "running" for record in search.ranked),
        damaged=search.damaged[:LISTED],
        columns=columns,
        rows=rows,
        sections=_sections(search),
        test_heading=test_heading,
        test_rows=test_rows,
        classes=classes,
        confused=confused,
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
    nothing = "no trial has a value yet" if search.ranked else "no trial has started"
    _fill(history, lambda: draw_history(search) if search.scored else None, nothing)
    has_curves = any(search.curves.values())
    _fill(curves, lambda: draw_curves(search) if has_curves else None, nothing)
    kind = "means over the folds done so far" if search.unit == "folds" else "each epoch on validation clips"
    curves.note = (
        f"{search.metric}, {kind}: the {CURVES} best trials one by one, all others as a band of those that reached "
        "the epoch. Dashed: stopped by the scheduler; dotted: failed; dash and dot: not ended."
    )
    _fill(timeline, lambda: draw_timeline(search), "no times were recorded")
    timeline.note = (
        "A lane is one of the trials that run at once on a machine. The number is the trial's; … after it means that "
        "the trial was interrupted, or has not ended. A trial that failed before its first epoch has no known machine."
    )
    return [history, curves, *_of_costs(search), *_of_settings(search), timeline]


def _of_costs(search: Gathered) -> list[Section]:
    second = second_metric(search.comparable)
    if second is None:
        return []
    front = Section("front", f"{search.metric} and {second}")
    _fill(front, lambda: draw_front(search, second), "")
    front.note = "The line joins the trials that no other one beats in one metric without being worse in the other."
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
    except Exception as error:  # of Optuna's plots; the rest of the page is shown
        for section in found:
            if not section.figures:
                section.why_not = section.why_not or f"could not be drawn: {type(error).__name__}: {error}"
        return found
    count = len(settings.records)
    importance.note = (
        f"An estimate from {count} trials (Optuna's PED-ANOVA): how much each setting distinguishes the best tenth "
        f"of the trials from all. The whiskers are the least and the most of {DRAWS} draws of four fifths of them; "
        "settings whose whiskers overlap can't be ranked. It is no effect size, and a search that learns has tried "
        "good settings more often."
    )
    which = "that mattered most" if settings.importance else "that come first"
    more = f" The {AXES} of {len(settings.ordered)} settings {which}." if len(settings.ordered) > AXES else ""
    half = LINES // 2
    thin = f" The {half} best trials and {half} evenly from the other {count - half}." if count > LINES else ""
    beyond = " Values beyond the axis are drawn at its end." if settings.range else ""
    coordinates.note = f"A line is a trial; dark is good.{more}{thin}{beyond}"
    slices.note = f"A point is a trial; later ones are darker. Stopped trials count with their {search.kept}."
    if len(search.comparable) < len(search.scored):
        slices.note += " Trials without all their folds are left out here and above: their values can't be compared."
    return found


def _fill(section: Section, draw: Callable[[], go.Figure | None], nothing: str) -> None:
    try:
        figure = draw()
    except Exception as error:  # of one figure; the rest of the page is shown
        section.why_not = f"could not be drawn: {type(error).__name__}: {error}"
        return
    if figure is None:
        section.why_not = nothing
    else:
        section.add(figure)


def _as_data(figure: go.Figure) -> markupsafe.Markup:
    """A figure as JSON whose texts can't end the script element."""
    content: dict[str, Any] = json.loads(figure.to_json())
    content["layout"].pop("template", None)
    content["layout"]["template"] = TEMPLATE
    text = json.dumps(content, separators=(",", ":"))
    return markupsafe.Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


# The part of plotly_white that these figures need; all of it would be 7 kB in each.
TEMPLATE = {
    "layout": {
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": {"gridcolor": "#e6e6e6", "linecolor": "#999", "zerolinecolor": "#ccc", "showline": True},
        "yaxis": {"gridcolor": "#e6e6e6", "linecolor": "#999", "zerolinecolor": "#ccc", "showline": True},
    }
}
