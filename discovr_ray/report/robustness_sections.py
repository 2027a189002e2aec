"""Robustness on the page of an evaluation: what each grade of each degradation costs."""

from __future__ import annotations

from collections.abc import Sequence

from discovr_ray.evaluate.bootstrap import Estimate
from discovr_ray.evaluate.degradations import LEVELS, strength_text
from discovr_ray.evaluate.robustness import Point, RobustnessResult
from discovr_ray.report.curves import AXIS, COLOURS, Chart, Figure, base_layout
from discovr_ray.report.probe_charts import HEIGHT
from discovr_ray.report.probe_text import METRICS, with_interval
from discovr_ray.report.section import Section, Table

LEAD = (
    "Probes fitted and chosen on clean videos, asked about the test videos made worse in three grades; this encoder. "
    "The drop is how much worse the number gets, its interval is that of the difference over the same draws of "
    "patients. The pictures show the third grade."
)
TITLES = {"knn": "Zero-shot kNN", "linear": "Linear probe", "ridge": "Regression, ridge"}
MORE_COLOURS = (*COLOURS, "#b8860b")


def robustness_section(result: RobustnessResult, kinds: Sequence[str]) -> Section:
    probes = list(dict.fromkeys(point.probe for point in result.points))
    counts = ", ".join(f"{about} {count}" for about, count in result.num_videos.items())
    tables, charts = [], []
    for probe in probes:
        points = [point for point in result.points if point.probe == probe]
        tables.append(_table(probe, points))
        title = f"{TITLES[probe]}: drop in {_unit(points[0].metric)}"
        charts.append(Chart(f"robustness-{probe}", title, "0 is clean.", _figure(points, kinds)))
    return Section("robustness", "When pictures are worse", [LEAD, f"Test videos: {counts}."], (), tables, charts)


def _table(probe: str, points: Sequence[Point]) -> Table:
    metric = points[0].metric
    rows = [
        [
            point.kind.replace("_", " "),
            strength_text(point.kind, point.level) if point.level else "",
            with_interval(point.value, metric),
            _drop(point.drop, metric) if point.level else "",
        ]
        for point in points
    ]
    head = ["Degradation", "Grade", METRICS[metric].title, f"Drop, {_unit(metric)}"]
    return Table(head, rows, frozenset({2, 3}), title=TITLES[probe])


def _unit(metric: str) -> str:
    """A share is shown in points of a hundred, an error in the label's own unit."""
    return "points" if METRICS[metric].scale == 100 else METRICS[metric].title


def _drop(drop: Estimate, metric: str) -> str:
    value, low, high = (METRICS[metric].scale * number + 0.0 for number in drop)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def _figure(points: Sequence[Point], kinds: Sequence[str]) -> Figure:
    scale = METRICS[points[0].metric].scale
    of = {(point.kind, point.level): scale * point.drop.value for point in points}
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": kind.replace("_", " "),
            "x": [0, *LEVELS],
            "y": [0.0, *(round(of[kind, level], 4) for level in LEVELS)],
            "line": {"color": MORE_COLOURS[place % len(MORE_COLOURS)], "width": 2},
            "hovertemplate": "grade %{x}: %{y:.2f}",
        }
        for place, kind in enumerate(kinds)
    ]
    layout = {
        **base_layout(legend=True, height=HEIGHT),
        "xaxis": {**AXIS, "title": {"text": "grade"}, "tickvals": [0, *LEVELS]},
        "yaxis": {**AXIS, "title": {"text": f"drop, {_unit(points[0].metric)}"}},
    }
    return {"data": data, "layout": layout}
