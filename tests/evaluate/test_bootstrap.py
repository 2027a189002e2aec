"""Intervals come from patients, not from videos; a draw that lacks a class is drawn again, and counted."""

from __future__ import annotations

import numpy as np
import pytest

from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.bootstrap import draw_for_classes, draw_for_numbers, estimate, values_of


def test_a_draw_takes_patients_with_all_their_videos() -> None:
    patients = np.array(["a", "b", "b", "c", "b"])
    draws = list(draw_for_numbers(patients, np.arange(5.0), 50, seed=1))
    assert len(draws) == 50
    for weights in draws:
        assert weights[1] == weights[2] == weights[4]
        assert weights[0] + weights[1] + weights[3] == 3, "as many patients as there are"
    assert len({tuple(weights) for weights in draws}) > 5


def test_the_same_seed_gives_the_same_draws() -> None:
    patients = np.array(list("abcdefgh"))
    one, same, other = (np.stack(list(draw_for_numbers(patients, np.arange(8.0), 20, seed))) for seed in (3, 3, 4))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("copies", [1, 10])
def test_an_interval_of_a_mean_is_that_of_statistics(copies: int) -> None:
    """Mean of 400 patients of deviation 1: 95 % lie within 1.96 / 20 of it. Ten copies of each say nothing more."""
    patients = np.random.default_rng(0).normal(size=400)
    known = np.repeat(patients, copies)
    draws = draw_for_numbers(np.repeat(np.arange(400).astype(str), copies), known, 1000, seed=0)
    found = estimate(known.mean(), values_of(lambda weights: float(np.average(known, weights=weights)), draws))
    expected = 1.96 * patients.std() / 20
    assert found.value - found.low == pytest.approx(expected, rel=0.1)
    assert found.high - found.value == pytest.approx(expected, rel=0.1)


def test_percentiles() -> None:
    assert estimate(7.0, np.arange(1001.0)) == (7.0, 25.0, 975.0)


def test_a_draw_without_a_class_is_drawn_again_and_counted() -> None:
    """Of two patients, half of all draws have the same one twice."""
    draws = draw_for_classes(np.array(["a", "b"]), np.array([0, 1]), 400, seed=0)
    assert all(weights.tolist() == [1, 1] for weights in draws)
    assert draws.redrawn == pytest.approx(400, rel=0.2)
    mixed = draw_for_classes(np.array(["a", "a", "b"]), np.array([0, 1, 1]), 400, seed=0)
    assert {tuple(weights) for weights in mixed} == {(1, 1, 1), (2, 2, 0)}, "b alone lacks class 0"


def test_a_draw_of_equal_values_is_drawn_again() -> None:
    patients = np.array(["a", "b", "c"])
    draws = draw_for_numbers(patients, np.array([50.0, 50, 60]), 400, seed=0)
    found = {tuple(weights) for weights in draws}
    assert found == {(1, 1, 1), (2, 0, 1), (0, 2, 1), (1, 0, 2), (0, 1, 2)}
    assert draws.redrawn > 0
    own = draw_for_numbers(np.array(["a", "a", "b"]), np.array([50.0, 60, 50]), 400, seed=0)
    assert {tuple(weights) for weights in own} == {(1, 1, 1), (2, 2, 0)}


def test_draws_that_no_metric_exists_for_are_refused() -> None:
    patients = np.arange(30).astype(str)
    with pytest.raises(EvaluationError, match=r"draws of 30 test patients hardly one has a video of every class"):
        draw_for_classes(patients, np.arange(30), 10, seed=0)
    with pytest.raises(EvaluationError, match=r"hardly one has videos of two values"):
        draw_for_numbers(patients, np.ones(30), 10, seed=0)
