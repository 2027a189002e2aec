"""The stream's figures: start-up on a manifest of a million rows, throughput, and time spent waiting for clips.

    python benchmarks/stream.py [--rows 1000000] [--step-seconds 0.25] [--json]

Keys: start.seconds (manifest on disk -> first global batch, Ray already up), start.driver_rss_gb (peak of the process
that reads the manifest and opens the stream, shared memory included), flow.clips_per_s (nothing but reading) and
flow.wait_share (a training step of --step-seconds between two batches; the first step is left out).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from discovr_ray.config import Config, derive_plan, parse_config
from discovr_ray.data.decode import probe
from discovr_ray.data.manifest import SCHEMA, read_manifest, select_clips, write_manifest
from discovr_ray.data.stream import MicroBatch, open_stream
from discovr_ray.data.synthetic import write_dataset

NUM_FILES = 8  # many rows share a file: what is measured is the manifest's size, not the disk's
WAIT_STEPS = 40
FLOW_STEPS = 200  # twice; more than the read-ahead holds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--step-seconds", type=float, default=0.25)
    parser.add_argument("--cpus", type=int, default=2, help="CPUs of the local Ray cluster that is started")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.cpus, args.step_seconds)))
        return
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_manifest(Path(folder), args.rows)
        result = {"rows": args.rows, "step_seconds": args.step_seconds, **measure_apart(manifest, args)}
    if args.json:
        print(json.dumps(result))
        return
    for section, value in result.items():
        print(f"{section:>14}  {value}")


def make_manifest(folder: Path, rows: int) -> str:
    """A manifest of `rows` distinct clips over a few real videos."""
    write_dataset(folder, num_clips=NUM_FILES, seed=1)
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for path in sorted((folder / "Videos").glob("*.avi")):
        content = path.read_bytes()
        labels = {"uri": str(path), "split": "TRAIN", "view": "A4C", "labels": '{"ef": 55.1, "diagnosis": "normal"}'}
        size = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, value in (labels | size | probe(content)._asdict()).items():
            columns[name].append(value)
    names = [f"0X{i:016X}" for i in range(rows)]
    repeated = {name: (values * (rows // NUM_FILES + 1))[:rows] for name, values in columns.items() if values}
    target = str(folder / "manifest.parquet")
    write_manifest(pa.table({**repeated, "clip_id": names, "patient_id": names}), target)
    return target


def measure_apart(manifest: str, args: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a process of its own, so that making the manifest does not count."""
    command = [sys.executable, __file__, "--measure", manifest, "--cpus", str(args.cpus)]
    command += ["--step-seconds", str(args.step_seconds)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def measure(manifest: str, cpus: int, step_seconds: float) -> dict[str, Any]:
    ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
    config = parse_config(
        {
            "data": {"num_frames": 16},
            "engine": {"global_batch": 8, "micro_batch": 8},
            "schedule": {"epochs": 2, "warmup_epochs": 1},
        }
    )
    start = time.perf_counter()
    steps = open_steps(manifest, config)
    next(steps)
    seconds = time.perf_counter() - start
    rss_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    wait_share = measure_wait(steps, step_seconds)
    # what was read ahead must not count as throughput
    for _ in range(FLOW_STEPS):
        next(steps)
    start = time.perf_counter()
    for _ in range(FLOW_STEPS):
        next(steps)
    clips_per_s = FLOW_STEPS * config.engine.global_batch / (time.perf_counter() - start)
    steps.close()
    return {
        "start": {"seconds": round(seconds, 2), "driver_rss_gb": round(rss_gb, 3)},
        "flow": {"clips_per_s": round(clips_per_s, 1), "wait_share": round(wait_share, 4)},
    }


def open_steps(manifest: str, config: Config) -> Generator[list[MicroBatch]]:
    """What a training worker does, from the manifest's path to the iterator of steps."""
    clips = select_clips(read_manifest(manifest), config.data.split, config.data.label_filter)
    stream = open_stream(clips, config, derive_plan(config, clips.num_rows), world_size=1, start_step=0)
    return stream.steps(0)


def measure_wait(steps: Generator[list[MicroBatch]], step_seconds: float, num_steps: int = WAIT_STEPS) -> float:
    """Share of the time that a trainer with steps of `step_seconds` waits for its clips."""
    waited, start = 0.0, time.perf_counter()
    for _ in range(num_steps):
        asked = time.perf_counter()
        next(steps)
        waited += time.perf_counter() - asked
        time.sleep(step_seconds)
    return waited / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
