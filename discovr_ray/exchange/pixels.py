"""Pixels in the place of features, so that the floor of an evaluation takes the same way as an encoder."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from discovr_ray.model.vit import Tokens, patchify
from discovr_ray.model.weights import EncoderCard, PretrainedEncoder

PIXEL_GRID = (8, 14, 14)  # a clip's frames, rows and columns after averaging


class PixelEncoder(PretrainedEncoder):
    """A clip, averaged over PIXEL_GRID."""

    def __init__(self, card: EncoderCard) -> None:
        """`card`: of the encoder whose clips are wanted; sizes and preparation stay."""
        nn.Module.__init__(self)
        width = int(np.prod(PIXEL_GRID))
        self.card = dataclasses.replace(
            card,
            encoder=dataclasses.replace(card.encoder, width=width, depth=0),
            step=0,
            config_sha256="",
            weights_sha256=hashlib.sha256(f"pixels {PIXEL_GRID}".encode()).hexdigest(),
            origin="pixels, no encoder",
        )
        self.register_buffer("mean", torch.zeros(1), persistent=False)  # its device is the encoder's

    def forward(self, clips: Tensor) -> Tokens:
        """Grey uint8 clips [B, T, H, W] -> pixels from 0 to 1, [B, P], once as CLS and once as the only patch."""
        pixels = functional.adaptive_avg_pool3d(clips.float() / 255, PIXEL_GRID).flatten(1)
        return Tokens(pixels, pixels[:, None])


class PatchPixels(PretrainedEncoder):
    """The pixels of each patch in the place of its token: the floor of whatever asks patch tokens."""

    def __init__(self, card: EncoderCard) -> None:
        """`card`: of the encoder whose patches are wanted; sizes and preparation stay."""
        nn.Module.__init__(self)
        spec = card.encoder
        width = spec.tubelet_size * spec.patch_size**2
        self.card = dataclasses.replace(
            card,
            encoder=dataclasses.replace(spec, width=width, depth=0),
            step=0,
            config_sha256="",
            weights_sha256=hashlib.sha256(b"pixels of patches").hexdigest(),
            origin="pixels of patches, no encoder",
        )
        self.register_buffer("mean", torch.zeros(1), persistent=False)  # its device is the encoder's

    def forward(self, clips: Tensor) -> Tokens:
        """Grey uint8 clips [B, T, H, W] -> pixels from 0 to 1, [B, N, tubelet * patch * patch]; cls is their mean."""
        spec = self.card.encoder
        patches = patchify(clips.float()[:, None] / 255, spec.tubelet_size, spec.patch_size)
        return Tokens(patches.mean(dim=1), patches)
