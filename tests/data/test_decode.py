"""Both decoders on good and on damaged files: exact frames, or an error; never wrong pixels."""

from __future__ import annotations

import io
import struct
import wave

import numpy as np
import pytest
import simplejpeg
from barcode import barcode_frames, encode, read_barcodes

from discovr_ray.data.decode import check_all_frames, decode_frames, probe
from discovr_ray.data.formats import decord_reader
from discovr_ray.data.formats.riff import read_avi
from discovr_ray.errors import ClipError

NUM_FRAMES = 150
FRAMES = barcode_frames(NUM_FRAMES)
DECODERS = ("auto", "decord")


@pytest.fixture(scope="module")
def mjpeg() -> bytes:
    return encode(FRAMES)


@pytest.fixture(scope="module")
def h264() -> bytes:
    return encode(FRAMES, "libx264", "mp4", bf="3", g="40")


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def jpegs(data: bytes) -> list[bytes]:
    return [data[offset : offset + size] for offset, size in read_avi(data).frames]


def rebuild(data: bytes, movi: bytes, tail: bytes = b"") -> bytes:
    """The same headers with another list of frames, without idx1."""
    header = data[12 : 20 + struct.unpack_from("<I", data, 16)[0]]  # the hdrl list is the first chunk
    return chunk(b"RIFF", b"AVI " + header + chunk(b"LIST", b"movi" + movi)) + tail


def with_frames(data: bytes, frames: list[bytes]) -> bytes:
    return rebuild(data, b"".join(chunk(b"00dc", frame) for frame in frames))


def damaged(data: bytes, index: int, content: bytes) -> bytes:
    """Overwrite the start of one frame's bytes; nothing else moves."""
    offset, size = read_avi(data).frames[index]
    content = content[:size]
    return data[:offset] + content + data[offset + len(content) :]


# --- good files


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["mjpeg", "h264"])
def test_exact_frames_in_any_order(name: str, decoder: str, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue(name)
    info = probe(data)
    indices = [*range(3, 150, 3), 0, 149, 7, 7, 149, 20]
    frames = decode_frames(data, info.format, indices, NUM_FRAMES, decoder)
    assert frames.dtype == np.uint8
    assert frames.shape == (len(indices), 64, 64)
    assert read_barcodes(frames) == indices


def test_facts(mjpeg: bytes, h264: bytes) -> None:
    assert probe(mjpeg) == ("avi-mjpeg", NUM_FRAMES, 50.0, 64, 64)
    assert probe(h264) == ("mp4", NUM_FRAMES, 50.0, 64, 64)
    other = probe(encode(FRAMES[:20], "mpeg4", "avi", fps=25))
    assert other == ("avi", 20, 25.0, 64, 64)
    assert probe(encode(FRAMES[:20], "libx264", "matroska")).format == "mkv"


def test_both_decoders_agree_on_grey_content(mjpeg: bytes) -> None:
    indices = np.arange(NUM_FRAMES)
    fast, slow = (decode_frames(mjpeg, "avi-mjpeg", indices, NUM_FRAMES, name).astype(int) for name in DECODERS)
    # two colour conversions and two inverse transforms, each allowed to round
    assert np.abs(fast - slow).max() <= 1
    assert np.abs(fast - FRAMES).mean() < 2  # and it is the picture that was encoded


def test_luma_of_almost_grey_video() -> None:
    # encoders that convert from RGB leave 127 in both chroma planes, and decord cuts off where it should round
    chroma = np.full((32, 32), 127, np.uint8)
    images = [simplejpeg.encode_jpeg_yuv_planes(frame, chroma, chroma, quality=95) for frame in FRAMES[:8]]
    data = with_frames(encode(FRAMES[:8]), images)
    fast, slow = (decode_frames(data, "avi-mjpeg", range(8), 8, name).astype(int) for name in DECODERS)
    assert np.abs(fast - slow).max() <= 1


def test_fast_path_decodes_each_wanted_frame_once(mjpeg: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **more: calls.append(1) or original(*args, **more))
    decode_frames(mjpeg, "avi-mjpeg", [0, 3, 6, 6, 6, 6], NUM_FRAMES)
    assert len(calls) == 3


def test_decord_is_asked_for_contiguous_spans_only(h264: bytes, mjpeg: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = []
    original = decord_reader.read_span
    monkeypatch.setattr(decord_reader, "read_span", lambda reader, span: spans.append(span) or original(reader, span))
    for data, format, start in ((mjpeg, "avi-mjpeg", 5), (h264, "mp4", 0)):  # where it finds its way, and elsewhere
        spans.clear()
        decode_frames(data, format, range(5, 140, 3), NUM_FRAMES, "decord")
        assert all(span.step == 1 for span in spans)
        assert [frame for span in spans for frame in span] == list(range(start, 138))


def test_one_frame() -> None:
    data = encode(FRAMES[:1])
    info = probe(data)
    assert info.num_frames == 1
    for decoder in DECODERS:
        assert read_barcodes(decode_frames(data, info.format, [0, 0], 1, decoder)) == [0, 0]


def test_lying_frame_counts_are_ignored(mjpeg: bytes) -> None:
    main, stream = mjpeg.index(b"avih") + 8, mjpeg.index(b"strh") + 8
    lie = bytearray(mjpeg)
    struct.pack_into("<I", lie, main + 16, 5000)
    struct.pack_into("<I", lie, stream + 32, 5000)
    assert probe(bytes(lie)).num_frames == NUM_FRAMES


def test_no_index_needed(mjpeg: bytes) -> None:
    assert b"idx1" in mjpeg
    data = with_frames(mjpeg, jpegs(mjpeg))
    assert b"idx1" not in data
    assert probe(data).num_frames == NUM_FRAMES
    assert read_barcodes(decode_frames(data, "avi-mjpeg", [2, 149], NUM_FRAMES)) == [2, 149]


def test_further_riff_segments_and_grouped_frames(mjpeg: bytes) -> None:
    frames = [chunk(b"00dc", frame) for frame in jpegs(mjpeg)]
    grouped = b"".join(chunk(b"LIST", b"rec " + frame + chunk(b"01wb", b"sound")) for frame in frames[:100])
    second = chunk(b"RIFF", b"AVIX" + chunk(b"LIST", b"movi" + b"".join(frames[100:])))
    data = rebuild(mjpeg, grouped, second)
    assert probe(data).num_frames == NUM_FRAMES
    assert read_barcodes(decode_frames(data, "avi-mjpeg", [99, 100, 149], NUM_FRAMES)) == [99, 100, 149]
    with pytest.raises(ClipError, match="truncated"):
        probe(data[:-10])


def test_an_empty_chunk_repeats_the_frame_before(mjpeg: bytes) -> None:
    frames = jpegs(mjpeg)[:5]
    data = with_frames(mjpeg, [*frames[:3], b"", *frames[3:]])
    assert read_barcodes(decode_frames(data, "avi-mjpeg", range(6), 6)) == [0, 1, 2, 2, 3, 4]
    with pytest.raises(ClipError, match="frame 0 is empty"):
        probe(with_frames(mjpeg, [b"", *frames]))


def test_frames_without_huffman_tables() -> None:
    # capture cards leave the standard tables out
    def without_tables(image: bytes) -> bytes:
        while (at := image.find(b"\xff\xc4")) >= 0:
            image = image[:at] + image[at + 2 + struct.unpack_from(">H", image, at + 2)[0] :]
        return image

    images = [simplejpeg.encode_jpeg(frame[..., None], colorspace="GRAY", quality=95) for frame in FRAMES[:9]]
    bare = [without_tables(image) for image in images]
    assert all(len(short) < len(image) - 100 for short, image in zip(bare, images, strict=True))
    data = with_frames(encode(FRAMES[:9]), bare)
    assert read_barcodes(decode_frames(data, "avi-mjpeg", range(9), 9)) == list(range(9))


def test_two_fields_in_one_frame_are_left_to_decord() -> None:
    # old frame grabbers store odd and even lines as two pictures of half the height
    frames = FRAMES[:6]
    fields = [jpegs(encode(np.ascontiguousarray(frames[:, line::2]))) for line in (0, 1)]
    data = with_frames(encode(frames), [top + bottom for top, bottom in zip(*fields, strict=True)])
    info = probe(data)
    assert info == ("avi", 6, 50.0, 64, 64)
    assert read_barcodes(decode_frames(data, info.format, range(6), 6)) == list(range(6))


# --- bad files


def wav() -> bytes:
    sink = io.BytesIO()
    with wave.open(sink, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    return sink.getvalue()


def test_what_is_no_video(mjpeg: bytes) -> None:
    random = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
    for data in (b"", bytes(4096), random, b"hello\n" * 500, wav(), b"RIFF", mjpeg[:512], with_frames(mjpeg, [])):
        with pytest.raises(ClipError):
            probe(data)


def test_what_is_no_video_is_not_written_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClipError):
        probe(b"patient name " * 100)
    assert "patient" not in capfd.readouterr().err


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99999])
def test_truncated_avi(mjpeg: bytes, share: float) -> None:
    with pytest.raises(ClipError, match="truncated"):
        probe(mjpeg[: int(len(mjpeg) * share)])


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated_mp4(h264: bytes, share: float) -> None:
    # the index comes first in this file, so decoders would take what is left without a word
    assert h264.index(b"moov") < h264.index(b"mdat")
    with pytest.raises(ClipError, match="truncated"):
        probe(h264[: int(len(h264) * share)])


def test_one_garbage_frame(mjpeg: bytes) -> None:
    data = damaged(mjpeg, 60, b"\x55" * 100_000)
    info = probe(data)
    assert read_barcodes(decode_frames(data, info.format, [58, 59, 61], NUM_FRAMES)) == [58, 59, 61]
    with pytest.raises(ClipError, match="frame 60 is damaged"):
        decode_frames(data, info.format, [58, 60], NUM_FRAMES)
    with pytest.raises(ClipError, match="frame 60 is damaged"):
        check_all_frames(data, info)
    check_all_frames(mjpeg, info)


def test_all_frames_garbage(mjpeg: bytes) -> None:
    with pytest.raises(ClipError, match="frame 0 is no readable JPEG"):
        probe(with_frames(mjpeg, [b"\x55" * 500] * 20))


def test_bit_flips_inside_every_frame(mjpeg: bytes) -> None:
    flipped = bytearray(mjpeg)
    for offset, size in read_avi(mjpeg).frames:
        scan = mjpeg.index(b"\xff\xda", offset) + 14  # behind the headers
        for place in range(scan, offset + size - 2, 7):
            flipped[place] ^= 0x10
    info = probe(bytes(flipped))
    assert info.num_frames == NUM_FRAMES
    for index in range(0, NUM_FRAMES, 10):
        with pytest.raises(ClipError, match=f"frame {index} is damaged"):
            decode_frames(bytes(flipped), info.format, [index], NUM_FRAMES)


@pytest.mark.parametrize("side", [32, 128])
def test_size_changes_on_the_way(mjpeg: bytes, side: int) -> None:
    frames = jpegs(mjpeg)[:10]
    frames[5] = jpegs(encode(barcode_frames(1, side, side)))[0]
    data = with_frames(mjpeg, frames)
    with pytest.raises(ClipError, match="frame 5"):
        decode_frames(data, "avi-mjpeg", range(10), 10)


def test_absurd_picture_size(mjpeg: bytes) -> None:
    frame = bytearray(jpegs(mjpeg)[0])
    struct.pack_into(">HH", frame, frame.index(b"\xff\xc0") + 5, 65500, 65500)
    with pytest.raises(ClipError, match="65500"):
        probe(with_frames(mjpeg, [bytes(frame)]))


@pytest.mark.parametrize("decoder", DECODERS)
def test_another_number_of_frames_than_the_manifest_says(mjpeg: bytes, decoder: str) -> None:
    with pytest.raises(ClipError, match="150 frames, 151 expected"):
        decode_frames(mjpeg, "avi-mjpeg", [0], NUM_FRAMES + 1, decoder)
    with pytest.raises(ClipError, match="asked for"):
        decode_frames(mjpeg, "avi-mjpeg", [NUM_FRAMES], NUM_FRAMES, decoder)


def test_a_failure_leaves_the_next_file_alone(h264: bytes) -> None:
    good = decode_frames(h264, "mp4", range(0, 150, 3), NUM_FRAMES)
    broken = bytearray(h264)
    broken[len(h264) // 2 : len(h264) // 2 + 3000] = bytes(3000)
    for _ in range(3):
        with pytest.raises(ClipError):
            decode_frames(bytes(broken), "mp4", range(NUM_FRAMES), NUM_FRAMES)
        with pytest.raises(ClipError):
            probe(b"nothing")
        assert np.array_equal(decode_frames(h264, "mp4", range(0, 150, 3), NUM_FRAMES), good)


def test_repaired_frames_are_refused_at_ingest(h264: bytes) -> None:
    # one flipped bit rarely stops an H.264 decoder: it copies pixels from frames around and says nothing
    rng = np.random.default_rng(0)
    hidden = 0
    for place in rng.integers(h264.index(b"mdat") + 1000, len(h264) - 100, 20):
        flipped = bytearray(h264)
        flipped[place] ^= 0x10
        try:
            decode_frames(bytes(flipped), "mp4", range(NUM_FRAMES), NUM_FRAMES)
            check_all_frames(bytes(flipped), probe(h264))
        except ClipError as error:
            hidden += "is damaged" in str(error)
    assert hidden >= 5
    check_all_frames(h264, probe(h264))
