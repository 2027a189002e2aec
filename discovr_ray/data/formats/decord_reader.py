"""decord, tamed: strict, quiet, one thread, contiguous spans only. Every failure is ClipError."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import av
import numpy as np

from discovr_ray.data.formats.reader import MAX_SIDE, PIECE_BYTES, FormatReader, Frames, Indices, VideoInfo
from discovr_ray.data.formats.riff import is_avi
from discovr_ray.errors import ClipError

SPAN = 64  # frames held at once, in colour, while a video is decoded
MAX_ANNOUNCED = 10**6  # frames, ten hours; decord keeps a table as long as the header says
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, which JPEG uses as well


class DecordReader(FormatReader):
    """Every video that no other reader takes."""

    formats = ("avi", "mp4", "mkv", "video")

    def recognises(self, data: bytes) -> bool:
        return True

    def probe(self, data: bytes) -> VideoInfo:
        _check_boxes(data)
        _check_packets(data)
        reader = open_video(data)
        height, width = read_span(reader, range(1)).shape[1:3]
        return VideoInfo(container(data), len(reader), float(reader.get_avg_fps()), height, width)

    def pieces(self, data: bytes, format: str, wanted: Indices, num_frames: int) -> Iterator[Frames]:
        return grey_pieces(data, wanted, num_frames)

    def check(self, data: bytes) -> None:
        check_not_concealed(data)


def container(data: bytes) -> str:
    """Kind of file by its first bytes."""
    if is_avi(data):
        return "avi"
    if data[4:8] == b"ftyp":
        return "mp4"
    return "mkv" if data[:4] == b"\x1a\x45\xdf\xa3" else "video"


def open_video(data: bytes) -> Any:
    """A decord VideoReader; `len()` counts the packets of the file."""
    _check_boxes(data)
    _check_readable(data)
    decord = _decord()
    try:
        # without fault_tol=0 a frame that cannot be decoded is silently replaced by the one before
        return decord.VideoReader(io.BytesIO(data), ctx=decord.cpu(0), num_threads=1, fault_tol=0)
    except (decord.DECORDError, RuntimeError, AssertionError, ValueError) as error:
        raise ClipError(f"not a readable video: {_first_line(error)}") from error


def read_span(reader: Any, span: range) -> Frames:
    """Consecutive frames, RGB [n, H, W, 3]."""
    try:
        return np.asarray(reader.get_batch(list(span)).asnumpy(), np.uint8)
    except (_decord().DECORDError, RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise ClipError(f"frames {span[0]} to {span[-1]} are damaged: {_first_line(error)}") from error


def grey_pieces(data: bytes, wanted: Indices, num_frames: int) -> Iterator[Frames]:
    """The wanted frames (sorted, distinct) in order, as arrays [n, H, W]."""
    reader = open_video(data)
    if len(reader) != num_frames:
        raise ClipError(f"the video has {len(reader)} frames, {num_frames} expected")
    # contiguous spans need no seek between them; jumping by the stride would seek for every frame
    start, last = int(wanted[0]), int(wanted[-1])
    length = 1  # the first frame alone, which tells how large they are
    while start <= last:
        stop = min(start + length, last + 1)
        frames = read_span(reader, range(start, stop))
        kept = wanted[(wanted >= start) & (wanted < stop)] - start
        if len(kept):
            yield _grey(frames[kept])
        start, length = stop, max(1, min(SPAN, PIECE_BYTES // frames[0].nbytes))


def check_not_concealed(data: bytes) -> None:
    """Refuse frames that ffmpeg had to repair, by copying from others, and those that decord would stretch."""
    first = None
    try:
        with av.open(io.BytesIO(data), "r") as file:
            for number, frame in enumerate(file.decode(video=0)):
                if frame.is_corrupt:
                    raise ClipError(f"frame {number} is damaged")
                size = (frame.height, frame.width)
                first = first or size
                if size != first:
                    raise ClipError(f"frame {number} is {size} pixels, the first one {first}")
    except (av.error.FFmpegError, ValueError) as error:
        raise ClipError(f"damaged video: {_first_line(error)}") from error


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


def _check_readable(data: bytes) -> None:
    """Refuse what is no video before decord sees it: it would write the bytes themselves to stderr."""
    try:
        with av.open(io.BytesIO(data), "r") as file:
            if not file.streams.video:
                raise ClipError("the file has no video stream")
    except (av.error.FFmpegError, ValueError) as error:
        raise ClipError(f"not a readable video: {_first_line(error)}") from error


def _check_packets(data: bytes) -> None:
    """Refuse what decord crashes on (found by tests/fuzz.py): frames cut short, and sizes and counts beyond belief."""
    _check_readable(data)
    try:
        with av.open(io.BytesIO(data), "r") as file:
            stream = file.streams.video[0]
            if not hasattr(stream, "height"):  # PyAV's way to say it
                raise ClipError("the video is in a codec that FFmpeg does not know")
            if max(stream.height, stream.width) > MAX_SIDE:
                raise ClipError(f"{stream.height} x {stream.width} pixels; at most {MAX_SIDE} a side are believed")
            if stream.frames > MAX_ANNOUNCED:
                raise ClipError(f"{stream.frames} frames announced; at most {MAX_ANNOUNCED} are believed")
            packets = [packet.is_corrupt for packet in file.demux(stream) if packet.size]
            if not packets:
                raise ClipError("the video has no frame")
            # transport streams mark every gap in their counters, and their decoders say what is missing
            if any(packets) and file.format.name != "mpegts":
                raise ClipError("damaged video: a frame is cut short")
    except (av.error.FFmpegError, ValueError) as error:
        raise ClipError(f"not a readable video: {_first_line(error)}") from error


def _check_boxes(data: bytes) -> None:
    """Refuse an MP4 that is shorter than its outermost boxes say; decoders take what is left without a word."""
    if data[4:8] != b"ftyp":
        return
    start = 0
    while start + 8 <= len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        if size == 1 and start + 16 <= len(data):
            size = struct.unpack_from(">Q", data, start + 8)[0]
        if size == 0:  # up to the end of the file
            return
        if size < 8 or start + size > len(data):
            raise ClipError(f"truncated or damaged MP4: box of {size} bytes at byte {start} of {len(data)}")
        start += size


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
