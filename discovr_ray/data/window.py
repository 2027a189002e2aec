"""Which source frames a clip takes: a stride in time rather than in frames, and a named rule for short videos."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from discovr_ray.config import DataConfig
from discovr_ray.errors import ClipError


class Window(NamedTuple):
    indices: npt.NDArray[np.int64]  # [T] source frame of each frame of the clip
    num_padded: int  # frames that repeat another one because the video is too short


def choose_window(num_frames: int, fps: float, data: DataConfig, position: float) -> Window:
    """Frames of one clip.

    With step = frame_stride * fps / reference_fps (frame_stride where reference_fps is 0, and never below 1), the
    clip takes frame start + round(i * step) for i < T. A video too short for that follows `data.short_clip`:
    fit_stride takes the largest step that fits and pads only below T frames, repeat_last holds the last frame taken,
    loop starts again from the first frame taken. Short clips start at frame 0.

    Args:
        num_frames: frames in the video.
        fps: frames per second of the video.
        position: in [0, 1), where the window starts among all places at which it fits.
    Errors:
        ClipError: a still image, or a frame rate that is no positive number.
    """
    length = data.num_frames
    if num_frames < min(2, length):
        raise ClipError(f"the video has {num_frames} frame(s), too few for a clip of {length}")
    offsets = _offsets(length, _step(fps, data))
    free = num_frames - int(offsets[-1])
    if free > 0:
        return Window(offsets + min(int(position * free), free - 1), 0)
    if data.short_clip == "fit_stride":
        offsets = _offsets(length, max(1.0, (num_frames - 1) / (length - 1)))
    taken = offsets[offsets < num_frames]
    order = np.arange(length)
    order = order % len(taken) if data.short_clip == "loop" else np.minimum(order, len(taken) - 1)
    return Window(taken[order], length - len(taken))


def _step(fps: float, data: DataConfig) -> float:
    """Source frames from one taken frame to the next; at least 1, so that a slow video repeats no frame."""
    if not data.reference_fps:
        return float(data.frame_stride)
    if not (math.isfinite(fps) and fps > 0):
        raise ClipError(f"frame rate {fps}: must be a positive number")
    return max(1.0, data.frame_stride * fps / data.reference_fps)


def _offsets(length: int, step: float) -> npt.NDArray[np.int64]:
    # the small term keeps a product such as 2.9999999999999996 from landing one frame early
    return np.asarray(np.floor(np.arange(length) * step + 0.5 + 1e-9), np.int64)
