"""The map of embeddings: groups stay groups, and the same features give the same map."""

from __future__ import annotations

import numpy as np
import pytest

from discovr_ray.evaluate.embedding_map import embedding_map


def test_groups_stay_together() -> None:
    generator = np.random.default_rng(0)
    centres = 5 * generator.normal(size=(2, 16))
    group = np.arange(40) % 2
    x = (centres[group] + generator.normal(size=(40, 16))).astype(np.float32)
    places = embedding_map(x, seed=0)
    assert places.shape == (40, 2)
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(40)
    assert (group[distances.argmin(axis=1)] == group).all()
    assert np.array_equal(places, embedding_map(x, seed=0))


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_few_videos_have_a_map_too(count: int) -> None:
    places = embedding_map(np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32), seed=0)
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()
