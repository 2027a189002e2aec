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
UP = 2  # the filter of PNG that subtracts the row above
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
        height, width = place.shape[:2]
        try:
            # no more than the picture, whatever the stream would like to become
            packed = zlib.decompressobj().decompress(_pixel_data(image, index), height * (width + 1) + 1)
            rows = np.frombuffer(packed, np.uint8).reshape(height, width + 1)
            if (rows[:, 0] == UP).all():
                np.add.accumulate(rows[:, 1:], axis=0, dtype=np.uint8, out=place[..., 0])
                return
            with Image.open(io.BytesIO(image), formats=["PNG"]) as picture:
                place[..., 0] = np.asarray(picture)
        except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as error:
            raise ClipError(f"frame {index} is damaged: {error}") from error


def encode_grey_png(frame: Frames) -> bytes:
    """[H, W] -> a PNG whose rows all say how they differ from the one above: numpy undoes that in one sum, in half the
    time of Pillow for the best filter of each row, which would make files 3 % smaller.
    """
    rows = np.full((frame.shape[0], frame.shape[1] + 1), UP, np.uint8)
    rows[:, 1:] = np.diff(frame, axis=0, prepend=np.zeros((1, frame.shape[1]), np.uint8))
    header = struct.pack(">IIBBBBB", frame.shape[1], frame.shape[0], *_GREY)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(name, content) for name, content in parts)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _pixel_data(image: memoryview, index: int) -> bytes:
    """The compressed pixels; every chunk fits its check sum, which Pillow does not look at for pixels."""
    start, parts = len(_SIGNATURE), b""
    while start + 12 <= len(image):
        end = start + 8 + int.from_bytes(image[start : start + 4], "big")
        if zlib.crc32(image[start + 4 : end]) != int.from_bytes(image[end : end + 4], "big"):
            break
        name = bytes(image[start + 4 : start + 8])
        if name == b"IEND":
            return parts
        if name == b"IDAT":
            parts += bytes(image[start + 8 : end])
        start = end + 4
    raise ClipError(f"frame {index} is damaged: the PNG is cut short or its check sums do not fit")
