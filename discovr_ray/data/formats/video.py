"""Every video that has no reader of its own, by FFmpeg: its luma as it is decoded, no colour conversion on the way.

Where the container says when each frame is shown, frames are found by these times, which takes no decoding: those in
front of an edit list's start are none, decoding begins at the last keyframe, and what nobody needs is not decoded.
AVI, MPEG programme streams and others only number their packets: there frames are counted as they come.
"""

from __future__ import annotations

import io
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.frame import PictureType
from PIL import Image

from discovr_ray.data.formats.container import check_boxes, container, first_line
from discovr_ray.data.formats.reader import (
    MAX_SIDE,
    FormatReader,
    Frames,
    Indices,
    VideoInfo,
    frames_at_once,
)
from discovr_ray.errors import ClipError

MAX_ANNOUNCED = 10**6  # frames, ten hours
TIMED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts")  # FFmpeg's names of containers that say when to show
NUMBERED_MATROSKA = b"V_MS/VFW/FOURCC"  # made of an AVI, with the times of one
# 8-bit formats whose first plane is luma, in full range or in 16 to 235 (which a frame's colour range may overrule)
FULL_RANGE = {"gray", "yuvj420p", "yuvj422p", "yuvj444p", "yuvj440p", "yuvj411p"}
STUDIO_RANGE = {"yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p", "nv12", "nv21"}
JPEG_RANGE = 2  # AVCOL_RANGE_JPEG
_STRETCHED = np.rint((np.arange(256) - 16) * (255 / 219)).clip(0, 255).astype(np.uint8)  # 16 to 235 -> 0 to 255


class VideoReader(FormatReader):
    """Videos in any container and codec that FFmpeg knows."""

    formats = ("avi", "mp4", "mkv", "video")

    def recognises(self, data: bytes) -> bool:
        return True

    def probe(self, data: bytes) -> VideoInfo:
        with _opened(data) as video:
            _check_beliefs(video)
            frames = _grey(_by_time(video, [0]) if video.times else _by_count(video))
            height, width = next(frames, np.empty((0, 0))).shape
            num_frames = len(video.times) or 1 + sum(1 for _ in frames)
            if not height:
                raise ClipError("the video has no frame")
            return VideoInfo(container(data), num_frames, float(video.stream.average_rate or 0), height, width)

    def pieces(self, data: bytes, format: str, wanted: Indices, num_frames: int) -> Iterator[Frames]:
        with _opened(data) as video:
            if video.times and len(video.times) != num_frames:
                raise ClipError(f"the video has {len(video.times)} frames, {num_frames} expected")
            find = _by_time if video.times else _by_count
            yield from _in_pieces(_grey(find(video, wanted.tolist())), len(wanted))


class _Video(NamedTuple):
    stream: Any
    packets: list[Any]  # in the order of decoding
    times: list[int]  # frame i is shown at times[i]; []: nobody says when


@contextmanager
def _opened(data: bytes) -> Iterator[_Video]:
    """The video stream of a file; whatever FFmpeg says of it is a ClipError."""
    check_boxes(data)
    try:
        with av.open(io.BytesIO(data), "r") as file:
            yield _video(file, is_numbered=NUMBERED_MATROSKA in data[: 2**16])
    except (av.error.FFmpegError, ValueError) as error:
        raise ClipError(f"not a readable video: {first_line(error)}") from error


def _video(file: Any, is_numbered: bool) -> _Video:
    if not file.streams.video:
        raise ClipError("the file has no video stream")
    stream = file.streams.video[0]
    if not hasattr(stream, "height"):  # PyAV's way to say it
        raise ClipError("the video is in a codec that FFmpeg does not know")
    stream.codec_context.thread_count = 1  # a process per core decodes
    try:
        packets = [packet for packet in file.demux(stream) if packet.size]
    except IndexError:  # PyAV's way to say it
        raise ClipError("damaged video: a stream that its header does not announce") from None
    if not packets:
        raise ClipError("the video has no frame")
    if is_numbered or file.format.name not in TIMED:
        return _Video(stream, packets, [])
    times = [packet.pts for packet in packets if not packet.is_discard]  # others are in front of the first frame
    is_unique = None not in times and len(set(times)) == len(times)
    return _Video(stream, packets, sorted(times) if is_unique else [])


def _check_beliefs(video: _Video) -> None:
    """Refuse sizes and counts beyond belief, and frames cut short."""
    stream = video.stream
    if max(stream.height, stream.width) > MAX_SIDE:
        raise ClipError(f"{stream.height} x {stream.width} pixels; at most {MAX_SIDE} a side are believed")
    if stream.frames > MAX_ANNOUNCED:
        raise ClipError(f"{stream.frames} frames announced; at most {MAX_ANNOUNCED} are believed")
    # transport streams mark every gap in their counters, and their decoders say what is missing
    if any(packet.is_corrupt for packet in video.packets) and stream.container.format.name != "mpegts":
        raise ClipError("damaged video: a frame is cut short")


def _by_time(video: _Video, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """(number, frame) of the wanted ones, from the last keyframe in front of them on; else from the first packet on."""
    left = list(wanted)
    cause = ""
    for start in dict.fromkeys((_keyframe_before(video, wanted[0]), 0)):
        numbers = {video.times[number]: number for number in left}
        is_whole = not start
        try:
            for frame in _decoded(video, start, numbers if _is_reordered(video) else None):
                if frame.pts == video.packets[start].pts:
                    # not so where a picture is renewed piece by piece (x264's intra refresh), or the container lies
                    is_whole = is_whole or frame.pict_type == PictureType.I
                if frame.pts not in numbers:
                    continue
                if not is_whole or frame.is_corrupt or numbers[frame.pts] != left[0]:
                    break
                yield left.pop(0), frame
                if not left:
                    return
        except av.error.FFmpegError as error:
            cause = f": {first_line(error)}"
    raise ClipError(f"frame {left[0]} is damaged{cause}")


def _keyframe_before(video: _Video, number: int) -> int:
    """The packet where decoding must begin. Frames that need keyframes before it are shown before it, too."""
    time = video.times[number]
    starts = [place for place, packet in enumerate(video.packets) if packet.is_keyframe and packet.pts <= time]
    return starts[-1] if starts else 0


def _is_reordered(video: _Video) -> bool:
    """Whether some frames are shown before others that are decoded first; then the times are no made-up ones."""
    return any(later.pts < packet.pts for packet, later in pairwise(video.packets))


def _by_count(video: _Video, wanted: Sequence[int] | None = None) -> Iterator[tuple[int, Any]]:
    """(number, frame) of the wanted ones, or of all, counted from the first packet on."""
    left = iter(wanted or ())
    next_one, count = next(left, None), 0
    for count, frame in enumerate(_decoded(video, 0), start=1):
        if wanted is not None and count - 1 != next_one:
            continue
        if frame.is_corrupt:
            raise ClipError(f"frame {count - 1} is damaged")
        yield count - 1, frame
        next_one = next(left, None)
        if wanted is not None and next_one is None:
            return
    if next_one is not None:
        raise ClipError(f"the video has {count} frames, frame {next_one} asked for")


def _decoded(video: _Video, start: int, needed: Container[int] | None = None) -> Iterator[Any]:
    """Frames from packet `start` on, as they are shown. `needed`: those of other times may be left out."""
    context = video.stream.codec_context
    context.flush_buffers()
    for packet in [*video.packets[start:], None]:
        if needed is not None:
            context.skip_frame = "DEFAULT" if packet is None or packet.pts in needed else "NONREF"
        yield from context.decode(packet)


def _grey(numbered: Iterable[tuple[int, Any]]) -> Iterator[Frames]:
    """Luma [H, W] in full range, of frames that must not differ in size; valid until the next one is decoded."""
    size = None
    for number, frame in numbered:
        found = (frame.height, frame.width)
        size = size or found
        if found != size:
            raise ClipError(f"frame {number} is {found} pixels, the first one {size}")
        if frame.rotation % 90:
            raise ClipError(f"frame {number} is to be shown turned by {frame.rotation} degrees")
        yield np.rot90(_luma(frame), frame.rotation // 90)


def _luma(frame: Any) -> Frames:
    kind = frame.format.name
    if frame.format.is_rgb or frame.format.has_palette:
        # ITU-R BT.601, as of every other format's colours
        return np.asarray(Image.fromarray(frame.to_ndarray(format="rgb24")).convert("L"))
    if kind not in FULL_RANGE | STUDIO_RANGE:  # more bits, or planes in one another
        return np.asarray(frame.to_ndarray(format="gray"))
    plane = frame.planes[0]
    luma: Frames = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
    return luma if kind in FULL_RANGE or frame.color_range == JPEG_RANGE else _STRETCHED[luma]


def _in_pieces(frames: Iterator[Frames], num_frames: int) -> Iterator[Frames]:
    """Frames [H, W] -> arrays [n, H, W]."""
    left = num_frames
    while left:
        first = next(frames)
        piece = np.empty((min(left, frames_at_once(*first.shape)), *first.shape), np.uint8)
        piece[0] = first
        for place, frame in zip(piece[1:], frames, strict=False):
            place[:] = frame
        yield piece
        left -= len(piece)
