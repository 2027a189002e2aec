"""What faults of the storage cost: the stream's throughput while 5 % of all answers are spoilt, over that without.

    python benchmarks/faults.py [--share 0.05] [--rounds 3] [--json]

A real S3 server on loopback, the tests' faulty proxy in front of it, and the real stream on a local Ray, with and
without faults in turn, so that other load on the machine meets both. All eight kinds of faults, stalls included.
Keys: clean_clips_per_s, faulty_clips_per_s, ratio (of all clips over all seconds), clips (read in each way) and, of the
faulty way, requests and spoilt.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow as pa
import ray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the server and the proxy are the tests' own

from rclone_server import client_environment, free_port, start_server, wait_for_server  # noqa: E402

from discovr_ray.config import derive_plan, parse_config  # noqa: E402
from discovr_ray.data.decode import probe  # noqa: E402
from discovr_ray.data.manifest import SCHEMA  # noqa: E402
from discovr_ray.data.stream import open_stream  # noqa: E402
from discovr_ray.data.synthetic import write_dataset  # noqa: E402

BATCH = 8  # clips
WARM_UP = 16  # micro-batches: processes start and clients are made
MEASURED = 60  # micro-batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), args.share, args.rounds)
    print(json.dumps(result) if args.json else "\n".join(f"{name:>20}  {value}" for name, value in result.items()))


def measure(root: Path, share: float, rounds: int) -> dict[str, float]:
    write_dataset(root / "bucket", num_clips=64, seed=1)
    clips = manifest(root / "bucket" / "Videos", "s3://bucket/Videos")
    port = free_port()
    server = start_server(root, port)
    wait_for_server(port, server)
    os.environ.update(client_environment(port))
    ray.init("local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    try:
        with proxy(port, 0.0) as (clean, _), proxy(port, share) as (faulty, counts):
            seconds = {clean: 0.0, faulty: 0.0}
            for _ in range(rounds):
                for endpoint in seconds:
                    seconds[endpoint] += read(clips, endpoint)
    finally:
        ray.shutdown()
        server.kill()
    num_clips = rounds * MEASURED * BATCH
    requests, spoilt = counts
    return {
        "clean_clips_per_s": round(num_clips / seconds[clean], 1),
        "faulty_clips_per_s": round(num_clips / seconds[faulty], 1),
        "ratio": round(seconds[clean] / seconds[faulty], 3),
        "clips": num_clips,
        "requests": requests,
        "spoilt": spoilt,
    }


def manifest(folder: Path, uri: str) -> pa.Table:
    rows = []
    for path in sorted(folder.glob("*.avi")):
        content = path.read_bytes()
        row = {"clip_id": path.stem, "uri": f"{uri}/{path.name}", "num_bytes": len(content), "patient_id": path.stem}
        row |= {"sha256": hashlib.sha256(content).hexdigest(), "split": "TRAIN", "view": "", "labels": "{}"}
        rows.append(row | probe(content)._asdict())
    return pa.Table.from_pylist(rows, SCHEMA)


@contextmanager
def proxy(server_port: int, share: float) -> Iterator[tuple[str, list[int]]]:
    """URL of a proxy in a process of its own, and, afterwards, how many requests it saw and spoilt."""
    command = [sys.executable, str(ROOT / "tests" / "faulty_proxy.py"), str(server_port), str(share)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    counts: list[int] = []
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", counts
    finally:
        counts += [int(word) for word in process.communicate(timeout=30)[0].split()]


def read(clips: pa.Table, endpoint: str) -> float:
    """Seconds for the measured micro-batches of a stream of its own."""
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    steps_per_epoch = clips.num_rows // BATCH
    epochs = -(-2 * (WARM_UP + MEASURED) // steps_per_epoch)  # it must not end while it is measured
    config = parse_config(
        {
            "engine": {"global_batch": BATCH, "micro_batch": BATCH},
            "schedule": {"epochs": epochs, "warmup_epochs": 0},
            "run": {"cpus_per_worker": 0.01},  # nothing trains: decoding may have all CPUs
        }
    )
    stream = open_stream(clips, config, derive_plan(config, clips.num_rows), world_size=1, start_step=0)
    with closing(stream.steps(0)) as steps:
        for _ in range(WARM_UP):
            next(steps)
        start = time.perf_counter()
        for _ in range(MEASURED):
            (batch,) = next(steps)
            assert not batch.failures, batch.failures
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
