"""The part of a frame that reaches the model."""

from __future__ import annotations

import numpy as np

from discovr_ray.data.clip import keep_echo

FRAMES = np.arange(1, 2 * 6 * 8 + 1, dtype=np.uint8).reshape(2, 6, 8)


def test_region_is_cut_out() -> None:
    np.testing.assert_array_equal(keep_echo(FRAMES, (2, 1, 7, 5), None), FRAMES[:, 1:5, 2:7])


def test_everything_outside_of_the_sector_is_black() -> None:
    """A triangle with corners (1, 0), (5, 4), (1, 4): inside of it, its edge included, pixels stay what they are."""
    kept = keep_echo(FRAMES, None, (1, 0, 5, 4, 1, 4))
    rows, columns = np.indices((6, 8))
    inside = (columns >= 1) & (rows <= 4) & (columns - 1 <= rows)
    np.testing.assert_array_equal(kept, np.where(inside, FRAMES, 0))


def test_sector_and_region_count_in_pixels_of_the_whole_frame() -> None:
    sector = (1, 0, 5, 4, 1, 4)
    whole = keep_echo(FRAMES, None, sector)
    np.testing.assert_array_equal(keep_echo(FRAMES, (1, 1, 5, 5), sector), whole[:, 1:5, 1:5])
