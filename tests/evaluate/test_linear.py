"""The linear probe."""

from __future__ import annotations

import numpy as np
import pytest
from problems import classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from discovr_ray.evaluate.linear import STRENGTHS, linear_probe
from discovr_ray.evaluate.metrics import class_metrics


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_strength_is_the_best_on_validation(num_classes: int) -> None:
    """Against scikit-learn, by hand: standardise by the training split, fit every C, look at the validation split."""
    problem = classification(noise=1.5, num_classes=num_classes)
    found = linear_probe(problem)
    mean, deviation = problem.train.x.mean(0, dtype=np.float64), problem.train.x.std(0, dtype=np.float64)
    scores = {}
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=5000)
        model.fit((problem.train.x - mean) / deviation, problem.train.y)
        scores[strength] = f1_score(problem.val.y, model.predict((problem.val.x - mean) / deviation), average="macro")
        if strength == found.strength:
            expected = model.predict((problem.test.x - mean) / deviation)
    assert found.validation == pytest.approx(scores)
    assert found.strength == min(value for value, score in scores.items() if score == max(scores.values()))
    assert found.answers.predicted.tolist() == expected.tolist()
    assert found.unconverged == []
    assert class_metrics(found.answers)["macro_f1"](None) > 0.6


def test_the_scale_of_a_feature_does_not_matter() -> None:
    problem = classification(noise=1.5)
    scale = np.logspace(-3, 3, 8).astype(np.float32)
    sides = {
        name: getattr(problem, name)._replace(x=getattr(problem, name).x * scale) for name in ("train", "val", "test")
    }
    scaled = linear_probe(problem._replace(**sides))
    assert scaled.answers.scores == pytest.approx(linear_probe(problem).answers.scores, abs=1e-3)


def test_rare_classes_weigh_as_much_as_frequent_ones() -> None:
    """One video of class 1 for eight of class 0, hard to tell apart: plain regression finds next to none of them."""
    problem = classification(num_patients=200, noise=3)
    rows = np.flatnonzero((problem.train.y == 0) | (np.arange(len(problem.train.y)) % 8 == 0))
    train = problem.train.take(rows)
    plain = LogisticRegression(C=1e-2).fit(train.x, train.y).predict(problem.test.x)
    assert plain.mean() < 0.05
    assert linear_probe(problem._replace(train=train)).answers.predicted.mean() > 0.2
