"""Linear probe: L2 logistic regression on standardised features, its strength chosen on the validation split."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from discovr_ray.evaluate.metrics import ClassPredictions
from discovr_ray.evaluate.splits import Problem, Side

STRENGTHS = tuple(float(10.0**power) for power in range(-5, 4))  # C, the inverse of regularisation
MAX_ITERATIONS = 5000


class LinearProbe(NamedTuple):
    answers: ClassPredictions  # of the test split
    strength: float  # C, chosen on the validation split
    validation: dict[float, float]  # C -> macro F1 there
    unconverged: list[float]  # values of C whose fit was cut off after MAX_ITERATIONS


def linear_probe(problem: Problem) -> LinearProbe:
    """Fit on the training split with every C, keep the one with the best macro F1 on the validation split.

    Classes weigh alike whatever their size (class_weight balanced). Of equal C the smallest, that is the simplest,
    wins. What was chosen is not fitted again on training and validation together.
    """
    fitted = {strength: _fit(problem.train, strength) for strength in STRENGTHS}
    found = {strength: _macro_f1(model, problem.val, len(problem.classes)) for strength, model in fitted.items()}
    best = max(STRENGTHS, key=lambda strength: (found[strength], -strength))
    scores = fitted[best].predict_proba(problem.test.x)
    unconverged = [strength for strength, model in fitted.items() if model[-1].n_iter_.max() >= MAX_ITERATIONS]
    return LinearProbe(ClassPredictions(problem.test.y, scores.argmax(axis=1), scores), best, found, unconverged)


def _fit(side: Side, strength: float) -> Pipeline:
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # LinearProbe.unconverged says it
        return make_pipeline(StandardScaler(), model).fit(side.x.astype(np.float64), side.y)


def _macro_f1(model: Pipeline, side: Side, num_classes: int) -> float:
    predicted = model.predict(side.x)
    return float(f1_score(side.y, predicted, labels=range(num_classes), average="macro", zero_division=0.0))
