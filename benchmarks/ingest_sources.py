"""Synthetic files for benchmarks/ingest.py: the same moving hearts as Motion-JPEG, H.264, DICOM, shards, and on S3."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # the tests' S3 server
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "data"))  # and their DICOM writer

from dicom_files import JPEGBaseline8Bit, cine
from rclone_server import client_environment, free_port, start_server, wait_for_server

from discovr_ray.config import StorageConfig
from discovr_ray.data import storage
from discovr_ray.data.decode import decode_frames, probe
from discovr_ray.data.formats.reader import Frames
from discovr_ray.data.shards import ShardSettings, manifest_rows, plan_shards, read_shard, write_shard
from discovr_ray.data.synthetic import write_dataset

Row = dict[str, Any]  # of a manifest

LARGE = (480, 640)  # height and width in pixels
HOSPITAL = (600, 800)
DICOM_FRAMES = 64  # so that a clip is the whole file, as pixel_array always is
BUCKET = "clips"


def mjpeg_rows(folder: Path, num_clips: int) -> list[Row]:
    """Motion-JPEG of 112 pixels, as EchoNet-Dynamic's."""
    write_dataset(folder / "echo", num_clips, seed=1)
    return [manifest_row(path) for path in sorted((folder / "echo" / "Videos").glob("*.avi"))]


def manifest_row(path: Path) -> Row:
    content = path.read_bytes()
    size = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {"clip_id": path.stem, "uri": str(path), **probe(content)._asdict(), **size}


def all_frames(row: Row) -> Frames:
    content = Path(row["uri"]).read_bytes()
    return decode_frames(content, row["format"], range(row["num_frames"]), row["num_frames"])


def reencode(row: Row, folder: Path, codec: str, size: tuple[int, int] | None = None) -> Row:
    """The same frames in another codec (libx264, mjpeg), stretched to `size` (height, width)."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{row['clip_id']}.{'mp4' if codec == 'libx264' else 'avi'}"
    frames = all_frames(row)
    pixels = "yuv420p" if codec == "libx264" else "yuvj420p"
    height, width = size or frames.shape[1:]
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=round(row["fps"]))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="gray").reformat(width, height, pixels)
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return manifest_row(path)


def dicom_row(row: Row, folder: Path) -> Row:
    """64 frames of 640 x 480 pixels as JPEG baseline in colour: tinted, as many scanners show them."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{row['clip_id']}.dcm"
    height, width = LARGE
    large = np.stack([np.asarray(Image.fromarray(f).resize((width, height))) for f in all_frames(row)[:DICOM_FRAMES]])
    tinted = (large[..., None] * np.array([1.0, 0.9, 0.7])).astype(np.uint8)
    path.write_bytes(cine(tinted, JPEGBaseline8Bit, "YBR_FULL_422", quality=90))
    return manifest_row(path)


def converted(rows: list[Row], folder: Path) -> list[Row]:
    """The clips as `jobs/ingest.py --convert` writes them, with its defaults."""
    import pyarrow as pa

    from discovr_ray.data.manifest import SCHEMA

    unknown = {"patient_id": "", "split": "TRAIN", "view": "", "labels": "{}"}
    settings = ShardSettings()
    found: list[Row] = []
    clips = pa.Table.from_pylist([unknown | row for row in rows], SCHEMA).sort_by("clip_id")
    for shard in plan_shards([clips], settings):
        write_shard(shard, str(folder), settings)
        found += manifest_rows(shard, read_shard(shard.name, str(folder)), str(folder), settings)
    return found


@contextmanager
def on_s3(rows: list[Row], folder: Path) -> Generator[list[Row]]:
    """The same files behind a real S3 server on loopback, which is another process."""
    (folder / BUCKET).mkdir(parents=True)
    for row in rows:
        os.link(row["uri"], folder / BUCKET / Path(row["uri"]).name)
    port = free_port()
    server = start_server(folder, port)
    before = dict(os.environ)
    os.environ.update(client_environment(port))
    storage.configure(StorageConfig())
    try:
        wait_for_server(port, server)
        yield [row | {"uri": f"s3://{BUCKET}/{Path(row['uri']).name}"} for row in rows]
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.terminate()
        server.wait()
