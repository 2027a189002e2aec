"""Anomaly detection: distance to normal training videos, threshold from the validation split."""

from __future__ import annotations

import numpy as np
import pytest
from problems import classification
from sklearn.metrics import f1_score

from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.anomaly import anomalies, best_threshold
from discovr_ray.evaluate.metrics import class_metrics
from discovr_ray.evaluate.splits import Problem, Side


def side(degrees: list[float], y: list[int]) -> Side:
    angles = np.radians(degrees)
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    names = [f"v{place}" for place in range(len(y))]
    return Side(names, np.array(names), x, np.array(y))


PROBLEM = Problem(
    train=side([0, 10, 80, 90], [0, 0, 1, 2]),
    val=side([5, 15, 50, 70], [0, 0, 1, 2]),
    test=side([20, 60, 85], [0, 1, 2]),
    classes=("normal", "a", "b"),
    has_normal=True,
)


def test_distances_and_threshold_by_hand() -> None:
    """Two normal videos at 0 and 10 degrees; validation is cut between 15 and 50 degrees."""

    def distance(angle: float) -> float:
        return 1 - (np.cos(np.radians(angle)) + np.cos(np.radians(angle - 10))) / 2

    found = anomalies(PROBLEM, neighbours=2)
    assert found.num_normal == 2
    assert found.answers.scores[:, 1] == pytest.approx([distance(20), distance(60), distance(85)], abs=1e-6)
    assert found.threshold == pytest.approx((distance(15) + distance(50)) / 2, abs=1e-6)
    assert found.answers.truth.tolist() == [0, 1, 1], "whatever is not normal is one class"
    assert found.answers.predicted.tolist() == [0, 1, 1]
    assert class_metrics(found.answers)["auroc"](None) == 1


def test_abnormal_training_videos_take_no_part() -> None:
    copied = PROBLEM.train._replace(x=np.concatenate([PROBLEM.train.x[:2], PROBLEM.test.x[1:]]))
    found = anomalies(PROBLEM._replace(train=copied), 2)
    assert np.array_equal(anomalies(PROBLEM, 2).answers.scores, found.answers.scores)


def test_the_best_cut_is_the_best_of_all_cuts() -> None:
    """Against scikit-learn's F1 at every cut."""
    generator = np.random.default_rng(0)
    abnormal = generator.integers(0, 2, 60)
    scores = np.round(abnormal + generator.normal(size=60), 1)  # with ties
    found = best_threshold(abnormal, scores)
    values = np.unique(scores)
    cuts = (values[1:] + values[:-1]) / 2
    best = max(f1_score(abnormal, scores >= cut, average="macro") for cut in cuts)
    assert f1_score(abnormal, scores >= found, average="macro") == pytest.approx(best)
    assert found in cuts
    assert best_threshold(np.array([0, 1]), np.array([0.5, 0.5])) == 0.5


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(EvaluationError, match=r"no class is the normal one among normal, a, b.*--normal CLASS"):
        anomalies(PROBLEM._replace(has_normal=False), 1)
    with pytest.raises(EvaluationError, match="anomaly neighbours = 3: must be from 1 to the 2 normal videos"):
        anomalies(PROBLEM, 3)


def test_a_clear_case_is_found() -> None:
    found = anomalies(classification(noise=0.2), neighbours=5)
    assert class_metrics(found.answers)["macro_f1"](None) > 0.9
