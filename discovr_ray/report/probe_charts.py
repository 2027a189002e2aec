"""Figures of an evaluation: confusion, ROC, scatter, Bland-Altman, few labels, map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve

from discovr_ray.evaluate.results import ClassResult, FewResult, NumberResult
from discovr_ray.report.curves import AXIS, COLOURS, Figure, base_layout

GREY = "#8a94a0"
DASHED = {"color": GREY, "width": 1, "dash": "dash"}
BLUES = [[0, "#f4f8fc"], [1, "#1f5fa8"]]
HEIGHT = 320
MODELS = {"encoder": "this encoder", "random": "random weights", "pixels": "pixels, PCA"}
MODEL_COLOURS = {"encoder": COLOURS[0], "random": COLOURS[1], "pixels": COLOURS[4]}


def confusion_figure(result: ClassResult) -> Figure:
    """Shares of each true class in colour, numbers of videos as text."""
    table = np.array(result.confusion, float)
    shares = table / table.sum(axis=1, keepdims=True).clip(1)
    annotations = [
        {
            "x": column,
            "y": row,
            "text": f"{int(table[row, column])}",
            "showarrow": False,
            "font": {"color": "#ffffff" if shares[row, column] > 0.55 else "#1d2733"},
        }
        for row in range(len(table))
        for column in range(len(table))
    ]
    ticks = {"tickvals": list(range(len(table))), "ticktext": result.classes, "type": "linear"}
    heat = {
        "type": "heatmap",
        "z": shares.round(4).tolist(),
        "zmin": 0,
        "zmax": 1,
        "colorscale": BLUES,
        "showscale": False,
        "hovertemplate": "true %{y}, predicted %{x}: %{z:.0%}<extra></extra>",
    }
    layout = {
        **base_layout(legend=False, height=HEIGHT),
        "annotations": annotations,
        "xaxis": {**AXIS, **ticks, "title": {"text": "predicted"}, "showgrid": False},
        "yaxis": {**AXIS, **ticks, "title": {"text": "true"}, "showgrid": False, "autorange": "reversed"},
    }
    return {"data": [heat], "layout": layout}


def roc_figure(results: Mapping[str, ClassResult]) -> Figure:
    """One line for each model; with several classes, one for each class of the encoder."""
    encoder = results["encoder"]
    if len(encoder.classes) == 2:
        data = [
            _roc(MODELS[model], MODEL_COLOURS[model], np.array(result.truth) == 1, np.array(result.scores)[:, 1])
            for model, result in results.items()
        ]
    else:
        data = [
            _roc(name, COLOURS[code % len(COLOURS)], np.array(encoder.truth) == code, np.array(encoder.scores)[:, code])
            for code, name in enumerate(encoder.classes)
        ]
    layout = {
        **base_layout(legend=True, height=HEIGHT),
        "xaxis": {**AXIS, "title": {"text": "false positives, share"}, "range": [-0.01, 1.01]},
        "yaxis": {**AXIS, "title": {"text": "true positives, share"}, "range": [-0.01, 1.01]},
    }
    return {"data": [*data, _line([0, 1], [0, 1], "chance")], "layout": layout}


def scatter_figure(result: NumberResult, unit: str) -> Figure:
    """Predicted over true values."""
    ends = [min(*result.truth, *result.predicted), max(*result.truth, *result.predicted)]
    layout = {
        **base_layout(legend=False, height=HEIGHT),
        "xaxis": {**AXIS, "title": {"text": f"true {unit}"}},
        "yaxis": {**AXIS, "title": {"text": f"predicted {unit}"}},
    }
    return {
        "data": [_points(result.truth, result.predicted, result.clip_ids), _line(ends, ends, "equal")],
        "layout": layout,
    }


def agreement_figure(result: NumberResult, unit: str) -> Figure:
    """Bland-Altman: difference over mean, with bias and limits of agreement."""
    truth, predicted = np.array(result.truth), np.array(result.predicted)
    middle = (truth + predicted) / 2
    ends = [float(middle.min()), float(middle.max())]
    found = result.agreement
    lines = [
        _line(ends, [value, value], name)
        for value, name in ((found.bias, "bias"), (found.low, "lower limit"), (found.high, "upper limit"))
        if np.isfinite(value)
    ]
    layout = {
        **base_layout(legend=False, height=HEIGHT),
        "xaxis": {**AXIS, "title": {"text": f"mean of true and predicted {unit}"}},
        "yaxis": {**AXIS, "title": {"text": f"predicted - true {unit}"}},
    }
    return {
        "data": [_points(middle.tolist(), (predicted - truth).tolist(), result.clip_ids), *lines],
        "layout": layout,
    }


def few_figure(results: Mapping[str, FewResult], metric: str, scale: float, axis: str) -> Figure:
    """A metric over the number of labelled training patients, one line for each model, with intervals."""
    data = []
    for model, result in results.items():
        found = [point.metrics[metric] for point in result.points]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": MODELS[model],
                "x": [point.num_patients for point in result.points],
                "y": [scale * item.value for item in found],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [scale * (item.high - item.value) for item in found],
                    "arrayminus": [scale * (item.value - item.low) for item in found],
                    "thickness": 1,
                },
                "line": {"color": MODEL_COLOURS[model], "width": 2},
                "customdata": [f"{point.share:.0%}" for point in result.points],
                "hovertemplate": "%{x} patients (%{customdata}): %{y:.1f}",
            }
        )
    layout = {
        **base_layout(legend=True, height=HEIGHT),
        "xaxis": {**AXIS, "type": "log", "title": {"text": "labelled training patients"}},
        "yaxis": {**AXIS, "title": {"text": axis}},
    }
    return {"data": data, "layout": layout}


def map_figure(
    places: npt.NDArray[np.float64], names: Sequence[str], values: Sequence[float], colour_title: str
) -> Figure:
    """Places [n, 2] of videos, coloured by a number each."""
    points = _points(places[:, 0].tolist(), places[:, 1].tolist(), names)
    points["marker"] = {
        "size": 7,
        "color": list(values),
        "colorscale": "Viridis",
        "colorbar": {"title": {"text": colour_title}, "thickness": 12},
        "line": {"width": 0.5, "color": "#ffffff"},
    }
    points["text"] = [f"{name}: {value:.4g}" for name, value in zip(names, values, strict=True)]
    return {"data": [points], "layout": _map_layout(legend=False)}


def class_map_figure(
    places: npt.NDArray[np.float64], names: Sequence[str], codes: Sequence[int], classes: Sequence[str]
) -> Figure:
    """Places [n, 2] of videos, a colour for each class."""
    data = []
    for code, title in enumerate(classes):
        rows = [row for row, of in enumerate(codes) if of == code]
        points = _points(places[rows, 0].tolist(), places[rows, 1].tolist(), [names[row] for row in rows])
        points |= {"name": title, "marker": {"size": 7, "color": COLOURS[code % len(COLOURS)]}}
        data.append(points)
    return {"data": data, "layout": _map_layout(legend=True)}


def _map_layout(legend: bool) -> Figure:
    bare = {**AXIS, "showticklabels": False, "title": {"text": ""}}
    return {**base_layout(legend, height=420), "xaxis": bare, "yaxis": bare}


def _roc(name: str, colour: str, truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> Figure:
    false_share, true_share, _ = roc_curve(truth, scores)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": false_share.round(5).tolist(),
        "y": true_share.round(5).tolist(),
        "line": {"color": colour, "width": 2},
        "hovertemplate": "%{x:.0%} false, %{y:.0%} true",
    }


def _points(x: Sequence[float], y: Sequence[float], names: Sequence[str]) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(x),
        "y": list(y),
        "text": list(names),
        "marker": {"size": 6, "color": COLOURS[0], "opacity": 0.6},
        "hovertemplate": "%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
    }


def _line(x: Sequence[float], y: Sequence[float], name: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": list(x),
        "y": list(y),
        "line": DASHED,
        "hoverinfo": "skip",
    }
