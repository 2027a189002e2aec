"""What a clip costs on its way from the bytes of a file to the uint8 batch: read, hash, decode, resize.

    python benchmarks/ingest.py [--clips 64] [--steps 200] [--json]

Clips are the paper's (64 frames at stride 3, 112 pixels) from synthetic files. All costs are CPU time of this process,
so that other work on the machine matters little. Keys:

mjpeg.cpu_ms_per_clip    Motion-JPEG of 112 pixels from a local disk
mjpeg.clips_per_s        the same as a rate, by the clock: one process, one thread
mjpeg.decode_cpu_ms      its decoding alone, aim: at most 4
mjpeg_s3.cpu_ms_per_clip the same from a real S3 server on loopback, aim: at most 8; the server's own time not counted
decord.cpu_ms_per_clip   the same clips with data.decoder=decord: contiguous spans, then the stride
decord_strided.cpu_ms_per_clip   decord asked for the strided frames alone, as most loaders do (decode only)
h264.cpu_ms_per_clip     the same frames as H.264 in MP4, aim: at most 30
resize_640x480.cpu_ms_per_clip   Motion-JPEG of 640 x 480 pixels, shrunk to 112
dicom_jpeg.cpu_ms_per_clip   DICOM, JPEG baseline in colour, 640 x 480 pixels, 64 frames, aim: at most 120
dicom_jpeg.pixel_array_ratio decoding it with pydicom's pixel_array over decoding it here, aim: at least 5
h264_800x600.cpu_ms_per_clip H.264 as some hospitals' archives have it
converted.cpu_ms_per_clip    the same clips after `jobs/ingest.py --convert`
pool.*, ray.*, ray_over_pool.*   of benchmarks/ray_overhead.py: the stream against a plain pool of processes
stream.cpu_ms_per_clip   the whole Ray Data stream: every process that Ray runs, and the reader in the training process
ray_overhead_fraction    share of that which is not the clip's own cost (mjpeg): scheduling, object store, daemons
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import decord
import numpy as np
from ingest_sources import HOSPITAL, LARGE, Row, converted, dicom_row, mjpeg_rows, on_s3, reencode
from ray_overhead import measure_overhead

from discovr_ray.config import DataConfig
from discovr_ray.data.clip import load_clip
from discovr_ray.data.decode import decode_frames
from discovr_ray.data.window import choose_window

AIMS = {
    "mjpeg.decode_cpu_ms": 4.0,
    "mjpeg_s3.cpu_ms_per_clip": 8.0,
    "h264.cpu_ms_per_clip": 30.0,
    "dicom_jpeg.cpu_ms_per_clip": 120.0,
    "ray_over_pool.cpu": 0.15,
}
BATCH = 8
OTHER_CLIPS = 8  # for the slow ways
SLOWEST_CLIPS = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=64, help="distinct video files (default 64)")
    parser.add_argument("--steps", type=int, default=200, help=f"batches of {BATCH} through the stream (default 200)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), arguments.clips, arguments.steps)
    if arguments.json:
        print(json.dumps(figures))
        return 0
    for key, value in figures.items():
        aim = f"   aim: at most {AIMS[key]:g}" if key in AIMS else ""
        print(f"{key:<50} {value:10.3f}{aim}")
    return 0


def measure(folder: Path, num_clips: int, steps: int) -> dict[str, float]:
    rows = mjpeg_rows(folder, num_clips)
    figures = figures_of_formats(folder, rows)
    if steps:
        overhead = measure_overhead(rows, BATCH, steps * BATCH)
        figures |= overhead
        figures["stream.cpu_ms_per_clip"] = overhead["ray.cpu_ms_per_clip"]
        figures["ray_overhead_fraction"] = 1 - figures["mjpeg.cpu_ms_per_clip"] / overhead["ray.cpu_ms_per_clip"]
    return {key: round(value, 3) for key, value in figures.items()}


def figures_of_formats(folder: Path, rows: list[Row]) -> dict[str, float]:
    data = DataConfig()
    cpu_ms, clips_per_s = cost_of_batches(rows, data)
    with on_s3(rows, folder / "s3") as remote:
        s3_ms, s3_per_s = cost_of_batches(remote, data)
    few, fewest = rows[:OTHER_CLIPS], rows[:SLOWEST_CLIPS]
    h264 = [reencode(row, folder / "h264", "libx264") for row in few]
    large = [reencode(row, folder / "large", "mjpeg", LARGE) for row in few]
    slowest = [reencode(row, folder / "slowest", "libx264", HOSPITAL) for row in fewest]
    dicom = [dicom_row(row, folder / "dicom") for row in few]
    return {
        "mjpeg.cpu_ms_per_clip": cpu_ms,
        "mjpeg.clips_per_s": clips_per_s,
        "mjpeg.decode_cpu_ms": decode_cpu_ms(rows, data),
        "mjpeg_s3.cpu_ms_per_clip": s3_ms,
        "mjpeg_s3.clips_per_s": s3_per_s,
        "decord.cpu_ms_per_clip": cost_of_batches(few, dataclasses.replace(data, decoder="decord"))[0],
        "decord_strided.cpu_ms_per_clip": cpu_ms_each(few, lambda row: strided_decord(row, data)),
        "h264.cpu_ms_per_clip": cost_of_batches(h264, data)[0],
        "resize_640x480.cpu_ms_per_clip": cost_of_batches(large, data)[0],
        "dicom_jpeg.cpu_ms_per_clip": cost_of_batches(dicom, data)[0],
        "dicom_jpeg.pixel_array_ratio": cpu_ms_each(dicom, pixel_array) / decode_cpu_ms(dicom, data),
        "h264_800x600.cpu_ms_per_clip": cost_of_batches(slowest, data)[0],
        "converted.cpu_ms_per_clip": cost_of_batches(converted(slowest, folder / "shards"), data)[0],
    }


def cost_of_batches(rows: list[Row], data: DataConfig) -> tuple[float, float]:
    """(CPU milliseconds per clip, clips per second) from file to batch [B, T, S, S]."""
    batch = np.empty((BATCH, data.num_frames, data.image_size, data.image_size), np.uint8)
    positions = iter(np.random.default_rng(0).random(10_000).tolist())

    def load(row: Row) -> None:
        batch[len(row["uri"]) % BATCH] = load_clip(row, data, next(positions)).frames

    start = time.perf_counter()
    cpu_ms = cpu_ms_each(rows, load)
    return cpu_ms, 2 * len(rows) / (time.perf_counter() - start)


def decode_cpu_ms(rows: list[Row], data: DataConfig) -> float:
    """CPU milliseconds per clip from bytes in memory to frames at source size."""
    content = {row["uri"]: Path(row["uri"]).read_bytes() for row in rows}

    def decode(row: Row) -> None:
        indices = choose_window(row["num_frames"], row["fps"], data, 0.5).indices
        decode_frames(content[row["uri"]], row["format"], indices, row["num_frames"])

    return cpu_ms_each(rows, decode)


def cpu_ms_each(rows: list[Row], work: Callable[[Row], None]) -> float:
    """CPU milliseconds of `work` per row, all threads of the process, second round (the first one warms up)."""
    for row in rows:
        work(row)
    start = time.process_time()
    for row in rows:
        work(row)
    return (time.process_time() - start) * 1e3 / len(rows)


def strided_decord(row: Row, data: DataConfig) -> None:
    indices = choose_window(row["num_frames"], row["fps"], data, 0.5).indices
    reader = decord.VideoReader(io.BytesIO(Path(row["uri"]).read_bytes()), num_threads=1)
    reader.get_batch(indices.tolist()).asnumpy()


def pixel_array(row: Row) -> None:
    import pydicom

    assert len(pydicom.dcmread(row["uri"]).pixel_array) == row["num_frames"]


if __name__ == "__main__":
    sys.exit(main())
