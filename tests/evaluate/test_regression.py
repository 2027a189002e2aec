"""Ejection fraction from features, and what the errors look like."""

from __future__ import annotations

import math

import numpy as np
import pytest
from problems import regression

from discovr_ray.evaluate.metrics import NumberPredictions, number_metrics
from discovr_ray.evaluate.regression import (
    ALPHAS,
    bias_by_range,
    bland_altman,
    mean_floor,
    mlp_probe,
    ridge_probe,
)

ANSWERS = NumberPredictions(np.array([25.0, 35, 45, 55, 65]), np.array([35.0, 40, 45, 52, 59]))


def test_ridge_by_hand() -> None:
    """beta = (X'X + alpha I)^-1 X'y of standardised features and centred numbers; alpha by the validation split."""
    problem = regression()
    found = ridge_probe(problem)
    mean, deviation = problem.train.x.mean(0, dtype=np.float64), problem.train.x.std(0, dtype=np.float64)
    x, y = (problem.train.x - mean) / deviation, problem.train.y

    def predict(alpha: float, asked: np.ndarray) -> np.ndarray:
        beta = np.linalg.solve(x.T @ x + alpha * np.eye(8), x.T @ (y - y.mean()))
        return (asked - mean) / deviation @ beta + y.mean()

    errors = {alpha: float(np.abs(predict(alpha, problem.val.x) - problem.val.y).mean()) for alpha in ALPHAS}
    best = min(errors, key=errors.__getitem__)
    assert found.chosen == {"alpha": best}
    assert list(found.validation.values()) == pytest.approx(list(errors.values()), rel=1e-6)
    assert found.answers.predicted == pytest.approx(predict(best, problem.test.x), rel=1e-6)
    assert number_metrics(found.answers)["mae"](None) < 4


def test_the_small_head_learns_what_a_line_cannot() -> None:
    problem = regression(num_patients=300, noise=1)
    sides = {
        name: getattr(problem, name)._replace(y=50 + 20 * np.abs(getattr(problem, name).x[:, 0]).astype(np.float64))
        for name in ("train", "val", "test")
    }
    bent = problem._replace(**sides)
    head, line = mlp_probe(bent, seed=0), ridge_probe(bent)
    assert number_metrics(head.answers)["mae"](None) < 0.6 * number_metrics(line.answers)["mae"](None)
    assert set(head.chosen) == {"decay", "epoch"}
    assert min(head.validation.values()) == head.validation[f"decay={head.chosen['decay']:g}"]
    again = mlp_probe(bent, seed=0)
    assert np.array_equal(head.answers.predicted, again.answers.predicted), "same seed, same head"


def test_the_floor_is_the_training_mean() -> None:
    problem = regression()
    answers = mean_floor(problem)
    assert set(answers.predicted) == {problem.train.y.mean()}
    assert number_metrics(answers)["r2"](None) <= 0


def test_bias_by_range_by_hand() -> None:
    found = bias_by_range(ANSWERS)
    assert [(item.low, item.high) for item in found] == [(-math.inf, 30), (30, 40), (40, 50), (50, 60), (60, math.inf)]
    assert [item.bias for item in found] == pytest.approx([10, 5, 0, -3, -6])
    assert [item.mae for item in found] == pytest.approx([10, 5, 0, 3, 6])
    edge = bias_by_range(NumberPredictions(np.array([30.0]), np.array([31.0])))
    assert [item.num_videos for item in edge] == [0, 1, 0, 0, 0], "a range includes its lower end"
    assert math.isnan(edge[0].bias)


def test_agreement_by_hand() -> None:
    """Differences 10, 5, 0, -3, -6."""
    found = bland_altman(ANSWERS)
    deviation = float(np.std([10, 5, 0, -3, -6], ddof=1))
    assert found.bias == pytest.approx(1.2)
    assert found.deviation == pytest.approx(deviation)
    assert (found.low, found.high) == pytest.approx((1.2 - 1.96 * deviation, 1.2 + 1.96 * deviation))
    middle, differences = (ANSWERS.truth + ANSWERS.predicted) / 2, ANSWERS.predicted - ANSWERS.truth
    assert found.slope == pytest.approx(np.polyfit(middle, differences, 1)[0])
    assert found.slope < 0, "high values are guessed too low"
