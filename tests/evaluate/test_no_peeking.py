"""No number is chosen on the test split: other test labels, or test videos, change no choice and no answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from problems import classification, regression

from discovr_ray.evaluate.anomaly import anomalies
from discovr_ray.evaluate.few_labels import few_labels
from discovr_ray.evaluate.knn import knn
from discovr_ray.evaluate.linear import linear_probe
from discovr_ray.evaluate.metrics import ClassPredictions
from discovr_ray.evaluate.regression import mlp_probe, ridge_probe
from discovr_ray.evaluate.splits import Problem

Said = list[Any]  # what was chosen, then answers for each test video


def said(choice: Any, answers: ClassPredictions) -> Said:
    return [choice, answers.predicted, answers.scores]


def linear(problem: Problem) -> Said:
    found = linear_probe(problem)
    return said(found[1:], found.answers)


def anomaly(problem: Problem) -> Said:
    found = anomalies(problem, 5)
    return said(found.threshold, found.answers)


def few(problem: Problem) -> Said:
    found = few_labels(problem, linear_probe, range(2))
    return [part for item in found for part in said((item[:4], item.answers[1:]), item.answers.answers)]


CLASSIFIERS: dict[str, Callable[[Problem], Said]] = {
    "knn": lambda problem: said(None, knn(problem, 5, 0.07)),
    "anomaly": anomaly,
    "linear": linear,
    "few_labels": few,
}
REGRESSORS: dict[str, Callable[[Problem], Said]] = {
    "ridge": lambda problem: [(found := ridge_probe(problem))[1:], found.answers.predicted],
    "mlp": lambda problem: [(found := mlp_probe(problem, 0))[1:], found.answers.predicted],
}


@pytest.mark.parametrize("probe", CLASSIFIERS)
def test_test_labels_of_a_classification_change_nothing(probe: str) -> None:
    problem = classification(noise=2)
    turned = problem._replace(test=problem.test._replace(y=1 - problem.test.y))
    assert_same(CLASSIFIERS[probe](problem), CLASSIFIERS[probe](turned))


@pytest.mark.parametrize("probe", REGRESSORS)
def test_test_labels_of_a_regression_change_nothing(probe: str) -> None:
    problem = regression()
    turned = problem._replace(test=problem.test._replace(y=100 - problem.test.y))
    assert_same(REGRESSORS[probe](problem), REGRESSORS[probe](turned))


@pytest.mark.parametrize("probe", CLASSIFIERS)
def test_each_test_video_is_answered_for_itself(probe: str) -> None:
    """Half of the test videos get the answers that they get among all."""
    problem = classification(noise=2)
    half = problem._replace(test=problem.test.take(np.arange(0, len(problem.test.y), 2)))
    everything, found = CLASSIFIERS[probe](problem), CLASSIFIERS[probe](half)
    assert_same([part[::2] if isinstance(part, np.ndarray) else part for part in everything], found)


@pytest.mark.parametrize("probe", ["linear", "anomaly", "few_labels"])
def test_the_validation_split_is_what_chooses(probe: str) -> None:
    """The checks above could not fail if nothing were chosen at all."""
    problem = classification(noise=2)
    turned = problem._replace(val=problem.val._replace(y=1 - problem.val.y))
    assert CLASSIFIERS[probe](problem)[0] != CLASSIFIERS[probe](turned)[0]


def assert_same(one: Said, other: Said) -> None:
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        if isinstance(first, np.ndarray):
            assert first == pytest.approx(second, abs=1e-12)
        else:
            assert first == second
