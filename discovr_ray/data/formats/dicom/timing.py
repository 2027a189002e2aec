"""Frames per second: FrameTime, else FrameTimeVector, else CineRate, else RecommendedDisplayFrameRate."""

from __future__ import annotations

from typing import Any, NamedTuple

from discovr_ray.data.formats.dicom.attributes import number
from discovr_ray.data.formats.dicom.silence import unquoted
from discovr_ray.errors import ClipError

VARIES = 0.1  # an interval that differs from the mean by more than this share of it


class Timing(NamedTuple):
    fps: float  # 0: the file does not say
    varies: bool  # intervals differ, and fps is that of their mean


def read_timing(values: Any, num_frames: int) -> Timing:
    """A time or rate of 0 counts as missing: that is what machines write when they do not know.

    Errors:
        ClipError: an attribute that is no number, or a FrameTimeVector that does not fit the frames.
    """
    frame_time_ms = number(values, "FrameTime") or 0.0
    if frame_time_ms > 0:
        return Timing(1000 / frame_time_ms, False)
    intervals_ms = _intervals(values, num_frames)
    if sum(intervals_ms) > 0:
        mean_ms = sum(intervals_ms) / len(intervals_ms)
        varies = max(abs(interval - mean_ms) for interval in intervals_ms) > VARIES * mean_ms
        return Timing(1000 / mean_ms, varies)
    for keyword in ("CineRate", "RecommendedDisplayFrameRate"):
        rate = number(values, keyword) or 0.0
        if rate > 0:
            return Timing(rate, False)
    return Timing(0.0, False)


def _intervals(values: Any, num_frames: int) -> list[float]:
    """Milliseconds between the frames; none where the attribute is missing."""
    with unquoted("FrameTimeVector is no list of numbers"):
        found = values.get("FrameTimeVector")
        times = [] if found in (None, "") else [float(time) for time in ([found] if _is_single(found) else found)]
    if not times:
        return []
    if len(times) == num_frames:
        times = times[1:]  # the first one is before the first frame, and 0 by the standard
    elif len(times) != num_frames - 1:
        raise ClipError(f"FrameTimeVector has {len(times)} entries for {num_frames} frames")
    if any(not 0 <= time < 1e6 for time in times):
        raise ClipError("FrameTimeVector holds times below 0 or without end")
    return times


def _is_single(found: Any) -> bool:
    return isinstance(found, int | float | str)
