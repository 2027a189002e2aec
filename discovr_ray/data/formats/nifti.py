"""NIfTI-1 in one file (.nii, .nii.gz): a grey video whose frames lie along the third or the fourth axis.

Which way up: the first axis runs along a row of the picture, left to right, the second one down the rows, and the
affine is not asked. That is how ITK stores pictures, how CAMUS and CardiacNet were written, and what SimpleITK's
GetArrayFromImage shows; an ultrasound picture has no direction in the patient that an affine could name, and writers
without one fill in a unit matrix. The first axis is the fastest, so the bytes are frames [T, H, W] as they lie.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from discovr_ray.data.formats.policy import IngestPolicy
from discovr_ray.data.formats.reader import MAX_SIDE, Details, FormatReader, Frames, Indices, VideoInfo, frames_at_once
from discovr_ray.errors import ClipError

MAX_BYTES = 2**30  # of a file, unpacked; 500 frames of 1024 x 1024 in 16 bits
DARK = 16  # a file without any value from here on is a mask, or its values are no grey levels of 0 to 255
SAME_SPACING = 0.01  # how far the two pixel spacings may differ and still be one number
_SCALED = np.dtype(np.float32)  # exact for 16 bits; of a pixel while it becomes a grey level
_HEADER_BYTES = 348
_GZIP = b"\x1f\x8b"
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_CENTIMETRES = {"meter": 100.0, "mm": 0.1, "micron": 1e-4}


class _Header(NamedTuple):
    num_frames: int
    height: int
    width: int
    dtype: np.dtype[Any]
    offset: int  # of the first pixel
    slope: float  # grey level = slope x stored value + intercept
    intercept: float
    fps: float  # 0: not said
    cm_per_pixel: float | None


class NiftiReader(FormatReader):
    formats = ("nifti",)

    def recognises(self, data: bytes) -> bool:
        head = _head(data)
        return len(head) == _HEADER_BYTES and head[344:348] == b"n+1\0"

    def probe(self, data: bytes) -> VideoInfo:
        header = _read_header(_head(data))
        frames = _raw_frames(data, header)
        return VideoInfo(self.formats[0], len(frames), header.fps, header.height, header.width)

    def pieces(self, data: bytes, format: str, wanted: Indices, num_frames: int) -> Iterator[Frames]:
        header = _read_header(_head(data))
        frames = _raw_frames(data, header)
        if len(frames) != num_frames:
            raise ClipError(f"the video has {len(frames)} frames, {num_frames} expected")
        count = frames_at_once(header.height, header.width, _SCALED.itemsize)
        for start in range(0, len(wanted), count):
            yield _grey(frames[wanted[start : start + count]], header)

    def check(self, data: bytes) -> None:
        """Refuse masks, and values that would need rescaling."""
        header = _read_header(_head(data))
        frames = _raw_frames(data, header)
        low, high = sorted(header.slope * float(end) + header.intercept for end in (frames.min(), frames.max()))
        _check_range(low, high)
        if high < DARK:
            raise ClipError(f"values {low:g} to {high:g}: a mask, or brightness on another scale than 0 to 255")

    def details(self, data: bytes, info: VideoInfo, policy: IngestPolicy) -> Details:
        """Pixel spacing alone: the header's free text may hold names."""
        return Details(cm_per_pixel=_read_header(_head(data)).cm_per_pixel)


def read_mask(data: bytes, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Values [H, W] of the mask of one frame, the same way up as the frames of a clip.

    Errors:
        ClipError: no NIfTI file, of another size than the frame, of several frames, or not of whole numbers to 255.
    """
    if not NiftiReader().recognises(data):
        raise ClipError("the mask is no NIfTI file")
    header = _read_header(_head(data))
    values = _raw_frames(data, header)
    if values.shape[1:] != (height, width):
        raise ClipError(f"mask of {header.height} x {header.width} pixels for a frame of {height} x {width}")
    if len(values) != 1:
        raise ClipError(f"mask of {len(values)} frames, one expected")
    mask = values[0] * header.slope + header.intercept
    whole = np.asarray(np.clip(np.nan_to_num(mask), 0, 255), np.uint8)
    if not np.array_equal(whole, mask):
        raise ClipError(f"mask with values {mask.min():g} to {mask.max():g}: whole numbers from 0 to 255 are expected")
    return whole


def encode_mask(values: npt.NDArray[np.uint8]) -> bytes:
    """A mask [H, W] as a NIfTI file that read_mask reads; the same values are the same bytes."""
    from nibabel.nifti1 import Nifti1Image

    image = Nifti1Image(np.ascontiguousarray(values.T)[..., None], np.eye(4))
    return gzip.compress(image.to_bytes(), mtime=0)


def _head(data: bytes) -> bytes:
    """The header's bytes, fewer where there are fewer."""
    if data[:2] != _GZIP:
        return data[:_HEADER_BYTES]
    try:
        start = data[:4096]  # what is left over would be copied
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start, _HEADER_BYTES)
    except zlib.error:
        return b""


@lru_cache(maxsize=4)  # asked for four times while a file is inspected
def _read_header(head: bytes) -> _Header:
    from nibabel.nifti1 import Nifti1Header  # takes half a second: only loaded when a file needs it
    from nibabel.spatialimages import HeaderDataError

    try:
        header = Nifti1Header.from_fileobj(io.BytesIO(head), check=False)
        shape = tuple(int(side) for side in header.get_data_shape())
        dtype, offset = header.get_data_dtype(), int(header["vox_offset"])
        slope, intercept = header.get_slope_inter()
        space, time = header.get_xyzt_units()
    except (HeaderDataError, KeyError, ValueError, OverflowError) as error:
        raise ClipError(f"damaged NIfTI header: {error}") from error
    width, height, num_frames = _picture_shape(shape)
    if dtype.kind not in "iuf":
        raise ClipError(f"NIfTI data type {header.get_value_label('datatype')}: only grey levels are read")
    size = offset + num_frames * height * width * dtype.itemsize
    if offset < _HEADER_BYTES + 4 or size > MAX_BYTES:
        raise ClipError(f"the NIfTI header announces {size} bytes from byte {offset}; at most {MAX_BYTES} are believed")
    zooms = [float(step) for step in header["pixdim"][1:5]]
    fps = _frame_rate(zooms[3] * _SECONDS.get(time, 0.0), zooms[3]) if shape[3:4] == (num_frames,) else 0.0
    slope, intercept = (1.0, 0.0) if slope is None else (float(slope), float(intercept or 0.0))
    spacing = _spacing(zooms, _CENTIMETRES.get(space, 0.0))
    return _Header(num_frames, height, width, dtype, offset, slope, intercept, fps, spacing)


def _picture_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Width, height, frames."""
    sides = " x ".join(map(str, shape))
    if len(shape) < 2 or min(shape) < 1:
        raise ClipError(f"NIfTI of {sides or 'no'} values: no picture")
    if max(shape[:2]) > MAX_SIDE:
        raise ClipError(f"NIfTI of {sides} values; at most {MAX_SIDE} a side are believed")
    num_frames = math.prod(shape[2:])
    if num_frames != max(shape[2:4], default=1):
        raise ClipError(f"NIfTI of {sides} values: more than width, height and frames (a volume, or colour)")
    return shape[0], shape[1], num_frames


def _frame_rate(seconds: float, stored: float) -> float:
    """1 is what writers fill in when they do not know: nothing is said."""
    return 1 / seconds if math.isfinite(seconds) and seconds > 0 and stored != 1 else 0.0


def _spacing(zooms: list[float], centimetres: float) -> float | None:
    """None where the unit is not given, both are the 1 that stands for unknown, or a pixel is no square."""
    x, y = zooms[:2]
    if not (centimetres and x > 0 and y > 0 and math.isfinite(x + y)) or x == y == 1:
        return None
    return round((x + y) / 2 * centimetres, 8) if abs(x - y) <= SAME_SPACING * max(x, y) else None


def _raw_frames(data: bytes, header: _Header) -> npt.NDArray[Any]:
    """Stored values [T, H, W], without a copy."""
    size = header.offset + header.num_frames * header.height * header.width * header.dtype.itemsize
    content = _unpack(data, size) if data[:2] == _GZIP else data
    if len(content) != size:
        there = f"more than {size}" if data[:2] == _GZIP and len(content) > size else str(len(content))
        raise ClipError(f"truncated or damaged NIfTI: {size} bytes announced, {there} there")
    values = np.frombuffer(content, header.dtype, offset=header.offset)
    return values.reshape(header.num_frames, header.height, header.width)


def _unpack(data: bytes, size: int) -> bytes:
    """At most size + 1 bytes: a small file can unpack to a thousand times its size, and more than the header says."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        content = unpacker.decompress(data, size + 1)
    except zlib.error as error:
        raise ClipError(f"damaged gzip data: {error}") from error
    if len(content) == size and not unpacker.eof:
        raise ClipError("truncated gzip data: no checksum at its end")
    return content


def _grey(values: npt.NDArray[Any], header: _Header) -> Frames:
    if header.dtype == np.uint8 and (header.slope, header.intercept) == (1, 0):
        return values
    with np.errstate(over="ignore", invalid="ignore"):  # infinities and NaN fail the check
        scaled = values.astype(_SCALED)
        scaled *= header.slope
        scaled += header.intercept
    _check_range(float(scaled.min()), float(scaled.max()))
    return np.rint(scaled, out=scaled).astype(np.uint8)


def _check_range(low: float, high: float) -> None:
    if not (low >= 0 and high <= 255):  # written so that NaN fails
        raise ClipError(f"values {low:g} to {high:g}: grey levels are 0 to 255, and nothing is rescaled")
