"""Real ultrasound files, read from the installed packages pydicom and pydicom-data: never copied here."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import KEY, luma, to_bytes
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_color_lut

from discovr_ray.data.clip import keep_echo
from discovr_ray.data.decode import check_all_frames, decode_frames, details, probe
from discovr_ray.data.formats.policy import IngestPolicy
from discovr_ray.errors import ClipError

POLICY = IngestPolicy(id_key=KEY)


def content(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} is not in the installed pydicom-data")
    return Path(str(path)).read_bytes()


def test_a_cine_of_a_heart() -> None:
    """Apical view, 640 x 480, JPEG; text, logos and a blue menu all around the fan."""
    data = content("color3d_jpeg_baseline.dcm")
    info = probe(data)
    assert info == ("dicom", 120, pytest.approx(30.0, abs=0.001), 480, 640)
    check_all_frames(data, info)
    found = details(data, info, POLICY)
    assert found.region == (84, 31, 596, 415)
    assert found.cm_per_pixel == pytest.approx(0.05105, abs=1e-5)
    assert found.sector is not None
    kept = keep_echo(np.ones((1, 480, 640), np.uint8), None, found.sector)[0].astype(bool)
    # seen by eye: the fan from its top at (340, 45) to both sides of the region and the arc at the bottom
    for x, y in ((340, 60), (150, 250), (530, 250), (340, 395), (90, 298), (590, 298)):
        assert kept[y, x], (x, y)
    # the depth mark beside the fan, the frame's rate in the corner, both upper corners, the menu below
    for x, y in ((380, 40), (582, 405), (100, 40), (580, 40), (320, 467), (617, 56)):
        assert not kept[y, x], (x, y)


def test_luma_of_the_real_cine() -> None:
    data = content("color3d_jpeg_baseline.dcm")
    dataset = pydicom.dcmread(io.BytesIO(data))
    rgb = pydicom.pixels.pixel_array(dataset, index=60)  # pydicom's own conversion
    grey = decode_frames(data, "dicom", [60], 120)[0]
    assert np.abs(grey - luma(rgb)).mean() < 0.5  # its RGB is rounded, and cut off at 255


@pytest.mark.parametrize("name", ["OBXXXX1A_2frame.dcm", "OBXXXX1A_expb_2frame.dcm", "OBXXXX1A_rle_2frame.dcm"])
def test_a_palette_in_three_codings(name: str) -> None:
    """Little endian, big endian (whose table pydicom's apply_color_lut reads with swapped bytes), RLE."""
    data = content(name)
    with pytest.raises(ClipError, match="how many frames a second"):
        probe(data)
    info = probe(data, fps=30)
    assert info == ("dicom", 2, 30, 600, 800)
    little = pydicom.dcmread(io.BytesIO(content("OBXXXX1A_2frame.dcm")))
    expected = luma((apply_color_lut(little.pixel_array, little) >> 8).astype(np.uint8))
    assert np.abs(decode_frames(data, "dicom", [0, 1], 2) - expected).max() <= 0.501
    with pytest.raises(ClipError, match="colour Doppler"):
        details(data, info, POLICY)


STILLS = (
    *("US1_J2KI.dcm", "US1_J2KR.dcm", "US1_UNCI.dcm", "OBXXXX1A.dcm", "color-px.dcm", "color-pl.dcm"),
    *("gdcm-US-ALOKA-16.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm", "ExplVR_BigEnd.dcm", "SC_rgb.dcm"),
)


@pytest.mark.parametrize("name", STILLS)
def test_stills(name: str) -> None:
    with pytest.raises(ClipError, match="one frame"):
        probe(content(name))


def doubled(data: bytes) -> tuple[bytes, Any]:
    """A cine of the still, twice; and pydicom's picture of it."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    picture = dataset.pixel_array
    if "PALETTE" in dataset.PhotometricInterpretation:
        picture = (apply_color_lut(picture, dataset) >> 8).astype(np.uint8)
    dataset.NumberOfFrames, dataset.FrameTime = 2, 40
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        frame = next(iter(generate_frames(dataset.PixelData, number_of_frames=1)))
        dataset.PixelData = encapsulate([frame, frame])
    else:
        dataset.PixelData *= 2
    return to_bytes(dataset), picture


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of values of the old files that it writes again
@pytest.mark.parametrize("name", [name for name in STILLS if "ALOKA" not in name])
def test_real_pictures_decode_to_their_luma(name: str) -> None:
    data, picture = doubled(content(name))
    expected = luma(picture) if picture.ndim == 3 else picture
    got = decode_frames(data, "dicom", [0, 1], 2)
    assert np.abs(got[1] - expected).max() <= 0.501


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("SC_rgb_2frame.dcm", "Modality is not US"),
        ("SC_rgb_16bit_2frame.dcm", "BitsAllocated is 16"),
        ("emri_small.dcm", "BitsAllocated is 16"),
        ("eCT_Supplemental.dcm", "BitsAllocated is 16"),
        ("liver.dcm", "BitsAllocated is 1"),
        ("rtplan.dcm", "PixelData is missing"),
    ],
)
def test_what_is_no_ultrasound_clip(name: str, reason: str) -> None:
    data = content(name)
    with pytest.raises(ClipError, match=reason):
        details(data, probe(data, fps=30), POLICY)
