"""All probes of one set of features by name: which question each asks, and its result with intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from discovr_ray.evaluate.anomaly import anomalies
from discovr_ray.evaluate.bootstrap import Resamples, draw_for_classes, draw_for_numbers
from discovr_ray.evaluate.few_labels import Few, few_labels
from discovr_ray.evaluate.knn import knn
from discovr_ray.evaluate.linear import linear_probe
from discovr_ray.evaluate.metrics import (
    ClassPredictions,
    Metric,
    NumberPredictions,
    class_metrics,
    mean_with_interval,
    number_metrics,
)
from discovr_ray.evaluate.regression import NumberProbe, mean_floor, mlp_probe, ridge_probe
from discovr_ray.evaluate.results import (
    ClassResult,
    FewPoint,
    FewResult,
    NumberResult,
    Result,
    class_from_plain,
    class_result,
    few_from_plain,
    number_from_plain,
    number_result,
)
from discovr_ray.evaluate.settings import ProbeSettings
from discovr_ray.evaluate.splits import Problem

MIN_REGRESSION_PATIENTS = 5  # of a share of labels
FEW_CLASS_METRICS = ("macro_f1", "balanced_accuracy")
FEW_NUMBER_METRICS = ("mae", "r2")


class Probe(NamedTuple):
    """A question and how it is answered."""

    name: str
    about: str  # "class" or "number"
    suites: tuple[str, ...]
    run: Callable[[Problem, ProbeSettings], Result]
    from_plain: Callable[..., Result]  # its result, from a file
    asked: tuple[str, ...] = ()  # settings that the answers depend on, beside seed and draws
    of_features: bool = True  # False: the answers do not depend on them, so one set is asked for all


def run_knn(problem: Problem, settings: ProbeSettings) -> ClassResult:
    answers = knn(problem, settings.k, settings.temperature)
    return class_result(problem.classes, problem.test.clip_ids, answers, _class_draws(problem, settings))


def run_anomaly(problem: Problem, settings: ProbeSettings) -> ClassResult:
    found = anomalies(problem, settings.anomaly_neighbours)
    draws = draw_for_classes(problem.test.patient_ids, found.answers.truth, settings.draws, settings.seed)
    notes = [f"bank: {found.num_normal} normal videos of the training split"]
    chosen = {"threshold": found.threshold}
    names = [problem.classes[0], f"not {problem.classes[0]}"]
    return class_result(names, problem.test.clip_ids, found.answers, draws, chosen, notes=notes)


def run_linear(problem: Problem, settings: ProbeSettings) -> ClassResult:
    found = linear_probe(problem)
    cut_off = ", ".join(f"{strength:g}" for strength in found.unconverged)
    notes = [f"not converged at C = {cut_off}"] if cut_off else []
    return class_result(
        problem.classes,
        problem.test.clip_ids,
        found.answers,
        _class_draws(problem, settings),
        {"C": found.strength},
        {f"C={strength:g}": score for strength, score in found.validation.items()},
        notes,
    )


def run_ridge(problem: Problem, settings: ProbeSettings) -> NumberResult:
    return _number_result(problem, settings, ridge_probe(problem))


def run_mlp(problem: Problem, settings: ProbeSettings) -> NumberResult:
    return _number_result(problem, settings, mlp_probe(problem, settings.seed))


def run_mean(problem: Problem, settings: ProbeSettings) -> NumberResult:
    return _number_result(problem, settings, NumberProbe(mean_floor(problem), {}, {}))


def run_few_classes(problem: Problem, settings: ProbeSettings) -> FewResult:
    found = few_labels(problem, lambda part: linear_probe(part).answers, range(settings.few_label_seeds))
    metrics = {name: [class_metrics(few.answers)[name] for few in found] for name in FEW_CLASS_METRICS}
    return _few_result(found, metrics, _class_draws(problem, settings), "at least one patient of every class")


def run_few_numbers(problem: Problem, settings: ProbeSettings) -> FewResult:
    seeds = range(settings.few_label_seeds)
    found = few_labels(problem, lambda part: ridge_probe(part).answers, seeds, MIN_REGRESSION_PATIENTS)
    metrics = {name: [number_metrics(few.answers)[name] for few in found] for name in FEW_NUMBER_METRICS}
    note = f"at least {MIN_REGRESSION_PATIENTS} patients"
    return _few_result(found, metrics, _number_draws(problem, settings), note)


def result_of(
    problem: Problem,
    settings: ProbeSettings,
    answers: ClassPredictions | NumberPredictions,
    chosen: Mapping[str, float],
    validation: Mapping[str, float],
) -> ClassResult | NumberResult:
    """Of answers to either kind of question, with intervals over patients of the test split."""
    if isinstance(answers, ClassPredictions):
        draws = _class_draws(problem, settings)
        return class_result(problem.classes, problem.test.clip_ids, answers, draws, chosen, validation)
    return number_result(problem.test.clip_ids, answers, _number_draws(problem, settings), chosen, validation)


BOTH = ("paper", "quick")
PROBES = (
    Probe("knn", "class", BOTH, run_knn, class_from_plain, ("k", "temperature")),
    Probe("anomaly", "class", BOTH, run_anomaly, class_from_plain, ("anomaly_neighbours",)),
    Probe("linear", "class", BOTH, run_linear, class_from_plain),
    Probe("ridge", "number", BOTH, run_ridge, number_from_plain),
    Probe("mean", "number", BOTH, run_mean, number_from_plain, of_features=False),
    Probe("mlp", "number", ("paper",), run_mlp, number_from_plain),
    Probe("few_labels", "class", ("paper",), run_few_classes, few_from_plain, ("few_label_seeds",)),
    Probe("few_labels_number", "number", ("paper",), run_few_numbers, few_from_plain, ("few_label_seeds",)),
)


def _number_result(problem: Problem, settings: ProbeSettings, found: NumberProbe) -> NumberResult:
    draws = _number_draws(problem, settings)
    return number_result(problem.test.clip_ids, found.answers, draws, found.chosen, found.validation)


def _few_result(found: Sequence[Few], metrics: dict[str, list[Metric]], draws: Resamples, note: str) -> FewResult:
    places: dict[float, list[int]] = defaultdict(list)
    for place, few in enumerate(found):
        places[few.share].append(place)
    points = [
        FewPoint(
            share,
            float(np.mean([found[place].num_patients for place in chosen])),
            float(np.mean([found[place].num_videos for place in chosen])),
            {name: mean_with_interval([of[place] for place in chosen], draws) for name, of in metrics.items()},
            {name: [of[place](None) for place in chosen] for name, of in metrics.items()},
        )
        for share, chosen in sorted(places.items())
    ]
    return FewResult(points, [note])


def _class_draws(problem: Problem, settings: ProbeSettings) -> Resamples:
    return draw_for_classes(problem.test.patient_ids, problem.test.y, settings.draws, settings.seed)


def _number_draws(problem: Problem, settings: ProbeSettings) -> Resamples:
    return draw_for_numbers(problem.test.patient_ids, problem.test.y, settings.draws, settings.seed)
