"""NIfTI files from pictures as they are seen, written by nibabel; and lies told in their headers."""

from __future__ import annotations

import gzip
import struct

import nibabel as nib
import numpy as np
import numpy.typing as npt

# field of the header -> its first byte and form (NIfTI-1)
FIELDS = {
    "dim": (40, "<8h"),
    "datatype": (70, "<h"),
    "vox_offset": (108, "<f"),
    "scl_slope": (112, "<2f"),  # and scl_inter
    "xyzt_units": (123, "<B"),
    "magic": (344, "<4s"),
}


def nifti(frames: npt.NDArray[np.generic], spacing_mm: tuple[float, float] = (0.3, 0.3)) -> bytes:
    """Frames [T, H, W] -> a file of W x H x T values; one frame [H, W] -> W x H; spacing along x and y."""
    image = nib.Nifti1Image(frames.T, None, dtype=frames.dtype)
    image.header.set_zooms((*spacing_mm, 1.0)[: frames.ndim])
    image.header.set_xyzt_units("mm", "sec")
    return image.to_bytes()


def timed_nifti(frames: npt.NDArray[np.generic], step: float, unit: str) -> bytes:
    """Frames [T, H, W] -> a file of W x H x 1 x T values, `step` units of time apart."""
    image = nib.Nifti1Image(frames.T[:, :, None], None, dtype=frames.dtype)
    image.header.set_zooms((0.3, 0.3, 1.0, step))
    image.header.set_xyzt_units("mm", unit)
    return image.to_bytes()


def with_field(content: bytes, name: str, *values: float | bytes) -> bytes:
    """The file with other values in one field of its header."""
    start, form = FIELDS[name]
    changed = bytearray(content)
    struct.pack_into(form, changed, start, *values)
    return bytes(changed)


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)
