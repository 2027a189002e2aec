"""Figures of a sweep: history, learning curves, slices, parallel coordinates, importances, Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from discovr_ray.report.curves import AXIS, COLOURS, Figure, base_layout
from discovr_ray.report.sweep_importance import Importance
from discovr_ray.report.sweep_trials import (
    OUTCOMES,
    WORDS,
    Field,
    Objective,
    Outcome,
    SweepResults,
    SweepTrial,
    pareto_front,
)

HEIGHT = 320
BEST = COLOURS[1]
OUTCOME_COLOURS: dict[Outcome, str] = {
    "finished": COLOURS[0],
    "stopped": "#8a94a0",
    "diverged": "#b3261e",
    "failed": "#b3261e",
    "running": COLOURS[2],
    "waiting": "#c4ccd4",
}
DRAWN: tuple[Outcome, ...] = ("finished", "stopped", "diverged")  # have values
FADED = 0.4
LOW, HIGH = (201, 212, 224), (31, 95, 168)  # colours of the worst and the best value


def history(sweep: SweepResults, objective: int) -> Figure:
    """Values in the order of the trials, and the best of the finished ones so far."""
    goal = sweep.objectives[objective]
    data = [
        _points(
            WORDS[outcome],
            [trial.number for trial in found],
            [trial.values[objective] for trial in found],
            _marker(outcome),
            [describe(trial, sweep) for trial in found],
        )
        for outcome in DRAWN
        if (found := [trial for trial in sweep.of(outcome) if trial.values])
    ]
    steps: list[tuple[int, float]] = []
    for trial in sweep.of("finished"):
        if trial.values and (not steps or goal.better(trial.values[objective], steps[-1][1])):
            steps.append((trial.number, trial.values[objective]))
    if steps:
        steps.append((sweep.trials[-1].number, steps[-1][1]))
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "best so far",
                "x": [number for number, _ in steps],
                "y": [value for _, value in steps],
                "line": {"color": BEST, "width": 2, "shape": "hv"},
                "hoverinfo": "skip",
            }
        )
    layout = _layout("trial", goal.name)
    layout["xaxis"] |= {"tickformat": "d", **({"dtick": 1} if len(sweep.trials) < 16 else {})}
    return {"data": data, "layout": layout}


def learning_curves(sweep: SweepResults, key: str) -> Figure:
    """One line for each trial; those that were stopped or failed are faded, the best stand out."""
    best = {trial.number for trial in pareto_front(sweep)}
    data: list[Figure] = []
    for outcome in reversed(OUTCOMES):  # finished ones are drawn last, above the others
        found = sorted(sweep.of(outcome), key=lambda trial: trial.number in best)
        for trial in found:
            points = [(record["step"], record[key]) for record in trial.records if record.get(key) is not None]
            if points:
                data.append(_curve(trial, points, trial.number in best))
    for name in {trace["legendgroup"] for trace in data}:  # one line in the legend for each kind
        next(trace for trace in data if trace["legendgroup"] == name)["showlegend"] = True
    layout = _layout("step", key)
    layout["legend"] |= {"traceorder": "reversed"}
    return {"data": data, "layout": layout}


def _curve(trial: SweepTrial, points: Sequence[tuple[int, float]], is_best: bool) -> Figure:
    kind = "best" if is_best else WORDS[trial.outcome]
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(points) < 20 else "lines",
        "name": kind,
        "legendgroup": kind,
        "showlegend": False,
        "x": [step for step, _ in points],
        "y": [value for _, value in points],
        "opacity": 1.0 if trial.outcome in ("finished", "running") else FADED,
        "line": {
            "color": BEST if is_best else OUTCOME_COLOURS[trial.outcome],
            "width": 3 if is_best else 1.5,
            "dash": "dot" if trial.outcome in ("failed", "diverged") else "solid",
        },
        "marker": {"size": 4},
        "hovertemplate": f"trial {trial.number}, step %{{x}}: %{{y:.4g}}<extra></extra>",
    }


def slices(sweep: SweepResults, field: Field, objective: int) -> Figure:
    """Values over one field alone."""
    best = {trial.number for trial in pareto_front(sweep)}
    data = []
    for outcome in reversed(DRAWN):
        found = [trial for trial in sweep.of(outcome) if trial.values and field.name in trial.params]
        if not found:
            continue
        marker = _marker(outcome)
        marker["line"] = {
            "color": [BEST if trial.number in best else "#ffffff" for trial in found],
            "width": [4 if trial.number in best else 1 for trial in found],
        }
        marker["size"] = [14 if trial.number in best else 9 for trial in found]
        data.append(
            _points(
                WORDS[outcome],
                [field.place(trial.params[field.name]) for trial in found],
                [trial.values[objective] for trial in found],
                marker,
                [describe(trial, sweep) for trial in found],
            )
        )
    layout = _layout(field.name, sweep.objectives[objective].name)
    layout["xaxis"] |= ticks(field, [trial.params[field.name] for trial in sweep.valued if field.name in trial.params])
    return {"data": data, "layout": layout}


def importance_bars(found: Sequence[Importance]) -> Figure:
    """Largest on top, with the interval of the bootstrap."""
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [item.share for item in found],
        "y": [item.field for item in found],
        "marker": {"color": COLOURS[0]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, item.high - item.share) for item in found],
            "arrayminus": [max(0.0, item.share - item.low) for item in found],
            "color": "#1d2733",
            "thickness": 1.5,
        },
        "hovertemplate": "%{y}: %{x:.0%}<extra></extra>",
    }
    layout = {
        **base_layout(legend=False, height=90 + 44 * len(found)),
        "xaxis": {**AXIS, "title": {"text": "share of the variance"}, "tickformat": ".0%", "range": [0, 1.02]},
        "yaxis": {**AXIS, "autorange": "reversed", "ticksuffix": "  "},
    }
    return {"data": [bars], "layout": layout}


def pareto(sweep: SweepResults) -> Figure:
    """First objective against the second; the front is joined by a line."""
    front = sorted(pareto_front(sweep), key=lambda trial: trial.values[0])
    data = [
        _points(
            WORDS[outcome],
            [trial.values[0] for trial in found],
            [trial.values[1] for trial in found],
            _marker(outcome),
            [describe(trial, sweep) for trial in found],
        )
        for outcome in reversed(DRAWN)
        if (found := [trial for trial in sweep.of(outcome) if trial.values])
    ]
    data.append(
        {
            "type": "scatter",
            "mode": "lines+markers+text",
            "name": "Pareto front",
            "x": [trial.values[0] for trial in front],
            "y": [trial.values[1] for trial in front],
            "text": [f" {trial.number}" for trial in front],
            "textposition": "top right",
            "cliponaxis": False,
            "line": {"color": BEST, "width": 2},
            "marker": {"size": 10, "color": BEST},
            "hoverinfo": "skip",
        }
    )
    first, second = sweep.objectives[:2]
    return {"data": data, "layout": _layout(_directed(first), _directed(second))}


def _directed(objective: Objective) -> str:
    return f"{objective.name} ({'more' if objective.maximise else 'less'} is better)"


def colour_of(value: float, values: Sequence[float], maximise: bool) -> str:
    """Pale for the worst of the values, blue for the best."""
    low, high = min(values), max(values)
    share = (value - low) / (high - low) if high > low else 1.0
    share = share if maximise else 1 - share
    mixed = [round(start + share * (end - start)) for start, end in zip(LOW, HIGH, strict=True)]
    return f"rgb({mixed[0]},{mixed[1]},{mixed[2]})"


def describe(trial: SweepTrial, sweep: SweepResults) -> str:
    """What a pointer over the trial shows."""
    lines = [f"trial {trial.number}, {WORDS[trial.outcome]}"]
    lines += [f"{goal.name}: {value:.4g}" for goal, value in zip(sweep.objectives, trial.values, strict=False)]
    return "<br>".join([*lines, *(f"{name}: {shown(value)}" for name, value in trial.params.items())])


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def ticks(field: Field, values: Sequence[Any]) -> Figure:
    """Marks of a field's axis at `field.place`, of choices or, on a logarithmic one, at round numbers."""
    if field.choices:
        return {
            "tickvals": list(range(len(field.choices))),
            "ticktext": [shown(choice) for choice in field.choices],
            "range": [-0.5, len(field.choices) - 0.5],
        }
    if not field.log or not values:
        return {}
    marks = round_numbers(min(values), max(values))
    return {"tickvals": [math.log10(mark) for mark in marks], "ticktext": [shown(float(mark)) for mark in marks]}


def round_numbers(low: float, high: float) -> list[float]:
    """1, 2 or 5 times a power of ten from `low` to `high`; the powers alone where there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) < 4 else (1,)
    marks = [factor * 10.0**power for power in powers for factor in factors]
    return [mark for mark in marks if low * 0.999 <= mark <= high * 1.001] or [low, high]


def _points(name: str, x: Sequence[float], y: Sequence[float], marker: Figure, texts: Sequence[str]) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": list(x),
        "y": list(y),
        "text": list(texts),
        "hovertemplate": "%{text}<extra></extra>",
        "marker": marker,
    }


def _marker(outcome: Outcome) -> Figure:
    return {
        "size": 9,
        "color": OUTCOME_COLOURS[outcome],
        "opacity": 1.0 if outcome == "finished" else 0.6,
        "symbol": "circle" if outcome == "finished" else "x" if outcome == "diverged" else "diamond",
    }


def _layout(x_title: str, y_title: str) -> Figure:
    axis = {**AXIS, "exponentformat": "power"}
    return {
        **base_layout(legend=True, height=HEIGHT),
        "hovermode": "closest",
        "xaxis": {**axis, "title": {"text": x_title}},
        "yaxis": {**axis, "title": {"text": y_title}},
    }
