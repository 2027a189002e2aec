"""Bytes of a video file -> grey frames. Strict: a damaged frame is an error, never a frame with wrong pixels.

Motion-JPEG in AVI has a fast path that finds the frames itself and decodes only the wanted ones, straight to grey
(25 times faster than a strided request to decord). Everything else goes through decord, always as contiguous spans
of which the wanted frames are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg

from discovr_ray.data import decord_reader
from discovr_ray.data.avi import Avi, is_avi, read_avi
from discovr_ray.errors import ClipError

Frames = npt.NDArray[np.uint8]

FAST_FORMAT = "avi-mjpeg"
MAX_SIDE = 4096  # pixels; more is a damaged header, and would be allocated before decoding fails
_PIECE = 64  # frames held at once while a whole video is decoded


class VideoInfo(NamedTuple):
    format: str  # "avi-mjpeg" (the fast path), else the container: "avi", "mp4", "mkv", "video"
    num_frames: int
    fps: float
    height: int  # pixels
    width: int


def probe(data: bytes) -> VideoInfo:
    """Facts of a video; frames are counted, not believed. Only the first frame is decoded (see check_all_frames).

    Errors:
        ClipError: empty, truncated, no video, no frame, or no sane size or frame rate.
    """
    if not data:
        raise ClipError("the file is empty")
    info = _probe_avi(data) if is_avi(data) else None
    if info is None:
        info = _probe_other(data)
    if not (math.isfinite(info.fps) and info.fps > 0):
        raise ClipError(f"frame rate {info.fps}: must be a positive number")
    return info


def decode_frames(data: bytes, format: str, indices: npt.ArrayLike, num_frames: int, decoder: str = "auto") -> Frames:
    """Grey frames [T, H, W] at source size; a frame that is asked for twice is decoded once.

    Args:
        format: VideoInfo.format.
        indices: source frames, in any order.
        num_frames: frames that the file must hold.
        decoder: "auto" takes the fast path where there is one, "decord" never does.
    Errors:
        ClipError: undecodable, or another number of frames.
    """
    wanted, places = np.unique(np.asarray(indices, np.int64), return_inverse=True)
    if not len(wanted) or wanted[0] < 0 or wanted[-1] >= num_frames:
        raise ClipError(f"frames {wanted[:1]} to {wanted[-1:]} asked for, the video has {num_frames}")
    pieces = list(_pieces(data, format, wanted, num_frames, decoder))
    frames = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if np.array_equal(places, np.arange(len(wanted))):
        return frames
    return np.ascontiguousarray(frames[places])


def check_all_frames(data: bytes, info: VideoInfo) -> None:
    """Decode every frame once, as ingest does, holding few of them at a time.

    Errors:
        ClipError: a frame cannot be decoded, or frames differ in size.
    """
    if info.format != FAST_FORMAT:
        decord_reader.check_not_concealed(data)
    for piece in _pieces(data, info.format, np.arange(info.num_frames), info.num_frames, "auto"):
        if piece.shape[1:] != (info.height, info.width):
            raise ClipError(f"frames of {piece.shape[1:]} pixels in a video of {(info.height, info.width)}")


def _pieces(data: bytes, format: str, wanted: npt.NDArray[np.int64], num_frames: int, decoder: str) -> Iterator[Frames]:
    """The wanted frames (sorted, distinct), in order, as one or more arrays [n, H, W]."""
    if format == FAST_FORMAT and decoder == "auto":
        return _mjpeg_pieces(data, wanted, num_frames)
    return decord_reader.grey_pieces(data, wanted, num_frames)


def _probe_avi(data: bytes) -> VideoInfo | None:
    """Facts of a Motion-JPEG AVI; None for other codecs and for two interlaced fields per frame."""
    avi = read_avi(data)
    if avi.codec.upper() != "MJPG":
        return None
    height, width = _jpeg_size(data, avi, 0)
    if 2 * height == avi.height:
        return None
    return VideoInfo(FAST_FORMAT, len(avi.frames), avi.fps, height, width)


def _probe_other(data: bytes) -> VideoInfo:
    reader = decord_reader.open_video(data)
    height, width = decord_reader.read_span(reader, range(1)).shape[1:3]
    return VideoInfo(decord_reader.container(data), len(reader), float(reader.get_avg_fps()), height, width)


def _jpeg_size(data: bytes, avi: Avi, index: int) -> tuple[int, int]:
    offset, size = avi.frames[index]
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data[offset : offset + size])
    except ValueError as error:
        raise ClipError(f"frame {index} is no readable JPEG: {error}") from error
    if max(height, width) > MAX_SIDE:
        raise ClipError(f"frame {index} is {height} x {width} pixels; at most {MAX_SIDE} a side are believed")
    return height, width


def _mjpeg_pieces(data: bytes, wanted: npt.NDArray[np.int64], num_frames: int) -> Iterator[Frames]:
    avi = read_avi(data)
    if len(avi.frames) != num_frames:
        raise ClipError(f"the video has {len(avi.frames)} frames, {num_frames} expected")
    height, width = _jpeg_size(data, avi, int(wanted[0]))
    view = memoryview(data)
    for start in range(0, len(wanted), _PIECE):
        indices = wanted[start : start + _PIECE].tolist()
        piece = np.empty((len(indices), height, width, 1), np.uint8)
        for place, index in zip(piece, indices, strict=True):
            offset, size = avi.frames[index]
            try:
                # strict: libjpeg only warns of many kinds of damage; a frame too large for the buffer is refused
                frame = simplejpeg.decode_jpeg(view[offset : offset + size], "GRAY", buffer=place, strict=True)
            except ValueError as error:
                raise ClipError(f"frame {index} is damaged: {error}") from error
            if frame.shape[:2] != (height, width):
                raise ClipError(f"frame {index} is {frame.shape[:2]} pixels, the first one {(height, width)}")
        yield piece[..., 0]
