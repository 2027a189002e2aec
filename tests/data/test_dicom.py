"""DICOM cines: every coding and colour space gives the luma that went in, frames are counted, times are true."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import simplejpeg
from dicom_files import (
    JPEG_2000,
    LOSSLESS,
    NATIVE,
    Array,
    basic_dataset,
    cine,
    colour_frames,
    fill,
    grey_frames,
    luma,
    palette,
    to_bytes,
    to_ybr,
)
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    RLELossless,
)

from discovr_ray.data.decode import all_frames, check_all_frames, decode_frames, probe
from discovr_ray.data.formats import reader
from discovr_ray.data.formats.dicom.cine import read_cine
from discovr_ray.data.formats.dicom.timing import read_timing
from discovr_ray.errors import ClipError

RGB = colour_frames(5)
GREY = grey_frames(5)
TABLE = [(value, 255 - value, value // 2) for value in range(256)]
WANTED = [0, 3, 4]
ENCAPSULATED = (JPEGBaseline8Bit, *JPEG_2000, JPEGLosslessSV1, RLELossless)


def grey_values(photometric: str) -> np.ndarray[Any, Any]:
    """What the frames of `stored(photometric)` are worth."""
    if photometric == "PALETTE COLOR":
        return luma(np.array(TABLE, np.uint8))[GREY]
    if photometric.startswith("MONO"):
        return (255 - GREY if photometric == "MONOCHROME1" else GREY).astype(float)
    return luma(RGB)


def stored(photometric: str) -> tuple[Array, dict[str, Any]]:
    if photometric == "PALETTE COLOR":
        return GREY, palette(TABLE, bits=16)
    return (GREY, {}) if photometric.startswith("MONO") else (RGB, {})


def lossless_cases() -> list[Any]:
    spaces = ("MONOCHROME2", "MONOCHROME1", "RGB", "YBR_FULL", "PALETTE COLOR")
    cases = [(syntax, space) for syntax in LOSSLESS for space in spaces]
    cases += [(syntax, "YBR_FULL_422") for syntax in NATIVE] + [(JPEG2000Lossless, "YBR_RCT")]
    return [pytest.param(*case, id=f"{case[0].name.split(' (')[0]} {case[1]}") for case in cases]


# --- pixels


@pytest.mark.parametrize(("syntax", "photometric"), lossless_cases())
def test_lossless_codings_give_the_luma_exactly(syntax: UID, photometric: str) -> None:
    frames, attributes = stored(photometric)
    data = cine(frames, syntax, photometric, **attributes)
    info = probe(data)
    assert info == ("dicom", 5, 50.0, 48, 64)
    check_all_frames(data, info)
    got = decode_frames(data, "dicom", WANTED, 5)
    # stored YBR was rounded once, luma is rounded once: half a level each way, and no second conversion
    assert np.abs(got - grey_values(photometric)[WANTED]).max() <= 0.501


@pytest.mark.parametrize(
    ("syntax", "photometric", "mean_error"),
    [
        (JPEGBaseline8Bit, "MONOCHROME2", 0.4),
        (JPEGBaseline8Bit, "MONOCHROME1", 0.4),
        (JPEGBaseline8Bit, "YBR_FULL_422", 0.6),
        (JPEGBaseline8Bit, "YBR_FULL", 0.6),
        (JPEGBaseline8Bit, "RGB", 0.6),
        (JPEG2000, "YBR_ICT", 0.6),
    ],
)
def test_lossy_codings_give_the_luma(syntax: UID, photometric: str, mean_error: float) -> None:
    """A second conversion, or R, G or Cb taken for luma, would be off by dozens of levels; see the next tests."""
    data = cine(stored(photometric)[0], syntax, photometric)
    got = decode_frames(data, "dicom", range(5), 5)
    assert np.abs(got - grey_values(photometric)).mean() < mean_error  # of the coding at its highest quality
    wrong = (to_ybr(RGB)[..., 1], RGB[..., 0], luma(to_ybr(RGB)))
    assert min(np.abs(got - other).mean() for other in wrong) > 20


def test_planes_one_after_the_other() -> None:
    data = cine(RGB, photometric="RGB", PlanarConfiguration=1)
    np.testing.assert_array_equal(decode_frames(data, "dicom", WANTED, 5), np.rint(luma(RGB))[WANTED])


def test_odd_sizes() -> None:
    for syntax in (*NATIVE, JPEGBaseline8Bit, JPEGLosslessSV1):
        data = cine(np.ascontiguousarray(GREY[:3, :31, :33]), syntax)
        got = decode_frames(data, "dicom", [0, 2], 3)
        assert np.abs(got.astype(int) - GREY[[0, 2], :31, :33]).max() <= (3 if syntax == JPEGBaseline8Bit else 0)


def jpeg_cine(frames: list[bytes], photometric: str, **attributes: Any) -> bytes:
    """A cine of these code streams."""
    data = cine(RGB[: len(frames)], JPEGBaseline8Bit, "RGB", PhotometricInterpretation=photometric, **attributes)
    return with_pixels(data, frames)


def with_pixels(data: bytes, frames: list[bytes]) -> bytes:
    """The same header in front of other frames."""
    element = data.index(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff") + 12
    return data[:element] + encapsulate(frames) + b"\xfe\xff\xdd\xe0\0\0\0\0"


def without_markers(jpeg: bytes, ids: bytes) -> bytes:
    """The same stream without application markers, under other names of its components."""
    kept, position = jpeg[:2], 2
    while jpeg[position + 1] != 0xDA:
        size = 2 + struct.unpack_from(">H", jpeg, position + 2)[0]
        segment = bytearray(jpeg[position : position + size])
        if segment[1] == 0xC0:
            segment[10::3] = ids
        if not 0xE0 <= segment[1] <= 0xEF:
            kept += bytes(segment)
        position += size
    scan = bytearray(jpeg[position:])
    scan[5:11:2] = ids
    return kept + bytes(scan)


def ycc_jpeg() -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(RGB[0]), 98, "RGB", "444"))


def subsampled_jpeg() -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(RGB[0]), 98, "RGB", "422"))


def rgb_jpeg() -> bytes:
    data = cine(RGB[:2], JPEGBaseline8Bit, "RGB")
    offset, size = read_cine(data).frames[0][0]
    return data[offset : offset + size]


@pytest.mark.parametrize(
    ("stream", "photometric"),
    [
        pytest.param(ycc_jpeg(), "YBR_FULL_422", id="JFIF, as the attribute says"),
        pytest.param(ycc_jpeg(), "RGB", id="JFIF, though the attribute says RGB"),
        pytest.param(without_markers(ycc_jpeg(), b"\1\2\3"), "YBR_FULL_422", id="nothing but the attribute"),
        pytest.param(without_markers(ycc_jpeg(), b"\0\1\2"), "YBR_FULL", id="odd component names"),
        pytest.param(rgb_jpeg(), "RGB", id="Adobe's marker, as the attribute says"),
        pytest.param(without_markers(rgb_jpeg(), b"RGB"), "YBR_FULL", id="components named R, G, B"),
        pytest.param(without_markers(rgb_jpeg(), b"\1\2\3"), "RGB", id="RGB by nothing but the attribute"),
        pytest.param(without_markers(subsampled_jpeg(), b"\1\2\3"), "RGB", id="coarser chroma, though called RGB"),
    ],
)
def test_what_the_components_of_a_jpeg_are(stream: bytes, photometric: str) -> None:
    got = decode_frames(jpeg_cine([stream, stream], photometric), "dicom", [1], 2)
    assert np.abs(got[0] - luma(RGB[0])).mean() < 0.6  # as above


def test_contradicting_colour_spaces_are_refused() -> None:
    bare, adobe = without_markers(ycc_jpeg(), b"\1\2\3"), b"\xff\xee\0\x0eAdobe\0\x64" + bytes(5)
    stream = bare[:2] + adobe + bare[2:]
    with pytest.raises(ClipError, match="PhotometricInterpretation says luma and chroma, the JPEG's own marker RGB"):
        probe(jpeg_cine([stream] * 2, "YBR_FULL_422"))


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422", "RGB"])
def test_a_transform_that_jpeg_2000_undoes_itself_counts_more_than_the_attribute(photometric: str) -> None:
    data = cine(RGB, JPEG2000Lossless, "YBR_RCT", PhotometricInterpretation=photometric)
    np.testing.assert_array_equal(decode_frames(data, "dicom", WANTED, 5), np.rint(luma(RGB))[WANTED])


def test_large_frames_are_handed_out_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PIECE_BYTES", 2 * 48 * 64)
    pieces = list(all_frames(cine(GREY), probe(cine(GREY))))
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(pieces), GREY)


def test_fast_path_decodes_each_wanted_frame_once_and_only_to_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    data = cine(RGB, JPEGBaseline8Bit, "YBR_FULL_422")
    calls = []
    original = simplejpeg.decode_jpeg

    def recorded(jpeg: bytes, space: str, **more: Any) -> Any:
        calls.append(space)
        return original(jpeg, space, **more)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", recorded)
    decode_frames(data, "dicom", [0, 3, 3, 3], 5)
    assert calls == ["GRAY", "GRAY"]


# --- frames in fragments


def streams(data: bytes) -> list[bytes]:
    return [data[offset : offset + size] for ((offset, size),) in read_cine(data).frames]


@pytest.mark.parametrize("syntax", ENCAPSULATED)
@pytest.mark.parametrize("table", [True, False])
def test_frames_in_several_fragments(syntax: UID, table: bool) -> None:
    data = cine(GREY, syntax)
    whole = decode_frames(data, "dicom", WANTED, 5)
    element = data.index(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff") + 12
    pixels = encapsulate(streams(data), fragments_per_frame=3, has_bot=table)
    other = data[:element] + pixels + b"\xfe\xff\xdd\xe0\0\0\0\0"
    if syntax == RLELossless and not table:  # nothing in the stream says where a frame begins
        with pytest.raises(ClipError, match=r"begins no frame|there are"):
            probe(other)
        return
    np.testing.assert_array_equal(decode_frames(other, "dicom", WANTED, 5), whole)


def test_extended_offset_table() -> None:
    data = cine(GREY, JPEGBaseline8Bit)
    whole = decode_frames(data, "dicom", WANTED, 5)
    _, offsets, lengths = encapsulate_extended(streams(data))
    other = cine(GREY, JPEGBaseline8Bit, ExtendedOffsetTable=offsets, ExtendedOffsetTableLengths=lengths)
    np.testing.assert_array_equal(decode_frames(other, "dicom", WANTED, 5), whole)
    short = cine(GREY, JPEGBaseline8Bit, ExtendedOffsetTable=offsets[:-8], ExtendedOffsetTableLengths=lengths)
    with pytest.raises(ClipError, match="NumberOfFrames is 5, the offset table has 4 entries"):
        probe(short)


# --- frame rate


@pytest.mark.parametrize(
    ("attributes", "fps", "varies"),
    [
        ({"FrameTime": "33.333", "CineRate": 60}, 1000 / 33.333, False),
        ({"FrameTimeVector": [0, 20, 20, 20, 20], "CineRate": 60}, 50.0, False),
        ({"FrameTimeVector": [20, 20, 20, 20]}, 50.0, False),  # without the first one
        ({"FrameTimeVector": [0, 10, 30, 20, 20]}, 50.0, True),
        ({"FrameTimeVector": [0, 19, 21, 20, 20]}, 50.0, False),
        ({"FrameTime": 0, "FrameTimeVector": [0, 0, 0, 0, 0], "CineRate": 60}, 60.0, False),
        ({"CineRate": 0, "RecommendedDisplayFrameRate": 25}, 25.0, False),
        ({}, 0.0, False),
    ],
)
def test_frame_rate(attributes: dict[str, Any], fps: float, varies: bool) -> None:
    dataset = basic_dataset(GREY, "MONOCHROME2")
    fill(dataset, {"FrameTime": None} | attributes)
    assert read_timing(dataset, 5) == (pytest.approx(fps), varies)
    data = cine(GREY, **({"FrameTime": None} | attributes))
    if fps:
        assert probe(data).fps == pytest.approx(fps)
        return
    with pytest.raises(ClipError, match=r"frames a second has \(FrameTime, .*, CineRate, Reco.* are missing or 0\)"):
        probe(data)
    assert probe(data, fps=33.0).fps == 33.0  # what the data set's own table says


@pytest.mark.parametrize("frame_time_ms", ["0.033", "0.99", "1001"])
def test_frame_rates_that_nobody_films_at(frame_time_ms: str) -> None:
    """Such as a FrameTime in seconds."""
    with pytest.raises(ClipError, match=r"frame rate [\d.e+]+: 1 to 1000 frames a second are believed"):
        probe(cine(GREY, FrameTime=frame_time_ms))
    with pytest.raises(ClipError, match="1 to 1000 frames a second"):
        probe(cine(GREY, FrameTime=None), fps=float("nan"))
    assert [probe(cine(GREY, FrameTime=time)).fps for time in (1, 1000)] == [1000, 1]


# --- bad input


def lying(**attributes: Any) -> bytes:
    return cine(GREY, **attributes)


def deflated() -> bytes:
    dataset = basic_dataset(GREY, "MONOCHROME2")
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.PixelData = GREY.tobytes()
    return to_bytes(dataset)


JPEGS = cine(RGB, JPEGBaseline8Bit, "YBR_FULL_422")
NATIVES = cine(GREY)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(NATIVES[:200], "TransferSyntaxUID is missing|damaged DICOM header", id="header cut"),
        pytest.param(NATIVES[:132] + bytes(range(256)) * 20, "DICOM header|TransferSyntaxUID", id="garbage"),
        pytest.param(NATIVES[:-1000], "truncated: PixelData has", id="native cut"),
        pytest.param(JPEGS[: len(JPEGS) // 2], "truncated", id="JPEG cut"),
        pytest.param(JPEGS[:-8], "without its delimiter", id="no delimiter"),
        pytest.param(
            with_pixels(JPEGS, streams(JPEGS)[:4]), "NumberOfFrames is 5, the offset table has 4", id="a frame less"
        ),
        pytest.param(with_pixels(JPEGS, [*streams(JPEGS), *streams(JPEGS)]), "NumberOfFrames is 5", id="more frames"),
        pytest.param(with_pixels(JPEGS, []), "no frame|there are 0", id="no frame in fragments"),
        pytest.param(lying(NumberOfFrames=5000), "ask for 15360000", id="native, more announced"),
        pytest.param(lying(NumberOfFrames=4), "announces 15360 bytes", id="native, fewer announced"),
        pytest.param(lying(NumberOfFrames=2**31 - 1), "PixelData announces", id="huge NumberOfFrames"),
        pytest.param(lying(NumberOfFrames=1), "one frame", id="still"),
        pytest.param(lying(NumberOfFrames=None), "one frame", id="no NumberOfFrames"),
        pytest.param(lying(Rows=60000, Columns=60000), "at most|1 to 4096 are believed", id="huge"),
        pytest.param(lying(Rows=0), "1 to 4096 are believed", id="no rows"),
        pytest.param(lying(Rows=None), "Rows is missing", id="Rows missing"),
        pytest.param(lying(BitsAllocated=16), "BitsAllocated is 16: only 8", id="16 bits"),
        pytest.param(lying(BitsStored=7), "BitsStored is 7: only 8", id="7 bits"),
        pytest.param(lying(PixelRepresentation=1), "PixelRepresentation is 1", id="signed"),
        pytest.param(lying(SamplesPerPixel=3), "SamplesPerPixel is 3, which Phot", id="samples"),
        pytest.param(lying(PhotometricInterpretation="CMYK"), "PhotometricInterpretation is none of", id="colours"),
        pytest.param(lying(PhotometricInterpretation="PALETTE COLOR"), "LookupTableDescriptor or", id="no palette"),
        pytest.param(deflated(), "deflated files are not read", id="deflated"),
        pytest.param(lying(FrameTime=None, FrameTimeVector=[20, 20]), "2 entries for 5 frames", id="frame times"),
        pytest.param(lying(FrameTime=None, FrameTimeVector=[0, 20, -20, 20, 20]), "below 0", id="backwards"),
        pytest.param(JPEGS.replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.90"), "no JPEG 2000", id="J2K"),
        pytest.param(JPEGS.replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.99"), "not read", id="unknown"),
        pytest.param(JPEGS.replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.1\0\0\0"), "in fragments", id="n"),
    ],
)
def test_bad_files_are_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ClipError, match=reason):
        check_all_frames(data, probe(data))


def test_no_pixel_data() -> None:
    start = NATIVES.index(b"\xe0\x7f\x10\x00O")
    with pytest.raises(ClipError, match="PixelData is missing"):
        probe(NATIVES[:start])


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLossless, RLELossless, JPEG2000])
def test_damaged_frames_are_refused(syntax: UID) -> None:
    data = cine(GREY, syntax)
    frames = streams(data)
    info = probe(data)
    for broken in (frames[2][: len(frames[2]) // 2], b"\xff\xd8garbage" * 50, b"", frames[2][:4] + bytes(400)):
        other = with_pixels(data, [*frames[:2], broken or b"\0\0", *frames[3:]])
        with pytest.raises(ClipError, match="frame 2"):
            check_all_frames(other, info)


def test_damage_inside_a_jpeg_is_found() -> None:
    """Decoders other than libjpeg in strict mode only warn of it."""
    for syntax in (JPEGBaseline8Bit, JPEGLosslessSV1):
        data = cine(GREY, syntax)
        frames = streams(data)
        spoilt = bytearray(frames[1])
        for place in range(len(spoilt) // 3, len(spoilt) - 10, 7):
            spoilt[place] ^= 0x24
        with pytest.raises(ClipError, match="frame 1 is damaged"):
            check_all_frames(with_pixels(data, [frames[0], bytes(spoilt), *frames[2:]]), probe(data))


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000Lossless, JPEGLosslessSV1])
def test_a_frame_of_another_size_is_refused(syntax: UID) -> None:
    data = cine(GREY, syntax)
    small = streams(cine(np.ascontiguousarray(GREY[:2, :32, :40]), syntax))
    with pytest.raises(ClipError, match="frame 1 is 32 x 40 pixels"):
        check_all_frames(with_pixels(data, [streams(data)[0], small[0], *streams(data)[2:]]), probe(data))
