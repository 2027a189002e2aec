"""The attributes that are read, by name, and nothing else; values leave this file as numbers, known words or hashes.

Reasons name attributes, never their values. The list with its purposes is in docs/dicom.md.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import math
import struct
from typing import Any, NamedTuple

from discovr_ray.data.formats.dicom.silence import unquoted
from discovr_ray.errors import ClipError

# what decoding needs; read for every clip of a training run
PICTURE = (
    *("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData"),
    *("GreenPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableData"),
    *("BluePaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableData"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
FRAME_RATE = ("FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate")
MEANING = (
    "Modality",
    "BurnedInAnnotation",
    "SequenceOfUltrasoundRegions",
    "ViewCodeSequence",
    "HeartRate",
    "Manufacturer",
)
IDS = ("PatientID", "StudyInstanceUID", "SOPInstanceUID")  # read only to be hashed
ALLOWED = (*PICTURE, *FRAME_RATE, *MEANING, *IDS)
ID_DIGITS = 32  # hexadecimal, of a keyed SHA-256

DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
IMPLICIT = "1.2.840.10008.1.2"
_PIXEL_DATA = (0x7FE0, 0x0010)


class Parsed(NamedTuple):
    values: Any  # pydicom Dataset of allowed attributes
    syntax: str  # TransferSyntaxUID
    pixel_vr: str  # OB, OW or "" where the file does not say
    start: int  # of the pixel data's value; 0: there is none
    length: int  # of the value in bytes; UNDEFINED_LENGTH: encapsulated


UNDEFINED_LENGTH = 0xFFFFFFFF


def parse(data: bytes, keywords: tuple[str, ...]) -> Parsed:
    """Read these attributes and find the pixel data, without touching it.

    Errors:
        ClipError: no readable DICOM file.
    """
    with unquoted("damaged DICOM header"):
        from pydicom import dcmread

        file = io.BytesIO(data)
        syntax = _transfer_syntax(file)
        if syntax == DEFLATED:
            raise ClipError("TransferSyntaxUID: deflated files are not read (they could unpack to any size)")
        file.seek(0)
        values = dcmread(file, stop_before_pixels=True, specific_tags=list(keywords))
        return Parsed(values, syntax, *_pixel_element(data, file.tell(), syntax))


def _transfer_syntax(file: io.BytesIO) -> str:
    """Read alone and first: pydicom would unpack a deflated file before anyone is asked."""
    from pydicom.filereader import read_dataset, read_preamble

    read_preamble(file, force=False)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2, specific_tags=[0x00020010])
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if not syntax:
        raise ClipError("TransferSyntaxUID is missing")
    return syntax


def _pixel_element(data: bytes, position: int, syntax: str) -> tuple[str, int, int]:
    """(VR, first byte of the value, length) of the element at `position`, if it is the pixel data."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    head = data[position : position + 12].ljust(12, b"\0")
    group, element, vr, short, long = struct.unpack(f"{order}HH2sHL", head)
    if (group, element) != _PIXEL_DATA:
        return "", 0, 0
    if syntax == IMPLICIT:
        return "", position + 8, struct.unpack_from(f"{order}L", head, 4)[0]
    if vr in (b"OB", b"OW", b"UN"):
        return vr.decode(), position + 12, long
    return "", position + 8, short


def number(values: Any, keyword: str) -> float | None:
    """A numeric attribute; None where it is missing or empty.

    Errors:
        ClipError: no finite number.
    """
    text = text_of(values, keyword)
    if not text:
        return None
    try:
        found = float(text)
    except ValueError:
        raise ClipError(f"{keyword} is no number") from None
    if not math.isfinite(found):
        raise ClipError(f"{keyword} is no finite number")
    return found


def whole_number(values: Any, keyword: str, missing: int | None = None) -> int:
    """A whole number of 0 or more; `missing` where it is not there.

    Errors:
        ClipError: not there and no `missing`, or no such number.
    """
    found = number(values, keyword)
    if found is None and missing is not None:
        return missing
    if found is None:
        raise ClipError(f"{keyword} is missing")
    if found < 0 or found != int(found):
        raise ClipError(f"{keyword} is no whole number from 0 on")
    return int(found)


def text_of(values: Any, keyword: str) -> str:
    """Only for comparison with known words, and for hashing."""
    with unquoted(f"{keyword} is damaged"):
        found = values.get(keyword)
        return "" if found is None else str(found).strip(" \0")


def items_of(values: Any, keyword: str) -> list[Any]:
    with unquoted(f"{keyword} is damaged"):
        return list(values.get(keyword) or [])


def keyed_hash(key: str, kind: str, value: str) -> str:
    """HMAC-SHA256: the same for the same key, and without the key nobody can try out all patient numbers."""
    return hmac.new(key.encode(), f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()[:ID_DIGITS]
