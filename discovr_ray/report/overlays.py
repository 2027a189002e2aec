"""Masks over frames: what was predicted as a tint, what the expert drew as a line."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Pixels = npt.NDArray[np.uint8]

# of structures in their order: left ventricle blue, myocardium orange, left atrium green, others after them
TINTS = np.array([[64, 140, 255], [255, 150, 50], [70, 200, 110], [190, 110, 230]], np.float32)
COVER = 0.38  # opacity of a tint
LINE = np.array([255, 235, 60], np.uint8)
SMALLEST = 192  # pixels a side of a picture; smaller frames are enlarged by whole factors


def overlay(frames: Pixels, predicted: Pixels, truth: Pixels | None = None) -> Pixels:
    """Grey frames [T, S, S] and masks of the same shape -> colour pictures [T, S', S', 3], enlarged where small."""
    factor = max(1, -(-SMALLEST // frames.shape[1]))
    grey, masks = (of.repeat(factor, axis=1).repeat(factor, axis=2) for of in (frames, predicted))
    colour = np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)
    inside = masks > 0
    tints = TINTS[(masks[inside].astype(np.intp) - 1) % len(TINTS)]
    colour[inside] = colour[inside] * (1 - COVER) + tints * COVER
    pictures = np.rint(colour).astype(np.uint8)
    if truth is not None:
        drawn = truth.repeat(factor, axis=1).repeat(factor, axis=2)
        for value in range(1, int(truth.max()) + 1):
            shape = drawn == value
            pictures[shape & ~ndimage.binary_erosion(shape, np.ones((1, 3, 3)))] = LINE
    return np.asarray(pictures, np.uint8)
