"""Small good videos, and every way in which archives break them."""

from __future__ import annotations

import io
import struct
import tempfile
import wave
from pathlib import Path

import av
import numpy as np

from discovr_ray.data.formats.avi_writer import write_avi
from discovr_ray.data.formats.riff import read_avi

NUM_FRAMES = 30
SIDE = 64


def pictures(num_frames: int = NUM_FRAMES, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Grey [T, H, W]: blocks of 8 x 8 pixels, another picture in every frame."""
    blocks = np.random.default_rng(0).integers(20, 236, (num_frames, height // 8, width // 8), dtype=np.uint8)
    return blocks.repeat(8, 1).repeat(8, 2)


def video(codec: str, container: str, frames: np.ndarray | None = None, **options: str) -> bytes:
    frames = pictures() if frames is None else frames
    first = {"movflags": "faststart"} if container == "mp4" else {}  # the index in front, as on the web
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video"
        with av.open(str(path), "w", format=container, options=first) as file:
            stream = file.add_stream(codec, rate=25, options=options)
            stream.height, stream.width = frames.shape[1:]
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for frame in frames:
                file.mux(
                    stream.encode(av.VideoFrame.from_ndarray(frame, format="gray").reformat(format=stream.pix_fmt))
                )
            file.mux(stream.encode())
        return path.read_bytes()


def mjpeg() -> bytes:
    return video("mjpeg", "avi")


def h264() -> bytes:
    return video("libx264", "mp4", bf="2", g="10")


def jpegs(data: bytes) -> list[bytes]:
    return [data[offset : offset + size] for offset, size in read_avi(data).frames]


def patched(data: bytes, behind: bytes, skip: int, new: bytes) -> bytes:
    """`new` written over what stands `skip` bytes behind the first `behind`."""
    start = data.index(behind) + len(behind) + skip
    return data[:start] + new + data[start + len(new) :]


def flipped(data: bytes, start: int, step: int) -> bytes:
    """One bit of every `step`-th byte from `start` on."""
    changed = np.frombuffer(data, np.uint8).copy()
    changed[start::step] ^= 0x10
    return changed.tobytes()


def sound(container: str) -> bytes:
    sink = io.BytesIO()
    if container == "wav":
        with wave.open(sink, "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(bytes(16000))
        return sink.getvalue()
    with av.open(sink, "w", format=container) as file:
        stream = file.add_stream("aac", rate=8000)
        stream.layout = "mono"
        for start in range(0, 8000, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, start
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return sink.getvalue()


def broken_avis() -> dict[str, tuple[bytes, str]]:
    """Name -> (content, what the reason must match)."""
    good = mjpeg()
    frames = jpegs(good)
    large = jpegs(video("mjpeg", "avi", pictures(1, 128, 128)))[0]
    start = frames[0].index(b"\xff\xc0") + 5
    absurd = frames[0][:start] + struct.pack(">HH", 60000, 60000) + frames[0][start + 4 :]

    def avi(images: list[bytes]) -> bytes:
        return write_avi(images, 25, SIDE, SIDE)

    no_frame, mpeg4 = avi(frames[:1]), video("mpeg4", "avi")
    return {
        "empty.avi": (b"", "the file is empty"),
        "noise.avi": (np.random.default_rng(1).bytes(5000), "not a readable video"),
        "text.avi": (b"patient name " * 200, "not a readable video"),
        "cut_half.avi": (good[: len(good) // 2], "truncated"),
        "cut_end.avi": (good[:-100], "truncated"),
        "cut_header.avi": (good[:200], "truncated"),
        "no_frame.avi": (no_frame.replace(b"00dc", b"00xx"), "no frame"),
        "all_noise.avi": (avi([b"\x55" * 500] * 20), "frame 0 is no readable JPEG"),
        "one_noise.avi": (avi([*frames[:9], b"\x55" * 500, *frames[10:]]), "frame 9 is damaged"),
        "bit_flips.avi": (flipped(good, good.index(b"\xff\xda") + 200, 97), "damaged|no readable|AVI"),
        "one_frame.avi": (avi(frames[:1]), "one frame"),
        "grows.avi": (avi([*frames[:9], large]), "frame 9"),
        "shrinks.avi": (avi([large, *frames[:9]]), "frame 1"),
        "absurd_size.avi": (avi([absurd] * 3), "60000 x 60000"),
        "sound.avi": (sound("wav"), "no video stream"),
        "many_frames.avi": (patched(mpeg4, b"vidsFMP4", 24, b"\xff" * 4), "frames announced"),  # decord makes room
        "codec.avi": (mpeg4.replace(b"FMP4", b"ZZZZ"), "codec"),
        "no_rate.avi": (patched(good, b"vidsMJPG", 12, bytes(4)), "frames a second"),
    }


def broken_mp4s() -> dict[str, tuple[bytes, str]]:
    good = h264()
    pixels = good.index(b"mdat") + 4
    resized = [video("libx264", "mpegts", pictures(20, side, side)) for side in (64, 96)]
    return {
        "empty.mp4": (b"", "the file is empty"),
        "noise.mp4": (good[:40] + np.random.default_rng(2).bytes(5000), "MP4|not a readable video"),
        "cut_half.mp4": (good[: len(good) // 2], "truncated"),
        "cut_end.mp4": (good[:-100], "truncated"),
        "no_index.mp4": (good.replace(b"moov", b"wwww"), "not a readable video"),
        # decord crashes on both: a size in the index that leads out of the file, and no size at all
        "cut_frame.mp4": (patched(good, b"stsz", 16, struct.pack(">I", 10**6)), "a frame is cut short"),
        "no_frame.mp4": (patched(good, b"stsz", 8, bytes(4)), "no frame"),
        "all_noise.mp4": (good[:pixels] + bytes(len(good) - pixels), "damaged|not a readable"),
        "hole.mp4": (good[: pixels + 3000] + bytes(2000) + good[pixels + 5000 :], "damaged"),
        "bit_flips.mp4": (flipped(good, pixels + 900, 997), "damaged"),
        "one_frame.mp4": (video("libx264", "mp4", pictures(1)), "one frame"),
        "sound.mp4": (sound("mp4"), "no video stream"),
        "grows.mpg": (resized[0] + resized[1], r"frame 20 is \(\d+, \d+\) pixels"),
        "shrinks.mpg": (resized[1] + resized[0], r"frame 20 is \(\d+, \d+\) pixels"),
    }


def lying_headers() -> dict[str, bytes]:
    """Headers that lie where nobody needs to believe them: all 30 frames of 64 x 64 pixels are there."""
    avi, mp4 = mjpeg(), h264()
    absurd = struct.pack("<II", 60000, 60000)
    return {
        "count.avi": patched(avi, b"vidsMJPG", 24, struct.pack("<I", 5000)),
        "size.avi": patched(patched(avi, b"strf", 8, absurd), b"avih", 36, absurd),
        "no_size.avi": patched(avi, b"strf", 8, bytes(8)),
        "no_index.avi": avi.replace(b"idx1", b"JUNK"),
        "size.mp4": patched(mp4, b"avc1", 24, struct.pack(">HH", 60000, 60000)),
    }
