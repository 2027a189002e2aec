"""Metrics against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from discovr_ray.evaluate.bootstrap import draw_for_classes, draw_for_numbers
from discovr_ray.evaluate.metrics import (
    ClassPredictions,
    NumberPredictions,
    class_metrics,
    confusion,
    mean_with_interval,
    number_metrics,
    with_intervals,
)

# 3 of class 0, 2 of class 1; one of each is mistaken
TRUTH = np.array([0, 0, 0, 1, 1])
SCORES = np.array([0.1, 0.4, 0.8, 0.3, 0.9])
BINARY = ClassPredictions(TRUTH, (SCORES > 0.5).astype(np.int64), np.stack([1 - SCORES, SCORES], axis=1))


def test_two_classes_by_hand() -> None:
    """F1 of class 0: 2/3 precise, 2/3 found; of class 1: 1/2 and 1/2. Of 6 pairs, 4 are in the right order."""
    found = {name: metric(None) for name, metric in class_metrics(BINARY).items()}
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["auroc"] == pytest.approx(4 / 6)
    assert found["average_precision"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 4)
    assert confusion(BINARY) == [[2, 1], [1, 1]]


@pytest.mark.parametrize("num_classes", [2, 4])
def test_they_are_those_of_scikit_learn(num_classes: int) -> None:
    generator = np.random.default_rng(num_classes)
    truth, predicted = generator.integers(num_classes, size=(2, 50))
    scores = generator.normal(size=(50, num_classes))
    for weights in (None, generator.integers(4, size=50).astype(float)):
        found = {
            name: metric(weights) for name, metric in class_metrics(ClassPredictions(truth, predicted, scores)).items()
        }
        assert found["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro", sample_weight=weights))
        assert found["balanced_accuracy"] == pytest.approx(
            balanced_accuracy_score(truth, predicted, sample_weight=weights)
        )
        of_classes = [
            roc_auc_score(truth == code, scores[:, code], sample_weight=weights) for code in range(num_classes)
        ]
        assert found["auroc"] == pytest.approx(of_classes[1] if num_classes == 2 else np.mean(of_classes))


def test_several_classes_are_averaged_whatever_their_size() -> None:
    truth = np.array([0, 0, 0, 0, 1, 2])
    predicted = np.array([0, 0, 0, 0, 1, 1])
    scores = np.eye(3)[predicted]
    found = {name: metric(None) for name, metric in class_metrics(ClassPredictions(truth, predicted, scores)).items()}
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found["balanced_accuracy"] == pytest.approx((1 + 1 + 0) / 3)
    assert found["auroc"] == pytest.approx((1 + 0.9 + 0.5) / 3)  # class 1: its video beats 4 of 5, and ties with one


def test_weights_are_copies() -> None:
    weights = np.array([2.0, 0, 1, 3, 1])
    copies = np.repeat(np.arange(5), weights.astype(int))
    repeated = ClassPredictions(TRUTH[copies], BINARY.predicted[copies], BINARY.scores[copies])
    for name, metric in class_metrics(BINARY).items():
        assert metric(weights) == pytest.approx(class_metrics(repeated)[name](None)), name
    answers = NumberPredictions(TRUTH + 0.5, SCORES)
    for name, metric in number_metrics(answers).items():
        again = number_metrics(NumberPredictions(TRUTH[copies] + 0.5, SCORES[copies]))[name]
        assert metric(weights) == pytest.approx(again(None)), name


def test_numbers_by_hand() -> None:
    answers = NumberPredictions(np.array([40.0, 50, 60]), np.array([43.0, 50, 56]))
    found = {name: metric(None) for name, metric in number_metrics(answers).items()}
    assert found["mae"] == pytest.approx(7 / 3)
    assert found["rmse"] == pytest.approx((25 / 3) ** 0.5)
    assert found["r2"] == pytest.approx(1 - 25 / 200)


def test_intervals_hold_the_value_and_shrink_with_patients() -> None:
    widths = []
    for copies in (4, 40):
        truth, predicted = np.tile(TRUTH, copies), np.tile(BINARY.predicted, copies)
        answers = ClassPredictions(truth, predicted, np.tile(BINARY.scores, (copies, 1)))
        draws = draw_for_classes(np.arange(5 * copies).astype(str), truth, 200, seed=0)
        found = with_intervals(class_metrics(answers), draws)
        assert all(item.low < item.value < item.high for item in found.values())
        widths.append(found["balanced_accuracy"].high - found["balanced_accuracy"].low)
    assert widths[1] < 0.5 * widths[0]


def test_the_mean_over_seeds_has_one_interval() -> None:
    draws = draw_for_numbers(np.arange(5).astype(str), TRUTH.astype(float), 100, seed=0)
    right = NumberPredictions(TRUTH.astype(float), TRUTH.astype(float))
    wrong = NumberPredictions(TRUTH.astype(float), TRUTH + 2.0)
    found = mean_with_interval([number_metrics(answers)["mae"] for answers in (right, wrong)], draws)
    assert found == pytest.approx((1, 1, 1))
