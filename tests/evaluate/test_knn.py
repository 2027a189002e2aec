"""The kNN probe: a bank of training videos, test videos as queries, votes computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from problems import classification

from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.knn import knn, knn_votes
from discovr_ray.evaluate.metrics import class_metrics
from discovr_ray.evaluate.splits import Side


def unit(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


BANK = Side(["a", "b", "c", "d"], np.array(list("abcd")), unit(0, 10, 40, 90), np.array([0, 0, 1, 1]))


def test_votes_by_hand() -> None:
    """Of a query at 20 degrees the three nearest are at 10, 0 and 40; a vote is exp(cosine / temperature)."""
    shares = knn_votes(BANK, unit(20), 2, k=3, temperature=0.1)
    for_0 = np.exp(np.cos(np.radians(10)) / 0.1) + np.exp(np.cos(np.radians(20)) / 0.1)
    for_1 = np.exp(np.cos(np.radians(20)) / 0.1)
    assert shares[0] == pytest.approx([for_0 / (for_0 + for_1), for_1 / (for_0 + for_1)], rel=1e-5)


def test_only_the_direction_counts() -> None:
    long = BANK._replace(x=BANK.x * np.array([[1], [100], [0.01], [7]], np.float32))
    assert knn_votes(long, 5 * unit(20), 2, 3, 0.1) == pytest.approx(knn_votes(BANK, unit(20), 2, 3, 0.1), rel=1e-5)


def test_a_low_temperature_leaves_the_nearest_alone() -> None:
    """exp(-distance / 1e-5) of them all would be 0."""
    assert knn_votes(BANK, unit(27, 60), 2, k=4, temperature=1e-5).tolist() == [[0, 1], [0, 1]]


def test_a_class_that_the_bank_lacks_gets_no_vote() -> None:
    assert knn_votes(BANK, unit(5), 3, 1, 0.1).tolist() == [[1, 0, 0]]


def test_bank_is_the_training_split_and_queries_are_the_test_split() -> None:
    """Copies of the queries in the validation split, with the wrong class, would change every answer if they voted."""
    problem = classification(noise=0.5)
    answers = knn(problem, k=5, temperature=0.07)
    assert class_metrics(answers)["balanced_accuracy"](None) > 0.9
    assert answers.truth.tolist() == problem.test.y.tolist()
    decoys = problem.test._replace(y=1 - problem.test.y)
    same = knn(problem._replace(val=decoys), k=5, temperature=0.07)
    assert np.array_equal(answers.scores, same.scores)
    turned = knn(problem._replace(train=decoys), k=1, temperature=0.07)
    assert class_metrics(turned)["balanced_accuracy"](None) == 0, "the bank is what votes"


@pytest.mark.parametrize("k", [0, 5])
def test_an_impossible_k_is_refused(k: int) -> None:
    with pytest.raises(EvaluationError, match=f"k = {k}: must be from 1 to the 4 videos of the training split"):
        knn_votes(BANK, unit(20), 2, k, 0.1)


def test_features_without_direction_are_refused() -> None:
    with pytest.raises(EvaluationError, match="1 of 1 videos have features of zeros"):
        knn_votes(BANK, np.zeros((1, 2), np.float32), 2, 1, 0.1)
