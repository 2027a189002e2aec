"""A manifest table of real video files, as ingest would make it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa

from discovr_ray.data.decode import probe
from discovr_ray.data.manifest import SCHEMA


def manifest_of(videos: list[Path]) -> pa.Table:
    rows = []
    for path in sorted(videos):
        content = path.read_bytes()
        row = {
            "clip_id": path.stem,
            "uri": str(path),
            "num_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "patient_id": path.stem,
            "split": "TRAIN",
            "view": "A4C",
            "labels": "{}",
        }
        rows.append(row | probe(content)._asdict())
    return pa.Table.from_pylist(rows, schema=SCHEMA)
