"""JPEG frames, baseline and lossless, with libjpeg-turbo; its warnings count as damage.

What the three components of a frame are is decided here, once, and written into the frame as Adobe's marker in place of
its own application markers, so that libjpeg never guesses. Sources: ITU-T T.81, annex B; Adobe's technical note 5116.
"""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

import numpy as np
import simplejpeg

from discovr_ray.data.formats.mjpeg import decode_grey_jpeg
from discovr_ray.data.formats.reader import Frames
from discovr_ray.errors import ClipError

Space = Literal["grey", "rgb", "ybr"]

_BASELINE, _PROGRESSIVE, _LOSSLESS, _SCAN = 0xC0, 0xC2, 0xC3, 0xDA
_APPLICATION, _ADOBE, _COMMENT = range(0xE0, 0xF0), 0xEE, 0xFE


class Components(NamedTuple):
    values: Frames  # [H, W] where grey, else [H, W, 3]
    space: Space


class _Head(NamedTuple):
    lossless: bool
    height: int
    width: int
    ids: bytes  # of the components
    samplings: bytes  # of the components: factors across and down, four bits each
    jfif: bool
    adobe: int | None  # its transform: 0 none, 1 YCbCr; None: no such marker
    tables: bytes  # everything in front of the scan but application markers and comments
    scan: int  # where it begins


def decode_jpeg(frame: memoryview, index: int, photometric: str, size: tuple[int, int], grey: bool) -> Components:
    """One frame; `grey` spares the colours where the decoder can leave them out.

    Args:
        size: height and width that the frame must have.
    Errors:
        ClipError: damaged, of another size, or of a colour space that cannot be told.
    """
    head = _read_head(frame, index)
    if (head.height, head.width) != size:
        raise ClipError(f"frame {index} is {head.height} x {head.width} pixels, Rows and Columns are {size}")
    if len(head.ids) != (3 if photometric in ("RGB", "YBR_FULL", "YBR_FULL_422") else 1):
        raise ClipError(f"frame {index} has {len(head.ids)} components, which PhotometricInterpretation contradicts")
    space = _space(head, photometric)
    # lossless streams are never converted: their components come as they are, under the name of RGB
    stream = _recoloured(frame, head, 1 if space == "ybr" and not head.lossless else 0)
    if space == "grey" or (grey and not head.lossless):
        place = np.empty((*size, 1), np.uint8)
        decode_grey_jpeg(stream, index, place)
        return Components(place[..., 0], "grey")
    try:
        values = simplejpeg.decode_jpeg(stream, "RGB", strict=True)
    except ValueError as error:
        raise ClipError(f"frame {index} is damaged: {error}") from error
    return Components(values, space if head.lossless else "rgb")


def _space(head: _Head, photometric: str) -> Space:
    """What the components are. The stream's word counts more than the attribute's, which often says RGB of YCbCr."""
    if len(head.ids) == 1:
        return "grey"
    if head.ids.upper() == b"RGB":
        return "rgb"
    if head.adobe == 0 and photometric != "RGB":
        raise ClipError("PhotometricInterpretation says luma and chroma, the JPEG's own marker RGB")
    if head.adobe == 1 or (head.adobe is None and head.jfif):
        return "ybr"
    if head.adobe != 0 and len(set(head.samplings)) > 1:
        return "ybr"  # only chroma is stored more coarsely
    return "rgb" if photometric == "RGB" else "ybr"


def _recoloured(frame: memoryview, head: _Head, transform: int) -> bytes:
    adobe = struct.pack(">HH5sHHHB", 0xFF00 | _ADOBE, 14, b"Adobe", 100, 0, 0, transform)
    return b"".join((b"\xff\xd8", adobe, head.tables, frame[head.scan :]))


def _read_head(frame: memoryview, index: int) -> _Head:
    """Walk over the segments in front of the scan.

    Errors:
        ClipError: no JPEG, or its headers do not add up.
    """
    size, ids, samplings, lossless, jfif, adobe = (0, 0), b"", b"", False, False, None
    tables: list[bytes] = []
    for marker, first, last in _segments(frame, index):
        content = bytes(frame[first:last])
        if marker == _SCAN:
            if not ids:
                break
            return _Head(lossless, *size, ids, samplings, jfif, adobe, b"".join(tables), first - 4)
        if _BASELINE <= marker <= _LOSSLESS:
            if len(content) < 6 or len(content) != 6 + 3 * content[5] or content[0] != 8 or marker == _PROGRESSIVE:
                raise ClipError(f"frame {index} is no JPEG of 8 bits, baseline or lossless")
            size, lossless = struct.unpack_from(">HH", content, 1), marker == _LOSSLESS
            ids, samplings = content[6::3], content[7::3]
        if marker == _ADOBE and content[:5] == b"Adobe" and len(content) >= 12:
            adobe = content[11]
        jfif = jfif or content[:5] == b"JFIF\0"
        if marker not in _APPLICATION and marker != _COMMENT:
            tables.append(bytes(frame[first - 4 : last]))
    raise ClipError(f"frame {index} is no readable JPEG: its headers end early")


def _segments(frame: memoryview, index: int) -> list[tuple[int, int, int]]:
    """(marker, first byte, end) of the content of each segment, the scan's header last."""
    if bytes(frame[:2]) != b"\xff\xd8":
        raise ClipError(f"frame {index} is no JPEG")
    found = []
    position = 2
    while position + 4 <= len(frame):
        fill, marker, size = struct.unpack_from(">BBH", frame, position)
        if fill == 0xFF and marker == 0xFF:  # a marker may be preceded by any number of these
            position += 1
            continue
        if fill != 0xFF or size < 2 or position + 2 + size > len(frame):
            break
        found.append((marker, position + 4, position + 2 + size))
        if marker == _SCAN:
            break
        position += 2 + size
    return found
