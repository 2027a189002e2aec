"""How far the answers of probes hold when test videos get worse: fitted and chosen on clean ones, asked about both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from discovr_ray.evaluate.bootstrap import Estimate, Resamples, draw_for_classes, draw_for_numbers
from discovr_ray.evaluate.degradations import LEVELS, degraded_id
from discovr_ray.evaluate.features import FeatureArray
from discovr_ray.evaluate.knn import knn
from discovr_ray.evaluate.linear import linear_probe
from discovr_ray.evaluate.metrics import Metric, class_metrics, number_metrics, with_intervals
from discovr_ray.evaluate.regression import ridge_probe
from discovr_ray.evaluate.settings import ProbeSettings
from discovr_ray.evaluate.splits import Problem

CLEAN = ("clean", 0)


class Asked(NamedTuple):
    """A probe and its metric."""

    probe: str
    about: str  # "class" or "number"
    metric: str
    higher_is_better: bool
    answers: Callable[[Problem, ProbeSettings], Any]  # ClassPredictions or NumberPredictions


ASKED = (
    Asked("knn", "class", "balanced_accuracy", True, lambda problem, of: knn(problem, of.k, of.temperature)),
    Asked("linear", "class", "macro_f1", True, lambda problem, of: linear_probe(problem).answers),
    Asked("ridge", "number", "mae", False, lambda problem, of: ridge_probe(problem).answers),
)


class Named(NamedTuple):
    """What a point is of."""

    probe: str
    metric: str
    higher_is_better: bool


class Point(NamedTuple):
    """A probe at one level of one degradation."""

    probe: str
    metric: str
    kind: str  # of degradations.KINDS, or "clean"
    level: int  # 0 is clean
    value: Estimate
    drop: Estimate  # how much worse than clean, in the metric's unit; below 0 it is better. Intervals are paired


@dataclass(frozen=True)
class RobustnessResult:
    points: list[Point]
    num_videos: dict[str, int]  # about -> test videos


def robustness(
    problems: Mapping[str, Problem], degraded: Mapping[str, FeatureArray], kinds: tuple[str, ...], of: ProbeSettings
) -> RobustnessResult:
    """Every probe of ASKED whose question is in `problems`, at every level of `kinds`.

    Args:
        problems: "class" or "number" -> clean features; their test videos are the ones that are degraded.
        degraded: degradations.degraded_id -> features [D] of each of these videos at each level.
    """
    points: list[Point] = []
    levels = levels_of(kinds)
    for asked in ASKED:
        if asked.about in problems:
            points += _points(asked, problems[asked.about], (levels, degraded), of)
    return RobustnessResult(points, {about: len(problem.test.y) for about, problem in problems.items()})


def _points(
    asked: Asked,
    problem: Problem,
    worse: tuple[list[tuple[str, int]], Mapping[str, FeatureArray]],
    settings: ProbeSettings,
) -> list[Point]:
    levels, degraded = worse
    test = problem.test
    features = [test.x] + [
        np.stack([degraded[degraded_id(clip_id, kind, level)] for clip_id in test.clip_ids])
        for kind, level in levels[1:]
    ]
    # one fit, asked about all levels at once
    stacked = test._replace(
        clip_ids=test.clip_ids * len(levels),
        patient_ids=np.tile(test.patient_ids, len(levels)),
        x=np.concatenate(features),
        y=np.tile(test.y, len(levels)),
    )
    answers = asked.answers(problem._replace(test=stacked), settings)
    draw = draw_for_classes if asked.about == "class" else draw_for_numbers
    draws = draw(test.patient_ids, test.y, settings.draws, settings.seed)
    metrics_of: Callable[[Any], dict[str, Metric]] = class_metrics if asked.about == "class" else number_metrics
    count = len(test.y)
    metrics = [
        metrics_of(type(answers)(*(part[place * count : (place + 1) * count] for part in answers)))[asked.metric]
        for place in range(len(levels))
    ]
    return points_of(Named(asked.probe, asked.metric, asked.higher_is_better), levels, metrics, draws)


def levels_of(kinds: Sequence[str]) -> list[tuple[str, int]]:
    """Clean, then every level of each kind."""
    return [CLEAN, *((kind, level) for kind in kinds for level in LEVELS)]


def points_of(
    named: Named, levels: Sequence[tuple[str, int]], metrics: Sequence[Metric], draws: Resamples
) -> list[Point]:
    """Value and drop at every level. `metrics`: one of each level, the clean one first."""
    points = []
    for (kind, level), metric in zip(levels, metrics, strict=True):
        drop = _drop(metrics[0], metric, named.higher_is_better)
        found = with_intervals({"value": metric, "drop": drop}, draws)
        points.append(Point(named.probe, named.metric, kind, level, found["value"], found["drop"]))
    return points


def _drop(clean: Metric, worse: Metric, higher_is_better: bool) -> Metric:
    sign = 1 if higher_is_better else -1
    return lambda weights: sign * (clean(weights) - worse(weights))


def robustness_from_plain(values: Mapping[str, Any]) -> RobustnessResult:
    points = [
        Point(**{**point, "value": Estimate(**point["value"]), "drop": Estimate(**point["drop"])})
        for point in values["points"]
    ]
    return RobustnessResult(points, values["num_videos"])
