"""Figures of a sweep that show several fields at once: contours by pair, and parallel coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import QhullError

from discovr_ray.report.curves import AXIS, Figure, base_layout
from discovr_ray.report.sweep_charts import BEST, FADED, HEIGHT, colour_of, describe, shown, ticks
from discovr_ray.report.sweep_trials import Field, SweepResults, SweepTrial, pareto_front

GRID = 40
BLUES = [[0, "#f4f8fc"], [1, "#1f5fa8"]]


def contour(
    sweep: SweepResults, compared: Sequence[SweepTrial], across: Field, up: Field, objective: int
) -> Figure | None:
    """Values between the compared trials, linear over the triangles that they span; nothing is drawn outside of them.

    Trials at one place count with their mean. None where they span no area: fewer than three places, or all on a line.
    """
    trials = [trial for trial in compared if {across.name, up.name} <= trial.params.keys()]
    places: dict[tuple[float, float], list[float]] = {}
    for trial in trials:
        place = across.place(trial.params[across.name]), up.place(trial.params[up.name])
        places.setdefault(place, []).append(trial.values[objective])
    if len(places) < 3:
        return None
    points = np.array(list(places))
    surface = _surface(points, np.array([np.mean(values) for values in places.values()]))
    if surface is None:
        return None
    goal = sweep.objectives[objective]
    axes = [np.linspace(points[:, column].min(), points[:, column].max(), GRID) for column in (0, 1)]
    z = [[None if np.isnan(value) else round(float(value), 6) for value in row] for row in surface]
    filled = {
        "type": "contour",
        "x": axes[0].tolist(),
        "y": axes[1].tolist(),
        "z": z,
        "colorscale": BLUES,
        "reversescale": not goal.maximise,
        "ncontours": 12,
        "line": {"width": 0.5, "color": "#ffffff"},
        "colorbar": {"title": {"text": goal.name, "side": "right"}, "thickness": 12, "outlinewidth": 0},
        "hoverinfo": "skip",
    }
    layout = {
        **base_layout(legend=False, height=HEIGHT),
        "hovermode": "closest",
        "xaxis": {**AXIS, **_ticks(across, trials), "title": {"text": across.name}},
        "yaxis": {**AXIS, **_ticks(up, trials), "title": {"text": up.name}},
    }
    return {"data": [filled, _trial_marks(sweep, trials, across, up)], "layout": layout}


def _ticks(field: Field, trials: Sequence[SweepTrial]) -> Figure:
    return ticks(field, [trial.params[field.name] for trial in trials])


def _surface(points: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """[GRID, GRID], rows go up; NaN outside of the points. Each axis is scaled to 0..1 for the triangles."""
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    if (extent == 0).any():
        return None
    steps = np.linspace(0, 1, GRID)
    try:
        between = LinearNDInterpolator((points - low) / extent, values)
    except QhullError:  # all on one line
        return None
    grid: npt.NDArray[np.float64] = between(*np.meshgrid(steps, steps))
    return grid


def _trial_marks(sweep: SweepResults, trials: Sequence[SweepTrial], across: Field, up: Field) -> Figure:
    best = {trial.number for trial in pareto_front(sweep)}
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [across.place(trial.params[across.name]) for trial in trials],
        "y": [up.place(trial.params[up.name]) for trial in trials],
        "text": [describe(trial, sweep) for trial in trials],
        "hovertemplate": "%{text}<extra></extra>",
        "cliponaxis": False,
        "marker": {
            "size": [11 if trial.number in best else 7 for trial in trials],
            "color": [BEST if trial.number in best else "#1d2733" for trial in trials],
            "opacity": [1.0 if trial.outcome == "finished" else FADED for trial in trials],
            "line": {"color": "#ffffff", "width": 1},
        },
    }


class _Scale:
    """One upright axis of parallel coordinates: where values lie between 0 and 1, and its marks."""

    def __init__(self, title: str, places: Sequence[float], marks: Sequence[tuple[float, str]]) -> None:
        self.title = title
        self._low, self._high = min(places), max(places)
        self.marks = [(self.at(place), text) for place, text in marks]

    def at(self, place: float) -> float:
        """Everything in the middle where there is only one value."""
        return (place - self._low) / (self._high - self._low) if self._high > self._low else 0.5


def parallel_coordinates(sweep: SweepResults, objective: int) -> Figure:
    """A line for each trial through its fields to its value; trials without one of the fields are left out.

    They are plain lines: Plotly's own kind of chart needs WebGL and does not print.
    """
    goal = sweep.objectives[objective]
    trials = [trial for trial in sweep.valued if all(field.name in trial.params for field in sweep.fields)]
    values = [trial.values[objective] for trial in trials]
    scales = [_field_scale(field, trials) for field in sweep.fields]
    scales.append(_Scale(goal.name, values, [(value, f"{value:.3g}") for value in (min(values), max(values))]))
    best = {trial.number for trial in pareto_front(sweep)}
    data = []
    worst_first = sorted(trials, key=lambda trial: trial.values[objective] * (1 if goal.maximise else -1))
    for trial in sorted(worst_first, key=lambda trial: (trial.number in best, trial.outcome == "finished")):
        places = [field.place(trial.params[field.name]) for field in sweep.fields] + [trial.values[objective]]
        is_best, value = trial.number in best, trial.values[objective]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": list(range(len(scales))),
                "y": [scale.at(place) for scale, place in zip(scales, places, strict=True)],
                "opacity": 1.0 if trial.outcome == "finished" else FADED,
                "line": {
                    "color": BEST if is_best else colour_of(value, values, goal.maximise),
                    "width": 4 if is_best else 2,
                },
                "text": [describe(trial, sweep)] * len(scales),
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    return {"data": data, "layout": _upright_axes(scales)}


def _field_scale(field: Field, trials: Sequence[SweepTrial]) -> _Scale:
    values = [trial.params[field.name] for trial in trials]
    if field.choices:
        marks = [(float(place), shown(choice)) for place, choice in enumerate(field.choices)]
        return _Scale(field.name, [place for place, _ in marks], marks)
    marks = [(field.place(value), shown(value)) for value in (min(values), max(values))]
    return _Scale(field.name, [place for place, _ in marks], marks)


def _upright_axes(scales: Sequence[_Scale]) -> Figure:
    lines = [
        {"type": "line", "x0": place, "x1": place, "y0": 0, "y1": 1, "line": {"color": "#5b6673", "width": 1}}
        for place in range(len(scales))
    ]
    texts = [
        {
            "x": place,
            "y": height,
            "text": text,
            "showarrow": False,
            "xanchor": "right",
            "xshift": -6,
            "bgcolor": "rgba(255,255,255,0.8)",
        }
        for place, scale in enumerate(scales)
        for height, text in scale.marks
    ]
    texts += [
        {"x": place, "y": 1.06, "text": f"<b>{scale.title}</b>", "showarrow": False, "yanchor": "bottom"}
        for place, scale in enumerate(scales)
    ]
    hidden = {"showgrid": False, "zeroline": False, "showline": False}
    return {
        **base_layout(legend=False, height=360),
        "margin": {"l": 8, "r": 8, "t": 36, "b": 8},
        "hovermode": "closest",
        "shapes": lines,
        "annotations": texts,
        "xaxis": {
            **hidden,
            "showticklabels": False,
            "range": [-0.25, len(scales) - 0.75],
        },
        "yaxis": {**hidden, "showticklabels": False, "range": [-0.06, 1.06]},
    }
