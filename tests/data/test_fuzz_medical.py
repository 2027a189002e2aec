"""Any bytes whatever through the DICOM and NIfTI readers: ClipError or frames of the size that was found."""

from __future__ import annotations

import io
import random

import pytest
from broken_videos import pictures
from dicom_files import NATIVE, cine, colour_frames, to_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import read_all, spoilt
from nifti_files import timed_nifti
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from discovr_ray.data.formats.dicom.reader import DicomReader
from discovr_ray.data.formats.nifti import NiftiReader
from discovr_ray.data.formats.policy import IngestPolicy
from discovr_ray.data.formats.reader import FormatReader
from discovr_ray.errors import ClipError

CASES = settings(max_examples=60, deadline=None)
POLICY = IngestPolicy(color="keep", burned_in="keep", id_key="0" * 32)  # nothing is refused before it is looked at
GOOD: dict[str, tuple[FormatReader, bytes]] = {
    **{f"native {number}": (DicomReader(), cine(pictures(4), syntax)) for number, syntax in enumerate(NATIVE)},
    "jpeg": (DicomReader(), cine(pictures(4), JPEGBaseline8Bit)),
    "jpeg colour": (DicomReader(), cine(colour_frames(4), JPEGBaseline8Bit, "RGB")),
    "jpeg 2000": (DicomReader(), cine(pictures(4), JPEG2000Lossless)),
    "rle": (DicomReader(), cine(pictures(4), RLELossless)),
    "nifti": (NiftiReader(), timed_nifti(pictures(4), 0.04, "sec")),
}


@pytest.mark.parametrize("kind", GOOD)
def test_the_good_files(kind: str) -> None:
    assert read_all(*GOOD[kind]) == 4


@pytest.mark.parametrize("kind", GOOD)
@CASES
@given(st.integers(0, 2**64 - 1))
def test_spoilt_files(kind: str, seed: int) -> None:
    reader, good = GOOD[kind]
    data = spoilt(good, random.Random(seed))
    read_all(reader, data)
    try:
        if reader.recognises(data) and (info := reader.probe(data)) is not None:
            reader.details(data, info, POLICY)
    except ClipError:
        pass


@pytest.mark.parametrize("kind", GOOD)
@CASES
@given(st.binary(max_size=300))
def test_noise_behind_a_good_start(kind: str, noise: bytes) -> None:
    reader, good = GOOD[kind]
    read_all(reader, noise)
    for length in (132, 348, len(good) // 2):
        read_all(reader, good[:length] + noise)


def test_a_picture_that_nobody_would_store() -> None:
    """Rows and columns of the largest number there is, for as many frames: refused before room is made for them."""
    for reader, good in GOOD.values():
        if isinstance(reader, DicomReader):
            dataset = dcmread(io.BytesIO(good))
            dataset.Rows = dataset.Columns = 65535
            dataset.NumberOfFrames = 2**31 - 1
            assert read_all(reader, to_bytes(dataset)) == 0
