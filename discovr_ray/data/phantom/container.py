"""Motion-JPEG in an AVI (RIFF) container, as FFmpeg, PyAV and decord read it, always the same bytes.

Muxers stamp their version into the file, so the synthetic data set writes its own container (Microsoft, "AVI RIFF File
Reference").
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

KEY_FRAME = 0x10  # dwFlags of an index entry
HAS_INDEX = 0x10  # dwFlags of the main header


def avi_mjpeg(frames: Sequence[bytes], fps: int, height: int, width: int) -> bytes:
    """JPEG images of one size -> the bytes of an AVI file that plays them at `fps` frames a second."""
    chunks, entries, offset = [], [], 4  # offsets count from the word "movi"
    for frame in frames:
        entries.append(struct.pack("<4sIII", b"00dc", KEY_FRAME, offset, len(frame)))
        chunks.append(_chunk(b"00dc", frame))
        offset += len(chunks[-1])
    headers = _headers(len(frames), max(map(len, frames)), fps, height, width)
    index = _chunk(b"idx1", b"".join(entries))
    return _chunk(b"RIFF", b"AVI " + headers + _list(b"movi", b"".join(chunks)) + index)


def _headers(num_frames: int, largest: int, fps: int, height: int, width: int) -> bytes:
    main = [round(1e6 / fps), largest * fps, 0, HAS_INDEX, num_frames, 0, 1, largest, width, height, 0, 0, 0, 0]
    timing = [0, 0, 1, fps, 0, num_frames, largest, -1, 0]  # 1 / fps seconds a frame
    stream = struct.pack("<4s4s8IiI4H", b"vids", b"MJPG", 0, *timing, 0, 0, width, height)
    picture = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", 3 * width * height, 0, 0, 0, 0)
    streams = _list(b"strl", _chunk(b"strh", stream) + _chunk(b"strf", picture))
    return _list(b"hdrl", _chunk(b"avih", struct.pack("<14I", *main)) + streams)


def _list(name: bytes, body: bytes) -> bytes:
    return _chunk(b"LIST", name + body)


def _chunk(name: bytes, body: bytes) -> bytes:
    filler = b"\0" * (len(body) % 2)  # chunks start at even offsets; the size leaves the filler out
    return name + struct.pack("<I", len(body)) + body + filler
