"""Rungs and who goes on, by hand."""

from __future__ import annotations

import pytest

from discovr_ray.sweep.asha import goes_on, rungs


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((3, 3, 27), [3, 9, 27]), ((10, 3, 100), [10, 30, 90, 100]), ((0, 3, 27), [27]), ((5, 2, 12), [5, 10, 12])],
)
def test_rungs(arguments: tuple[int, int, int], expected: list[int]) -> None:
    assert rungs(*arguments) == expected


@pytest.mark.parametrize(
    ("value", "others", "expected"),
    [
        (0.1, [], True),  # nobody to compare with
        (0.1, [0.2], False),
        (0.2, [0.2], True),  # equals are not told apart
        (0.3, [0.1, 0.2], True),
        (0.2, [0.1, 0.3], False),  # of three, one
        (0.2, [0.1, 0.3, 0.0], True),  # of four, two
        (0.2, [0.1, 0.3, 0.4], False),
    ],
)
def test_the_best_third_goes_on(value: float, others: list[float], expected: bool) -> None:
    assert goes_on(value, others, reduction=3) is expected
