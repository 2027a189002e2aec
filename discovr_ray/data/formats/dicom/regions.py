"""SequenceOfUltrasoundRegions: where on the screen the 2-D picture is, and what makes a clip no plain 2-D clip.

Source: DICOM PS3.3, C.8.5.5.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from discovr_ray.data.formats.dicom.attributes import items_of, number, whole_number
from discovr_ray.data.formats.policy import IngestPolicy
from discovr_ray.errors import ClipError

COLOUR_DOPPLER = "colour Doppler (--color keep takes such clips)"
SAME_SPACING = 0.01  # how far the two pixel spacings may differ and still be one number
SIDE_BY_SIDE = 0.5  # another 2-D picture of this share of the largest one's area is a second picture
_DESCRIBES = ("RegionSpatialFormat", "RegionDataType", "RegionLocationMinX0")
_2D, _M_MODE, _SPECTRAL = 1, 2, 3  # RegionSpatialFormat
_TISSUE, _COLOUR, _PW, _CW = 1, 2, 3, 4  # RegionDataType
_CENTIMETRES = 3  # PhysicalUnitsXDirection

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, ends excluded


class Region(NamedTuple):
    box: Box
    cm_per_pixel: float | None
    overlaid: bool = False  # a region of another kind, such as an ECG, reaches into it


class _Item(NamedTuple):
    spatial_format: int
    data_type: int
    region: Region


def choose_region(values: Any, height: int, width: int, policy: IngestPolicy) -> Region | None:
    """The 2-D picture; None where the file describes no regions.

    Errors:
        ClipError: spectral Doppler, M-mode, colour Doppler (by policy), no 2-D picture, or several.
    """
    found = items_of(values, "SequenceOfUltrasoundRegions")
    # libraries that only know of a pixel spacing write items without kind and place, which describe no region
    items = [_read_item(item, height, width) for item in found if any(keyword in item for keyword in _DESCRIBES)]
    if not items:
        return None
    if any(item.data_type in (_PW, _CW) or item.spatial_format == _SPECTRAL for item in items):
        raise ClipError("spectral Doppler")
    if any(item.spatial_format == _M_MODE for item in items):
        raise ClipError("M-mode")
    if policy.color == "drop" and any(item.data_type == _COLOUR for item in items):
        raise ClipError(COLOUR_DOPPLER)
    pictures = [item for item in items if item.spatial_format == _2D and item.data_type in (_TISSUE, _COLOUR)]
    if not pictures:
        raise ClipError("SequenceOfUltrasoundRegions has no 2-D picture of tissue")
    # a colour box lies inside of its tissue, so the largest one is the whole picture
    pictures.sort(key=lambda item: _area(item.region.box), reverse=True)
    largest = pictures[0].region
    for other in pictures[1:]:
        apart = _area(_overlap(largest.box, other.region.box)) < _area(other.region.box) / 2
        if apart and _area(other.region.box) >= SIDE_BY_SIDE * _area(largest.box):
            raise ClipError("several 2-D pictures side by side")
    others = [item for item in items if item not in pictures]
    return largest._replace(overlaid=any(_area(_overlap(largest.box, item.region.box)) for item in others))


def _read_item(item: Any, height: int, width: int) -> _Item:
    corners = [whole_number(item, f"RegionLocation{corner}") for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    x0, y0, x1, y1 = corners[0], corners[1], min(corners[2] + 1, width), min(corners[3] + 1, height)
    if x0 >= x1 or y0 >= y1:
        raise ClipError("a region of SequenceOfUltrasoundRegions lies outside of the picture")
    kind = whole_number(item, "RegionSpatialFormat", missing=0), whole_number(item, "RegionDataType", missing=0)
    return _Item(*kind, Region((x0, y0, x1, y1), _spacing(item)))


def _spacing(item: Any) -> float | None:
    """None where it is not in centimetres, or a pixel is no square."""
    for axis in "XY":
        if whole_number(item, f"PhysicalUnits{axis}Direction", missing=0) != _CENTIMETRES:
            return None
    x, y = (abs(number(item, f"PhysicalDelta{axis}") or 0.0) for axis in "XY")
    if min(x, y) <= 0 or abs(x - y) > SAME_SPACING * max(x, y):
        return None
    return round((x + y) / 2, 8)


def _area(box: Box) -> int:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def _overlap(a: Box, b: Box) -> Box:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
