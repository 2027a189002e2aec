"""Robustness on the page of an evaluation: what each grade of each degradation costs, the encoder and its floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from discovr_ray.evaluate.bootstrap import Estimate
from discovr_ray.evaluate.degradations import KINDS, LEVELS, strength_text
from discovr_ray.evaluate.robustness import Point, RobustnessResult
from discovr_ray.report.curves import AXIS, COLOURS, Chart, Figure, base_layout
from discovr_ray.report.probe_charts import HEIGHT, MODELS
from discovr_ray.report.probe_text import METRICS, with_interval
from discovr_ray.report.section import Section, Table

LEAD = (
    "Probes fitted and chosen on clean videos, asked about the test videos made worse in three grades. The drop is how "
    "much worse the number gets, its interval is that of the difference over the same draws of patients. The floors "
    "lose less where they have less to lose: read a drop beside the number it is from. The pictures show the third "
    "grade."
)
DENSE_LEAD = (
    "What was fitted and chosen on clean videos, asked about the test videos made worse in three grades, as under When "
    "pictures are worse."
)
KEPT_FRAME = (
    "With a lower frame rate the outlined frame stays one of those that are taken: what changes is what the encoder "
    "sees around it. The mean mask does not look, so it loses nothing."
)
TITLES = {"knn": "Zero-shot kNN", "linear": "Linear probe", "ridge": "Regression, ridge"}
MORE_COLOURS = (*COLOURS, "#b8860b")
DASHES = ("solid", "dash", "dot", "dashdot")  # of the models, in their order


def robustness_section(results: Mapping[str, RobustnessResult], kinds: Sequence[str]) -> Section:
    """`results`: model -> what was found."""
    first = next(iter(results.values()))
    counts = ", ".join(f"{about} {count}" for about, count in first.num_videos.items())
    tables, charts = [], []
    for probe in dict.fromkeys(point.probe for point in first.points):
        found = {model: [point for point in of.points if point.probe == probe] for model, of in results.items()}
        table, chart = drops(TITLES[probe], found, kinds, MODELS)
        tables.append(table)
        charts.append(chart)
    return Section("robustness", "When pictures are worse", [LEAD, f"Test videos: {counts}."], (), tables, charts)


def tokens_section(
    slug: str,
    title: str,
    lead: str,
    results: Mapping[str, Mapping[str, Sequence[Point]]],
    names: Mapping[str, str],
) -> Section:
    """Of what asks patch tokens. `results`: title -> model -> points; `names`: model -> what the page calls it."""
    found = [drops(part, of, tuple(KINDS), names) for part, of in results.items()]
    tables, charts = [table for table, _ in found], [chart for _, chart in found]
    return Section(f"{slug}-robustness", title, [lead], tables=tables, charts=charts)


def drops(
    title: str, found: Mapping[str, Sequence[Point]], kinds: Sequence[str], names: Mapping[str, str]
) -> tuple[Table, Chart]:
    """One probe's numbers and drops, model beside model.

    Args:
        found: model -> points, clean first, all models the same.
        names: model -> what the page calls it.
    """
    points = next(iter(found.values()))
    unit = _unit(points[0].metric)
    lines = ", ".join(f"{dash}: {names[model]}" for model, dash in _dashes(found).items())
    chart = Chart(
        f"robustness-{points[0].probe}",
        f"{title}: drop in {unit}",
        f"0 is clean. {lines}. A click on a name takes its lines away.",
        _figure(found, kinds),
    )
    return _table(title, found, names), chart


def _table(title: str, found: Mapping[str, Sequence[Point]], names: Mapping[str, str]) -> Table:
    metric = next(iter(found.values()))[0].metric
    rows = []
    for of_models in zip(*found.values(), strict=True):
        point = of_models[0]
        cells = [point.kind.replace("_", " "), strength_text(point.kind, point.level) if point.level else ""]
        for of in of_models:
            cells += [with_interval(of.value, metric), _drop(of.drop, metric) if of.level else ""]
        rows.append(cells)
    head = ["Degradation", "Grade"]
    for model in found:
        head += [f"{METRICS[metric].title}, {names[model]}", f"Drop, {_unit(metric)}"]
    return Table(head, rows, frozenset(range(2, len(head))), title=title)


def _unit(metric: str) -> str:
    """A share is shown in points of a hundred, an error in the label's own unit."""
    return "points" if METRICS[metric].scale == 100 else METRICS[metric].title


def _drop(drop: Estimate, metric: str) -> str:
    value, low, high = (METRICS[metric].scale * number + 0.0 for number in drop)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def _figure(found: Mapping[str, Sequence[Point]], kinds: Sequence[str]) -> Figure:
    metric = next(iter(found.values()))[0].metric
    data = []
    for model, dash in _dashes(found).items():
        is_first = dash == DASHES[0]
        of = {(point.kind, point.level): METRICS[metric].scale * point.drop.value for point in found[model]}
        for place, kind in enumerate(kinds):
            values = [0.0, *(round(of[kind, level], 4) for level in LEVELS)]
            colour = MORE_COLOURS[place % len(MORE_COLOURS)]
            line = {"color": colour, "width": 2 if is_first else 1.2, "dash": dash}
            data.append({**_line(kind, values, line), "showlegend": is_first, "legendgroup": kind})
    layout = {
        **base_layout(legend=True, height=HEIGHT),
        "xaxis": {**AXIS, "title": {"text": "grade"}, "tickvals": [0, *LEVELS]},
        "yaxis": {**AXIS, "title": {"text": f"drop, {_unit(metric)}"}},
    }
    return {"data": data, "layout": layout}


def _dashes(models: Mapping[str, Any]) -> dict[str, str]:
    """Model -> how its lines are drawn."""
    return dict(zip(models, DASHES[: len(models)], strict=True))


def _line(kind: str, values: Sequence[float], line: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": kind.replace("_", " "),
        "x": [0, *LEVELS],
        "y": list(values),
        "line": dict(line),
        "hovertemplate": "grade %{x}: %{y:.2f}",
    }
