"""NIfTI clips: exact pixels the right way up, the frame rate that is really said, and lying headers refused."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from barcode import barcode_frames, read_barcodes
from hypothesis import given, settings
from hypothesis import strategies as st
from nifti_files import nifti, timed_nifti, with_field, zipped

from discovr_ray.data.decode import all_frames, check_all_frames, decode_frames, details, probe
from discovr_ray.data.formats import reader
from discovr_ray.data.formats.nifti import MAX_BYTES, NiftiReader, _unpack
from discovr_ray.data.formats.policy import IngestPolicy
from discovr_ray.errors import ClipError
from discovr_ray.launch.inspection import inspect_file

NUM_FRAMES = 100
FRAMES = barcode_frames(NUM_FRAMES, 64, 80)
NIFTI = nifti(FRAMES)


@pytest.mark.parametrize("content", [NIFTI, zipped(NIFTI)], ids=["nii", "nii.gz"])
def test_exact_frames_in_any_order(content: bytes) -> None:
    info = probe(content, fps=50)
    assert info == ("nifti", NUM_FRAMES, 50.0, 64, 80)
    check_all_frames(content, info)
    indices = [*range(3, 100, 3), 0, 99, 7, 7]
    frames = decode_frames(content, "nifti", indices, NUM_FRAMES)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, FRAMES[indices])
    assert read_barcodes(frames) == indices
    with pytest.raises(ClipError, match="100 frames, 101 expected"):
        decode_frames(content, "nifti", [0], NUM_FRAMES + 1)


def test_the_first_axis_runs_to_the_right_and_the_second_one_down() -> None:
    values = np.zeros((30, 20, 4), np.uint8)  # x, y, frame: as nibabel shows a CAMUS sequence
    values[25, 3, 2] = 200
    for affine in (np.eye(4), np.diag([-0.3, -0.3, 1, 1])):  # of a writer that knows nothing, and of ITK
        content = nib.Nifti1Image(values, affine).to_bytes()
        frames = decode_frames(content, "nifti", range(4), 4)
        assert frames.shape == (4, 20, 30)
        assert np.argwhere(frames).tolist() == [[2, 3, 25]]


def test_frame_rate() -> None:
    short = FRAMES[:5]
    assert probe(timed_nifti(short, 0.02, "sec")).fps == pytest.approx(50)
    assert probe(timed_nifti(short, 25, "msec")).fps == pytest.approx(40)
    assert probe(timed_nifti(short, 0.02, "sec"), fps=30).fps == pytest.approx(50), "the file's word counts more"
    # the third axis is a length in NIfTI, and 1 is what writers fill in
    for content in (nifti(short), timed_nifti(short, 1, "sec"), timed_nifti(short, 0.02, "unknown")):
        assert probe(content, fps=30).fps == 30
        with pytest.raises(ClipError, match="neither the file nor its data set says how many frames a second"):
            probe(content)


def test_other_number_types_count_where_their_values_are_grey_levels() -> None:
    levels = FRAMES[:5].astype(np.int16)
    for values in (levels, levels.astype(np.float32), levels.astype(">u2"), levels.astype(np.int64)):
        content = nifti(values)
        check_all_frames(content, probe(content, 50))
        assert np.array_equal(decode_frames(content, "nifti", range(5), 5), FRAMES[:5])
    # grey = 0.5 x stored + 10: 3 -> 11.5 -> 12 (to even), 4 -> 12, 480 -> 250
    stored = np.array([[[3, 4]], [[480, 0]]], np.int16)
    content = with_field(nifti(stored), "scl_slope", 0.5, 10.0)
    assert decode_frames(content, "nifti", range(2), 2).tolist() == [[[12, 12]], [[250, 10]]]
    content = with_field(nifti(stored.astype(np.uint8)), "scl_slope", -0.5, 250.0)
    assert decode_frames(content, "nifti", [0], 2).tolist() == [[[248, 248]]]


def test_large_frames_are_scaled_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    content = nifti(FRAMES[:5].astype(np.int16))
    monkeypatch.setattr(reader, "PIECE_BYTES", 2 * 64 * 80 * 4)
    assert [len(piece) for piece in all_frames(content, probe(content, 50))] == [2, 2, 1]


def test_scaling_takes_four_bytes_a_pixel() -> None:
    """Beside the grey levels, the picked values of eight bytes, and what is unpacked once."""
    content = nifti(np.repeat(FRAMES[:4], 16, 0).astype(np.float64))
    tracemalloc.start()
    decode_frames(content, "nifti", range(64), 64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 14 * FRAMES[0].size * 64


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([0, 1023]), "values 0 to 1023: grey levels are 0 to 255, and nothing is rescaled"),
        (np.array([-60.0, 0.0]), "values -60 to 0"),
        (np.array([0.0, np.nan]), "nan"),
        (np.array([0.0, np.inf]), "values 0 to inf"),
        (np.array([0.0, 0.75]), "values 0 to 0.75: a mask, or brightness on another scale"),
        (np.array([0, 3], np.uint8), "values 0 to 3: a mask"),
    ],
    ids=["12 bits", "decibels", "nan", "inf", "shares", "mask"],
)
def test_nothing_is_rescaled(values: np.ndarray, reason: str) -> None:
    frames = np.zeros((4, 8, 8), values.dtype if values.dtype.kind != "i" else np.int16)
    frames[1, 2, 3], frames[3, 4, 5] = values
    content = nifti(frames)
    with pytest.raises(ClipError, match=reason):
        check_all_frames(content, probe(content, 50))
    if "mask" not in reason:
        with pytest.raises(ClipError, match="nothing is rescaled"):
            decode_frames(content, "nifti", range(4), 4)


def test_stills_fall_under_the_rule_of_one_frame(tmp_path: Path) -> None:
    for number, frames in enumerate((FRAMES[0], FRAMES[:1])):
        path = tmp_path / f"{number}.nii.gz"
        path.write_bytes(zipped(nifti(frames)))
        assert inspect_file(str(path)).reason == "one frame: a still image, not a video"
    path.write_bytes(zipped(NIFTI))
    assert inspect_file(str(path)).reason.startswith("neither the file nor its data set")
    facts = inspect_file(str(path), 50.0)
    assert (facts.reason, facts.fps, facts.num_bytes) == ("", 50, len(zipped(NIFTI)))


def test_pixel_spacing() -> None:
    def spacing(content: bytes) -> float | None:
        return details(content, probe(content, 50), IngestPolicy()).cm_per_pixel

    assert spacing(NIFTI) == pytest.approx(0.03)
    assert spacing(nifti(FRAMES[:3], (0.3, 0.302))) == pytest.approx(0.0301)
    assert spacing(nifti(FRAMES[:3], (0.3, 0.15))) is None, "no single number is true"
    assert spacing(nifti(FRAMES[:3], (1, 1))) is None, "what writers fill in"
    assert spacing(with_field(NIFTI, "xyzt_units", 0)) is None
    assert spacing(with_field(NIFTI, "xyzt_units", 3)) == pytest.approx(0.3e-4), "micrometres"


# --- bad files


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95, 0.9999])
def test_truncated_files(share: float) -> None:
    for content in (NIFTI, zipped(NIFTI)):
        with pytest.raises(ClipError, match=r"truncated|damaged|not a readable video"):
            probe(content[: int(len(content) * share)], 50)


def test_every_flipped_bit_of_a_zipped_file_is_noticed() -> None:
    content = zipped(nifti(FRAMES[:3]))
    for place in range(40, len(content), 37):
        flipped = bytearray(content)
        flipped[place] ^= 4
        with pytest.raises(ClipError):
            probe(bytes(flipped), 50)


def test_more_or_less_than_the_header_says() -> None:
    one_more = with_field(NIFTI, "dim", 3, 80, 64, NUM_FRAMES + 1, 1, 1, 1, 1)
    one_less = with_field(NIFTI, "dim", 3, 80, 64, NUM_FRAMES - 1, 1, 1, 1, 1)
    for content in (one_more, one_less, zipped(one_more), zipped(one_less)):
        with pytest.raises(ClipError, match="bytes announced"):
            probe(content, 50)


@pytest.mark.parametrize("compress", [bytes, zipped], ids=["nii", "nii.gz"])
def test_huge_sizes_are_refused_before_memory_is_taken(compress: object) -> None:
    lies = {
        "at most 4096 a side": (3, 30000, 30000, 30000, 1, 1, 1, 1),
        "at most 1073741824 are believed": (3, 4096, 4096, 32767, 1, 1, 1, 1),
        "bytes announced": (3, 1024, 1024, 1000, 1, 1, 1, 1),
    }
    for reason, dim in lies.items():
        content = compress(with_field(NIFTI, "dim", *dim))  # type: ignore[operator]
        tracemalloc.start()
        with pytest.raises(ClipError, match=reason):
            probe(content, 50)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 8 * len(NIFTI), reason


def test_a_bomb_is_unpacked_no_further_than_announced() -> None:
    bomb = gzip.compress(NIFTI + bytes(100 * 2**20), 9)
    assert len(bomb) < len(NIFTI)
    assert len(_unpack(bomb, len(NIFTI))) == len(NIFTI) + 1
    with pytest.raises(ClipError, match=f"{len(NIFTI)} bytes announced, more than {len(NIFTI)} there"):
        probe(bomb, 50)


def test_what_is_no_grey_video() -> None:
    rgb = np.zeros((8, 8, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for content, reason in {
        nib.Nifti1Image(rgb, None).to_bytes(): "RGB: only grey levels",
        nifti(FRAMES[:3].astype(np.complex64)): "complex64: only grey levels",
        nib.Nifti1Image(np.zeros((8, 8, 4, 5), np.uint8), None).to_bytes(): "8 x 8 x 4 x 5 values: more than width",
        nib.Nifti1Image(np.zeros((8, 8, 4, 1, 3), np.uint8), None).to_bytes(): "8 x 8 x 4 x 1 x 3 values",
        with_field(NIFTI, "dim", 3, 80, -64, NUM_FRAMES, 1, 1, 1, 1): "no picture",
        with_field(NIFTI, "dim", 1, 80, 1, 1, 1, 1, 1, 1): "no picture",
        with_field(NIFTI, "datatype", 77): "damaged NIfTI header",
        with_field(NIFTI, "vox_offset", float("nan")): "damaged NIfTI header",
        with_field(NIFTI, "vox_offset", 0.0): "from byte 0",
        with_field(NIFTI, "vox_offset", 1e30): f"at most {MAX_BYTES}",
        with_field(NIFTI, "scl_slope", 1.0, float("inf")): "damaged NIfTI header",
        with_field(NIFTI, "magic", b"ni1\0"): "not a readable video",  # pixels in another file
    }.items():
        with pytest.raises(ClipError, match=reason):
            probe(content, 50)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 347), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_a_header_of_noise_never_gives_wrong_pixels(changes: list[tuple[int, int]], packed: bool) -> None:
    noisy = bytearray(nifti(FRAMES[:3, :8, :8]))
    for place, value in changes:
        noisy[place] = value
    content = zipped(bytes(noisy)) if packed else bytes(noisy)
    reader = NiftiReader()
    if not reader.recognises(content):
        return
    try:
        info = reader.probe(content)
        reader.check(content)
        reader.details(content, info, IngestPolicy())
        (frames,) = reader.pieces(content, "nifti", np.arange(info.num_frames), info.num_frames)
    except ClipError:
        return
    assert frames.shape == (info.num_frames, info.height, info.width)
    assert frames.dtype == np.uint8
