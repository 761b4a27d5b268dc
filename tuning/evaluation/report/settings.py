"""Plot the effects of settings: Optuna's parallel coordinates, slices, and importance."""

from __future__ import annotations

import math
import warnings

import numpy as np
import optuna
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from tuning.config.distributions import short_names
from tuning.evaluation.report.figures import FEW_TRIALS, value_range
from tuning.evaluation.report.gather import Gathered
from tuning.evaluation.report.study import Drawn, make_study
from tuning.evaluation.report.style import BLUE, GREY, laid_out, shortened, wrapped
from tuning.experiment.directory import TrialRecord

MIN_TRIALS = 20  # for importance, which PED-ANOVA estimates from the best tenth
DRAWS = 10  # of four fifths of the trials, for the spread of importance
AXES, LINES = 10, 200  # that parallel coordinates have room for
SLICES_PER_ROW = 4


class Settings:
    """The searched settings that varied, their importance, and their plots.

    Args:
        search: its comparable trials are used; those that were stopped count with their best epoch.
    """

    def __init__(self, search: Gathered) -> None:
        self.search = search
        self.records = [r for r in search.comparable if math.isfinite(search.value(r) or 0.0)]
        values: dict[str, set[str]] = {}
        for record in self.records:
            for path, value in record.params.items():
                values.setdefault(path, set()).add(str(value))
        self.names = short_names([*search.space.distributions, *(path for r in search.ranked for path in r.params)])
        self.varied = [self.names[path] for path in values if len(values[path]) > 1]
        self.range = value_range([search.value(record) or 0.0 for record in self.records], search.mode)
        self.study = make_study(self.records, search.value, search.mode, search.space.distributions)
        self.importance, self.why_not = self._importance()
        # The most important first, if importance is known.
        weight = {name: bounds[0] for name, bounds in self.importance.items()}
        self.ordered = sorted(self.varied, key=lambda name: -weight.get(name, 0.0))

    def _value(self, record: TrialRecord) -> float | None:
        """The value, limited to the range of the axis."""
        value = self.search.value(record)
        if value is None or self.range is None:
            return value
        return min(max(value, self.range[0]), self.range[1])

    def _importance(self) -> tuple[dict[str, tuple[float, float, float]], str]:
        """The importance of each setting with its least and most over parts of the trials; or why there is none."""
        if len(self.varied) < 2:
            return {}, "fewer than two settings varied"
        if len(self.records) < MIN_TRIALS:
            return {}, f"{len(self.records)} trials with a value are too few to tell; {MIN_TRIALS} are the least"
        trials = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        shares = _shares(self.study, self.varied)
        # Without replacement: a trial that counts twice looks like a pattern.
        rng, size = np.random.default_rng(0), round(0.8 * len(trials))
        draws = [rng.permutation(len(trials))[:size] for _ in range(DRAWS)]
        again = [_shares(Drawn(self.study, [trials[i] for i in draw]), self.varied) for draw in draws]
        found = {}
        for name in self.varied:
            own = [share.get(name, 0.0) for share in again]
            found[name] = (shares.get(name, 0.0), min(own), max(own))
        if not any(share for share, _, _ in found.values()):
            return {}, "no setting distinguishes the best tenth of the trials from the others"
        return dict(sorted(found.items(), key=lambda item: -item[1][0])), ""

    def draw_importance(self) -> go.Figure:
        """Plot the importance of each setting as a bar, the most important on top."""
        names = list(self.importance)[::-1]
        shares = [self.importance[name][0] for name in names]
        above = [max(0.0, self.importance[name][2] - self.importance[name][0]) for name in names]
        below = [max(0.0, self.importance[name][0] - self.importance[name][1]) for name in names]
        spread = {"type": "data", "array": above, "arrayminus": below, "color": GREY, "thickness": 1.5}
        figure = go.Figure()
        figure.add_bar(
            x=shares,
            y=names,
            orientation="h",
            error_x=spread,
            marker={"color": BLUE},
            hovertemplate="%{y}: %{x:.2f}<extra></extra>",
        )
        figure.update_xaxes(title="share of what distinguishes the best tenth of the trials", rangemode="tozero")
        return laid_out(figure, 110 + 26 * len(names), showlegend=False)

    def draw_coordinates(self) -> go.Figure:
        """Plot trials as lines over the settings, the best drawn last."""
        records = list(reversed(thinned(self.records, LINES)))
        names = {name for record in records for name in (self.names[path] for path in record.params)}
        axes = [name for name in self.ordered if name in names][:AXES]
        study = make_study(records, self._value, self.search.mode, self.search.space.distributions, in_order=True)
        figure = optuna.visualization.plot_parallel_coordinate(study, params=axes, target_name=self.search.metric)
        _recolour(figure, is_high_good=self.search.mode == "max")
        if figure.layout.xaxis.ticktext:
            text = [wrapped(name) for name in figure.layout.xaxis.ticktext]
            figure.update_xaxes(ticktext=text, tickangle=0, tickfont={"size": 12}, side="top")
        figure.for_each_annotation(lambda note: note.update(text=shortened(note.text)))
        figure.update_annotations(font={"size": 11, "color": "#222"}, bgcolor="rgba(255, 255, 255, 0.75)")
        return laid_out(figure, 460, margin={"l": 50, "r": 90, "t": 70, "b": 20}, hovermode="closest")

    def draw_slices(self) -> list[go.Figure]:
        """Plot the value over each setting, at most four settings in a row."""
        rows = np.array_split(self.ordered, math.ceil(len(self.ordered) / SLICES_PER_ROW))
        return [self._row(row.tolist()) for row in rows]

    def _row(self, names: list[str]) -> go.Figure:
        figure = optuna.visualization.plot_slice(self.study, params=names, target_name=self.search.metric)
        for axis in figure.select_xaxes():
            if axis.categoryarray:  # Optuna shows the `repr` of categories
                array = list(axis.categoryarray)
                axis.update(tickmode="array", tickvals=array, ticktext=[shortened(label.strip("'")) for label in array])
            axis.update(title={"standoff": 8}, tickfont={"size": 11}, nticks=6)
        figure.update_yaxes(range=self.range)
        whole = {"dtick": 1} if max(record.number for record in self.records) <= FEW_TRIALS else {}
        scale = {"colorscale": [[0, "#9ecae1"], [1, "#08306b"]], "colorbar": {"tickformat": "d", **whole}}
        figure.update_traces(
            marker={"size": 6, "opacity": 0.8, **scale},
            hovertemplate="trial %{marker.color}<br>%{x}: %{y:.4f}<extra></extra>",
        )
        return laid_out(figure, 320)


def _recolour(figure: go.Figure, is_high_good: bool) -> None:
    """Draw good trials dark, in the colours of Cividis: Optuna's palest blues can't be seen on paper."""
    scale = {"colorscale": "Cividis", "reversescale": is_high_good}
    for trace in figure.data:
        if trace.type == "parcoords":  # of Optuna 4, drawn by WebGL
            trace.update(labelangle=20, line=scale)
        elif trace.mode == "lines":  # the first axis has the value, from 0 to 1
            place = 1 - trace.y[0] if is_high_good else trace.y[0]
            trace.update(line={"color": sample_colorscale("Cividis", [place])[0], "width": 1.4}, opacity=0.75)
        else:
            trace.update(visible=False)  # the colour bar repeats the first axis


def _shares(study: optuna.Study, names: list[str]) -> dict[str, float]:
    """Optuna's PED-ANOVA importance of each setting; they add up to 1, and nothing is random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    known = {name for trial in complete for name in trial.params}
    found = optuna.importance.get_param_importances(
        study, evaluator=evaluator, params=[name for name in names if name in known]
    )
    return {name: share for name, share in found.items() if math.isfinite(share)}


def thinned(ranked: list[TrialRecord], most: int) -> list[TrialRecord]:
    """At most `most` of the trials: half of them the best, the others evenly from the rest, in order."""
    if len(ranked) <= most:
        return ranked
    best = most // 2
    rest = ranked[best:]
    step = len(rest) / (most - best)
    return ranked[:best] + [rest[int(i * step)] for i in range(most - best)]
