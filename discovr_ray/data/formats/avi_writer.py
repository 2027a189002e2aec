"""A video of single images in an AVI (RIFF) container, as FFmpeg, PyAV and decord read it, always the same bytes.

Muxers stamp their version into the file, so the synthetic data set and the shards write their own container (Microsoft,
"AVI RIFF File Reference").
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction

KEY_FRAME = 0x10  # dwFlags of an index entry
HAS_INDEX = 0x10  # dwFlags of the main header
MAX_BYTES = 2**32 - 1  # RIFF counts in 32 bits
MAX_TICKS = 10**6  # the frame rate is a fraction of two 32-bit numbers; floats of real rates survive it


def write_avi(images: Sequence[bytes], fps: float, height: int, width: int, codec: bytes = b"MJPG") -> bytes:
    """Encoded images of one size -> the bytes of an AVI file that plays them at `fps` frames a second.

    Args:
        codec: four characters: MJPG for JPEG, MPNG for PNG.
    Errors:
        ValueError: more than 4 GiB.
    """
    if sum(map(len, images)) + 32 * len(images) + 1024 > MAX_BYTES:
        raise ValueError(f"{len(images)} frames are more than the 4 GiB that an AVI file can hold")
    chunks, entries, offset = [], [], 4  # offsets count from the word "movi"
    for image in images:
        entries.append(struct.pack("<4sIII", b"00dc", KEY_FRAME, offset, len(image)))
        chunks.append(_chunk(b"00dc", image))
        offset += len(chunks[-1])
    headers = _headers(
        len(images), max(map(len, images)), Fraction(fps).limit_denominator(MAX_TICKS), height, width, codec
    )
    index = _chunk(b"idx1", b"".join(entries))
    return _chunk(b"RIFF", b"AVI " + headers + _list(b"movi", b"".join(chunks)) + index)


def _headers(num_frames: int, largest: int, fps: Fraction, height: int, width: int, codec: bytes) -> bytes:
    bytes_per_s = min(round(largest * fps), MAX_BYTES)
    main = [round(1e6 / fps), bytes_per_s, 0, HAS_INDEX, num_frames, 0, 1, largest, width, height, 0, 0, 0, 0]
    timing = [0, 0, fps.denominator, fps.numerator, 0, num_frames, largest, -1, 0]
    stream = struct.pack("<4s4s8IiI4H", b"vids", codec, 0, *timing, 0, 0, width, height)
    picture = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, codec, 3 * width * height, 0, 0, 0, 0)
    streams = _list(b"strl", _chunk(b"strh", stream) + _chunk(b"strf", picture))
    return _list(b"hdrl", _chunk(b"avih", struct.pack("<14I", *main)) + streams)


def _list(name: bytes, body: bytes) -> bytes:
    return _chunk(b"LIST", name + body)


def _chunk(name: bytes, body: bytes) -> bytes:
    filler = b"\0" * (len(body) % 2)  # chunks start at even offsets; the size leaves the filler out
    return name + struct.pack("<I", len(body)) + body + filler
