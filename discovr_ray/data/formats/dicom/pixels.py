"""Frames of a cine as grey values: ITU-R BT.601 luma, each colour space converted exactly once.

Grey frames keep their stored values (MONOCHROME1 inverted); no window, look-up table or gamma is applied to them.
"""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image

from discovr_ray.data.formats.dicom.cine import GREY, JPEG, JPEG_2000, JPEG_LOSSLESS, NATIVE, PALETTE, Cine
from discovr_ray.data.formats.dicom.jpeg import Components, decode_jpeg
from discovr_ray.data.formats.dicom.silence import unquoted
from discovr_ray.data.formats.reader import Frames
from discovr_ray.errors import ClipError

_J2K_START = b"\xff\x4f\xff\x51"  # start of code stream, then the segment with the size
_J2K_STYLE, _J2K_TILE = 0xFF52, 0xFF90  # the segment that tells of the components' transform; the end of the header


def grey_frame(cine: Cine, index: int) -> Frames:
    """[H, W]. Errors: ClipError, the frame is damaged."""
    values, space = _components(cine, index, grey=True)
    if cine.palette is not None:
        table = np.asarray(Image.fromarray(cine.palette[None]).convert("L"), np.uint8)[0]
        return np.asarray(table[values], np.uint8)
    if space == "grey":
        return 255 - values if cine.photometric == "MONOCHROME1" else values
    if space == "ybr":
        return np.ascontiguousarray(values[..., 0])
    return np.asarray(Image.fromarray(values).convert("L"))  # 0.299 R + 0.587 G + 0.114 B, rounded


def colour_frame(cine: Cine, index: int) -> Frames | None:
    """RGB [H, W, 3]; None where the pictures are grey. Errors: ClipError, the frame is damaged."""
    if cine.photometric in GREY:
        return None
    values, space = _components(cine, index, grey=False)
    if cine.palette is not None:
        return cine.palette[values]
    return np.asarray(Image.fromarray(values, "YCbCr").convert("RGB")) if space == "ybr" else values


def _components(cine: Cine, index: int, grey: bool) -> Components:
    """Stored values of one frame, unpacked; what space they are in is known from here on."""
    if cine.coding == NATIVE:
        return _by_pydicom(cine, cine.pixels, index, cine.num_frames)
    fragments = [cine.pixels[offset : offset + size] for offset, size in cine.frames[index]]
    frame = fragments[0] if len(fragments) == 1 else memoryview(b"".join(fragments))
    if cine.coding in (JPEG, JPEG_LOSSLESS):
        return decode_jpeg(frame, index, cine.photometric, (cine.height, cine.width), grey)
    if cine.coding == JPEG_2000:
        _check_size(frame, index, cine)
    from pydicom.encaps import encapsulate

    components = _by_pydicom(cine, encapsulate([bytes(frame)], has_bot=False), index, 1)
    if components.space == "ybr" and cine.coding == JPEG_2000 and _is_mixed(frame):
        return components._replace(space="rgb")  # OpenJPEG undoes that transform, whatever the attribute says
    return components


def _by_pydicom(cine: Cine, source: memoryview | bytes, index: int, num_frames: int) -> Components:
    with unquoted(f"frame {index} is damaged"):
        from pydicom.pixels import get_decoder

        # never GDCM, which pydicom would ask first where it is installed: damaged frames can end its process
        plugin = "pillow" if cine.coding == JPEG_2000 else ""
        values, found = get_decoder(cine.syntax).as_array(
            source,
            index=index if num_frames > 1 else 0,
            raw=True,  # luma is one of the components: colours are converted below, or not at all
            decoding_plugin=plugin,
            rows=cine.height,
            columns=cine.width,
            number_of_frames=num_frames,
            samples_per_pixel=cine.samples,
            photometric_interpretation=cine.photometric,
            planar_configuration=cine.planar,
            bits_allocated=8,
            bits_stored=8,
            pixel_representation=0,
            pixel_keyword="PixelData",
            pixel_vr=cine.pixel_vr,
        )
    # JPEG 2000 undoes its own transforms, and says RGB then
    space = str(found["photometric_interpretation"])
    if cine.photometric in (*GREY, PALETTE):
        return Components(values, "grey")
    return Components(values, "rgb" if space == "RGB" else "ybr")


def _check_size(frame: memoryview, index: int, cine: Cine) -> None:
    """Before the decoder allocates what a damaged header asks for."""
    start = bytes(frame[:256]).find(_J2K_START)
    if start < 0 or len(frame) < start + 24:
        raise ClipError(f"frame {index} is no JPEG 2000")
    x1, y1, x0, y0 = struct.unpack_from(">4L", frame, start + 8)
    if (y1 - y0, x1 - x0) != (cine.height, cine.width):
        raise ClipError(f"frame {index} is {y1 - y0} x {x1 - x0} pixels, Rows and Columns say otherwise")


def _is_mixed(frame: memoryview) -> bool:
    """Whether the code stream itself turned RGB into luma and chroma (ITU-T T.800, A.6.1)."""
    position = bytes(frame[:256]).find(_J2K_START) + 2
    while position + 9 <= len(frame):
        marker, size = struct.unpack_from(">HH", frame, position)
        if marker == _J2K_STYLE:
            return frame[position + 8] == 1
        if marker == _J2K_TILE or size < 2:
            break
        position += 2 + size
    return False
