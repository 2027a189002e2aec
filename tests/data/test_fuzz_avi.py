"""Any bytes whatever through the AVI fast path: ClipError or frames of the size that was found, and little memory."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from broken_videos import jpegs, mjpeg, pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import read_all, spoilt
from PIL import Image

from discovr_ray.data.decode import check_all_frames, decode_frames
from discovr_ray.data.formats.avi_writer import write_avi
from discovr_ray.data.formats.mjpeg import MjpegReader
from discovr_ray.data.formats.png_avi import PngReader
from discovr_ray.data.formats.reader import FormatReader
from discovr_ray.data.formats.riff import read_avi
from discovr_ray.data.shards import ShardSettings, encode_frame
from discovr_ray.errors import ClipError

CASES = settings(max_examples=150, deadline=None)

JPEG_AVI = mjpeg()
PNG_AVI = write_avi(
    [encode_frame(frame, ShardSettings(codec="lossless")) for frame in pictures(8)], 25, 64, 64, b"MPNG"
)
GOOD: dict[str, tuple[FormatReader, bytes]] = {"jpeg": (MjpegReader(), JPEG_AVI), "png": (PngReader(), PNG_AVI)}


@pytest.mark.parametrize("kind", GOOD)
def test_the_good_files(kind: str) -> None:
    reader, data = GOOD[kind]
    assert read_all(reader, data) == len(read_avi(data).frames)


@CASES
@given(st.binary(max_size=400))
def test_noise(noise: bytes) -> None:
    for reader, good in GOOD.values():
        assert read_all(reader, noise) == 0
        assert read_all(reader, good[:12] + noise) == 0
        read_all(reader, good[: len(good) // 2] + noise)


@pytest.mark.parametrize("kind", GOOD)
@CASES
@given(st.integers(0, 2**64 - 1))
def test_spoilt_files(kind: str, seed: int) -> None:
    reader, good = GOOD[kind]
    read_all(reader, spoilt(good, random.Random(seed)))


sizes = st.one_of(st.integers(0, 64), st.integers(0, 2**32 - 1))
names = st.sampled_from([b"RIFF", b"LIST", b"strh", b"strf", b"00dc", b"00db", b"01wb", b"JUNK", b"idx1"])
kinds = st.sampled_from([b"AVI ", b"hdrl", b"strl", b"movi", b"rec ", b"vids", b"MJPG", b""])


@st.composite
def trees(draw: Callable[..., bytes], depth: int = 4) -> bytes:
    """Chunks in chunks, most of them of the size that they say."""
    parts = draw(st.lists(trees(depth - 1), max_size=4)) if depth else []
    body = draw(kinds) + b"".join(parts) + draw(st.binary(max_size=60))
    size = len(body) if draw(st.integers(0, 9)) else draw(sizes)
    return draw(names) + struct.pack("<I", size) + body + bytes(len(body) % 2)


@settings(CASES, max_examples=50)
@given(st.lists(trees(), max_size=3))
def test_chunks_of_any_shape(parts: list[bytes]) -> None:
    for head in (JPEG_AVI[: JPEG_AVI.index(b"movi") - 8], JPEG_AVI[:12]):
        data = bytearray(head + b"".join(parts))
        struct.pack_into("<I", data, 4, len(data) - 8)
        read_all(GOOD["jpeg"][0], bytes(data))


@pytest.mark.parametrize("where", [b"movi", b"hdrl"])
def test_lists_in_lists_in_lists(where: bytes) -> None:
    body = b""
    for _ in range(5000):
        body = b"LIST" + struct.pack("<I", len(body) + 4) + b"rec " + body
    header = JPEG_AVI[12 : 20 + struct.unpack_from("<I", JPEG_AVI, 16)[0]]
    inner = header + b"LIST" + struct.pack("<I", len(body) + 4) + where + body
    data = b"RIFF" + struct.pack("<I", len(inner) + 4) + b"AVI " + inner
    with pytest.raises(ClipError, match="no frame"):
        read_avi(data)


@CASES
@given(st.integers(0, 2**64 - 1))
def test_damage_outside_of_the_frames_changes_no_frame(seed: int) -> None:
    """Only what is between the frames is spoilt: if all frames are still found, they are the same ones."""
    rng = random.Random(seed)
    data = bytearray(JPEG_AVI)
    inside = {byte for offset, size in read_avi(JPEG_AVI).frames for byte in range(offset, offset + size)}
    for _ in range(3):
        place = rng.randrange(len(data))
        if place not in inside:
            data[place] ^= 1 << rng.randrange(8)
    try:
        found = jpegs(bytes(data))
    except ClipError:
        return
    if len(found) == len(jpegs(JPEG_AVI)):
        assert found == jpegs(JPEG_AVI)


def test_a_picture_whose_header_lies_costs_no_memory() -> None:
    image = bytearray(jpegs(JPEG_AVI)[0])
    struct.pack_into(">HH", image, image.index(b"\xff\xc0") + 5, 4096, 4096)  # as large as is believed
    data = write_avi([bytes(image)] * 64, 25, 64, 64)
    assert read_all(GOOD["jpeg"][0], data) == 0
    with pytest.raises(ClipError):
        decode_frames(data, "avi-mjpeg", range(64), 64)
    png = bytearray(read_png(0))
    struct.pack_into(">II", png, 16, 4000, 4000)
    assert read_all(GOOD["png"][0], write_avi([bytes(png)] * 64, 25, 64, 64, b"MPNG")) == 0


def read_png(index: int) -> bytes:
    offset, size = read_avi(PNG_AVI).frames[index]
    return PNG_AVI[offset : offset + size]


@pytest.mark.parametrize("place", [20, 40, 60, -20, -2])
def test_png_check_sums_count(place: int) -> None:
    image = bytearray(read_png(3))
    image[place] ^= 1
    images = [read_png(number) for number in range(8)]
    images[3] = bytes(image)
    data = write_avi(images, 25, 64, 64, b"MPNG")
    info = PngReader().probe(data)
    assert info is not None
    with pytest.raises(ClipError, match="frame 3"):
        check_all_frames(data, info)


def test_png_of_other_writers_and_players() -> None:
    frames = pictures(8)
    for frame, (offset, size) in zip(frames, read_avi(PNG_AVI).frames, strict=True):
        with Image.open(io.BytesIO(PNG_AVI[offset : offset + size])) as picture:
            assert np.array_equal(np.asarray(picture), frame)
    images = []
    for frame in frames:
        sink = io.BytesIO()
        Image.fromarray(frame).save(sink, "PNG")  # another filter for each row
        images.append(sink.getvalue())
    data = write_avi(images, 25, 64, 64, b"MPNG")
    assert np.array_equal(decode_frames(data, "avi-png", range(8), 8), frames)
    sink = io.BytesIO()
    Image.fromarray(np.stack([frames[0]] * 3, -1)).save(sink, "PNG")
    assert PngReader().probe(write_avi([sink.getvalue()] * 2, 25, 64, 64, b"MPNG")) is None  # colour: decord's


def test_a_png_that_would_grow_without_end() -> None:
    image = read_png(0)
    bomb = zlib.compress(bytes(100_000_000))
    start = image.index(b"IDAT")
    chunk = b"IDAT" + bomb
    ending = image[image.index(b"IEND") - 4 :]
    data = image[: start - 4] + struct.pack(">I", len(bomb)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + ending
    assert read_all(GOOD["png"][0], write_avi([data] * 2, 25, 64, 64, b"MPNG")) == 0
