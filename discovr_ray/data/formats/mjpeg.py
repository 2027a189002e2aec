"""Motion-JPEG in AVI: finds the frames itself and decodes only the wanted ones, straight to grey (25 times faster than
a strided request to decord).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import simplejpeg

from discovr_ray.data.formats.reader import MAX_SIDE, FormatReader, Frames, Indices, VideoInfo, frames_at_once
from discovr_ray.data.formats.riff import Avi, is_avi, read_avi
from discovr_ray.errors import ClipError


class MjpegReader(FormatReader):
    """Also the base of other readers of single images in AVI."""

    formats: tuple[str, ...] = ("avi-mjpeg",)
    codec = "MJPG"

    def recognises(self, data: bytes) -> bool:
        return is_avi(data)

    def probe(self, data: bytes) -> VideoInfo | None:
        """None for other codecs in AVI, and for two interlaced fields per frame."""
        avi = read_avi(data)
        if avi.codec.upper() != self.codec:
            return None
        size = self._size(_frame(data, avi, 0), 0)
        if size is None or 2 * size[0] == avi.height:
            return None
        height, width = size
        return VideoInfo(self.formats[0], len(avi.frames), avi.fps, height, width)

    def pieces(self, data: bytes, format: str, wanted: Indices, num_frames: int) -> Iterator[Frames]:
        avi = read_avi(data)
        if len(avi.frames) != num_frames:
            raise ClipError(f"the video has {len(avi.frames)} frames, {num_frames} expected")
        first = int(wanted[0])
        size = self._size(_frame(data, avi, first), first)
        if size is None:
            raise ClipError(f"frame {first} is not the grey image that frame 0 is")
        count = frames_at_once(*size)
        for start in range(0, len(wanted), count):
            indices = wanted[start : start + count].tolist()
            piece = np.empty((len(indices), *size, 1), np.uint8)
            for place, index in zip(piece, indices, strict=True):
                self._decode(_frame(data, avi, index), index, place)
            yield piece[..., 0]

    def _size(self, image: memoryview, index: int) -> tuple[int, int] | None:
        """Height and width; None where this reader leaves the file to others."""
        return jpeg_size(image, index)

    def _decode(self, image: memoryview, index: int, place: Frames) -> None:
        decode_grey_jpeg(image, index, place)


def jpeg_size(jpeg: memoryview | bytes, index: int) -> tuple[int, int]:
    """Height and width of frame `index`, from its own header."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
    except ValueError as error:
        raise ClipError(f"frame {index} is no readable JPEG: {error}") from error
    if max(height, width) > MAX_SIDE:
        raise ClipError(f"frame {index} is {height} x {width} pixels; at most {MAX_SIDE} a side are believed")
    return height, width


def decode_grey_jpeg(jpeg: memoryview | bytes, index: int, place: Frames) -> None:
    """Decode frame `index` into `place` [H, W, 1].

    Errors:
        ClipError: damaged, or of another size than its place.
    """
    try:
        # strict: libjpeg only warns of many kinds of damage; a frame too large for the buffer is refused
        frame = simplejpeg.decode_jpeg(jpeg, "GRAY", buffer=place, strict=True)
    except ValueError as error:
        raise ClipError(f"frame {index} is damaged: {error}") from error
    if frame.shape[:2] != place.shape[:2]:
        raise ClipError(f"frame {index} is {frame.shape[:2]} pixels, the first one {place.shape[:2]}")


def _frame(data: bytes, avi: Avi, index: int) -> memoryview:
    offset, size = avi.frames[index]
    return memoryview(data)[offset : offset + size]
