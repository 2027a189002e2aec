"""Counts and histograms of a data set as Plotly figures, stacked by split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from discovr_ray.report.curves import AXIS, Chart, Figure, base_layout
from discovr_ray.report.data_facts import DataFacts
from discovr_ray.report.data_labels import Counts, Histogram, split_rank

COLOURS = {"TRAIN": "#1f5fa8", "VAL": "#c8501e", "TEST": "#2f8a4c"}  # others are grey
GREY = "#8a94a0"
AXES = {"fps": "frames per second", "frames": "frames", "seconds": "seconds", "pixels": "pixels of the short side"}
TITLES = {"fps": "Frame rate", "frames": "Length in frames", "seconds": "Length in seconds", "pixels": "Frame size"}


def count_charts(facts: DataFacts) -> list[Chart]:
    """Splits, views, formats, and every label with few values."""
    charts = [Chart("splits", "Splits", "Clips.", bars({split: {split: n} for split, n in facts.splits.items()}))]
    charts += [
        Chart("views", "Views", "Clips.", bars(facts.views)),
        Chart("formats", "Formats", "Clips.", bars(facts.formats)),
    ]
    charts += [
        Chart(f"class-{number}", f"Label {label}", "Clips that have it.", bars(values))
        for number, (label, values) in enumerate(facts.classes.items())
    ]
    return charts


def figure_charts(facts: DataFacts) -> list[Chart]:
    """Frame rate, length, size, and every label that is a number."""
    charts = [
        Chart(name, TITLES[name], spread(found), histogram(found, AXES[name])) for name, found in facts.figures.items()
    ]
    charts += [
        Chart(f"measure-{number}", f"Label {label}", spread(found), histogram(found, label))
        for number, (label, found) in enumerate(facts.measures.items())
    ]
    return charts


def spread(found: Histogram) -> str:
    return f"{found.minimum:.4g} to {found.maximum:.4g}, median {found.median:.4g}, {found.clips:,} clips."


def bars(values: Mapping[str, Counts]) -> Figure:
    """Value -> split -> clips, a bar for each value."""
    names = list(values)
    splits = sorted({split for counts in values.values() for split in counts}, key=split_rank)
    data = [_trace(split, names, [values[name].get(split, 0) for name in names]) for split in splits]
    return {"data": data, "layout": _layout("", "category", legend=len(splits) > 1)}


def histogram(found: Histogram, axis: str) -> Figure:
    centres = [(low + high) / 2 for low, high in zip(found.edges, found.edges[1:], strict=False)]
    data = [_trace(split, centres, found.counts[split]) for split in sorted(found.counts, key=split_rank)]
    layout = _layout(axis, "linear", legend=len(data) > 1)
    layout["bargap"] = 0.04
    return {"data": data, "layout": layout}


def _trace(split: str, x: list[Any], y: list[int]) -> Figure:
    return {"type": "bar", "name": split, "x": x, "y": y, "marker": {"color": COLOURS.get(split, GREY)}}


def _layout(axis: str, kind: str, legend: bool) -> Figure:
    layout = base_layout(legend)
    layout["legend"]["traceorder"] = "normal"
    return {
        **layout,
        "barmode": "stack",
        "xaxis": {**AXIS, "title": {"text": axis}, "type": kind},
        "yaxis": {**AXIS, "title": {"text": "clips"}},
    }
