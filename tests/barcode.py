"""Videos whose frames carry their own number as a bar code, so that an index can be checked exactly."""

from __future__ import annotations

import tempfile
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

BITS = 8
SIDE = 64

Frames = npt.NDArray[np.uint8]


def barcode_frames(num_frames: int, height: int = SIDE, width: int = SIDE) -> Frames:
    """Grey [T, H, W]: upper half the frame number in black and white bars, lower half smooth blobs."""
    rng = np.random.default_rng(0)
    frames = np.empty((num_frames, height, width), np.uint8)
    for number in range(num_frames):
        bits = [(number >> bit) & 1 for bit in range(BITS)]
        bars = np.repeat(np.array(bits, np.uint8) * 180 + 40, width // BITS)
        frames[number, : height // 2] = np.pad(bars, (0, width - len(bars)))
        blobs = rng.integers(20, 236, (height // 2 // 8, width // 8), dtype=np.uint8)
        frames[number, height // 2 :] = blobs.repeat(8, 0).repeat(8, 1)[:, :width]
    return frames


def read_barcodes(frames: Frames) -> list[int]:
    """Numbers of decoded frames [T, H, W]."""
    height, width = frames.shape[1:]
    bars = frames[:, : height // 2, : width // BITS * BITS].reshape(len(frames), height // 2, BITS, -1)
    return [int(np.sum((bar > 130) << np.arange(BITS))) for bar in bars.mean((1, 3))]


def encode(frames: Frames, codec: str = "mjpeg", container: str = "avi", fps: int = 50, **options: str) -> bytes:
    """A video file with neutral chroma; MJPEG in full range, as echo machines and OpenCV write it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video"
        _write(frames, path, codec, container, fps, options)
        return path.read_bytes()


def _write(frames: Frames, path: Path, codec: str, container: str, fps: int, options: dict[str, str]) -> None:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    num_frames, height, width = frames.shape
    first = {"movflags": "faststart"} if container == "mp4" else {}  # the index in front, as on the web
    with av.open(str(path), "w", format=container, options=first) as file:
        stream = file.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        if codec == "mjpeg":
            stream.codec_context.qmin, stream.codec_context.qmax = 2, 3
        chroma = np.full(height * width // 2, 128, np.uint8)
        for number in range(num_frames):
            planes = np.concatenate([frames[number].ravel(), chroma]).reshape(height * 3 // 2, width)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format=pixels)))
        file.mux(stream.encode())
