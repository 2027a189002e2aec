"""The driver's side of a large run, without decoding: time and memory by the manifest's size, for 256 ranks.

    python benchmarks/driver_scale.py [--rows 1000000,5000000,20000000] [--ranks 256] [--json]

For each size, in a process of its own: a manifest is written in pieces, then read, checked, selected and hashed as the
driver does before it starts workers; the run is cut into segments; the first segment's blocks for all ranks are listed;
the columns that decoding needs are picked, as they go into the object store; and the order of one epoch is made, which
every decode process does for itself. Keys: seconds.*, gb.rss (peak), gb.manifest_in_store, gb.order.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from discovr_ray.config import derive_plan, parse_config
from discovr_ray.data.manifest import SCHEMA, fingerprint, read_manifest, select_clips
from discovr_ray.data.microbatch import COLUMNS
from discovr_ray.data.plan import plan_stream
from discovr_ray.data.stream import SEGMENT_MICRO_BATCHES

PIECE = 250_000  # rows written at once
GB = 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1000000,5000000,20000000", help="sizes, with commas")
    parser.add_argument("--ranks", type=int, default=256)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.ranks)))
        return
    results = []
    for rows in map(int, args.rows.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            manifest = str(Path(folder, "manifest.parquet"))
            write_large_manifest(manifest, rows)
            command = [sys.executable, __file__, "--measure", manifest, "--ranks", str(args.ranks)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        results.append({"rows": rows, "ranks": args.ranks, **json.loads(output.splitlines()[-1])})
        if not args.json:
            print(results[-1], flush=True)
    if args.json:
        print(json.dumps(results))


def write_large_manifest(path: str, rows: int) -> None:
    """Rows of which all that decides about size differs: ids, paths, hashes, patients."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for first in range(0, rows, PIECE):
            numbers = range(first, min(first + PIECE, rows))
            names = [f"0X{number:016X}" for number in numbers]
            columns: dict[str, Any] = {name: pa.nulls(len(names), SCHEMA.field(name).type) for name in SCHEMA.names}
            same = {"format": "avi-mjpeg", "num_frames": 180, "fps": 50.0, "height": 112, "width": 112}
            same |= {"num_bytes": 700_000, "split": "TRAIN", "view": "A4C", "labels": '{"ef": 55.1}'}
            columns |= {name: [value] * len(names) for name, value in same.items()}
            columns |= {"clip_id": names, "patient_id": names}
            columns["uri"] = [f"s3://echo-bucket/clips/{name[2:6]}/{name}.avi" for name in names]
            columns["sha256"] = [f"{number:064x}" for number in numbers]
            writer.write_table(pa.table(columns, schema=SCHEMA))


def measure(manifest: str, ranks: int) -> dict[str, Any]:
    config = parse_config(
        {
            "engine": {"global_batch": 4 * ranks, "micro_batch": 4},
            "run": {"workers": ranks, "use_gpu": True},
            "schedule": {"epochs": 4, "warmup_epochs": 1, "teacher_temperature_epochs": 1},
        }
    )
    clock = Clock()
    clips = select_clips(read_manifest(manifest), config.data.split, config.data.label_filter)
    clock.lap("read_and_check")
    fingerprint(clips)
    clock.lap("fingerprint")
    plan = plan_stream(config, derive_plan(config, clips.num_rows), ranks, 0)
    segments = list(plan.segments(SEGMENT_MICRO_BATCHES))
    clock.lap("segments")
    blocks = plan.blocks(segments[0], 1)
    taken = [len(plan.rank_numbers(segments[0], rank)) for rank in range(ranks)]
    assert len(blocks) == sum(taken)
    clock.lap("first_segment_of_all_ranks")
    in_store = clips.select(COLUMNS)
    stored = in_store.nbytes
    clock.lap("columns_for_decoding")
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for number in plan.numbers(segments[0]):
        plan.assignment(number)
    clock.lap("order_of_an_epoch_and_a_segment")
    return {
        "seconds": clock.laps,
        "gb": {"rss": round(rss / GB, 2), "manifest_in_store": round(stored / GB, 3), "order": clips.num_rows * 8 / GB},
        "segments": len(segments),
    }


class Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Seconds since the last lap."""
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 3), now


if __name__ == "__main__":
    main()
