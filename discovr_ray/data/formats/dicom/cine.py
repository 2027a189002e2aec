"""What a cine's pictures are like and where each frame lies, checked against the bytes that are there."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from discovr_ray.data.formats.dicom import encapsulation
from discovr_ray.data.formats.dicom.attributes import (
    BIG_ENDIAN,
    PICTURE,
    UNDEFINED_LENGTH,
    Parsed,
    parse,
    text_of,
    whole_number,
)
from discovr_ray.data.formats.dicom.silence import unquoted
from discovr_ray.data.formats.reader import MAX_SIDE
from discovr_ray.errors import ClipError

NATIVE, RLE, JPEG, JPEG_LOSSLESS, JPEG_2000 = "native", "RLE", "JPEG", "lossless JPEG", "JPEG 2000"
CODINGS = {
    "1.2.840.10008.1.2": NATIVE,
    "1.2.840.10008.1.2.1": NATIVE,
    "1.2.840.10008.1.2.2": NATIVE,  # big endian
    "1.2.840.10008.1.2.5": RLE,
    "1.2.840.10008.1.2.4.50": JPEG,
    "1.2.840.10008.1.2.4.51": JPEG,  # extended: of 8 bits, as everything here
    "1.2.840.10008.1.2.4.57": JPEG_LOSSLESS,
    "1.2.840.10008.1.2.4.70": JPEG_LOSSLESS,  # selection value 1
    "1.2.840.10008.1.2.4.90": JPEG_2000,  # lossless
    "1.2.840.10008.1.2.4.91": JPEG_2000,
}
GREY = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")

Table = npt.NDArray[np.uint8]


class Cine(NamedTuple):
    syntax: str  # TransferSyntaxUID, a key of CODINGS
    coding: str
    num_frames: int
    height: int  # pixels
    width: int
    photometric: str  # of GREY, PALETTE or COLOURS
    planar: int  # 1: native colour planes one after the other
    pixel_vr: str
    palette: Table | None  # RGB [256, 3]
    pixels: memoryview  # native: all of them; else the whole file
    frames: list[encapsulation.Fragments]  # empty where native

    @property
    def samples(self) -> int:
        return 3 if self.photometric in COLOURS else 1


def read_cine(data: bytes) -> Cine:
    """Errors: ClipError, a still, another kind of picture, or fewer or more frames than announced."""
    parsed = parse(data, PICTURE)
    if parsed.syntax not in CODINGS:
        raise ClipError("TransferSyntaxUID: a way of coding that is not read (docs/dicom.md lists those that are)")
    if not parsed.start:
        raise ClipError("PixelData is missing")
    values, coding = parsed.values, CODINGS[parsed.syntax]
    num_frames = whole_number(values, "NumberOfFrames", missing=1)
    if num_frames < 2:
        raise ClipError("one frame: a still image, not a video")
    height, width = whole_number(values, "Rows"), whole_number(values, "Columns")
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise ClipError(f"Rows and Columns are {height} and {width}; 1 to {MAX_SIDE} are believed")
    photometric = _photometric(values)
    cine = Cine(
        *(parsed.syntax, coding, num_frames, height, width, photometric),
        whole_number(values, "PlanarConfiguration", missing=0),
        parsed.pixel_vr,
        _palette(parsed) if photometric == PALETTE else None,
        memoryview(data),
        [],
    )
    return _with_native_pixels(cine, parsed) if coding == NATIVE else _with_frames(cine, parsed)


def _photometric(values: Any) -> str:
    found = text_of(values, "PhotometricInterpretation")
    if found not in (*GREY, PALETTE, *COLOURS):
        raise ClipError(f"PhotometricInterpretation is none of {', '.join((*GREY, PALETTE, *COLOURS))}")
    samples = whole_number(values, "SamplesPerPixel", missing=0)
    if samples != (3 if found in COLOURS else 1):
        raise ClipError(f"SamplesPerPixel is {samples}, which PhotometricInterpretation contradicts")
    for keyword, wanted in (("BitsAllocated", 8), ("BitsStored", 8), ("PixelRepresentation", 0)):
        if (bits := whole_number(values, keyword, missing=wanted if wanted == 0 else None)) != wanted:
            raise ClipError(f"{keyword} is {bits}: only {wanted} is read (8 bits, without a sign)")
    return found


def _with_native_pixels(cine: Cine, parsed: Parsed) -> Cine:
    if parsed.length == UNDEFINED_LENGTH:
        raise ClipError("PixelData is in fragments, which TransferSyntaxUID contradicts")
    samples = 2 if cine.photometric == "YBR_FULL_422" else cine.samples
    size = cine.num_frames * cine.height * cine.width * samples
    if parsed.length != size + size % 2:
        raise ClipError(f"PixelData announces {parsed.length} bytes; NumberOfFrames and the size ask for {size}")
    pixels = cine.pixels[parsed.start : parsed.start + parsed.length]
    if len(pixels) < size:
        raise ClipError(f"truncated: PixelData has {len(pixels)} of {size} bytes")
    return cine._replace(pixels=pixels)


def _with_frames(cine: Cine, parsed: Parsed) -> Cine:
    if parsed.length != UNDEFINED_LENGTH:
        raise ClipError("PixelData is not in fragments, which TransferSyntaxUID contradicts")
    with unquoted("ExtendedOffsetTable is damaged"):
        table = np.frombuffer(parsed.values.get("ExtendedOffsetTable") or b"", "<u8").tolist()
    return cine._replace(frames=encapsulation.locate(cine.pixels, parsed.start, cine.num_frames, table))


def _palette(parsed: Parsed) -> Table:
    """RGB [256, 3] of every stored value. Entries of 16 bits count with their upper 8, or all lie below 256."""
    channels = [_channel(parsed, name) for name in ("Red", "Green", "Blue")]
    table = np.stack(channels, -1)
    return np.asarray(table >> 8 if table.max() > 255 else table, np.uint8)


def _channel(parsed: Parsed, name: str) -> npt.NDArray[np.uint16]:
    descriptor, data = f"{name}PaletteColorLookupTableDescriptor", f"{name}PaletteColorLookupTableData"
    with unquoted(f"{descriptor} or {data} is damaged"):
        count, first, _ = (int(part) for part in parsed.values[descriptor].value)
        content = bytes(parsed.values[data].value)
        count = count or 65536
        # the bits of the descriptor are no help: entries of 8 bits are often stored in 16
        wide = len(content) >= 2 * count
        kind = (">u2" if parsed.syntax == BIG_ENDIAN else "<u2") if wide else "u1"
        entries = np.frombuffer(content, kind, count).astype(np.uint16)
        # values below and above the table take its first and last entry
        return np.asarray(entries[np.clip(np.arange(256) - first, 0, count - 1)])
