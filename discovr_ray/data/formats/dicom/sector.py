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
LEAST_SAMPLES = 8  # with fewer, nothing is told from them
# more than so many grey levels of 255 between two samples is a change: the first shows the faintest tissue, the later
# ones ignore the noise of JPEG around an ECG, or of a compressed video. The first that gives a sector counts
CHANGES = (2, 4, 8)
OFTEN = 0.2  # share of the pairs of samples in which a pixel of the sector changes
LEAST_OFTEN = 4  # pairs; a line that passes changes a pixel twice
WINDOW = 0.02  # of the shorter side; density is counted in squares of this size
DENSE = 0.4  # share of a square; a line that is thinner than this share of the window's side is none
LEAST_AREA = 0.05  # of the picture; smaller is no sector
MOST_AREA = 0.9  # of the picture; an outline that is larger is noise, or hides no text even where all of it is echo
LEAST_SHARE = 0.8  # of all that changes often must lie in the piece; else it is no single sector
LEAST_FILLED = 0.85  # of the outline; a sector with an ECG or text attached leaves corners empty
CORNERS = 48  # at most; the chord of such a part of an arc deviates by less than a pixel
MARGIN = 1.5  # pixels around the outline, for what the window rounds off

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.int64]


def sample_indices(num_frames: int) -> list[int]:
    return sorted(set(np.linspace(0, num_frames - 1, min(num_frames, NUM_SAMPLES)).round().astype(int).tolist()))


def find_sector(frames: Frames) -> tuple[int, ...] | None:
    """Polygon x0, y0, x1, y1, ... in pixels around the echo; None where no such part can be told.

    Args:
        frames: [T, H, W], samples of a whole video.
    """
    if len(frames) < LEAST_SAMPLES:
        return None
    candidates = (_candidate(_often_changing(frames, change)) for change in CHANGES)
    return next((polygon for polygon in candidates if polygon), None)


def _candidate(changing: Mask) -> tuple[int, ...] | None:
    from scipy import ndimage  # takes a third of a second: only ingest needs it

    side = max(3, round(WINDOW * min(changing.shape)) | 1)
    dense = ndimage.uniform_filter(changing.astype(np.float32), side, mode="constant") > DENSE
    labels, count = ndimage.label(ndimage.binary_opening(dense, np.ones((side, side), bool)))
    if not count:
        return None
    piece = labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
    if piece.mean() < LEAST_AREA or changing[piece].sum() < LEAST_SHARE * changing.sum():
        return None
    corners = _corners(piece)
    area = _polygon_area(corners)
    if area > MOST_AREA * piece.size or ndimage.binary_fill_holes(piece).sum() < LEAST_FILLED * area:
        return None
    return _pushed_out(corners, piece.shape)


def _often_changing(frames: Frames, change: int) -> Mask:
    counts = np.zeros(frames.shape[1:], np.uint16)
    for before, after in pairwise(frames):
        # unsigned differences wrap around; the larger minus the smaller does not
        counts += np.maximum(before, after) - np.minimum(before, after) > change
    return np.asarray(counts >= max(LEAST_OFTEN, OFTEN * (len(frames) - 1)))


_ANGLES = 2 * np.pi * np.arange(CORNERS) / CORNERS
_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])  # [2, CORNERS], x and y


def _corners(piece: Mask) -> Points:
    """[2, CORNERS], x and y of the farthest pixel in each direction: corners of the convex hull, in order around it."""
    ys, xs = np.nonzero(piece & ~_eroded(piece))
    return np.stack([xs, ys])[:, (np.stack([xs, ys], 1) @ _DIRECTIONS).argmax(0)]


def _polygon_area(corners: Points) -> float:
    """Of the pixels in the polygon, those on its edge included (Pick's rule, to half of the edge)."""
    (x, y), (next_x, next_y) = corners, np.roll(corners, -1, axis=1)
    edge = np.maximum(np.abs(next_x - x), np.abs(next_y - y)).sum()
    return float(abs((x * next_y - next_x * y).sum()) / 2 + edge / 2 + 1)


def _pushed_out(corners: Points, shape: tuple[int, ...]) -> tuple[int, ...]:
    """x0, y0, x1, y1, ... without repetitions, MARGIN farther out but within the picture."""
    limits = np.array(shape[::-1])[:, None] - 1
    points = np.rint(corners + MARGIN * _DIRECTIONS).astype(int).clip(0, limits)
    return tuple(value for corner in dict.fromkeys(map(tuple, points.T.tolist())) for value in corner)


def _eroded(piece: Mask) -> Mask:
    inner = np.zeros_like(piece)
    inner[1:-1, 1:-1] = piece[1:-1, 1:-1] & piece[:-2, 1:-1] & piece[2:, 1:-1] & piece[1:-1, :-2] & piece[1:-1, 2:]
    return inner
