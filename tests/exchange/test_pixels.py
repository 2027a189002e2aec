"""Pixels take the place of an encoder."""

from __future__ import annotations

import pytest
import torch

from discovr_ray.config import load_config
from discovr_ray.exchange.encoders import open_encoder
from discovr_ray.exchange.pixels import PixelEncoder
from discovr_ray.model.vit import video_spec
from discovr_ray.model.weights import EncoderCard, make_card


def card() -> EncoderCard:
    config = load_config("demo")
    return make_card(video_spec(config), config.data, b"weights", step=180)


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


def test_they_are_opened_by_name() -> None:
    encoder = open_encoder("pixels:demo")
    assert isinstance(encoder, PixelEncoder)
    assert not encoder.training
    assert encoder.card.origin == "pixels, no encoder"
