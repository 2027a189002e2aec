"""Where the frames lie in encapsulated pixel data: a strict walk over its items.

Source: DICOM PS3.5, A.4. An item is a tag, a length and as many bytes; the first one is the basic offset table.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from discovr_ray.errors import ClipError

Fragments = list[tuple[int, int]]  # (offset in the file, number of bytes) of each piece of one frame

_HEAD = struct.Struct("<HHL")
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP")  # JPEG, JPEG 2000, JP2


def locate(data: memoryview, start: int, num_frames: int, extended_table: Sequence[int]) -> list[Fragments]:
    """The fragments of each frame.

    Args:
        start: of the first item's tag.
        extended_table: (7FE0,0001), offsets from behind the first item; empty where the file has none.
    Errors:
        ClipError: truncated, damaged, or another number of frames than announced.
    """
    items = _walk(data, start)
    if not items:
        raise ClipError("PixelData has no frame")
    (offset, size), fragments = items[0], items[1:]
    if size % 4:
        raise ClipError("the basic offset table is damaged")
    table = list(extended_table) or list(struct.unpack_from(f"<{size // 4}L", data, offset))
    if table and len(table) != num_frames:
        raise ClipError(f"NumberOfFrames is {num_frames}, the offset table has {len(table)} entries")
    if len(fragments) == num_frames:
        return [[fragment] for fragment in fragments]
    if len(fragments) < num_frames:
        raise ClipError(f"NumberOfFrames is {num_frames}, there are {len(fragments)} fragments of frames")
    if table:
        firsts = {offset + size + entry + _HEAD.size for entry in table}
    else:
        firsts = {place for place, length in fragments if bytes(data[place : place + 6]).startswith(_STARTS)}
    return _grouped(fragments, firsts, num_frames)


def _walk(data: memoryview, position: int) -> Fragments:
    """(offset, bytes) of the content of each item up to the delimiter."""
    items: Fragments = []
    while True:
        if position + _HEAD.size > len(data):
            raise ClipError(f"truncated: PixelData ends after {len(items)} fragments without its delimiter")
        group, element, size = _HEAD.unpack_from(data, position)
        position += _HEAD.size
        if (group, element) == _END:
            return items
        if (group, element) != _ITEM:
            raise ClipError(f"PixelData is damaged behind fragment {len(items)}")
        if position + size > len(data):
            raise ClipError(f"truncated or damaged: fragment {len(items)} of PixelData ends behind the file")
        items.append((position, size))
        position += size


def _grouped(fragments: Fragments, firsts: set[int], num_frames: int) -> list[Fragments]:
    """Frames, each beginning at one of the offsets `firsts`."""
    frames: list[Fragments] = []
    for fragment in fragments:
        if fragment[0] in firsts:
            frames.append([])
        if not frames:
            raise ClipError("the first fragment of PixelData begins no frame")
        frames[-1].append(fragment)
    if len(frames) != num_frames:
        raise ClipError(f"NumberOfFrames is {num_frames}, there are {len(frames)} frames")
    return frames
