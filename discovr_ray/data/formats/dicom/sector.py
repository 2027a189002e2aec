"""The part of the screen where the echo is, estimated from what moves: text, rulers, logos and the ECG fall outside.

Tissue changes most of the time and in areas; burned-in text never does; an ECG line passes a pixel rarely, a counter or
a clock is small. So: pixels that change often, where they lie densely, the largest piece of them, and its convex
outline, since a sector is convex and holds dark chambers that do not change.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from discovr_ray.data.formats.reader import Frames

NUM_SAMPLES = 40  # frames looked at, evenly spread
CHANGED = 8  # grey levels of 255 between two samples: more than the noise of JPEG around text that stands still
OFTEN = 0.2  # share of the pairs of samples in which a pixel of the sector changes
WINDOW = 0.02  # of the shorter side; density is counted in squares of this size
DENSE = 0.4  # share of a square; a line that is thinner than this share of the window's side is none
LEAST_AREA = 0.05  # of the picture; smaller is no sector
LEAST_SHARE = 0.8  # of all that changes often must lie inside; else it is no single sector
CORNERS = 48  # at most; the chord of such a part of an arc deviates by less than a pixel
MARGIN = 1.5  # pixels around the outline, for what the window rounds off

Mask = npt.NDArray[np.bool_]


def sample_indices(num_frames: int) -> list[int]:
    return sorted(set(np.linspace(0, num_frames - 1, min(num_frames, NUM_SAMPLES)).round().astype(int).tolist()))


def find_sector(frames: Frames) -> tuple[int, ...] | None:
    """Polygon x0, y0, x1, y1, ... in pixels around the echo; None where no such part can be told.

    Args:
        frames: [T, H, W], samples of a whole video.
    """
    changing = _often_changing(frames)
    piece = _largest_dense_piece(changing)
    area = int(piece.sum())
    if area < LEAST_AREA * piece.size or changing[piece].sum() < LEAST_SHARE * changing.sum():
        return None
    return _outline(piece)


def _often_changing(frames: Frames) -> Mask:
    counts = np.zeros(frames.shape[1:], np.uint16)
    for before, after in pairwise(frames):
        # unsigned differences wrap around; the larger minus the smaller does not
        counts += np.maximum(before, after) - np.minimum(before, after) > CHANGED
    return np.asarray(counts >= max(1.0, OFTEN * (len(frames) - 1)))


def _largest_dense_piece(changing: Mask) -> Mask:
    from scipy import ndimage  # takes a third of a second: only ingest needs it

    side = max(3, round(WINDOW * min(changing.shape)) | 1)
    dense = ndimage.uniform_filter(changing.astype(np.float32), side, mode="constant") > DENSE
    labels, count = ndimage.label(ndimage.binary_opening(dense, np.ones((side, side), bool)))
    if not count:
        return np.zeros(changing.shape, bool)
    sizes = np.bincount(labels.ravel())
    return np.asarray(labels == 1 + int(sizes[1:].argmax()))


def _outline(piece: Mask) -> tuple[int, ...]:
    """The farthest pixel in each of CORNERS directions: corners of the convex hull, in order around it."""
    ys, xs = np.nonzero(piece & ~_eroded(piece))
    angles = 2 * np.pi * np.arange(CORNERS) / CORNERS
    directions = np.stack([np.cos(angles), np.sin(angles)])
    farthest = (np.stack([xs, ys], 1) @ directions).argmax(0)
    # moved outwards by the margin; the keeper of frames fills a polygon with its edge
    points = np.rint(np.stack([xs, ys])[:, farthest] + MARGIN * directions).astype(int)
    limits = np.array(piece.shape[::-1])[:, None] - 1
    corners = dict.fromkeys(map(tuple, points.clip(0, limits).T.tolist()))
    return tuple(value for corner in corners for value in corner)


def _eroded(piece: Mask) -> Mask:
    inner = np.zeros_like(piece)
    inner[1:-1, 1:-1] = piece[1:-1, 1:-1] & piece[:-2, 1:-1] & piece[2:, 1:-1] & piece[1:-1, :-2] & piece[1:-1, 2:]
    return inner
