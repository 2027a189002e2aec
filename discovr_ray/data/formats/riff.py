"""Where the frames lie in an AVI file: a strict walk over its RIFF chunks, without a demuxer.

Source: Microsoft, "AVI RIFF File Reference", and the OpenDML extensions (further RIFF segments of type AVIX).
The chunks themselves are the truth; frame counts in headers and the idx1 index are not read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from discovr_ray.errors import ClipError

_CHUNK = struct.Struct("<4sI")


class Avi(NamedTuple):
    codec: str  # four characters, such as "MJPG"
    fps: float
    height: int  # pixels, as the header says
    width: int
    frames: list[tuple[int, int]]  # (offset, number of bytes) of each frame's data


class _Stream(NamedTuple):
    number: int
    codec: str
    fps: float
    height: int
    width: int


def is_avi(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"AVI "


def read_avi(data: bytes) -> Avi:
    """Locate the frames of the first video stream.

    Errors:
        ClipError: the file is shorter than it says, has no video stream or no frame, or its chunks do not add up.
    """
    stream: _Stream | None = None
    frames: list[tuple[int, int]] = []
    for start, end in _segments(data):
        for name, first, last in _chunks(data, start, end):
            kind = data[first : first + 4] if name == b"LIST" else b""
            if kind == b"hdrl" and stream is None:
                stream = _video_stream(data, first + 4, last)
            elif kind == b"movi" and stream is not None:
                _collect_frames(data, first + 4, last, b"%02d" % stream.number, frames)
    if stream is None:
        raise ClipError("the AVI has no video stream")
    if not frames:
        raise ClipError("the AVI has no frame")
    return Avi(stream.codec, stream.fps, stream.height, stream.width, frames)


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Contents of each RIFF segment; bytes behind the last one are ignored."""
    start = 0
    while data[start : start + 4] == b"RIFF" and len(data) >= start + 12:
        end = start + 8 + _CHUNK.unpack_from(data, start)[1]
        if end > len(data):
            raise ClipError(f"truncated AVI: {end} bytes announced, {len(data)} there")
        yield start + 12, end
        start = end + (end & 1)


def _chunks(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte of the content, end of the content) of each chunk; contents start at even offsets."""
    while start + 8 <= end:
        name, size = _CHUNK.unpack_from(data, start)
        start += 8
        if start + size > end:
            raise ClipError(f"damaged AVI: chunk {name!r} at byte {start - 8} ends behind its list")
        yield name, start, start + size
        start += size + (size & 1)


def _video_stream(data: bytes, start: int, end: int) -> _Stream | None:
    number = 0
    for name, first, last in _chunks(data, start, end):
        if name != b"LIST" or data[first : first + 4] != b"strl":
            continue
        parts = {part: (a, b) for part, a, b in _chunks(data, first + 4, last)}
        header, details = parts.get(b"strh", (0, 0)), parts.get(b"strf", (0, 0))
        if data[header[0] : header[0] + 4] == b"vids":
            if header[1] - header[0] < 28 or details[1] - details[0] < 20:
                raise ClipError("damaged AVI: the video stream's header is too short")
            scale, rate = struct.unpack_from("<II", data, header[0] + 20)
            width, height = struct.unpack_from("<ii", data, details[0] + 4)
            codec = data[details[0] + 16 : details[0] + 20].decode("latin-1")
            return _Stream(number, codec, rate / scale if scale else 0.0, abs(height), abs(width))
        number += 1
    return None


def _collect_frames(data: bytes, start: int, end: int, number: bytes, frames: list[tuple[int, int]]) -> None:
    for name, first, last in _movie_chunks(data, start, end):
        if name[:2] == number and name[2:] in (b"dc", b"db"):
            if first == last and not frames:
                raise ClipError("frame 0 is empty")
            # an empty chunk is the format's way to say: show the frame before once more
            frames.append((first, last - first) if last > first else frames[-1])


def _movie_chunks(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    for chunk in _chunks(data, start, end):
        if chunk[0] == b"LIST":  # frames grouped in "rec " lists, which hold no further ones
            yield from _chunks(data, chunk[1] + 4, chunk[2])
        else:
            yield chunk
