"""Which form converted clips should have: bytes, the CPU time to read one training clip, and requests for it.

    python benchmarks/shards.py [--clips 8] [--json]

Clips are synthetic echo of 112 pixels; a training clip is 64 frames at stride 3. CPU time is that of this process, from
the local file to the uint8 array, second round. Forms:

source           the Motion-JPEG files as they came
shard_jpeg_Q     what --convert writes: AVI with grey JPEG of quality Q at an offset of a shard
shard_lossless   the same with PNG (--convert-codec lossless)
parquet_jpeg_95  the same JPEGs as rows list<binary> of a Parquet file, a row group per clip, footer read before
parquet_zstd     raw frames as rows of a Parquet file, zstd
lossless_*       other lossless codecs, decoded by FFmpeg, frames alone without a container
h264_600x800     H.264 of 600 x 800 pixels, what converting is for
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed

from discovr_ray.config import DataConfig
from discovr_ray.data import shards
from discovr_ray.data.clip import load_clip, resize_frames
from discovr_ray.data.decode import decode_frames, probe
from discovr_ray.data.manifest import SCHEMA
from discovr_ray.data.shards import ShardSettings, encode_frame, plan_shards, write_shard
from discovr_ray.data.synthetic import write_dataset
from discovr_ray.data.window import choose_window

Frames = npt.NDArray[np.uint8]
Row = dict[str, Any]
DATA = DataConfig()
SHARDS = {
    "shard_jpeg_90": ShardSettings(quality=90),
    "shard_jpeg_95": ShardSettings(quality=95),
    "shard_lossless": ShardSettings(codec="lossless"),
}
CODECS = {"ffv1": {"g": "1", "level": "3"}, "magicyuv": {"pred": "median"}, "jpegls": {}}


class Figures(NamedTuple):
    kb_per_frame: float
    cpu_ms_per_clip: float
    requests_per_clip: float
    mean_error: float  # grey levels, against the source


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8, help="distinct videos (default 8)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), arguments.clips)
    if arguments.json:
        print(json.dumps({name: found._asdict() for name, found in figures.items()}))
        return 0
    print(f"{'':18}" + "".join(f"{name:>20}" for name in Figures._fields))
    for name, found in figures.items():
        print(f"{name:18}" + "".join(f"{value:20.3f}" for value in found))
    return 0


def measure(folder: Path, num_clips: int) -> dict[str, Figures]:
    write_dataset(folder / "echo", num_clips, seed=1)
    rows = [manifest_row(path) for path in sorted((folder / "echo" / "Videos").glob("*.avi"))]
    clips = [all_frames(row) for row in rows]
    found = {"source": of_rows(rows, clips)}
    for name, how in SHARDS.items():
        found[name] = of_rows(shard_rows(rows, folder / name, how), clips)
    images = [[encode_frame(frame, ShardSettings()) for frame in frames] for frames in clips]
    found["parquet_jpeg_95"] = of_parquet(clips, images, folder / "jpeg.parquet", "none")
    raw = [[frame.tobytes() for frame in frames] for frames in clips]
    found["parquet_zstd"] = of_parquet(clips, raw, folder / "raw.parquet", "zstd")
    for codec, options in CODECS.items():
        found[f"lossless_{codec}"] = of_codec(clips, codec, options)
    large = [h264_600x800(row, frames, folder) for row, frames in zip(rows[:2], clips[:2], strict=True)]
    found["h264_600x800"] = of_rows(large, [all_frames(row) for row in large])
    return found


def manifest_row(path: Path) -> Row:
    content = path.read_bytes()
    size = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    unknown = {"patient_id": "", "split": "TRAIN", "view": "", "labels": "{}"}
    return {"clip_id": path.stem, "uri": str(path), **probe(content)._asdict(), **size, **unknown}


def all_frames(row: Row) -> Frames:
    """What load_clip could deliver of this clip, [T, S, S]."""
    content = Path(row["uri"]).read_bytes()[row.get("offset") or 0 :][: row["num_bytes"]]
    return resize_frames(
        decode_frames(content, row["format"], range(row["num_frames"]), row["num_frames"]), DATA.image_size
    )


def shard_rows(rows: list[Row], folder: Path, settings: ShardSettings) -> list[Row]:
    (shard,) = plan_shards([pa.Table.from_pylist(rows, SCHEMA)], settings)
    write_shard(shard, str(folder), settings)
    return shards.manifest_rows(shard, shards.read_shard(shard.name, str(folder)), str(folder), settings)


def of_rows(rows: list[Row], clips: list[Frames]) -> Figures:
    num_bytes = sum(row["num_bytes"] for row in rows)
    return Figures(
        num_bytes / 1e3 / sum(map(len, clips)),
        cpu_ms_each(rows, lambda row: load_clip(row, DATA, 0.5)),
        1,
        mean_error([all_frames(row) for row in rows], clips),
    )


def of_parquet(clips: list[Frames], images: list[list[bytes]], path: Path, compression: str) -> Figures:
    """Frames as rows of a table, a row group per clip."""
    with pq.ParquetWriter(path, pa.schema([("frames", pa.list_(pa.binary()))]), compression=compression) as writer:
        for encoded in images:
            writer.write_table(pa.table({"frames": pa.array([encoded], pa.list_(pa.binary()))}))
    file = CountingFile(path)
    table = pq.ParquetFile(pa.PythonFile(file, "r"))
    before = file.reads

    def read(index: int) -> Frames:
        column = table.read_row_group(index)["frames"][0].values
        return np.stack([decoded(column[int(number)].as_buffer()) for number in window(clips[index])])

    cost = cpu_ms_each(list(range(len(clips))), read)
    requests = (file.reads - before) / 2 / len(clips)
    frames = [np.stack([decoded(pa.py_buffer(image)) for image in encoded]) for encoded in images]
    return Figures(path.stat().st_size / 1e3 / sum(map(len, clips)), cost, requests, mean_error(frames, clips))


def decoded(image: pa.Buffer) -> Frames:
    side = DATA.image_size
    if image.size == side * side:
        return np.frombuffer(image, np.uint8).reshape(side, side)
    return np.asarray(simplejpeg.decode_jpeg(memoryview(image).cast("B"), "GRAY", strict=True)[..., 0])


class CountingFile(io.FileIO):
    """A file on which every read would be a request to an object store."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        return super().read(size)


def of_codec(clips: list[Frames], codec: str, options: dict[str, str]) -> Figures:
    packets, headers = [], []
    for frames in clips:
        writer = codec_context(codec, "w")
        writer.time_base, writer.options = Fraction(1, 50), options
        pictures = [av.VideoFrame.from_ndarray(frame, format="gray") for frame in frames]
        for number, picture in enumerate(pictures):
            picture.pts = number
        packets.append([bytes(packet) for picture in [*pictures, None] for packet in writer.encode(picture)])
        headers.append(writer.extradata)

    def read(index: int) -> Frames:
        reader = codec_context(codec, "r")
        reader.extradata = headers[index]
        found = [reader.decode(av.Packet(packets[index][number]))[0] for number in window(clips[index])]
        return np.stack([picture.to_ndarray() for picture in found])

    cost = cpu_ms_each(list(range(len(clips))), read)
    wrong = [np.abs(read(index).astype(int) - clips[index][window(clips[index])]).mean() for index in range(len(clips))]
    num_bytes = sum(len(packet) for clip in packets for packet in clip)
    return Figures(num_bytes / 1e3 / sum(map(len, clips)), cost, 1, float(np.mean(wrong)))


def codec_context(codec: str, mode: str) -> Any:
    context = av.CodecContext.create(codec, mode)
    context.width = context.height = DATA.image_size
    context.pix_fmt, context.thread_count = "gray", 1
    return context


def window(frames: Frames) -> npt.NDArray[np.int64]:
    return choose_window(len(frames), DATA.reference_fps, DATA, 0.5).indices


def h264_600x800(row: Row, frames: Frames, folder: Path) -> Row:
    path = folder / f"{row['clip_id']}.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=50)
        stream.width, stream.height, stream.pix_fmt = 800, 600, "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray").reformat(800, 600, "yuv420p")))
        file.mux(stream.encode())
    return manifest_row(path)


def cpu_ms_each(items: list[Any], work: Callable[[Any], object]) -> float:
    for item in items:
        work(item)
    start = time.process_time()
    for item in items:
        work(item)
    return (time.process_time() - start) * 1e3 / len(items)


def mean_error(found: list[Frames], clips: list[Frames]) -> float:
    return float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(found, clips, strict=True)]))


if __name__ == "__main__":
    sys.exit(main())
