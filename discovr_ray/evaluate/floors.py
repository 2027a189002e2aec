"""The floor of the pixels: what a probe finds without any encoder. An encoder without training is the other floor."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional

from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.features import FeatureArray
from discovr_ray.model.vit import Tokens
from discovr_ray.model.weights import EncoderCard, PretrainedEncoder

PIXEL_GRID = (8, 14, 14)  # a clip's frames, rows and columns after averaging
PIXEL_COMPONENTS = 128  # of the principal components, where there are so many


class PixelEncoder(PretrainedEncoder):
    """In the place of an encoder, so that pixels take the same way as features: a clip, averaged over PIXEL_GRID."""

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


def pixel_features(pixels: FeatureArray, train: npt.NDArray[np.intp], seed: int) -> FeatureArray:
    """Pixels of videos [n, P] -> their principal components [n, at most PIXEL_COMPONENTS], found on rows `train` alone.

    Errors:
        EvaluationError: fewer than 2 training videos, or all are equal.
    """
    known = pixels[train].astype(np.float64)
    if len(known) < 2 or not known.std(axis=0).any():
        raise EvaluationError(f"raw pixels: {len(known)} training videos, of which two must differ")
    count = min(PIXEL_COMPONENTS, len(known) - 1, known.shape[1])
    model = PCA(count, svd_solver="randomized", random_state=seed).fit(known)
    return np.asarray(model.transform(pixels.astype(np.float64)), np.float32)
