"""decord, tamed: strict, quiet, one thread, contiguous spans only. Every failure is ClipError.

For `data.decoder=decord`, to compare with; ingest never asks it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import av
import numpy as np

from discovr_ray.data.formats.container import check_boxes, first_line
from discovr_ray.data.formats.reader import PIECE_BYTES, Frames, Indices
from discovr_ray.errors import ClipError

SPAN = 64  # frames held at once, in colour, while a video is decoded
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, which JPEG uses as well


def open_video(data: bytes) -> Any:
    """A decord VideoReader; `len()` counts the packets of the file."""
    check_boxes(data)
    _checked_container(data)
    decord = _decord()
    try:
        # without fault_tol=0 a frame that cannot be decoded is silently replaced by the one before
        return decord.VideoReader(io.BytesIO(data), ctx=decord.cpu(0), num_threads=1, fault_tol=0)
    except (decord.DECORDError, RuntimeError, AssertionError, ValueError) as error:
        raise ClipError(f"not a readable video: {first_line(error)}") from error


def read_span(reader: Any, span: range) -> Frames:
    """Consecutive frames, RGB [n, H, W, 3]."""
    try:
        return np.asarray(reader.get_batch(list(span)).asnumpy(), np.uint8)
    except (_decord().DECORDError, RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise ClipError(f"frames {span[0]} to {span[-1]} are damaged: {first_line(error)}") from error


def grey_pieces(data: bytes, wanted: Indices, num_frames: int, may_seek: bool) -> Iterator[Frames]:
    """The wanted frames (sorted, distinct) in order, as arrays [n, H, W].

    Args:
        may_seek: every frame stands for itself. decord's seeking is off by some frames in many other videos (MPEG-4,
            MPEG-2, HEVC, H.264 with open groups), so those are read from the first frame on.
    """
    if _checked_container(data) == "mpegts":
        raise ClipError("decord gives other frames of a transport stream than those that are asked for")
    reader = open_video(data)
    if len(reader) != num_frames:
        raise ClipError(f"the video has {len(reader)} frames, {num_frames} expected")
    # contiguous spans need no seek between them; jumping by the stride would seek for every frame
    start, last = int(wanted[0]) if may_seek else 0, int(wanted[-1])
    length = 1  # the first frame alone, which tells how large they are
    while start <= last:
        stop = min(start + length, last + 1)
        frames = read_span(reader, range(start, stop))
        kept = wanted[(wanted >= start) & (wanted < stop)] - start
        if len(kept):
            yield _grey(frames[kept])
        start, length = stop, max(1, min(SPAN, PIECE_BYTES // frames[0].nbytes))


@lru_cache(maxsize=1)
def _decord() -> Any:
    import decord  # brings its own ffmpeg: only loaded when a file needs it

    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _grey(rgb: Frames) -> Frames:
    """[n, H, W, 3] -> [n, H, W]."""
    # decord's colour conversion cuts off where it should round, half a level on average where there is any chroma
    # (encoders often leave 1 of 255 in grey video); exact grey values stay what they are
    return np.asarray(np.rint(rgb.astype(np.float32) @ _LUMA + np.float32(0.49)).clip(0, 255), np.uint8)


def _checked_container(data: bytes) -> str:
    """FFmpeg's name of it. Refuses what is no video before decord sees it: it would write the bytes to stderr."""
    try:
        with av.open(io.BytesIO(data), "r") as file:
            if not file.streams.video:
                raise ClipError("the file has no video stream")
            return str(file.format.name)
    except (av.error.FFmpegError, ValueError) as error:
        raise ClipError(f"not a readable video: {first_line(error)}") from error
