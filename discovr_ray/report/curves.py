"""The curves of a run as Plotly figures: plain dicts, so that the page holds readable JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:  # it brings torch, which a page does not need
    from discovr_ray.report.run_files import RunFiles

Figure = dict[str, Any]
COLOURS = ("#1f5fa8", "#c8501e", "#2f8a4c", "#7a4fa3", "#5b6673")


class Chart(NamedTuple):
    """A figure with its heading; texts are plain."""

    slug: str  # unique on the page
    title: str
    note: str
    figure: Figure
    wide: bool = False  # over the whole page


class Curve(NamedTuple):
    """One line: key of the record, name in the legend."""

    key: str
    label: str


class Panel(NamedTuple):
    """One chart of a run's page."""

    slug: str
    title: str
    note: str  # one sentence for somebody who has not read the paper
    curves: tuple[Curve, ...]
    y_axis: Literal["zero", "fit", "log"] = "zero"  # begins at zero, fits the values, or is logarithmic


LOSSES = (
    Panel(
        "loss",
        "Total loss",
        "The weighted sum of the three terms.",
        (Curve("loss", "total"),),
    ),
    Panel(
        "loss-terms",
        "Loss terms",
        "Video: agreement of student and teacher on whole clips. Image: on single frames. Clusters: the video branch "
        "predicts the image branch's semantic clusters.",
        (Curve("loss_vid", "video"), Curve("loss_img", "image"), Curve("loss_scd", "clusters")),
    ),
)
LEARNT = (
    Panel(
        "knn",
        "Zero-shot kNN on the validation split",
        "Balanced accuracy; the nearest training videos vote. Without knowledge it is 1 over the number of classes.",
        (Curve("knn_balanced_accuracy", "balanced accuracy"),),
    ),
)
COLLAPSE = (
    Panel(
        "feature-std",
        "Spread of the features",
        "Near 0, the encoder gives every clip the same features.",
        (Curve("feature_std", "standard deviation"),),
    ),
    Panel(
        "rank-me",
        "Directions in use (RankMe)",
        "How many independent directions the features vary along.",
        (Curve("rank_me", "RankMe"),),
    ),
    Panel(
        "prototypes",
        "Prototypes in use (perplexity)",
        "Near 1, every patch falls into the same semantic cluster.",
        (Curve("prototype_perplexity", "perplexity"),),
    ),
    Panel(
        "entropy",
        "Entropy of the teachers",
        "At the dashed line the teacher finds all answers equally likely and teaches nothing.",
        (Curve("video_teacher_entropy", "video teacher"), Curve("image_teacher_entropy", "image teacher")),
    ),
)
OPTIMISATION = (
    Panel("lr", "Learning rate", "Warm-up, then cosine.", (Curve("lr", "learning rate"),)),
    Panel(
        "grad-norm",
        "Gradient norm",
        "Sudden peaks come before trouble.",
        (Curve("grad_norm", "L2 norm"),),
        y_axis="log",
    ),
    Panel(
        "schedules",
        "Teacher momentum",
        "Share of the teacher that stays at each step.",
        (Curve("ema_momentum", "momentum"),),
        y_axis="fit",
    ),
    Panel(
        "temperature",
        "Teacher temperature",
        "Lower means sharper targets.",
        (Curve("teacher_temperature", "temperature"),),
    ),
)
THROUGHPUT = (
    Panel("clips-per-s", "Clips per second", "All workers together.", (Curve("clips_per_s", "clips/s"),)),
    Panel(
        "waiting",
        "Shares",
        "Time spent waiting for data, and frames that repeat another because a video is short.",
        (Curve("data_wait_share", "waiting for data"), Curve("padded_share", "repeated frames")),
    ),
)
AXIS = {"gridcolor": "#e8ecf0", "linecolor": "#c4ccd4", "zeroline": False, "automargin": True}


def figure(run: RunFiles, panel: Panel) -> Figure:
    """The panel's curves over optimiser steps; a value that was not a number leaves a gap."""
    records = [record for record in run.metrics if any(curve.key in record for curve in panel.curves)]
    steps = [record["step"] for record in records]
    data: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(steps) < 40 else "lines",
            "name": curve.label,
            "x": steps,
            "y": [_number(record.get(curve.key)) for record in records],
            "line": {"color": colour, "width": 2},
            "marker": {"size": 4},
            "hovertemplate": "step %{x}: %{y:.4g}",
        }
        for curve, colour in zip(panel.curves, COLOURS, strict=False)
    ]
    limit = _limit(run, panel)
    if limit is not None and steps:
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": limit[1],
                "x": [min(0, steps[0]), steps[-1]],
                "y": [limit[0]] * 2,
                "line": {"color": COLOURS[4], "width": 1, "dash": "dash"},
                "hoverinfo": "skip",
            }
        )
    return {"data": data, "layout": _layout(panel, legend=len(data) > 1)}


def _number(value: float | None) -> float | None:
    """JSON knows no NaN."""
    return value if value is not None and math.isfinite(value) else None


def _limit(run: RunFiles, panel: Panel) -> tuple[float, str] | None:
    """The value at one end of the range, where knowing it helps."""
    model = run.config.get("model", {})
    if panel.slug == "entropy" and model.get("head_outputs"):
        return math.log(model["head_outputs"]), "log L"
    if panel.slug == "prototypes" and model.get("num_prototypes"):
        return float(model["num_prototypes"]), "K"
    if panel.slug == "feature-std":
        return 1.0, "spread out"
    return None


def base_layout(legend: bool, height: int = 240) -> Figure:
    """What all figures of our pages have in common; axes are the figure's own."""
    return {
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "height": height,
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 12, "color": "#1d2733"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": legend,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    }


def _layout(panel: Panel, legend: bool) -> Figure:
    axis = {**AXIS, "exponentformat": "power"}  # 0.0005 as a power of ten, not as 500 micro
    return {
        **base_layout(legend),
        "hovermode": "x unified",
        "xaxis": {**axis, "title": {"text": "step"}, "rangemode": "tozero"},
        "yaxis": {
            **axis,
            "type": "log" if panel.y_axis == "log" else "linear",
            "rangemode": "tozero" if panel.y_axis == "zero" else "normal",
        },
    }
