"""How good predictions are, each number with its interval over patients. Definitions are those of scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import sklearn
from sklearn import metrics

from discovr_ray.evaluate.bootstrap import Estimate, Resamples, Weights, estimate, values_of

Codes = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
TINY = 1e-12
Metric = Callable[[Weights | None], float]  # of weighted videos; None: each counts once


class ClassPredictions(NamedTuple):
    """Answers to a classification."""

    truth: Codes  # [n]
    predicted: Codes  # [n]
    scores: Doubles  # [n, C], higher is more likely; with two classes the second column counts


class NumberPredictions(NamedTuple):
    """Answers to a regression, in the label's unit."""

    truth: Doubles  # [n]
    predicted: Doubles  # [n]


def class_metrics(answers: ClassPredictions) -> dict[str, Metric]:
    """macro_f1 and balanced_accuracy of the predictions, auroc and average_precision of the scores.

    With two classes the last two are those of the second one, with more the mean of one against the rest over classes.
    """
    truth, predicted, scores = answers
    num_classes = scores.shape[1]
    asked = range(1, 2) if num_classes == 2 else range(num_classes)

    # scikit-learn has these two, and checks its input for a millisecond: a second for each thousand draws
    def macro_f1(weights: Weights | None) -> float:
        table = _table(truth, predicted, num_classes, weights)
        return float((2 * table.diagonal() / (table.sum(axis=0) + table.sum(axis=1)).clip(TINY)).mean())

    def balanced_accuracy(weights: Weights | None) -> float:
        table = _table(truth, predicted, num_classes, weights)
        there = table.sum(axis=1) > 0
        return float((table.diagonal()[there] / table.sum(axis=1)[there]).mean())

    def mean_over_classes(metric: Callable[..., float], weights: Weights | None) -> float:
        return float(np.mean([metric(truth == code, scores[:, code], sample_weight=weights) for code in asked]))

    return {
        "macro_f1": macro_f1,
        "balanced_accuracy": balanced_accuracy,
        "auroc": partial(mean_over_classes, metrics.roc_auc_score),
        "average_precision": partial(mean_over_classes, metrics.average_precision_score),
    }


def metrics_of(answers: ClassPredictions | NumberPredictions) -> dict[str, Metric]:
    """Of either kind of answers."""
    return class_metrics(answers) if isinstance(answers, ClassPredictions) else number_metrics(answers)


def number_metrics(answers: NumberPredictions) -> dict[str, Metric]:
    """mae, rmse (in the label's unit) and r2, which needs two different values among the weighted ones."""
    truth, errors = answers.truth, answers.predicted - answers.truth

    def r2(weights: Weights | None) -> float:
        spread = np.average((truth - np.average(truth, weights=weights)) ** 2, weights=weights)
        return float(1 - np.average(errors**2, weights=weights) / spread)

    return {
        "mae": lambda weights: float(np.average(np.abs(errors), weights=weights)),
        "rmse": lambda weights: float(np.average(errors**2, weights=weights) ** 0.5),
        "r2": r2,
    }


def with_intervals(found: Mapping[str, Metric], resamples: Resamples) -> dict[str, Estimate]:
    """Each metric of all videos, with its interval."""
    with _unchecked():
        return {name: estimate(metric(None), values_of(metric, resamples)) for name, metric in found.items()}


def mean_with_interval(repeats: Sequence[Metric], resamples: Resamples) -> Estimate:
    """The mean of one metric over repeats of an experiment, such as seeds, with the interval of that mean."""
    with _unchecked():
        values = np.mean([values_of(metric, resamples) for metric in repeats], axis=0)
        return estimate(float(np.mean([metric(None) for metric in repeats])), values)


def confusion(answers: ClassPredictions) -> list[list[int]]:
    """Rows are true classes, columns predicted ones."""
    table = _table(answers.truth, answers.predicted, answers.scores.shape[1], None)
    return [[int(count) for count in row] for row in table]


def _table(truth: Codes, predicted: Codes, num_classes: int, weights: Weights | None) -> Doubles:
    """Weights of the videos of each true and predicted class, [C, C]."""
    counts = np.bincount(truth * num_classes + predicted, weights, num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.float64)


def _unchecked() -> Any:
    """Values were checked once; checking them again for each of a thousand draws takes most of the time."""
    return sklearn.config_context(assume_finite=True, skip_parameter_validation=True)
