"""The floors: an encoder before training, and pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from discovr_ray.config import load_config
from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.floors import pixel_features, write_random_encoder
from discovr_ray.model.vit import video_spec
from discovr_ray.model.weights import EncoderCard, load_encoder


def card() -> EncoderCard:
    config = load_config("demo", ["data.image_size=32", "model.width=24", "model.depth=2"])
    return EncoderCard(
        encoder=video_spec(config),
        mean=config.data.mean,
        std=config.data.std,
        frame_stride=4,
        reference_fps=50.0,
        step=180,
        config_sha256="c" * 64,
        weights_sha256="w" * 64,
    )


def test_the_random_encoder_is_of_the_same_kind_and_the_same_for_a_seed(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        write_random_encoder(tmp_path / name, card(), seed)
    assert torch.equal(before, torch.random.get_rng_state()), "nobody else's random numbers change"
    one, same, other = (load_encoder(tmp_path / name) for name in ("one", "same", "other"))
    assert one.card.encoder == card().encoder
    assert (one.card.step, one.card.frame_stride) == (0, 4)
    assert one.card == same.card
    assert one.card.weights_sha256 != other.card.weights_sha256
    clips = torch.rand(1, 16, 32, 32)
    with torch.no_grad():
        assert torch.equal(one(clips).cls, same(clips).cls)
        assert not torch.allclose(one(clips).cls, other(clips).cls)


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


def test_pixels_that_say_nothing_are_refused() -> None:
    with pytest.raises(EvaluationError, match="raw pixels: 3 training videos, of which two must differ"):
        pixel_features(np.ones((4, 5), np.float32), np.arange(3), seed=0)
