"""The floor of the pixels: what a probe finds without any encoder. An encoder without training is the other floor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.features import FeatureArray

PIXEL_COMPONENTS = 128  # of the principal components, where there are so many
ROWS_AT_ONCE = 4096  # in double precision


class PixelFloor:
    """Principal components of pixels [n, P], at most PIXEL_COMPONENTS, found on rows `train` alone.

    Errors:
        EvaluationError: fewer than 2 training videos, or all are equal.
    """

    def __init__(self, pixels: FeatureArray, train: npt.NDArray[np.intp], seed: int) -> None:
        known = pixels[train].astype(np.float64)
        if len(known) < 2 or not known.std(axis=0).any():
            raise EvaluationError(f"raw pixels: {len(known)} training videos, of which two must differ")
        count = min(PIXEL_COMPONENTS, len(known) - 1, known.shape[1])
        self._model = PCA(count, svd_solver="randomized", random_state=seed).fit(known)

    def features(self, pixels: FeatureArray) -> FeatureArray:
        """Pixels of any videos [n, P] -> [n, components]."""
        starts = range(0, len(pixels), ROWS_AT_ONCE)
        parts = [self._model.transform(pixels[at : at + ROWS_AT_ONCE].astype(np.float64)) for at in starts]
        return np.concatenate(parts).astype(np.float32)


def pixel_features(pixels: FeatureArray, train: npt.NDArray[np.intp], seed: int) -> FeatureArray:
    """Pixels of videos [n, P] -> their principal components by PixelFloor, of whose errors it is."""
    return PixelFloor(pixels, train, seed).features(pixels)
