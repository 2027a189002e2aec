"""Grey PNG images in AVI (codec MPNG), as lossless shards hold them; FFmpeg and players read them too."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from discovr_ray.data.formats.mjpeg import MjpegReader
from discovr_ray.data.formats.reader import MAX_SIDE, Frames
from discovr_ray.errors import ClipError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FIRST = struct.Struct(">8sI4sIIBBBBB")  # signature and IHDR: length, name, width, height, depth, colour, 3 methods
_GREY = (8, 0, 0, 0, 0)  # 8 bits, no colour, the only compression and filters there are, not interlaced


class PngReader(MjpegReader):
    """Images in colour, in 16 bits or interlaced are left to others."""

    formats = ("avi-png",)
    codec = "MPNG"

    def _size(self, image: memoryview, index: int) -> tuple[int, int] | None:
        if len(image) < _FIRST.size:
            raise ClipError(f"frame {index} is no PNG: {len(image)} bytes")
        signature, _, name, width, height, *kind = _FIRST.unpack_from(image)
        if signature != _SIGNATURE or name != b"IHDR":
            raise ClipError(f"frame {index} is no PNG")
        if not 0 < min(height, width) <= max(height, width) <= MAX_SIDE:
            raise ClipError(f"frame {index} is {height} x {width} pixels; at most {MAX_SIDE} a side are believed")
        return (height, width) if tuple(kind) == _GREY else None

    def _decode(self, image: memoryview, index: int, place: Frames) -> None:
        if self._size(image, index) != place.shape[:2]:
            raise ClipError(f"frame {index} is no grey image of {place.shape[:2]} pixels, as the first one is")
        _check_sums(image, index)
        try:
            with Image.open(io.BytesIO(image), formats=["PNG"]) as picture:
                place[..., 0] = np.asarray(picture)
        except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as error:
            raise ClipError(f"frame {index} is damaged: {error}") from error


def _check_sums(image: memoryview, index: int) -> None:
    """Pillow does not look at the check sums of the pixels."""
    start = len(_SIGNATURE)
    while start + 12 <= len(image):
        size = int.from_bytes(image[start : start + 4], "big")
        end = start + 8 + size
        if zlib.crc32(image[start + 4 : end]) != int.from_bytes(image[end : end + 4], "big"):
            break
        if image[start + 4 : start + 8] == b"IEND":
            return
        start = end + 4
    raise ClipError(f"frame {index} is damaged: the PNG is cut short or its check sums do not fit")
