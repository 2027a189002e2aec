"""What an evaluation proves: an encoder's numbers against those of what has learnt nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from discovr_ray.evaluate.bootstrap import Estimate
from discovr_ray.evaluate.evaluation import MODELS
from discovr_ray.report.probe_text import METRICS, is_better, is_clearly_better, with_interval

Answer = Literal["proven", "better, not proven", "not better"]
ENCODER, *FLOORS = MODELS


class Measure(NamedTuple):
    """One number of the test split, for every model."""

    title: str
    metric: str  # of report.probe_text.METRICS
    found: Mapping[str, Estimate]  # model -> value


class Verdict(NamedTuple):
    answer: Answer
    against: dict[str, Answer]  # of each floor


def judge(measure: Measure) -> Verdict:
    """proven: the encoder's interval lies beyond the interval of every floor; as good as the worst answer of any floor.

    Errors:
        KeyError: a model was not asked.
    """
    own = measure.found[ENCODER]
    against = {floor: _against(own, measure.found[floor], measure.metric) for floor in FLOORS}
    order: list[Answer] = ["not better", "better, not proven", "proven"]
    return Verdict(min(against.values(), key=order.index), against)


def _against(own: Estimate, floor: Estimate, metric: str) -> Answer:
    if is_clearly_better(own, floor, metric):
        return "proven"
    return "better, not proven" if is_better(own, floor, metric) else "not better"


def table(measures: Sequence[Measure]) -> list[list[str]]:
    """Rows of text, the first one their heads."""
    rows = [["measure (95 % interval)", "pretrained", "random weights", "raw pixels", "verdict"]]
    for measure in measures:
        numbers = [with_interval(measure.found[model], measure.metric) for model in MODELS]
        rows.append([f"{measure.title}: {METRICS[measure.metric].title}", *numbers, judge(measure).answer])
    return rows


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length as text in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The same rows as a table of a page."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]) + "\n"


def plain(measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """What prove.json holds of them."""
    return [
        {
            "title": measure.title,
            "metric": measure.metric,
            **{model: measure.found[model]._asdict() for model in MODELS},
            **judge(measure)._asdict(),
        }
        for measure in measures
    ]
