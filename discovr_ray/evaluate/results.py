"""What a probe has found, as plain values that go into JSON and come back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from discovr_ray.evaluate.bootstrap import Estimate, Resamples
from discovr_ray.evaluate.metrics import (
    ClassPredictions,
    NumberPredictions,
    class_metrics,
    confusion,
    number_metrics,
    with_intervals,
)
from discovr_ray.evaluate.regression import Agreement, RangeBias, bias_by_range, bland_altman

DIGITS = 6  # of scores and predictions in a file


@dataclass(frozen=True)
class ClassResult:
    """Of a classification; lists of videos run over the test split."""

    classes: list[str]
    metrics: dict[str, Estimate]
    confusion: list[list[int]]  # rows are true classes
    chosen: dict[str, float]  # on the validation split
    validation: dict[str, float]  # what the choice was made from
    redrawn: int  # draws of patients that lacked a class
    notes: list[str]  # what a reader must know
    clip_ids: list[str]
    truth: list[int]
    predicted: list[int]
    scores: list[list[float]]  # of each class


@dataclass(frozen=True)
class NumberResult:
    """Of a regression, in the label's unit; lists of videos run over the test split."""

    metrics: dict[str, Estimate]
    ranges: list[RangeBias]
    agreement: Agreement
    chosen: dict[str, float]
    validation: dict[str, float]
    redrawn: int  # draws of patients that were all alike
    clip_ids: list[str]
    truth: list[float]
    predicted: list[float]


class FewPoint(NamedTuple):
    """A share of the training patients."""

    share: float
    num_patients: float  # mean over seeds
    num_videos: float
    metrics: dict[str, Estimate]  # of the mean over seeds
    by_seed: dict[str, list[float]]


@dataclass(frozen=True)
class FewResult:
    points: list[FewPoint]
    notes: list[str]


Result = ClassResult | NumberResult | FewResult


def class_result(
    classes: Sequence[str],
    clip_ids: Sequence[str],
    answers: ClassPredictions,
    draws: Resamples,
    chosen: Mapping[str, float] | None = None,
    validation: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> ClassResult:
    """Metrics of answers, with intervals over `draws` of the test patients."""
    return ClassResult(
        classes=list(classes),
        metrics=with_intervals(class_metrics(answers), draws),
        confusion=confusion(answers),
        chosen=dict(chosen or {}),
        validation=dict(validation or {}),
        redrawn=draws.redrawn,
        notes=list(notes),
        clip_ids=list(clip_ids),
        truth=[int(code) for code in answers.truth],
        predicted=[int(code) for code in answers.predicted],
        scores=np.round(answers.scores, DIGITS).tolist(),
    )


def number_result(
    clip_ids: Sequence[str],
    answers: NumberPredictions,
    draws: Resamples,
    chosen: Mapping[str, float] | None = None,
    validation: Mapping[str, float] | None = None,
) -> NumberResult:
    """Metrics of answers, with intervals over `draws` of the test patients."""
    return NumberResult(
        metrics=with_intervals(number_metrics(answers), draws),
        ranges=bias_by_range(answers),
        agreement=bland_altman(answers),
        chosen=dict(chosen or {}),
        validation=dict(validation or {}),
        redrawn=draws.redrawn,
        clip_ids=list(clip_ids),
        truth=np.round(answers.truth, DIGITS).tolist(),
        predicted=np.round(answers.predicted, DIGITS).tolist(),
    )


def without_videos(result: ClassResult | NumberResult) -> dict[str, Any]:
    """What results.json says of a result whose answers video by video are in a file of their own."""
    return {name: to_plain(getattr(result, name)) for name in ("metrics", "chosen", "validation", "redrawn")}


def to_plain(value: Any) -> Any:
    """Dataclasses and named tuples as dicts, whatever is no finite number as null: what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return to_plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def class_from_plain(values: Mapping[str, Any]) -> ClassResult:
    return ClassResult(**{**values, "metrics": _estimates(values["metrics"])})


def number_from_plain(values: Mapping[str, Any]) -> NumberResult:
    return NumberResult(
        **{
            **values,
            "metrics": _estimates(values["metrics"]),
            "ranges": [_range(item) for item in values["ranges"]],
            "agreement": Agreement(**{name: _double(item) for name, item in values["agreement"].items()}),
        }
    )


def few_from_plain(values: Mapping[str, Any]) -> FewResult:
    points = [FewPoint(**{**point, "metrics": _estimates(point["metrics"])}) for point in values["points"]]
    return FewResult(points, values["notes"])


def _estimates(values: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: Estimate(**item) for name, item in values.items()}


def _range(values: Mapping[str, Any]) -> RangeBias:
    low = -math.inf if values["low"] is None else values["low"]
    high = math.inf if values["high"] is None else values["high"]
    return RangeBias(low, high, values["num_videos"], _double(values["bias"]), _double(values["mae"]))


def _double(value: float | None) -> float:
    return math.nan if value is None else value
