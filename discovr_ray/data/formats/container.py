"""What kind of file a video is, and whether it is all there, from its first bytes and its outermost boxes."""

from __future__ import annotations

import struct

from discovr_ray.data.formats.riff import is_avi
from discovr_ray.errors import ClipError


def container(data: bytes) -> str:
    """Kind of file by its first bytes."""
    if is_avi(data):
        return "avi"
    if data[4:8] == b"ftyp":
        return "mp4"
    return "mkv" if data[:4] == b"\x1a\x45\xdf\xa3" else "video"


def check_boxes(data: bytes) -> None:
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


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
