"""Luma straight from FFmpeg: the very frames that a player shows, whatever the codec, the container and the clock."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
import pytest
from barcode import SIDE, barcode_frames, encode, read_barcodes

from discovr_ray.data.decode import check_all_frames, decode_frames, probe
from discovr_ray.data.formats import video
from discovr_ray.errors import ClipError

NUM_FRAMES = 60
FRAMES = barcode_frames(NUM_FRAMES)
NEVER = "1000000000"
CODECS = {  # keyframes where they are asked for, not where the picture changes
    "h264": ("libx264", "mp4", {"bf": "3", "g": "12", "sc_threshold": "0"}),
    "h264 open groups": ("libx264", "mp4", {"bf": "3", "x264-params": "open-gop=1:keyint=12:scenecut=0"}),
    "h264 intra refresh": ("libx264", "mp4", {"x264-params": "intra-refresh=1:keyint=12:bframes=2:scenecut=0"}),
    "h264 in AVI": ("libx264", "avi", {"bf": "3", "g": "12", "sc_threshold": "0"}),
    "h264 transport stream": ("libx264", "mpegts", {"bf": "3", "g": "12", "sc_threshold": "0"}),
    "hevc": ("libx265", "mp4", {"x265-params": "log-level=none:keyint=12:bframes=3:scenecut=0"}),
    "mpeg4": ("mpeg4", "mp4", {"bf": "2", "g": "12", "sc_threshold": NEVER}),
    "mpeg4 in AVI": ("mpeg4", "avi", {"bf": "2", "g": "12", "sc_threshold": NEVER}),
    "mpeg1": ("mpeg1video", "mpeg", {"bf": "2", "g": "12", "sc_threshold": NEVER}),
    "mpeg2": ("mpeg2video", "matroska", {"bf": "2", "g": "12", "sc_threshold": NEVER}),
    "wmv": ("wmv2", "asf", {}),
    "vp9": ("libvpx-vp9", "webm", {"cpu-used": "8"}),
    "ffv1": ("ffv1", "matroska", {}),
}


def encoded(
    times: Sequence[int] = (), shift: int = 0, pixels: str = "yuv420p", codec: str = "libx264", **options: str
) -> bytes:
    """FRAMES as MP4; `times` in milliseconds; `shift` moves all of them by so many frames of 40 ms."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *FRAMES.shape[1:], pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        packets = []
        for number, frame in enumerate(FRAMES):
            picture = av.VideoFrame.from_ndarray(frame, format="gray").reformat(format=pixels)
            picture.pts, picture.time_base = times[number] if times else 40 * number, Fraction(1, 1000)
            packets += stream.encode(picture)
        for packet in packets + stream.encode():
            ticks = int(shift * Fraction(1, 25) / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            file.mux(packet)
    return sink.getvalue()


def every_frame(data: bytes) -> np.ndarray:
    info = probe(data)
    check_all_frames(data, info)
    return decode_frames(data, info.format, range(info.num_frames), info.num_frames)


@pytest.mark.parametrize("name", CODECS)
def test_exact_frames(name: str) -> None:
    codec, container, options = CODECS[name]
    data = encode(FRAMES, codec, container, fps=25, **options)
    info = probe(data)
    assert info[1:] == (NUM_FRAMES, 25.0, SIDE, SIDE)
    frames = every_frame(data)
    assert read_barcodes(frames) == list(range(NUM_FRAMES))
    for wanted in (range(1, 60, 3), range(25, 58, 2), [13], [59], [0, 59], [23, 24, 25]):
        found = decode_frames(data, info.format, wanted, NUM_FRAMES)
        assert np.array_equal(found, frames[list(wanted)]), f"frames {wanted}"  # not only the right ones: the same
        if container != "mpegts":
            assert read_barcodes(decode_frames(data, info.format, wanted, NUM_FRAMES, "decord")) == list(wanted)


def test_decoding_begins_at_a_keyframe_if_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []
    original = video._decoded
    monkeypatch.setattr(video, "_decoded", lambda of, start, *more: starts.append(start) or original(of, start, *more))
    for name, expected in {"h264": [48], "h264 intra refresh": [49, 0]}.items():
        codec, container, options = CODECS[name]
        starts.clear()
        decode_frames(encode(FRAMES, codec, container, fps=25, **options), container, [59], NUM_FRAMES)
        assert starts == expected


def test_frames_that_nobody_needs_are_not_decoded() -> None:
    codec, container, options = CODECS["h264"]
    data = encode(FRAMES, codec, container, fps=25, **options)
    with video._opened(data) as opened:
        assert len(list(video._decoded(opened, 0))) == NUM_FRAMES
        wanted = set(opened.times[::12])
        found = [frame.pts for frame in video._decoded(opened, 0, wanted)]
    assert wanted < set(found)
    assert len(found) <= 0.6 * NUM_FRAMES  # two of three B-frames in a row are needed by none


def test_frames_that_an_edit_list_cuts_off_are_none() -> None:
    data = encoded(shift=-7, bf="3", g="12", sc_threshold="0")
    assert b"elst" in data
    info = probe(data)
    assert info.num_frames == NUM_FRAMES - 7
    assert read_barcodes(every_frame(data)) == list(range(7, NUM_FRAMES))
    wanted = [0, 3, 30, 52]
    assert read_barcodes(decode_frames(data, "mp4", wanted, info.num_frames)) == [number + 7 for number in wanted]
    with pytest.raises(ClipError, match="60 frames, 53 expected"):  # not seven copies of the last frame
        decode_frames(data, "mp4", wanted, info.num_frames, "decord")


def test_a_video_that_does_not_begin_at_time_zero() -> None:
    assert read_barcodes(every_frame(encoded(shift=9, bf="3"))) == list(range(NUM_FRAMES))


def test_a_rate_that_varies() -> None:
    times = np.cumsum(np.random.default_rng(0).integers(10, 90, NUM_FRAMES)).tolist()
    data = encoded(times, bf="3", g="12", sc_threshold="0")
    assert read_barcodes(every_frame(data)) == list(range(NUM_FRAMES))
    assert read_barcodes(decode_frames(data, "mp4", range(2, 60, 5), NUM_FRAMES)) == list(range(2, 60, 5))
    assert probe(data).fps == pytest.approx(1000 * NUM_FRAMES / (times[-1] - times[0] + 40), rel=0.05)


@pytest.mark.parametrize(("codec", "pixels"), [("mpeg4", "yuv420p"), ("libx264", "yuv444p"), ("ffv1", "yuv410p")])
def test_odd_sizes(codec: str, pixels: str) -> None:
    frames = np.pad(barcode_frames(12, 64, 80), ((0, 0), (0, 0), (0, 1)))[:, :63]
    sink = io.BytesIO()
    with av.open(sink, "w", format="matroska") as file:
        stream = file.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 63, 81, pixels
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray").reformat(format=pixels)))
        file.mux(stream.encode())
    data = sink.getvalue()
    assert probe(data) == ("mkv", 12, 25.0, 63, 81)
    assert read_barcodes(every_frame(data)) == list(range(12))


def ramp(pixels: str, color_range: int) -> bytes:
    """Three frames of lossless video whose first plane holds 0, 1, ... 255 in every row; no colour."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="matroska") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 256, 16, pixels
        stream.codec_context.color_range = color_range
        for _ in range(3):
            frame = av.VideoFrame(256, 16, pixels)
            for number, plane in enumerate(frame.planes):
                rows = np.full((plane.height, plane.line_size), 128, np.uint8)
                rows[:, : plane.width] = rows[:, : plane.width] if number else np.arange(256)
                plane.update(rows.tobytes())
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return sink.getvalue()


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p", "gray"])
@pytest.mark.parametrize("color_range", [0, 1, 2])
def test_grey_levels(pixels: str, color_range: int) -> None:
    data = ramp(pixels, color_range)
    luma, decord = (decode_frames(data, "mkv", [2], 3, decoder)[0, 5].astype(int) for decoder in ("auto", "decord"))
    stored = np.arange(256)
    is_full = pixels == "gray" or color_range == 2
    assert np.array_equal(luma, stored if is_full else np.clip(np.rint((stored - 16) * 255 / 219), 0, 255))
    assert np.abs(luma - decord).max() <= 1  # which cuts off where it should round


@pytest.mark.parametrize(("degrees", "turns"), [(90, -1), (180, 2)])
def test_a_picture_that_is_to_be_shown_turned(degrees: int, turns: int) -> None:
    data = bytearray(encoded())
    matrix = {90: (0, 1, 0, -1, 0, 0, SIDE, 0, 1 << 14), 180: (-1, 0, 0, 0, -1, 0, SIDE, SIDE, 1 << 14)}[degrees]
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *(value << 16 for value in matrix))
    upright = decode_frames(encoded(), "mp4", [7], NUM_FRAMES)
    turned, decord = (decode_frames(bytes(data), "mp4", [7], NUM_FRAMES, decoder) for decoder in ("auto", "decord"))
    assert np.array_equal(turned[0], np.rot90(upright[0], turns))
    assert np.abs(turned.astype(int) - decord).max() <= 1


@pytest.mark.parametrize(
    ("codec", "pixels"), [("libx264", "yuv420p10le"), ("libx264rgb", "bgr24"), ("ffv1", "gray10le")]
)
def test_luma_of_other_pixels_than_8_bits_yuv(codec: str, pixels: str) -> None:
    data = encoded(pixels=pixels, codec=codec, crf="1")
    frames = every_frame(data)
    assert read_barcodes(frames) == list(range(NUM_FRAMES))
    assert np.abs(frames.astype(int) - FRAMES).mean() < 0.6


def test_colours_become_luma() -> None:
    sink = io.BytesIO()
    colours = np.array([[200, 30, 90], [0, 0, 255], [255, 255, 255], [17, 180, 60]], np.uint8)
    with av.open(sink, "w", format="avi") as file:
        stream = file.add_stream("rawvideo", rate=25)
        stream.height, stream.width, stream.pix_fmt = 4, 4, "bgr24"
        for _ in range(2):
            picture = av.VideoFrame.from_ndarray(np.tile(colours[:, None], (1, 4, 1)), format="rgb24")
            file.mux(stream.encode(picture.reformat(format="bgr24")))
        file.mux(stream.encode())
    frames = every_frame(sink.getvalue())
    assert np.array_equal(frames[1, :, 2], np.rint(colours @ [0.299, 0.587, 0.114]))


def test_times_that_come_twice_are_not_asked() -> None:
    data = encode(FRAMES, "libx264", "mpegts", fps=25)
    twice = data + data
    assert probe(twice).num_frames == 2 * NUM_FRAMES
    assert read_barcodes(decode_frames(twice, "video", [5, 59, 60, 71], 2 * NUM_FRAMES)) == [5, 59, 0, 11]


def test_matroska_made_of_an_avi_has_the_times_of_one() -> None:
    codec, container, options = CODECS["mpeg4 in AVI"]
    sink = io.BytesIO()
    with (
        av.open(io.BytesIO(encode(FRAMES, codec, container, fps=25, **options))) as source,
        av.open(sink, "w", format="matroska") as file,
    ):
        stream = file.add_stream_from_template(source.streams.video[0])
        header = struct.pack("<IiiHH4sIiiII", 40, SIDE, SIDE, 1, 24, b"XVID", 0, 0, 0, 0, 0)  # as AVI has it
        stream.codec_context.extradata = header + (stream.codec_context.extradata or b"")
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                file.mux(packet)
    data = sink.getvalue().replace(b"V_MPEG4/ISO/ASP", b"V_MS/VFW/FOURCC")
    assert probe(data) == ("mkv", NUM_FRAMES, 25.0, SIDE, SIDE)
    for wanted in ([20, 21, 40], [31], [50, 52]):
        assert read_barcodes(decode_frames(data, "mkv", wanted, NUM_FRAMES)) == wanted


def test_decord_is_not_asked_for_transport_streams() -> None:
    data = encode(FRAMES, "libx264", "mpegts")
    with pytest.raises(ClipError, match="other frames of a transport stream"):  # it drops the first ones
        decode_frames(data, "video", [0], NUM_FRAMES, "decord")


def test_a_video_whose_first_keyframe_is_missing_is_rejected() -> None:
    data = encode(FRAMES, "libx264", "mpegts", bf="0", g="12", sc_threshold="0")
    keyframes = [at for at in range(len(data)) if data.startswith(b"\x00\x00\x01\x65", at)]
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    rest = packets[:3] + packets[keyframes[0] // 188 + 40 :]
    with pytest.raises(ClipError, match=r"frame 0 is damaged|not a readable video"):
        check_all_frames(b"".join(rest), probe(b"".join(rest)))


def test_a_stream_that_begins_inside_of_the_file() -> None:
    data = bytearray(encode(FRAMES, "libx264", "mpegts", fps=25))
    packets = [at for at in range(0, len(data), 188) if data[at + 1] & 31 == 1 and data[at + 2] == 0]
    for at in packets[len(packets) // 2 :]:
        data[at + 2] = 7  # another stream's number
    with pytest.raises(ClipError, match="does not announce"):
        check_all_frames(bytes(data), probe(bytes(data)))
