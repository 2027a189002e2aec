"""The floor of the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from discovr_ray.config import load_config
from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.floors import PixelEncoder, pixel_features
from discovr_ray.model.vit import video_spec
from discovr_ray.model.weights import EncoderCard


def card() -> EncoderCard:
    config = load_config("demo")
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


def test_pixels_take_the_place_of_an_encoder() -> None:
    """Of 16 frames, pairs are averaged; of 112 pixels, blocks of 8 x 8."""
    encoder = PixelEncoder(card())
    clips = torch.randint(256, (2, 16, 112, 112), dtype=torch.uint8)
    tokens = encoder(clips)
    assert tokens.cls.shape == (2, encoder.card.encoder.width) == (2, 8 * 14 * 14)
    assert tokens.cls[1, 14 * 14 + 3] == pytest.approx(clips[1, 2:4, :8, 24:32].double().mean().item() / 255)
    assert torch.equal(tokens.patches.mean(dim=1), tokens.cls)
    assert encoder.card.encoder.num_frames == 16, "clips are prepared as for the encoder"
    assert encoder.card.weights_sha256 == PixelEncoder(card()).card.weights_sha256 != card().weights_sha256
    assert list(encoder.state_dict()) == []


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
