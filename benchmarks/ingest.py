"""What a clip costs on its way from the bytes of a video file to the uint8 batch: read, hash, decode, resize.

    python benchmarks/ingest.py [--clips 64] [--steps 200] [--json]

Clips are the paper's (64 frames at stride 3, 112 pixels) from synthetic Motion-JPEG files. All costs are CPU time,
so that other work on the machine matters little. Keys:

mjpeg.cpu_ms_per_clip    the path that training takes, aim: at most 8
mjpeg.clips_per_s        the same as a rate, by the clock: one process, one thread
decord.cpu_ms_per_clip   the same clips with data.decoder=decord: contiguous spans, then the stride
decord_strided.cpu_ms_per_clip   decord asked for the strided frames alone, as most loaders do (decode only)
h264.cpu_ms_per_clip     the same frames as H.264 in MP4, which only decord reads
resize_640x480.cpu_ms_per_clip   Motion-JPEG of 640 x 480 pixels, shrunk to 112
stream.cpu_ms_per_clip   the whole Ray Data stream: every process that Ray runs, and the reader in the training process
ray_overhead_fraction    share of that which is not the clip's own cost (mjpeg): scheduling, object store, daemons
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
import psutil
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed

from discovr_ray.config import Config, DataConfig, derive_plan, parse_config
from discovr_ray.data.clip import load_clip
from discovr_ray.data.decode import decode_frames, probe
from discovr_ray.data.manifest import SCHEMA
from discovr_ray.data.synthetic import write_dataset
from discovr_ray.data.window import choose_window

AIM_CPU_MS = 8.0
BATCH = 8
WARM_UP_STEPS = 50  # Ray's processes start and import; more than the stream reads ahead
OTHER_CLIPS = 4  # for the slow ways

Row = dict[str, Any]


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
        print(f"{key:<34} {value:10.3f}")
    print(f"aim: mjpeg.cpu_ms_per_clip at most {AIM_CPU_MS:g}")
    return 0


def measure(folder: Path, num_clips: int, steps: int) -> dict[str, float]:
    write_dataset(folder / "echo", num_clips, seed=1)
    rows = [manifest_row(path) for path in sorted((folder / "echo" / "Videos").glob("*.avi"))]
    data = DataConfig()
    cpu_ms, clips_per_s = cost_of_batches(rows, data)
    few = rows[:OTHER_CLIPS]
    h264 = [reencode(row, folder / "h264", "libx264", 1) for row in few]
    large = [reencode(row, folder / "large", "mjpeg", 4) for row in few]
    slow = dataclasses.replace(data, decoder="decord")
    stream_ms = cost_of_stream(rows, steps)
    figures = {
        "mjpeg.cpu_ms_per_clip": cpu_ms,
        "mjpeg.clips_per_s": clips_per_s,
        "decord.cpu_ms_per_clip": cost_of_batches(few, slow)[0],
        "decord_strided.cpu_ms_per_clip": cpu_ms_each(few, lambda row: strided_decord(row, data)),
        "h264.cpu_ms_per_clip": cost_of_batches(h264, data)[0],
        "resize_640x480.cpu_ms_per_clip": cost_of_batches(large, data)[0],
        "stream.cpu_ms_per_clip": stream_ms,
        "ray_overhead_fraction": 1 - cpu_ms / stream_ms,
    }
    return {key: round(value, 3) for key, value in figures.items()}


def manifest_row(path: Path) -> Row:
    content = path.read_bytes()
    size = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {"clip_id": path.stem, "uri": str(path), **probe(content)._asdict(), **size}


def cost_of_batches(rows: list[Row], data: DataConfig) -> tuple[float, float]:
    """(CPU milliseconds per clip, clips per second) from file to batch [B, T, S, S]."""
    batch = np.empty((BATCH, data.num_frames, data.image_size, data.image_size), np.uint8)
    positions = iter(np.random.default_rng(0).random(10_000).tolist())

    def load(row: Row) -> None:
        batch[len(row["uri"]) % BATCH] = load_clip(row, data, next(positions)).frames

    start = time.perf_counter()
    cpu_ms = cpu_ms_each(rows, load)
    return cpu_ms, 2 * len(rows) / (time.perf_counter() - start)


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


def reencode(row: Row, folder: Path, codec: str, scale: int) -> Row:
    """The same frames in another codec, or `scale` times larger and as wide as 4 : 3."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{row['clip_id']}.{'mp4' if codec == 'libx264' else 'avi'}"
    frames = decode_frames(Path(row["uri"]).read_bytes(), row["format"], range(row["num_frames"]), row["num_frames"])
    pixels = "yuv420p" if codec == "libx264" else "yuvj420p"
    height, width = (480, 640) if scale > 1 else frames.shape[1:]
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=round(row["fps"]))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="gray").reformat(width, height, pixels)
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return manifest_row(path)


def cost_of_stream(rows: list[Row], steps: int) -> float:
    """CPU milliseconds per clip of the stream: this process and everything that Ray started."""
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        batches = open_batches(rows, steps)
        for _ in range(WARM_UP_STEPS):
            next(batches)
        before = cpu_seconds()
        for _ in range(steps):
            next(batches)
        spent = cpu_seconds() - before
        batches.close()
        return spent * 1e3 / (steps * BATCH)
    finally:
        ray.shutdown()


def open_batches(rows: list[Row], steps: int) -> Generator[Any]:
    from discovr_ray.data.stream import open_stream

    epochs = -(-(steps + 4 * WARM_UP_STEPS) * BATCH // (len(rows) // BATCH * BATCH))
    config: Config = parse_config(
        {
            "engine": {"global_batch": BATCH, "micro_batch": BATCH},
            "schedule": {"epochs": epochs, "warmup_epochs": 0},
        }
    )
    unknown = {"patient_id": "", "split": "TRAIN", "view": "", "labels": "{}"}
    clips = pa.Table.from_pylist([unknown | row for row in rows], SCHEMA)
    plan = derive_plan(config, clips.num_rows)
    return open_stream(clips, config, plan, world_size=1, start_step=0).steps(0)


def cpu_seconds() -> float:
    """CPU time so far of this process and its descendants, ended ones included where their parent lives."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


if __name__ == "__main__":
    sys.exit(main())
