"""The floor of the pixels."""

from __future__ import annotations

import numpy as np
import pytest

from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.floors import PixelFloor, pixel_features


def test_components_are_found_on_training_rows_alone() -> None:
    """Training pixels vary along one line; whatever the other rows do, the first component stays that line."""
    generator = np.random.default_rng(0)
    line = np.array([3.0, 4, 0, 0]) / 5
    pixels = np.outer(generator.normal(size=30), line).astype(np.float32)
    rest = generator.normal(size=(10, 4)).astype(np.float32) * 100
    both = np.concatenate([pixels, rest])
    found = pixel_features(both, np.arange(30), seed=0)
    assert found.shape == (40, 4)
    assert np.abs(found[:, 0]) == pytest.approx(np.abs((both - pixels.mean(0)) @ line), rel=1e-4)
    floor = PixelFloor(both, np.arange(30), seed=0)
    assert np.array_equal(floor.features(both), found)
    assert floor.features(rest) == pytest.approx(found[30:]), "pixels that came later, by the components of before"


def test_pixels_that_say_nothing_are_refused() -> None:
    with pytest.raises(EvaluationError, match="raw pixels: 3 training videos, of which two must differ"):
        pixel_features(np.ones((4, 5), np.float32), np.arange(3), seed=0)
